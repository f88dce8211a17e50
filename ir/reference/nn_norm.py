"""Reference semantics of nn's normalisations."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from plait.ir.ops import nn
from plait.ir.reference.table import Context, MixedArgs, reference


@reference(nn.BatchNorm)
def batch_norm(op: nn.BatchNorm, args: MixedArgs, ctx: Context) -> torch.Tensor:
    """With stored statistics."""
    x, mean, variance, scale, bias = args
    return F.batch_norm(x, mean, variance, scale, bias, training=False, eps=op.epsilon)


@reference(nn.LayerNorm)
def layer_norm(op: nn.LayerNorm, args: MixedArgs, ctx: Context) -> torch.Tensor:
    """Over the last axes."""
    x, scale, bias = args
    return F.layer_norm(x, x.shape[-op.axes :], scale, bias, op.epsilon)


@reference(nn.RmsNorm)
def rms_norm(op: nn.RmsNorm, args: MixedArgs, ctx: Context) -> torch.Tensor:
    """By the root of the mean square of the last axis."""
    x, scale = args
    return F.rms_norm(x, x.shape[-1:], scale, op.epsilon)


def by_groups(
    x: torch.Tensor, groups: int, scale: torch.Tensor | None, bias: torch.Tensor | None, epsilon: float
) -> torch.Tensor:
    """Each group of channels of each sample normalised, then scaled per channel."""
    grouped = x.reshape(x.shape[0], groups, math.prod(x.shape[1:]) // groups)
    variance, mean = torch.var_mean(grouped, dim=-1, keepdim=True, correction=0)
    y = ((grouped - mean) * torch.rsqrt(variance + epsilon)).reshape(x.shape)
    per_channel = (1, -1, *(1,) * (x.dim() - 2))
    if scale is not None:
        y = y * scale.view(per_channel)
    return y if bias is None else y + bias.view(per_channel)


@reference(nn.GroupNorm)
def group_norm(op: nn.GroupNorm, args: MixedArgs, ctx: Context) -> torch.Tensor:
    """Over groups of channels."""
    x, scale, bias = args
    return by_groups(x, op.groups, scale, bias, op.epsilon)


@reference(nn.InstanceNorm)
def instance_norm(op: nn.InstanceNorm, args: MixedArgs, ctx: Context) -> torch.Tensor:
    """Over each channel."""
    x, scale, bias = args
    return by_groups(x, x.shape[1], scale, bias, op.epsilon)


@reference(nn.LocalResponseNorm)
def local_response_norm(op: nn.LocalResponseNorm, args: MixedArgs, ctx: Context) -> torch.Tensor:
    """Over neighbouring channels."""
    return F.local_response_norm(args[0], op.size, op.alpha, op.beta, op.k)
