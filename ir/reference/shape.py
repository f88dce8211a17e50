"""Reference semantics of core's creation and movement ops."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from plait.ir.errors import InputError
from plait.ir.ops import core
from plait.ir.reference.table import Args, Context, MixedArgs, reference
from plait.ir.reference.tensors import convert, torch_dtype


@reference(core.Full)
def full(op: core.Full, args: Args, ctx: Context) -> torch.Tensor:
    """A filled tensor."""
    if op.out.dtype.is_minifloat:
        one = convert(torch.tensor(float(op.value), device=ctx.device), op.out.dtype)
        return one.expand(ctx.shape(op.out))
    return torch.full(ctx.shape(op.out), op.value, dtype=torch_dtype(op.out), device=ctx.device)


@reference(core.Iota)
def iota(op: core.Iota, args: Args, ctx: Context) -> torch.Tensor:
    """Numbers counted in 64 bits and rounded once to the result type."""
    shape = ctx.shape(op.out)
    axis = op.axis % len(shape)
    whole = isinstance(op.start, int) and isinstance(op.step, int)
    steps = torch.arange(shape[axis], dtype=torch.int64 if whole else torch.float64, device=ctx.device)
    counted = convert(steps * op.step + op.start, op.out.dtype)
    return counted.view([-1 if i == axis else 1 for i in range(len(shape))]).expand(shape)


@reference(core.DimValue)
def dim_value(op: core.DimValue, args: Args, ctx: Context) -> torch.Tensor:
    """The value of a dim."""
    return torch.tensor(ctx.size(op.dim), dtype=torch.int64, device=ctx.device)


@reference(core.Reshape)
def reshape(op: core.Reshape, args: Args, ctx: Context) -> torch.Tensor:
    """Row-major reshape."""
    return args[0].reshape(ctx.shape(op.out))


@reference(core.Broadcast)
def broadcast(op: core.Broadcast, args: Args, ctx: Context) -> torch.Tensor:
    """A stretched view."""
    return args[0].expand(ctx.shape(op.out))


@reference(core.Transpose)
def transpose(op: core.Transpose, args: Args, ctx: Context) -> torch.Tensor:
    """A permuted view."""
    return args[0].permute(op.permutation)


@reference(core.Concat)
def concat(op: core.Concat, args: MixedArgs, ctx: Context) -> torch.Tensor:
    """Joined tensors."""
    return torch.cat(args[0], dim=op.axis)


@reference(core.Slice)
def slice_(op: core.Slice, args: Args, ctx: Context) -> torch.Tensor:
    """A strided view.  Raises InputError when dim values put a bound outside the operand."""
    (x,) = args
    picks = [slice(None)] * x.dim()
    steps = op.steps or (1,) * len(op.axes)
    for axis, start, stop, step in zip(op.axes, op.starts, op.stops, steps, strict=True):
        low, high = ctx.size(start), ctx.size(stop)
        if not 0 <= low <= high <= x.shape[axis]:
            raise InputError(
                f"slice {low}..{high} leaves axis {axis} of {op.x}, which has {x.shape[axis]} elements",
                why=f"the bounds are {start}..{stop}",
                remedy="call with other sizes, or narrow the ranges of the dims",
            )
        picks[axis] = slice(low, high, step)
    return x[tuple(picks)]


@reference(core.Pad)
def pad(op: core.Pad, args: Args, ctx: Context) -> torch.Tensor:
    """Pads by a value; reflection and edges by picking rows of each axis."""
    (x,) = args
    if op.mode == "constant":
        widths = [w for sides in zip(reversed(op.before), reversed(op.after), strict=True) for w in sides]
        value = op.value if x.is_floating_point() else int(op.value)
        return F.pad(x, widths, value=value)
    for axis, (low, high) in enumerate(zip(op.before, op.after, strict=True)):
        if low or high:
            size = x.shape[axis]
            picks = torch.arange(-low, size + high, device=x.device)
            if op.mode == "reflect":
                picks = size - 1 - (size - 1 - picks.abs()).abs()
            x = x.index_select(axis, picks.clamp(0, size - 1))
    return x


@reference(core.Flip)
def flip(op: core.Flip, args: Args, ctx: Context) -> torch.Tensor:
    """Reversed axes."""
    return args[0].flip(op.axes)


@reference(core.Roll)
def roll(op: core.Roll, args: Args, ctx: Context) -> torch.Tensor:
    """Rotated axes."""
    return args[0].roll(op.shifts, op.axes) if op.axes else args[0]


@reference(core.Triangle)
def triangle(op: core.Triangle, args: Args, ctx: Context) -> torch.Tensor:
    """A triangle of the last two axes."""
    (x,) = args
    return x.triu(op.diagonal) if op.upper else x.tril(op.diagonal)
