"""Rules: gathering, scattering, sorting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from plait.frontends.pytorch.builder import Builder, Operand, Scalar
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
    if build.kind(index).rank == 0:
        index = build.reshape(index, (1,))
    return build.emit(core.Take(x, index, axis=build.axis(dim, kind.rank)))


@register("aten.gather.default")
def gather(build: Builder, x: Value, dim: int, index: Value, *, sparse_grad: bool = False) -> Value:
    return build.emit(core.GatherElements(x, index, axis=build.axis(dim, build.kind(x).rank)))


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


def _refuse_masks(build: Builder, indices: _Indices) -> None:
    if any(index is not None and build.kind(index).dtype in (t.boolean, t.u8) for index in indices):
        build.refuse("a mask as index gives a size that depends on the data; use torch.where")


@register("aten.index.Tensor", "aten._unsafe_index.Tensor")
def index_tensor(build: Builder, x: Value, indices: _Indices) -> Value:
    _refuse_masks(build, indices)
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
    """x[mask] = number, as a selection."""
    kind = build.kind(x)
    before = next(axis for axis, index in enumerate(indices) if index is not None)
    mask = indices[before]
    if mask is None or build.kind(values).rank:
        build.refuse("a mask with one value for each place; use torch.where")
    shape = build.kind(mask).shape
    mask = build.reshape(mask, (*shape, *(1,) * (kind.rank - before - len(shape))))
    chosen = build.add(x, values) if accumulate else values
    return build.emit(core.Where(mask, chosen, x))


# -- scattering ----------------------------------------------------------------------------------------
def _scatter(build: Builder, x: Value, dim: int, index: Value, updates: Operand, reduce: _Reduce) -> Value:
    kind, picks = build.kind(x), build.kind(index)
    if isinstance(updates, Value) and build.kind(updates).rank:
        updates = build.cast(updates, kind.dtype)
        for axis, size in enumerate(picks.shape):  # torch reads only what the index covers
            updates = build.slice(updates, axis, 0, size)
    else:
        updates = build.broadcast(build.operand(updates, kind.dtype), picks.shape)
    axis = build.axis(dim, kind.rank)
    return build.emit(core.ScatterElements(x, index, updates, axis=axis, reduce=reduce))


@register("aten.scatter.src", "aten.scatter.value")
def scatter(build: Builder, x: Value, dim: int, index: Value, src: Operand) -> Value:
    return _scatter(build, x, dim, index, src, "none")


@register("aten.scatter.reduce", "aten.scatter.value_reduce")
def scatter_with(build: Builder, x: Value, dim: int, index: Value, src: Operand, *, reduce: str) -> Value:
    return _scatter(build, x, dim, index, src, "add" if reduce == "add" else "mul")


@register("aten.scatter_add.default")
def scatter_add(build: Builder, x: Value, dim: int, index: Value, src: Value) -> Value:
    return _scatter(build, x, dim, index, src, "add")


@register("aten.scatter_reduce.two")
def scatter_reduce(
    build: Builder, x: Value, dim: int, index: Value, src: Value, reduce: str, *, include_self: bool = True
) -> Value:
    kinds: dict[str, _Reduce] = {"sum": "add", "prod": "mul", "amax": "max", "amin": "min"}
    if not include_self or reduce not in kinds:
        build.refuse(f"reduce='{reduce}' with include_self={include_self}")
    return _scatter(build, x, dim, index, src, kinds[reduce])


def _along(build: Builder, x: Value, dim: int, index: Value, source: Value, reduce: _Reduce) -> Value:
    """Slices of `source` written to, or combined with, the slices of `x` that a 1-D index names."""
    kind = build.kind(x)
    axis = build.axis(dim, kind.rank)
    shape = build.kind(source).shape
    line = build.reshape(index, [size if i == axis else 1 for i, size in enumerate(shape)])
    return build.emit(
        core.ScatterElements(
            x, build.broadcast(line, shape), build.cast(source, kind.dtype), axis=axis, reduce=reduce
        )
    )


@register("aten.index_add.default")
def index_add(build: Builder, x: Value, dim: int, index: Value, source: Value, *, alpha: Scalar = 1) -> Value:
    return _along(build, x, dim, index, source if alpha == 1 else build.mul(source, alpha), "add")


@register("aten.index_copy.default")
def index_copy(build: Builder, x: Value, dim: int, index: Value, source: Value) -> Value:
    return _along(build, x, dim, index, source, "none")


# -- order -------------------------------------------------------------------------------------------
@register("aten.topk.default")
def topk(
    build: Builder, x: Value, k: IntLike, dim: int = -1, largest: bool = True, sorted: bool = True
) -> tuple[Value, ...]:
    axis = build.axis(dim, build.kind(x).rank)
    return build.emit_all(core.TopK(x, k=k, axis=axis, largest=largest))


@register("aten.sort.default")
def sort(build: Builder, x: Value, dim: int = -1, descending: bool = False) -> tuple[Value, ...]:
    return build.emit_all(core.Sort(x, axis=build.axis(dim, build.kind(x).rank), descending=descending))


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
