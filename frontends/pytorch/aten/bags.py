"""Rules: sums over bags of embeddings."""

from __future__ import annotations

from typing import Literal

from plait.frontends.pytorch.builder import Builder
from plait.frontends.pytorch.registry import register
from plait.ir import types as t
from plait.ir.ops import core, nn
from plait.ir.value import Value

_MEAN, _MAX = 1, 2


def _combined(
    build: Builder, target: Value, rows: Value, updates: Value, reduce: Literal["add", "max", "min"]
) -> Value:
    """Slices of `updates` combined with the rows of `target` that the 1-D `rows` name."""
    return build.emit(core.ScatterND(target, build.insert_axis(rows, 1), updates, reduce=reduce))


@register("aten._embedding_bag.default", "aten._embedding_bag_forward_only.default")
def embedding_bag(
    build: Builder,
    weight: Value,
    indices: Value,
    offsets: Value,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Value | None = None,
    include_last_offset: bool = False,
    padding_idx: int = -1,
) -> tuple[Value, ...]:
    """Sum, mean or maximum of the rows of each bag; a bag runs from its offset to the next one.

    The other results serve the gradient: the bag of each index, the size of each bag, and
    for the maximum the row that each element came from.
    """
    table, picks = build.kind(weight), build.kind(indices)
    dtype, width, count = table.dtype, table.shape[1], picks.shape[0]
    bags = build.kind(offsets).shape[0] - int(include_last_offset)
    indices, offsets = build.cast(indices, t.i64), build.cast(offsets, t.i64)
    starts = build.slice(offsets, 0, 0, bags)
    places = build.insert_axis(build.iota(count, t.i64), 1)
    begun = build.cast(build.emit(core.Le(build.insert_axis(starts, 0), places)), t.i64)
    bag = build.sub(build.emit(core.Sum(begun, axes=(1,))), 1)

    rows = build.emit(nn.Embedding(indices, weight))
    if per_sample_weights is not None:
        rows = build.mul(rows, build.insert_axis(per_sample_weights, 1))
    lowest = build.full(float("-inf") if mode == _MAX else 0, dtype)
    kept = build.full(True, t.boolean, (count,))
    if padding_idx >= 0:
        kept = build.emit(core.Ne(indices, build.full(padding_idx, t.i64)))
        rows = build.emit(core.Where(build.insert_axis(kept, 1), rows, lowest))
    target = build.broadcast(lowest, (bags, width))
    if mode not in (_MEAN, _MAX):
        nothing = build.full(0, t.i64, (bags,))  # torch leaves sizes out of a sum
        return _results(build, _combined(build, target, bag, rows, "add"), bag, nothing, nothing)
    none = build.full(0, t.i64, (bags,))
    sizes = _combined(build, none, bag, build.cast(kept, t.i64), "add")
    some = build.insert_axis(sizes, 1)
    if mode == _MEAN:
        floor = build.emit(core.Maximum(some, build.full(1, t.i64)))
        y = build.div(_combined(build, target, bag, rows, "add"), build.cast(floor, dtype))
        return _results(build, y, bag, sizes, sizes)
    highest = _combined(build, target, bag, rows, "max")
    filled = build.emit(core.Gt(some, build.full(0, t.i64)))
    # the first row of a bag that holds the maximum of a column
    hit = build.emit(core.Eq(rows, build.emit(core.Take(highest, bag))))
    hit = build.emit(core.And(hit, build.insert_axis(kept, 1)))
    place = build.emit(core.Where(hit, places, build.size(count, t.i64)))
    beyond = build.broadcast(build.size(count, t.i64), (bags, width))
    first = _combined(build, beyond, bag, place, "min")
    first = build.emit(core.Where(filled, first, build.full(0, t.i64)))
    found = build.emit(core.Take(indices, first))
    zero = build.full(0, dtype)
    origin = build.emit(core.Where(filled, found, build.full(0, t.i64)))
    return _results(build, build.emit(core.Where(filled, highest, zero)), bag, sizes, origin)


def _results(build: Builder, y: Value, *saved: Value) -> tuple[Value, ...]:
    """The bags and what torch saves for the gradient; where its kernel leaves that empty, so is it here."""
    found = [y]
    for kind, value in zip(build.results[1:], saved, strict=True):
        fits = build.kind(value).shape == kind.shape
        found.append(build.cast(value, kind.dtype) if fits else build.full(0, kind.dtype, kind.shape))
    return tuple(found)
