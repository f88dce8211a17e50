"""Reference semantics of core's reductions.  Reducing no axis leaves the operand as it is."""

from __future__ import annotations

import torch

from plait.ir.ops import core
from plait.ir.reference.table import Args, Context, reference


@reference(core.Sum)
def sum_(op: core.Sum, args: Args, ctx: Context) -> torch.Tensor:
    """Sum in the element type of the operand."""
    (x,) = args
    return x.sum(op.axes, keepdim=op.keepdims, dtype=x.dtype) if op.axes else x


@reference(core.Mean)
def mean(op: core.Mean, args: Args, ctx: Context) -> torch.Tensor:
    """Arithmetic mean."""
    (x,) = args
    return x.mean(op.axes, keepdim=op.keepdims) if op.axes else x


@reference(core.Max)
def max_(op: core.Max, args: Args, ctx: Context) -> torch.Tensor:
    """Largest element."""
    (x,) = args
    return x.amax(op.axes, keepdim=op.keepdims) if op.axes else x


@reference(core.Min)
def min_(op: core.Min, args: Args, ctx: Context) -> torch.Tensor:
    """Smallest element."""
    (x,) = args
    return x.amin(op.axes, keepdim=op.keepdims) if op.axes else x


@reference(core.Prod)
def prod(op: core.Prod, args: Args, ctx: Context) -> torch.Tensor:
    """Product, one axis after another."""
    (x,) = args
    for axis in sorted((axis % x.dim() for axis in op.axes), reverse=True):
        x = x.prod(axis, keepdim=op.keepdims, dtype=x.dtype)
    return x


@reference(core.Any)
def any_(op: core.Any, args: Args, ctx: Context) -> torch.Tensor:
    """Whether any element is true."""
    (x,) = args
    return x.any(op.axes, keepdim=op.keepdims) if op.axes else x


@reference(core.All)
def all_(op: core.All, args: Args, ctx: Context) -> torch.Tensor:
    """Whether all elements are true."""
    (x,) = args
    return x.all(op.axes, keepdim=op.keepdims) if op.axes else x


@reference(core.ArgMax)
def argmax(op: core.ArgMax, args: Args, ctx: Context) -> torch.Tensor:
    """Index of the first largest element."""
    return args[0].argmax(op.axis, keepdim=op.keepdims)


@reference(core.ArgMin)
def argmin(op: core.ArgMin, args: Args, ctx: Context) -> torch.Tensor:
    """Index of the first smallest element."""
    return args[0].argmin(op.axis, keepdim=op.keepdims)


@reference(core.CumSum)
def cumsum(op: core.CumSum, args: Args, ctx: Context) -> torch.Tensor:
    """Running sum in the element type of the operand."""
    (x,) = args
    return x.cumsum(op.axis, dtype=x.dtype)


@reference(core.CumProd)
def cumprod(op: core.CumProd, args: Args, ctx: Context) -> torch.Tensor:
    """Running product in the element type of the operand."""
    (x,) = args
    return x.cumprod(op.axis, dtype=x.dtype)
