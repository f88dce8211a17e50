"""Rules: movement of elements without arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from plait.frontends.pytorch.builder import Builder
from plait.frontends.pytorch.registry import register
from plait.ir import types as t
from plait.ir.dims import Dim, IntLike, product
from plait.ir.ops import core
from plait.ir.value import Value

#: From here on a slice bound means the end of the axis.
_END = 2**62


# -- views ------------------------------------------------------------------------------------
@register(
    "aten.view.default", "aten._unsafe_view.default", "aten.reshape.default", "aten.flatten.using_ints",
    "aten.unflatten.int", "aten.squeeze.default", "aten.squeeze.dim", "aten.squeeze.dims",
    "aten.unsqueeze.default", "aten.view_as.default", "aten.reshape_as.default", "aten.ravel.default",
    "aten._reshape_alias.default", "prims.collapse_view.default",
)  # fmt: skip
def view(build: Builder, x: Value, *_: object) -> Value:
    return build.reshape(x, build.out.shape)


@register("aten.expand.default", "aten.broadcast_to.default", "aten.expand_as.default")
def expand(build: Builder, x: Value, _: object, *, implicit: bool = False) -> Value:
    return build.broadcast(x, build.out.shape)


@register("prims.broadcast_in_dim.default")
def broadcast_in_dim(build: Builder, x: Value, shape: Sequence[IntLike], axes: Sequence[int]) -> Value:
    middle: list[IntLike] = [1] * len(shape)
    for axis, size in zip(axes, build.kind(x).shape, strict=True):
        middle[axis] = size
    return build.broadcast(build.reshape(x, middle), build.out.shape)


@register("aten.broadcast_tensors.default", "aten.atleast_1d.Sequence")
def broadcast_tensors(build: Builder, xs: Sequence[Value]) -> tuple[Value, ...]:
    return tuple(build.broadcast(x, kind.shape) for x, kind in zip(xs, build.results, strict=True))


# -- order of axes --------------------------------------------------------------------------------
@register("aten.permute.default")
def permute(build: Builder, x: Value, dims: Sequence[int]) -> Value:
    rank = build.kind(x).rank
    return build.transpose(x, [dim % rank for dim in dims])


@register("aten.transpose.int", "aten.swapaxes.default", "aten.swapdims.default")
def transpose(build: Builder, x: Value, first: int, second: int) -> Value:
    rank = build.kind(x).rank
    return build.swap(x, first % rank, second % rank) if rank else x


@register("aten.t.default", "aten.numpy_T.default", "aten.mT.default", "aten.adjoint.default")
def last_two_swapped(build: Builder, x: Value) -> Value:
    rank = build.kind(x).rank
    return x if rank < 2 else build.swap(x, rank - 2, rank - 1)


@register("aten.movedim.intlist", "aten.moveaxis.intlist")
def movedim(build: Builder, x: Value, source: Sequence[int], destination: Sequence[int]) -> Value:
    rank = build.kind(x).rank
    sources, targets = [s % rank for s in source], [d % rank for d in destination]
    rest = iter(axis for axis in range(rank) if axis not in sources)
    order = [sources[targets.index(axis)] if axis in targets else next(rest) for axis in range(rank)]
    return build.transpose(x, order)


@register("aten.movedim.int", "aten.moveaxis.int")
def movedim_one(build: Builder, x: Value, source: int, destination: int) -> Value:
    return movedim(build, x, (source,), (destination,))


# -- joining --------------------------------------------------------------------------------------
@register("aten.cat.default", "aten.concat.default", "aten.concatenate.default")
def cat(build: Builder, xs: Sequence[Value], dim: int = 0) -> Value:
    out = build.out
    # torch lets a one-dimensional empty tensor join anything
    kept = [x for x in xs if build.kind(x).rank == out.rank]
    return build.concat([build.cast(x, out.dtype) for x in kept], dim % out.rank)


@register("aten.stack.default")
def stack(build: Builder, xs: Sequence[Value], dim: int = 0) -> Value:
    out = build.out
    axis = dim % out.rank
    return build.concat([build.insert_axis(build.cast(x, out.dtype), axis) for x in xs], axis)


# -- cutting --------------------------------------------------------------------------------------
def _pieces(build: Builder, x: Value, dim: int) -> tuple[Value, ...]:
    """Consecutive slices along an axis with the sizes that torch computed."""
    axis = dim % build.kind(x).rank
    found: list[Value] = []
    start: IntLike = 0
    for kind in build.results:
        stop = start + kind.shape[axis]
        found.append(build.slice(x, axis, start, stop))
        start = stop
    return tuple(found)


@register(
    "aten.split.Tensor", "aten.split.sizes", "aten.split_with_sizes.default", "aten.chunk.default",
    "aten.tensor_split.sections", "aten.tensor_split.indices", "aten.unsafe_split.Tensor",
    "aten.unsafe_chunk.default", "aten.split_with_sizes_copy.default",
)  # fmt: skip
def split(build: Builder, x: Value, _: object, dim: int = 0) -> tuple[Value, ...]:
    return _pieces(build, x, dim)


@register("aten.unbind.int")
def unbind(build: Builder, x: Value, dim: int = 0) -> tuple[Value, ...]:
    axis = dim % build.kind(x).rank
    return tuple(build.drop_axis(build.slice(x, axis, i, i + 1), axis) for i in range(len(build.results)))


def position(index: IntLike, size: IntLike) -> IntLike:
    """An index counted from the front."""
    return size + index if isinstance(index, int) and index < 0 else index


@register("aten.select.int")
def select(build: Builder, x: Value, dim: int, index: IntLike) -> Value:
    kind = build.kind(x)
    axis = dim % kind.rank
    start = position(index, kind.shape[axis])
    return build.drop_axis(build.slice(x, axis, start, start + 1), axis)


def _bounds(
    size: IntLike, start: IntLike | None, end: IntLike | None, step: int, count: IntLike
) -> tuple[IntLike, IntLike]:
    """Slice bounds in 0..size; `count` is the number of elements that torch computed."""
    if isinstance(size, int) and not isinstance(start, Dim) and not isinstance(end, Dim):
        low, high, _ = slice(start, end, step).indices(size)
        return low, max(low, high)
    first = position(0 if start is None else start, size)
    if step == 1:
        return first, first + count
    if end is None or (isinstance(end, int) and end >= _END):
        return first, size
    return first, position(end, size)


@register("aten.slice.Tensor")
def slice_tensor(
    build: Builder,
    x: Value,
    dim: int = 0,
    start: IntLike | None = None,
    end: IntLike | None = None,
    step: int = 1,
) -> Value:
    kind = build.kind(x)
    axis = dim % kind.rank
    low, high = _bounds(kind.shape[axis], start, end, step, build.out.shape[axis])
    return build.slice(x, axis, low, high, step)


@register("aten.narrow.default")
def narrow(build: Builder, x: Value, dim: int, start: IntLike, length: IntLike) -> Value:
    kind = build.kind(x)
    axis = dim % kind.rank
    low = position(start, kind.shape[axis])
    return build.slice(x, axis, low, low + length)


@register("aten.slice_scatter.default")
def slice_scatter(
    build: Builder,
    x: Value,
    source: Value,
    dim: int = 0,
    start: IntLike | None = None,
    end: IntLike | None = None,
    step: int = 1,
) -> Value:
    """`x` with one of its slices replaced: the parts around it joined with the new one."""
    kind = build.kind(x)
    axis = dim % kind.rank
    size = kind.shape[axis]
    source = build.cast(source, kind.dtype)
    low, high = _bounds(size, start, end, step, build.kind(source).shape[axis])
    if step != 1:
        return _strided_scatter(build, x, source, axis, low, step)
    parts = [] if low == 0 else [build.slice(x, axis, 0, low)]
    parts.append(source)
    if high != size:
        parts.append(build.slice(x, axis, high, size))
    return build.concat(parts, axis)


def _strided_scatter(build: Builder, x: Value, source: Value, axis: int, start: IntLike, step: int) -> Value:
    kind = build.kind(source)
    if not isinstance(start, int):
        build.refuse("a strided slice from a symbolic start")
    shape = [size if i == axis else 1 for i, size in enumerate(kind.shape)]
    places = build.reshape(build.iota(kind.shape[axis], t.i64, start, step), shape)
    return build.emit(core.ScatterElements(x, build.broadcast(places, kind.shape), source, axis=axis))


@register("aten.select_scatter.default")
def select_scatter(build: Builder, x: Value, source: Value, dim: int, index: IntLike) -> Value:
    kind = build.kind(x)
    axis = dim % kind.rank
    low = position(index, kind.shape[axis])
    return slice_scatter(build, x, build.insert_axis(source, axis), axis, low, low + 1)


# -- order of elements ----------------------------------------------------------------------------
@register("aten.flip.default")
def flip(build: Builder, x: Value, dims: Sequence[int]) -> Value:
    axes = tuple(dim % build.kind(x).rank for dim in dims)
    return build.emit(core.Flip(x, axes=axes)) if axes else x


@register("aten.fliplr.default")
def fliplr(build: Builder, x: Value) -> Value:
    return build.emit(core.Flip(x, axes=(1,)))


@register("aten.flipud.default")
def flipud(build: Builder, x: Value) -> Value:
    return build.emit(core.Flip(x, axes=(0,)))


@register("aten.roll.default")
def roll(build: Builder, x: Value, shifts: Sequence[int], dims: Sequence[int] = ()) -> Value:
    kind = build.kind(x)
    if not dims:  # the flattened tensor is rolled
        flat = build.emit(core.Roll(build.flatten(x), shifts=tuple(shifts), axes=(0,)))
        return build.reshape(flat, kind.shape)
    return build.emit(core.Roll(x, shifts=tuple(shifts), axes=tuple(dim % kind.rank for dim in dims)))


# -- repetition -------------------------------------------------------------------------------------
@register("aten.repeat.default", "aten.tile.default")
def repeat(build: Builder, x: Value, repeats: Sequence[IntLike]) -> Value:
    kind = build.kind(x)
    rank = max(kind.rank, len(repeats))
    shape = (*(1,) * (rank - kind.rank), *kind.shape)
    times = (*(1,) * (rank - len(repeats)), *repeats)
    apart: list[IntLike] = []
    spread: list[IntLike] = []
    for size, count in zip(shape, times, strict=True):
        apart += [size] if count == 1 else [1, size]
        spread += [size] if count == 1 else [count, size]
    return build.reshape(build.broadcast(build.reshape(x, apart), spread), build.out.shape)


@register("aten.repeat_interleave.self_int")
def repeat_interleave(
    build: Builder, x: Value, repeats: int, dim: int | None = None, *, output_size: IntLike | None = None
) -> Value:
    if dim is None:
        x, dim = build.flatten(x), 0
    shape = build.kind(x).shape
    axis = dim % len(shape)
    apart = build.insert_axis(x, axis + 1)
    spread = build.broadcast(apart, (*shape[: axis + 1], repeats, *shape[axis + 1 :]))
    return build.reshape(spread, (*shape[:axis], shape[axis] * repeats, *shape[axis + 1 :]))


# -- padding ------------------------------------------------------------------------------------------
@register("aten.pad.default", "aten.constant_pad_nd.default")
def pad(
    build: Builder, x: Value, pad: Sequence[int], mode: str | float = "constant", value: float | None = None
) -> Value:
    """`pad` holds (before, after) from the last axis backward; negative numbers crop."""
    if not isinstance(mode, str):  # constant_pad_nd gives the value in this place
        value, mode = mode, "constant"
    modes = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}
    if mode not in modes:
        build.refuse(f"padding mode '{mode}'")
    if any(isinstance(p, Dim) for p in pad):
        build.refuse("padding by a symbolic size")
    rank = build.kind(x).rank
    before, after = [0] * rank, [0] * rank
    for i in range(len(pad) // 2):
        before[rank - 1 - i], after[rank - 1 - i] = pad[2 * i], pad[2 * i + 1]
    for axis in range(rank):
        size = build.kind(x).shape[axis]
        low, high = max(-before[axis], 0), max(-after[axis], 0)
        if mode == "replicate" and isinstance(size, int) and low + high >= size:
            # the crop takes all, and what follows repeats the element at an end
            x = _cropped_to_end(build, x, axis, before[axis], after[axis])
            before[axis] = after[axis] = 0
            continue
        x = build.slice(x, axis, low, size - high)
    before, after = [max(p, 0) for p in before], [max(p, 0) for p in after]
    if not any(before) and not any(after):
        return x
    return build.emit(
        core.Pad(x, before=tuple(before), after=tuple(after), mode=modes[mode], value=float(value or 0.0))  # type: ignore[arg-type]  # one of the modes above
    )


def _cropped_to_end(build: Builder, x: Value, axis: int, before: int, after: int) -> Value:
    """Replication where one side crops the whole axis: place j holds element j - before, kept in range."""
    size = build.kind(x).shape[axis]
    assert isinstance(size, int)
    places = np.clip(np.arange(size + before + after) - before, 0, size - 1)
    return build.emit(core.Take(x, build.constant("places", places.astype(np.int64)), axis=axis))


@register("aten.reflection_pad1d.default", "aten.reflection_pad2d.default", "aten.reflection_pad3d.default")
def reflection_pad(build: Builder, x: Value, padding: Sequence[int]) -> Value:
    return pad(build, x, padding, "reflect")


@register(
    "aten.replication_pad1d.default", "aten.replication_pad2d.default", "aten.replication_pad3d.default"
)
def replication_pad(build: Builder, x: Value, padding: Sequence[int]) -> Value:
    return pad(build, x, padding, "replicate")


# -- blocks and windows -----------------------------------------------------------------------------
@register("aten.pixel_shuffle.default")
def pixel_shuffle(build: Builder, x: Value, factor: int) -> Value:
    """[..., C*r^2, H, W] -> [..., C, H*r, W*r]."""
    *lead, channels, height, width = build.kind(x).shape
    outer = len(lead)
    apart = build.reshape(x, (*lead, channels // (factor * factor), factor, factor, height, width))
    order = (*range(outer), outer, outer + 3, outer + 1, outer + 4, outer + 2)
    return build.reshape(build.transpose(apart, order), build.out.shape)


@register("aten.pixel_unshuffle.default")
def pixel_unshuffle(build: Builder, x: Value, factor: int) -> Value:
    """[..., C, H*r, W*r] -> [..., C*r^2, H, W]."""
    *lead, channels, height, width = build.kind(x).shape
    outer = len(lead)
    apart = build.reshape(x, (*lead, channels, height // factor, factor, width // factor, factor))
    order = (*range(outer), outer, outer + 2, outer + 4, outer + 1, outer + 3)
    return build.reshape(build.transpose(apart, order), build.out.shape)


@register("aten.channel_shuffle.default", "aten.native_channel_shuffle.default")
def channel_shuffle(build: Builder, x: Value, groups: int) -> Value:
    batch, channels, *rest = build.kind(x).shape
    apart = build.reshape(x, (batch, groups, channels // groups, *rest))
    return build.reshape(build.swap(apart, 1, 2), build.out.shape)


@register("aten.unfold.default")
def unfold(build: Builder, x: Value, dimension: int, size: int, step: int) -> Value:
    """Windows of one axis, each element of a window on a new last axis."""
    kind = build.kind(x)
    axis = dimension % kind.rank
    windows = build.out.shape[axis]
    parts = [
        build.insert_axis(build.slice(x, axis, i, i + (windows - 1) * step + 1, step), kind.rank)
        for i in range(size)
    ]
    return build.concat(parts, kind.rank)


@register("aten.diagonal.default")
def diagonal(build: Builder, x: Value, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Value:
    """The diagonal of two axes on a new last axis, read from the rows laid out on one axis."""
    kind = build.kind(x)
    rank = kind.rank
    first, second = dim1 % rank, dim2 % rank
    rest = [axis for axis in range(rank) if axis not in (first, second)]
    lead = [kind.shape[axis] for axis in rest]
    columns, count = kind.shape[second], build.out.shape[-1]
    if not isinstance(columns, int):
        build.refuse("the diagonal of a matrix with a symbolic number of columns")
    flat = build.reshape(
        build.transpose(x, [*rest, first, second]), (*lead, product((kind.shape[first], columns)))
    )
    start = offset if offset >= 0 else -offset * columns
    return build.slice(flat, len(lead), start, start + (count - 1) * (columns + 1) + 1, columns + 1)
