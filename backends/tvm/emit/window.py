"""Emissions of windows over any number of axes: places of largest elements, sums of overlapping blocks."""

from __future__ import annotations

from typing import Any

from tvm import te, tirx
from tvm.ir import Expr

from plait.backends.tvm.emit.expressions import number
from plait.backends.tvm.emit.table import Arguments, Emitter, Kind, emit
from plait.ir.ops import nn
from plait.ir.ops.common import pads_of

_ZERO = tirx.IntImm("int64", 0)


@emit(nn.MaxPoolIndices, kind=Kind.ALONE)
def _max_pool_indices(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    """The largest element first, then the smallest place that holds it; reductions of one number each."""
    kind = op.x.type
    dtype = emitter.dtype(kind)
    pads = pads_of(op, op.pad, len(op.kernel))
    sizes = [emitter.read_dim(dim) for dim in kind.shape[2:]]
    shape = emitter.shape(op.result.type.shape)

    def window() -> list[tirx.IterVar]:
        return [emitter.axis(k, f"k{axis}") for axis, k in enumerate(op.kernel)]

    def places(i: tuple[Expr, ...], over: list[tirx.IterVar]) -> tuple[list[Expr], Expr]:
        """Where the elements of a window lie, and whether that is inside the operand."""
        found, inside = [], []
        for place, k, s, d, (before, _), size in zip(
            i[2:], over, op.stride, op.dilation, pads, sizes, strict=True
        ):
            found.append(place * s + k.var * d - before)
            inside += [found[-1] >= 0, found[-1] < size]
        return found, tirx.all(*inside)

    over = window()

    def largest(*i: Expr) -> Expr:
        where, inside = places(i, over)
        read = tirx.if_then_else(inside, args.x(i[0], i[1], *where), tirx.min_value(dtype))
        return te.max(read, axis=over)

    best = emitter.stage("largest", te.compute(shape, largest, name="largest"))
    again = window()
    none = tirx.max_value("int64")

    def candidate(*i: Expr) -> Expr:
        where, inside = places(i, again)
        flat: Expr = _ZERO
        for place, size in zip(where, sizes, strict=True):
            flat = flat * size + place
        here = tirx.if_then_else(inside, args.x(i[0], i[1], *where), tirx.min_value(dtype))
        # The maximum starts at the lowest number, above minus infinity.
        found = te.max(here, tirx.min_value(dtype)) == best(*i)
        if op.x.type.dtype.is_float:
            found = tirx.Or(found, tirx.isnan(here))
        return te.min(tirx.Select(tirx.And(inside, found), flat, none), axis=again)

    return te.compute(shape, candidate, name="max_pool_indices")


@emit(nn.Fold, kind=Kind.CONTRACTION)
def _fold(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    """Each result element sums the windows that touch it."""
    dtype = emitter.dtype(op.x.type)
    pads = pads_of(op, op.pad, len(op.kernel))
    blocks = [emitter.read_dim(dim) for dim in op.blocks()]
    over = [emitter.axis(k, f"k{axis}") for axis, k in enumerate(op.kernel)]

    def at(*i: Expr) -> Expr:
        channel, block, inside = i[1], _ZERO, []
        for place, k, size, s, d, (before, _), count in zip(
            i[2:], over, op.kernel, op.stride, op.dilation, pads, blocks, strict=True
        ):
            channel = channel * size + k.var
            start = place + before - k.var * d
            position = tirx.floordiv(start, s)
            inside += [start >= 0, position < count]
            if s > 1:
                inside.append(tirx.floormod(start, s) == 0)
            block = block * count + position
        read = tirx.if_then_else(tirx.all(*inside), args.x(i[0], channel, block), number(0, dtype))
        return te.sum(read, axis=over)

    return te.compute(emitter.shape(op.result.type.shape), at, name="fold")
