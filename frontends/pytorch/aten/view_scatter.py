"""Rules: writes through a view, where the view is a diagonal."""

from __future__ import annotations

from plait.frontends.pytorch.builder import Builder
from plait.frontends.pytorch.registry import register
from plait.ir import types as t
from plait.ir.ops import core
from plait.ir.value import Value


@register("aten.diagonal_scatter.default")
def diagonal_scatter(
    build: Builder, x: Value, source: Value, offset: int = 0, dim1: int = 0, dim2: int = 1
) -> Value:
    """`x` with its diagonal replaced: a selection between the two by position."""
    kind = build.kind(x)
    rank = kind.rank
    first, second = dim1 % rank, dim2 % rank
    rest = [axis for axis in range(rank) if axis not in (first, second)]
    front = build.transpose(x, [*rest, first, second])
    rows, columns = build.kind(front).shape[-2:]
    source = build.cast(source, kind.dtype)
    # element k of the source stands in row k above the main diagonal, in column k below it
    length, whole = build.kind(source).shape[-1], rows if offset >= 0 else columns
    if length != whole:
        lead = build.kind(source).shape[:-1]
        source = build.concat([source, build.full(0, kind.dtype, (*lead, whole - length))], rank - 2)
    spread = build.insert_axis(source, rank - 1 if offset >= 0 else rank - 2)
    spread = build.broadcast(spread, build.kind(front).shape)
    row = build.broadcast(build.insert_axis(build.iota(rows, t.i64, start=offset), 1), (rows, columns))
    column = build.broadcast(build.insert_axis(build.iota(columns, t.i64), 0), (rows, columns))
    mask = build.broadcast(build.emit(core.Eq(row, column)), build.kind(front).shape)
    written = build.emit(core.Where(mask, spread, front))
    order = [*rest, first, second]
    return build.transpose(written, [order.index(axis) for axis in range(rank)])
