"""Reference semantics of nn's activations."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from plait.ir.ops import nn
from plait.ir.reference.elementwise import unary
from plait.ir.reference.table import REFERENCES, Args, Context, reference

REFERENCES.update(
    {
        nn.Relu: unary(F.relu),
        nn.Relu6: unary(lambda x: x.clamp(0, 6)),
        nn.Selu: unary(F.selu),
        nn.Sigmoid: unary(torch.sigmoid),
        nn.Tanh: unary(torch.tanh),
        nn.Silu: unary(F.silu),
        nn.Mish: unary(F.mish),
        nn.Hardswish: unary(F.hardswish),
    }
)


@reference(nn.LeakyRelu)
def leaky_relu(op: nn.LeakyRelu, args: Args, ctx: Context) -> torch.Tensor:
    """Slope alpha below zero."""
    return F.leaky_relu(args[0], op.alpha)


@reference(nn.Elu)
def elu(op: nn.Elu, args: Args, ctx: Context) -> torch.Tensor:
    """Exponential below zero."""
    return F.elu(args[0], op.alpha)


@reference(nn.Gelu)
def gelu(op: nn.Gelu, args: Args, ctx: Context) -> torch.Tensor:
    """By erf or tanh."""
    return F.gelu(args[0], approximate=op.approximate)


@reference(nn.Softplus)
def softplus(op: nn.Softplus, args: Args, ctx: Context) -> torch.Tensor:
    """log(1 + e^(beta x)) / beta without overflow, exact for large arguments too."""
    (x,) = args
    return torch.logaddexp(x * op.beta, torch.zeros((), dtype=x.dtype, device=x.device)) / op.beta


@reference(nn.Hardsigmoid)
def hardsigmoid(op: nn.Hardsigmoid, args: Args, ctx: Context) -> torch.Tensor:
    """A clamped line."""
    return (args[0] * op.alpha + op.beta).clamp(0, 1)


@reference(nn.Prelu)
def prelu(op: nn.Prelu, args: Args, ctx: Context) -> torch.Tensor:
    """A learnt slope below zero."""
    x, slope = args
    return torch.where(x > 0, x, x * slope)


@reference(nn.Softmax)
def softmax(op: nn.Softmax, args: Args, ctx: Context) -> torch.Tensor:
    """Softmax along an axis."""
    return args[0].softmax(op.axis)


@reference(nn.LogSoftmax)
def log_softmax(op: nn.LogSoftmax, args: Args, ctx: Context) -> torch.Tensor:
    """Logarithm of softmax along an axis."""
    return args[0].log_softmax(op.axis)
