"""Emission of sampling at positions that are data."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from tvm import te, tirx
from tvm.ir import Expr

from plait.backends.tvm.emit.expressions import number
from plait.backends.tvm.emit.pool import cubic_weights
from plait.backends.tvm.emit.table import Arguments, Emitter, Kind, emit
from plait.ir.ops import nn


def _source(op: Any, g: Expr, size: Expr, dtype: str) -> Expr:
    """Where a grid coordinate lies in the source."""
    one, half = number(1, dtype), number(0.5, dtype)
    if op.coordinates == "pixels":
        return g
    if op.coordinates == "align_corners":
        return (g + one) * half * (size - one)
    return ((g + one) * size - one) * half


def _mirrored(x: Expr, low: Expr, span: Expr, dtype: str) -> Expr:
    """x folded into [low, low + span] by mirrors at both ends; low where the span is none."""
    zero = number(0, dtype)
    distance = tirx.abs(x - low)
    safe = tirx.Select(span > zero, span, number(1, dtype))
    times = tirx.floor(distance / safe)
    rest = distance - times * safe
    odd = times - number(2, dtype) * tirx.floor(times * number(0.5, dtype)) > number(0.5, dtype)
    return tirx.Select(span > zero, low + tirx.Select(odd, safe - rest, rest), zero)


@emit(nn.GridSample, kind=Kind.ALONE)
def _grid_sample(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    kind = op.x.type
    dtype = emitter.dtype(kind)
    # positions need more than half precision
    wide = dtype if dtype in ("float32", "float64") else "float32"
    one = number(1, wide)
    spatial = kind.rank - 2
    sizes = [emitter.read_dim(dim) for dim in kind.shape[2:]]

    def within(x: Expr, size: Expr) -> Expr:
        """A coordinate moved inside by border or reflection."""
        if op.padding == "reflection":
            if op.coordinates == "align_corners":
                x = _mirrored(x, number(0, wide), size - one, wide)
            else:
                x = _mirrored(x, number(-0.5, wide), size, wide)
        return te.max(te.min(x, size - one), number(0, wide))

    def taps(g: Expr, length: Expr) -> list[tuple[Expr, Expr]]:
        """Source places along an axis with their weights; a place outside weighs nothing."""
        size = tirx.Cast(wide, length)
        where = _source(op, tirx.Cast(wide, g), size, wide)
        cubic = op.mode == "cubic"
        if op.padding == "zeros":
            # What lies far outside reads nothing, and its whole part might not fit an integer.
            where = te.max(te.min(where, size + number(4, wide)), number(-5, wide))
        elif not cubic:
            where = within(where, size)
        if op.mode == "nearest":
            found = [(tirx.nearbyint(where), one)]
        else:
            base = tirx.floor(where)
            t = where - base
            if cubic:
                found = [(base + number(k - 1, wide), w) for k, w in enumerate(cubic_weights(t, wide))]
            else:
                found = [(base, one - t), (base + one, t)]
        result = []
        for place, weight in found:
            if cubic and op.padding != "zeros":
                place = within(place, size)
            whole = tirx.Cast("int64", place)
            inside = tirx.all(whole >= 0, whole < length)
            # Behind the last element the weight is zero anyhow; the read has to stay inside.
            held = te.max(te.min(whole, length - 1), tirx.IntImm("int64", 0))
            result.append((held, tirx.Select(inside, weight, number(0, wide))))
        return result

    def at(*i: Expr) -> Expr:
        axes = [
            taps(args.grid(i[0], *i[2:], tirx.IntImm("int64", spatial - 1 - axis)), length)
            for axis, length in enumerate(sizes)
        ]
        total: Expr | None = None
        for chosen in itertools.product(*axes):
            term = tirx.Cast(wide, args.x(i[0], i[1], *(place for place, _ in chosen))) * _weight(chosen)
            total = term if total is None else total + term
        assert total is not None
        return tirx.Cast(dtype, total)

    return te.compute(emitter.shape(op.result.type.shape), at, name="grid_sample")


def _weight(chosen: Sequence[tuple[Expr, Expr]]) -> Expr:
    """The product of the weights along the axes."""
    _, total = chosen[0]
    for _, weight in chosen[1:]:
        total = total * weight
    return total
