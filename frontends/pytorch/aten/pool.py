"""Rules: pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from plait.frontends.pytorch.aten.conv import batched, spread
from plait.frontends.pytorch.builder import Builder
from plait.frontends.pytorch.registry import register
from plait.ir import types as t
from plait.ir.dims import IntLike, product
from plait.ir.ops import core, nn
from plait.ir.types import TensorType
from plait.ir.value import Value

_Sizes = Sequence[int]


def _planes(build: Builder, x: Value) -> tuple[Value, tuple[IntLike, ...]]:
    """[N, C, D, H, W] as [N, C * D, H, W], and the shape it had."""
    batch, channels, depth, height, width = shape = build.kind(x).shape
    return build.reshape(x, (batch, channels * depth, height, width)), shape


def _lines(build: Builder, planes: Value, shape: tuple[IntLike, ...]) -> tuple[Value, tuple[IntLike, ...]]:
    """Planes of a volume of `shape` as [N, C, D, rows * columns], and those two sizes."""
    rows, columns = build.kind(planes).shape[2:]
    return build.reshape(planes, (*shape[:3], rows * columns)), (rows, columns)


def _max2d(
    build: Builder, x: Value, kernel: _Sizes, stride: _Sizes, padding: _Sizes, dilation: _Sizes, ceil: bool
) -> Value:
    """Max pooling of NCHW by two numbers each."""
    return build.emit(
        nn.MaxPool2d(
            x,
            kernel=(kernel[0], kernel[1]),
            stride=(stride[0], stride[1]),
            pad=tuple(padding),
            dilation=(dilation[0], dilation[1]),
            ceil=ceil,
        )
    )


def _max_pool(
    build: Builder, x: Value, kernel: _Sizes, stride: _Sizes, pads: _Sizes, dilation: _Sizes, ceil: bool
) -> Value:
    """Max pooling over 1, 2 or 3 axes by 2-D pooling.

    A line is a row of height one.  The maximum over a block is that over rows and columns,
    then over depth.
    """
    if len(kernel) == 1:
        row = build.insert_axis(x, 2)
        y = _max2d(build, row, (1, *kernel), (1, *stride), (0, *pads), (1, *dilation), ceil)
        return build.drop_axis(y, 2)
    if len(kernel) == 2:
        return _max2d(build, x, kernel, stride, pads, dilation, ceil)
    planes, shape = _planes(build, x)
    planes = _max2d(build, planes, kernel[1:], stride[1:], pads[1:], dilation[1:], ceil)
    lines, face = _lines(build, planes, shape)
    lines = _max2d(build, lines, (kernel[0], 1), (stride[0], 1), (pads[0], 0), (dilation[0], 1), ceil)
    return build.reshape(lines, (*shape[:2], build.kind(lines).shape[2], *face))


def _max_pools(
    build: Builder,
    x: Value,
    spatial: int,
    kernel_size: _Sizes,
    stride: _Sizes = (),
    padding: _Sizes = (0,),
    dilation: _Sizes = (1,),
    ceil_mode: bool = False,
) -> tuple[Value, Value]:
    """Largest elements and their places; what is not read of these is removed afterwards."""
    kernel, pads, dilations = (spread(sizes, spatial) for sizes in (kernel_size, padding, dilation))
    steps = spread(stride, spatial) if stride else kernel
    x, single = batched(build, x, spatial)
    places = build.emit(
        nn.MaxPoolIndices(x, kernel=kernel, stride=steps, pad=pads, dilation=dilations, ceil=ceil_mode)
    )
    y = _max_pool(build, x, kernel, steps, pads, dilations, ceil_mode)
    return (build.drop_axis(y, 0), build.drop_axis(places, 0)) if single else (y, places)


@register("aten.max_pool1d.default")
def max_pool1d(build: Builder, x: Value, *arguments: object, **options: object) -> Value:
    return _max_pools(build, x, 1, *arguments, **options)[0]  # type: ignore[arg-type]  # as torch passes them


@register("aten.max_pool2d.default")
def max_pool2d(build: Builder, x: Value, *arguments: object, **options: object) -> Value:
    return _max_pools(build, x, 2, *arguments, **options)[0]  # type: ignore[arg-type]  # as torch passes them


@register("aten.max_pool3d.default")
def max_pool3d(build: Builder, x: Value, *arguments: object, **options: object) -> Value:
    return _max_pools(build, x, 3, *arguments, **options)[0]  # type: ignore[arg-type]  # as torch passes them


@register("aten.max_pool1d_with_indices.default")
def max_pool1d_with_indices(build: Builder, x: Value, *arguments: object) -> tuple[Value, Value]:
    return _max_pools(build, x, 1, *arguments)  # type: ignore[arg-type]  # as torch passes them


@register("aten.max_pool2d_with_indices.default")
def max_pool2d_with_indices(build: Builder, x: Value, *arguments: object) -> tuple[Value, Value]:
    return _max_pools(build, x, 2, *arguments)  # type: ignore[arg-type]  # as torch passes them


@register("aten.max_pool3d_with_indices.default")
def max_pool3d_with_indices(build: Builder, x: Value, *arguments: object) -> tuple[Value, Value]:
    return _max_pools(build, x, 3, *arguments)  # type: ignore[arg-type]  # as torch passes them


@register("aten.max_unpool2d.default", "aten.max_unpool3d.default")
def max_unpool(
    build: Builder, x: Value, indices: Value, output_size: Sequence[IntLike], *windows: object
) -> Value:
    """Elements written at their places in the zeros of their channel."""
    kind = build.kind(x)
    lead = kind.shape[: kind.rank - len(output_size)]
    flat = (product(lead), product(kind.shape[len(lead) :]))
    zeros = build.full(0, kind.dtype, (flat[0], product(output_size)))
    places, values = build.reshape(indices, flat), build.reshape(x, flat)
    y = build.emit(core.ScatterElements(zeros, places, values, axis=1))
    return build.reshape(y, (*lead, *output_size))


# -- averages ------------------------------------------------------------------------------------
def _avg2d(
    build: Builder, x: Value, kernel: _Sizes, stride: _Sizes, padding: _Sizes, ceil: bool, count_pad: bool
) -> Value:
    """Average pooling of NCHW by two numbers each."""
    return build.emit(
        nn.AvgPool2d(
            x,
            kernel=(kernel[0], kernel[1]),
            stride=(stride[0], stride[1]),
            pad=tuple(padding),
            ceil=ceil,
            count_pad=count_pad and any(padding),  # without pads the two counts agree
        )
    )


def _avg_pool(
    build: Builder, x: Value, kernel: _Sizes, stride: _Sizes, pads: _Sizes, ceil: bool, count_pad: bool
) -> Value:
    """Average pooling over 1, 2 or 3 axes by 2-D pooling, as for the maximum.

    The mean over a block is the mean over depth of those over rows and columns, since
    each of these counts as many elements.
    """
    if len(kernel) == 1:
        row = build.insert_axis(x, 2)
        y = _avg2d(build, row, (1, *kernel), (1, *stride), (0, *pads), ceil, count_pad)
        return build.drop_axis(y, 2)
    if len(kernel) == 2:
        return _avg2d(build, x, kernel, stride, pads, ceil, count_pad)
    planes, shape = _planes(build, x)
    planes = _avg2d(build, planes, kernel[1:], stride[1:], pads[1:], ceil, count_pad)
    lines, face = _lines(build, planes, shape)
    lines = _avg2d(build, lines, (kernel[0], 1), (stride[0], 1), (pads[0], 0), ceil, count_pad)
    return build.reshape(lines, (*shape[:2], build.kind(lines).shape[2], *face))


def _window_sums(build: Builder, x: Value, kernel: _Sizes, stride: _Sizes, pads: _Sizes) -> Value:
    """Sums of windows, as many as torch computed; zeros behind let the last ones be whole."""
    behind = tuple(p + s - 1 for p, s in zip(pads, stride, strict=True))
    padded = build.emit(core.Pad(x, before=(0, 0, *pads), after=(0, 0, *behind)))
    mean = _avg_pool(build, padded, kernel, stride, (0,) * len(kernel), False, False)
    for axis, size in enumerate(build.out.shape[-len(kernel) :], start=2):
        mean = build.slice(mean, axis, 0, size)
    return build.mul(mean, math.prod(kernel))


def _integer_average(
    build: Builder,
    x: Value,
    kernel: _Sizes,
    stride: _Sizes,
    pads: _Sizes,
    count_pad: bool,
    divisor: int | None,
) -> Value:
    """Quotients of whole sums and counts, or of sums and one divisor, truncated toward zero."""
    kind, spatial = build.kind(x), len(kernel)
    total = _window_sums(build, build.cast(x, t.f64), kernel, stride, pads)
    if divisor is not None:
        return build.div(build.cast(build.emit(core.Round(total)), kind.dtype), divisor)
    ones = build.full(1, t.f64, (1, 1, *kind.shape[2:]))
    if count_pad:
        sides = (0, 0, *pads)
        ones = build.emit(core.Pad(ones, before=sides, after=sides, value=1.0))
        pads = (0,) * spatial
    counts = _window_sums(build, ones, kernel, stride, pads)
    whole = (build.cast(build.emit(core.Round(v)), kind.dtype) for v in (total, counts))
    return build.emit(core.Div(*whole))


def _avg_pools(
    build: Builder,
    x: Value,
    spatial: int,
    kernel_size: _Sizes,
    stride: _Sizes = (),
    padding: _Sizes = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Value:
    kernel, pads = spread(kernel_size, spatial), spread(padding, spatial)
    steps = spread(stride, spatial) if stride else kernel
    x, single = batched(build, x, spatial)
    dtype = build.kind(x).dtype
    if dtype.is_integer:
        y = _integer_average(build, x, kernel, steps, pads, count_include_pad, divisor_override)
    elif divisor_override is not None:
        y = build.div(_window_sums(build, x, kernel, steps, pads), divisor_override)
    else:
        y = _avg_pool(build, x, kernel, steps, pads, ceil_mode, count_include_pad)
    return build.drop_axis(y, 0) if single else y


@register("aten.avg_pool1d.default")
def avg_pool1d(build: Builder, x: Value, *arguments: object, **options: object) -> Value:
    return _avg_pools(build, x, 1, *arguments, **options)  # type: ignore[arg-type]  # as torch passes them


@register("aten.avg_pool2d.default")
def avg_pool2d(build: Builder, x: Value, *arguments: object, **options: object) -> Value:
    return _avg_pools(build, x, 2, *arguments, **options)  # type: ignore[arg-type]  # as torch passes them


@register("aten.avg_pool3d.default")
def avg_pool3d(build: Builder, x: Value, *arguments: object, **options: object) -> Value:
    return _avg_pools(build, x, 3, *arguments, **options)  # type: ignore[arg-type]  # as torch passes them


# -- adaptive ------------------------------------------------------------------------------------
@register("aten._adaptive_avg_pool2d.default", "aten._adaptive_avg_pool3d.default")
@register(
    "aten.adaptive_avg_pool1d.default", "aten.adaptive_avg_pool2d.default", "aten.adaptive_avg_pool3d.default"
)
def adaptive_avg_pool(build: Builder, x: Value, output_size: Sequence[int]) -> Value:
    """Over rows and columns, then over depth: the windows of an axis do not depend on the others."""
    size = tuple(output_size)
    x, single = batched(build, x, len(size))
    if len(size) == 1:
        row = nn.AdaptiveAvgPool2d(build.insert_axis(x, 2), size=(1, size[0]))
        y = build.drop_axis(build.emit(row), 2)
    elif len(size) == 2:
        y = build.emit(nn.AdaptiveAvgPool2d(x, size=(size[0], size[1])))
    else:
        planes, shape = _planes(build, x)
        planes = build.emit(nn.AdaptiveAvgPool2d(planes, size=(size[1], size[2])))
        lines = build.reshape(planes, (*shape[:3], size[1] * size[2]))
        lines = build.emit(nn.AdaptiveAvgPool2d(lines, size=(size[0], size[1] * size[2])))
        y = build.reshape(lines, (*shape[:2], *size))
    return build.drop_axis(y, 0) if single else y


@register(
    "aten.adaptive_max_pool1d.default", "aten.adaptive_max_pool2d.default", "aten.adaptive_max_pool3d.default"
)
def adaptive_max_pool(build: Builder, x: Value, output_size: Sequence[int]) -> tuple[Value, Value | None]:
    """Equal windows are cut out by a reshape; others are gathered, their last element repeated."""
    kind = build.kind(x)
    first = kind.rank - len(output_size)
    sizes = kind.shape[first:]
    known = all(isinstance(size, int) for size in sizes)
    if all(count == 1 or (isinstance(s, int) and s % count == 0) for s, count in zip(sizes, output_size)):
        apart: list[IntLike] = list(kind.shape[:first])
        axes = []
        for size, count in zip(sizes, output_size, strict=True):
            axes.append(len(apart) + 1)
            apart += [count, size // count]
        y = build.emit(core.Max(build.reshape(x, apart), axes=tuple(axes)))
        return y, _adaptive_places(build, x, output_size) if known else None
    if not known:
        build.refuse(f"{list(output_size)} windows of unequal size over {list(map(str, sizes))} elements")
    y = x
    for axis, (size, count) in enumerate(zip(sizes, output_size, strict=True), start=first):
        assert isinstance(size, int)
        windows = build.constant(f"windows{axis - first}", adaptive_windows(size, count))
        y = build.emit(core.Max(build.emit(core.Take(y, windows, axis=axis)), axes=(axis + 1,)))
    return y, _adaptive_places(build, x, output_size)


def adaptive_windows(size: int, count: int) -> np.ndarray:
    """The elements [count, widest] of each of `count` windows; narrow ones repeat their last."""
    steps = np.arange(count)
    starts, stops = steps * size // count, -(-(steps + 1) * size // count)
    inside = np.arange(int((stops - starts).max()))
    return np.minimum(starts[:, None] + inside, stops[:, None] - 1).astype(np.int64)


def _adaptive_places(build: Builder, x: Value, output_size: Sequence[int]) -> Value:
    """The place of the largest element of each window among the elements of its channel."""
    kind, spatial = build.kind(x), len(output_size)
    lead = kind.shape[: kind.rank - spatial]
    sizes = [int(size) for size in kind.shape[kind.rank - spatial :] if isinstance(size, int)]
    places = np.zeros((1,) * 2 * spatial, dtype=np.int64)
    for axis, (size, count) in enumerate(zip(sizes, output_size, strict=True)):
        shape = [1] * 2 * spatial
        windows = adaptive_windows(size, count)
        shape[axis], shape[spatial + axis] = windows.shape
        places = places * size + windows.reshape(shape)
    places = places.reshape((*output_size, -1))
    table = build.constant("places", places)
    flat = build.reshape(x, (*lead, math.prod(sizes)))
    members = build.emit(core.Take(flat, table, axis=len(lead)))
    best = build.emit(core.ArgMax(members, axis=-1, keepdims=True))
    spread_table = core.Broadcast(table, out=TensorType(t.i64, (*lead, *places.shape)))
    chosen = build.emit(core.GatherElements(build.emit(spread_table), best, axis=len(lead) + spatial))
    return build.reshape(chosen, (*lead, *output_size))
