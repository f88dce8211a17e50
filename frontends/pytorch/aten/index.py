"""Rules: gathering, scattering, sorting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from plait.frontends.pytorch.builder import Builder
from plait.frontends.pytorch.registry import register
from plait.ir import types as t
from plait.ir.dims import IntLike
from plait.ir.ops import core, nn
from plait.ir.types import Shape
from plait.ir.value import Constant, Value

_Indices = Sequence["Value | None"]
_Reduce = Literal["none", "add", "mul", "max", "min"]


# -- along one axis ----------------------------------------------------------------------------
@register("aten.embedding.default")
def embedding(build: Builder, table: Value, indices: Value, padding_idx: int = -1, *_: object) -> Value:
    return build.emit(nn.Embedding(indices, table))


@register("aten.index_select.default")
def index_select(build: Builder, x: Value, dim: int, index: Value) -> Value:
    kind = build.kind(x)
    if not kind.rank:  # the one element, whatever the index says
        return x
    if build.kind(index).rank == 0:
        index = build.reshape(index, (1,))
    return build.emit(core.Take(x, index, axis=build.axis(dim, kind.rank)))


@register("aten.gather.default")
def gather(build: Builder, x: Value, dim: int, index: Value, *, sparse_grad: bool = False) -> Value:
    kind, shape = build.kind(x), build.kind(index).shape
    if 0 in shape:  # torch does not look at the rank of an index without elements
        return build.full(0, kind.dtype, shape)
    if build.kind(index).dtype not in (t.i32, t.i64):
        index = build.cast(index, t.i64)
    if not kind.rank or not shape:  # torch takes a scalar as a vector of one element
        x, index = build.reshape(x, kind.shape or (1,)), build.reshape(index, shape or (1,))
        return build.reshape(build.emit(core.GatherElements(x, index, axis=0)), shape)
    return build.emit(core.GatherElements(x, index, axis=build.axis(dim, kind.rank)))


@register("aten.take_along_dim.default")
def take_along_dim(build: Builder, x: Value, indices: Value, dim: int | None = None) -> Value:
    if dim is None:
        flat = build.flatten(x)
        return build.emit(core.GatherElements(flat, build.flatten(indices), axis=0))
    axis = dim % build.out.rank
    shape = [a if i == axis else b for i, (a, b) in enumerate(zip(build.kind(x).shape, build.out.shape))]
    picks = build.broadcast(indices, build.out.shape)
    return build.emit(core.GatherElements(build.broadcast(x, shape), picks, axis=axis))


@register("aten.take.default")
def take(build: Builder, x: Value, index: Value) -> Value:
    return build.emit(core.Take(build.flatten(x), index, axis=0))


# -- advanced indexing -----------------------------------------------------------------------------
def _from_front(build: Builder, index: Value, size: IntLike) -> Value:
    """An index with its negative elements counted from the front."""
    if isinstance(index, Constant) and index.has_data and index.data.size and index.data.min() >= 0:
        return index
    producer = index.producer
    if isinstance(producer, core.Iota) and producer.start >= 0 and producer.step >= 0:
        return index
    dtype = build.kind(index).dtype
    wrapped = build.add(index, build.size(size, dtype))
    negative = build.emit(core.Lt(index, build.full(0, dtype)))
    return build.emit(core.Where(negative, wrapped, index))


def _broadcast_shape(build: Builder, shapes: Sequence[Shape]) -> Shape:
    rank = max(len(shape) for shape in shapes)
    result: list[IntLike] = [1] * rank
    for shape in shapes:
        for i, size in enumerate(shape, start=rank - len(shape)):
            if size != 1:
                result[i] = size
    return tuple(result)


def _coordinates(build: Builder, x: Value, indices: _Indices) -> tuple[Value, list[int], Shape]:
    """Index tensors joined to coordinates [..., k], the k axes that they index, and their shape."""
    axes = [axis for axis, index in enumerate(indices) if index is not None]
    given = [index for index in indices if index is not None]
    shape = _broadcast_shape(build, [build.kind(index).shape for index in given])
    columns = []
    for axis, index in zip(axes, given, strict=True):
        placed = _from_front(build, build.cast(index, t.i64), build.kind(x).shape[axis])
        columns.append(build.insert_axis(build.broadcast(placed, shape), len(shape)))
    return build.concat(columns, len(shape)), axes, shape


def places_of_masks(build: Builder, indices: _Indices) -> _Indices:
    """Indices with a mask replaced by the places where it is true, one vector for each of its axes."""
    found: list[Value | None] = []
    for index in indices:
        if index is None or build.kind(index).dtype not in (t.boolean, t.u8):
            found.append(index)
            continue
        rank, count = build.kind(index).rank, build.count()
        if not rank:
            build.refuse("a scalar mask as index")
        places = build.emit(core.Nonzero(index, count=count))
        found += [build.reshape(build.slice(places, 1, axis, axis + 1), (count,)) for axis in range(rank)]
    if sum(index is not None and build.kind(index).dtype in (t.boolean, t.u8) for index in indices) > 1:
        build.refuse("several masks in one index")
    return found


def _refuse_masks(build: Builder, indices: _Indices) -> None:
    if any(index is not None and build.kind(index).dtype in (t.boolean, t.u8) for index in indices):
        build.refuse("a mask as index gives a size that depends on the data; use torch.where")


@register("aten.index.Tensor", "aten._unsafe_index.Tensor")
def index_tensor(build: Builder, x: Value, indices: _Indices) -> Value:
    indices = places_of_masks(build, indices)
    rank = build.kind(x).rank
    given = [(axis, index) for axis, index in enumerate(indices) if index is not None]
    if len(given) == 1:
        ((axis, index),) = given
        return build.emit(core.Take(x, index, axis=axis))
    coordinates, axes, shape = _coordinates(build, x, indices)
    rest = [axis for axis in range(rank) if axis not in axes]
    picked = build.emit(core.GatherND(build.transpose(x, [*axes, *rest]), coordinates))
    adjacent = axes == list(range(axes[0], axes[0] + len(axes)))
    before = axes[0] if adjacent else 0  # torch puts the axes of scattered indices in front
    count = len(shape)
    order = [*range(count, count + before), *range(count), *range(count + before, count + len(rest))]
    return build.transpose(picked, order)


@register("aten.index_put.default", "aten._unsafe_index_put.default")
def index_put(build: Builder, x: Value, indices: _Indices, values: Value, accumulate: bool = False) -> Value:
    kind = build.kind(x)
    values = build.cast(values, kind.dtype)
    given = [index for index in indices if index is not None]
    if len(given) == 1 and build.kind(given[0]).dtype == t.boolean:
        return _masked_put(build, x, indices, values, accumulate)
    _refuse_masks(build, indices)
    coordinates, axes, shape = _coordinates(build, x, indices)
    rest = [axis for axis in range(kind.rank) if axis not in axes]
    adjacent = axes == list(range(axes[0], axes[0] + len(axes)))
    before = axes[0] if adjacent else 0
    lead = [kind.shape[axis] for axis in rest[:before]]
    tail = [kind.shape[axis] for axis in rest[before:]]
    count = len(shape)
    values = build.broadcast(values, (*lead, *shape, *tail))
    order = [*range(before, before + count), *range(before), *range(before + count, count + len(rest))]
    front = [*axes, *rest]
    updated = build.emit(
        core.ScatterND(
            build.transpose(x, front),
            coordinates,
            build.transpose(values, order),
            reduce="add" if accumulate else "none",
        )
    )
    return build.transpose(updated, [front.index(axis) for axis in range(kind.rank)])


def _masked_put(build: Builder, x: Value, indices: _Indices, values: Value, accumulate: bool) -> Value:
    """x[mask] = values as a selection: the n-th place of the mask takes the n-th value."""
    kind = build.kind(x)
    before = next(axis for axis, index in enumerate(indices) if index is not None)
    mask = indices[before]
    assert mask is not None
    masked = build.kind(mask).shape
    tail = kind.shape[before + len(masked) :]
    given = build.kind(values).shape
    rank = before + 1 + len(tail)
    values = build.reshape(values, (*(1,) * (rank - len(given)), *given))
    shape = build.kind(values).shape
    if shape[before] == 1:
        values = build.reshape(values, (*shape[:before], *(1,) * len(masked), *shape[before + 1 :]))
    else:
        numbers = build.emit(core.CumSum(build.cast(build.flatten(mask), t.i64), axis=0))
        place = build.emit(core.Clamp(build.sub(numbers, 1), low=0.0))
        last = build.emit(core.Minimum(place, build.size(shape[before] - 1, t.i64)))
        values = build.emit(core.Take(values, build.reshape(last, masked), axis=before))
    wide = build.reshape(mask, (*masked, *(1,) * len(tail)))
    chosen = build.add(x, values) if accumulate else values
    return build.emit(core.Where(wide, build.broadcast(chosen, kind.shape), x))


# -- order -------------------------------------------------------------------------------------------
@register("aten.topk.default")
def topk(
    build: Builder, x: Value, k: IntLike, dim: int = -1, largest: bool = True, sorted: bool = True
) -> tuple[Value, ...]:
    rank = build.kind(x).rank
    if not rank:
        return x, build.full(0, t.i64)
    axis = build.axis(dim, rank)
    return build.emit_all(core.TopK(x, k=k, axis=axis, largest=largest))


@register("aten.sort.default")
def sort(build: Builder, x: Value, dim: int = -1, descending: bool = False) -> tuple[Value, ...]:
    rank = build.kind(x).rank
    if not rank:
        return x, build.full(0, t.i64)
    return build.emit_all(core.Sort(x, axis=build.axis(dim, rank), descending=descending))


@register("aten.sort.stable")
def sort_stable(
    build: Builder, x: Value, *, stable: bool | None = None, dim: int = -1, descending: bool = False
) -> tuple[Value, ...]:
    return sort(build, x, dim, descending)


@register("aten.argsort.default")
def argsort(build: Builder, x: Value, dim: int = -1, descending: bool = False) -> Value:
    return sort(build, x, dim, descending)[1]


@register("aten.argsort.stable")
def argsort_stable(
    build: Builder, x: Value, *, stable: bool, dim: int = -1, descending: bool = False
) -> Value:
    return sort(build, x, dim, descending)[1]


@register("aten.one_hot.default")
def one_hot(build: Builder, x: Value, num_classes: int = -1) -> Value:
    if num_classes < 0:
        build.refuse("the number of classes depends on the data; pass num_classes")
    kind = build.kind(x)
    classes = build.iota(num_classes, kind.dtype)
    return build.cast(build.emit(core.Eq(build.insert_axis(x, kind.rank), classes)), t.i64)


@register("aten.searchsorted.Tensor")
def searchsorted(
    build: Builder,
    boundaries: Value,
    x: Value,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Value | None = None,
) -> Value:
    """For each element the number of boundaries below it (or not above it), by comparing with all."""
    if sorter is not None or build.kind(boundaries).rank != 1:
        build.refuse("a sorter, or more than one sequence of boundaries")
    a, b = build.common(boundaries, x)
    rank = build.kind(b).rank
    b = build.insert_axis(b, rank)
    below = core.Le(a, b) if right or side == "right" else core.Lt(a, b)
    return build.emit(core.Sum(build.cast(build.emit(below), build.out.dtype), axes=(rank,)))


@register("aten.bucketize.Tensor")
def bucketize(
    build: Builder, x: Value, boundaries: Value, *, out_int32: bool = False, right: bool = False
) -> Value:
    return searchsorted(build, boundaries, x, right=right)
