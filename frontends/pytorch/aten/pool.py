"""Rules: pooling and resampling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from plait.frontends.pytorch.aten.conv import batched, spread
from plait.frontends.pytorch.builder import Builder
from plait.frontends.pytorch.registry import register
from plait.ir.dims import IntLike
from plait.ir.ops import core, nn
from plait.ir.value import Value

_Sizes = Sequence[int]


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


@register("aten.max_pool2d.default")
def max_pool2d(
    build: Builder,
    x: Value,
    kernel_size: _Sizes,
    stride: _Sizes = (),
    padding: _Sizes = (0,),
    dilation: _Sizes = (1,),
    ceil_mode: bool = False,
) -> Value:
    x, single = batched(build, x, 2)
    kernel = spread(kernel_size, 2)
    y = _max2d(
        build, x, kernel, spread(stride or kernel, 2), spread(padding, 2), spread(dilation, 2), ceil_mode
    )
    return build.drop_axis(y, 0) if single else y


@register("aten.max_pool2d_with_indices.default")
def max_pool2d_with_indices(build: Builder, x: Value, *arguments: object) -> tuple[Value, None]:
    return max_pool2d(build, x, *arguments), None  # type: ignore[arg-type]  # as torch passes them


@register("aten.max_pool1d.default")
def max_pool1d(
    build: Builder,
    x: Value,
    kernel_size: _Sizes,
    stride: _Sizes = (),
    padding: _Sizes = (0,),
    dilation: _Sizes = (1,),
    ceil_mode: bool = False,
) -> Value:
    x, single = batched(build, x, 1)
    step = (stride or kernel_size)[0]
    row = build.insert_axis(x, 2)
    y = _max2d(build, row, (1, kernel_size[0]), (1, step), (0, padding[0]), (1, dilation[0]), ceil_mode)
    y = build.drop_axis(y, 2)
    return build.drop_axis(y, 0) if single else y


@register("aten.max_pool3d.default")
def max_pool3d(
    build: Builder,
    x: Value,
    kernel_size: _Sizes,
    stride: _Sizes = (),
    padding: _Sizes = (0,),
    dilation: _Sizes = (1,),
    ceil_mode: bool = False,
) -> Value:
    """The maximum over a block is that over rows and columns, then over depth."""
    kernel, pads, dilations = spread(kernel_size, 3), spread(padding, 3), spread(dilation, 3)
    steps = spread(stride or kernel, 3)
    x, single = batched(build, x, 3)
    batch, channels, depth, height, width = build.kind(x).shape
    planes = build.reshape(x, (batch, channels * depth, height, width))
    planes = _max2d(build, planes, kernel[1:], steps[1:], pads[1:], dilations[1:], ceil_mode)
    rows, columns = build.kind(planes).shape[2:]
    lines = build.reshape(planes, (batch, channels, depth, rows * columns))
    lines = _max2d(build, lines, (kernel[0], 1), (steps[0], 1), (pads[0], 0), (dilations[0], 1), ceil_mode)
    y = build.reshape(lines, (batch, channels, build.kind(lines).shape[2], rows, columns))
    return build.drop_axis(y, 0) if single else y


# -- averages ------------------------------------------------------------------------------------
def _avg2d(
    build: Builder,
    x: Value,
    kernel: _Sizes,
    stride: _Sizes,
    padding: _Sizes,
    ceil: bool,
    count_pad: bool,
    divisor: int | None,
) -> Value:
    y = build.emit(
        nn.AvgPool2d(
            x,
            kernel=(kernel[0], kernel[1]),
            stride=(stride[0], stride[1]),
            pad=tuple(padding),
            ceil=ceil,
            count_pad=count_pad or divisor is not None,
        )
    )
    return y if divisor is None else build.mul(y, kernel[0] * kernel[1] / divisor)


@register("aten.avg_pool2d.default")
def avg_pool2d(
    build: Builder,
    x: Value,
    kernel_size: _Sizes,
    stride: _Sizes = (),
    padding: _Sizes = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Value:
    kernel, pads = spread(kernel_size, 2), spread(padding, 2)
    if ceil_mode and divisor_override is not None:
        build.refuse("ceil_mode together with divisor_override")
    x, single = batched(build, x, 2)
    y = _avg2d(
        build,
        x,
        kernel,
        spread(stride or kernel, 2),
        pads,
        ceil_mode,
        count_include_pad and any(pads),  # without pads the two counts agree
        divisor_override,
    )
    return build.drop_axis(y, 0) if single else y


@register("aten.avg_pool1d.default")
def avg_pool1d(
    build: Builder,
    x: Value,
    kernel_size: _Sizes,
    stride: _Sizes = (),
    padding: _Sizes = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Value:
    x, single = batched(build, x, 1)
    step = (stride or kernel_size)[0]
    counted = count_include_pad and any(padding)
    row = build.insert_axis(x, 2)
    y = _avg2d(build, row, (1, kernel_size[0]), (1, step), (0, padding[0]), ceil_mode, counted, None)
    y = build.drop_axis(y, 2)
    return build.drop_axis(y, 0) if single else y


@register("aten.avg_pool3d.default")
def avg_pool3d(
    build: Builder,
    x: Value,
    kernel_size: _Sizes,
    stride: _Sizes = (),
    padding: _Sizes = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Value:
    """The mean over a block of equal windows is that over rows and columns, then over depth."""
    kernel, pads = spread(kernel_size, 3), spread(padding, 3)
    steps = spread(stride or kernel, 3)
    if ceil_mode or (any(pads) and not count_include_pad):
        build.refuse("windows that hold different numbers of elements (ceil_mode or count_include_pad=False)")
    counted = any(pads)
    x, single = batched(build, x, 3)
    batch, channels, depth, height, width = build.kind(x).shape
    planes = build.reshape(x, (batch, channels * depth, height, width))
    planes = _avg2d(build, planes, kernel[1:], steps[1:], pads[1:], False, counted, None)
    rows, columns = build.kind(planes).shape[2:]
    lines = build.reshape(planes, (batch, channels, depth, rows * columns))
    lines = _avg2d(build, lines, (kernel[0], 1), (steps[0], 1), (pads[0], 0), False, counted, None)
    y = build.reshape(lines, (batch, channels, build.kind(lines).shape[2], rows, columns))
    if divisor_override is not None:
        y = build.mul(y, math.prod(kernel) / divisor_override)
    return build.drop_axis(y, 0) if single else y


# -- adaptive ------------------------------------------------------------------------------------
@register("aten.adaptive_avg_pool2d.default", "aten._adaptive_avg_pool2d.default")
def adaptive_avg_pool2d(build: Builder, x: Value, output_size: Sequence[int]) -> Value:
    x, single = batched(build, x, 2)
    y = build.emit(nn.AdaptiveAvgPool2d(x, size=(output_size[0], output_size[1])))
    return build.drop_axis(y, 0) if single else y


@register("aten.adaptive_avg_pool1d.default")
def adaptive_avg_pool1d(build: Builder, x: Value, output_size: Sequence[int]) -> Value:
    x, single = batched(build, x, 1)
    y = build.drop_axis(
        build.emit(nn.AdaptiveAvgPool2d(build.insert_axis(x, 2), size=(1, output_size[0]))), 2
    )
    return build.drop_axis(y, 0) if single else y


@register("aten.adaptive_avg_pool3d.default", "aten._adaptive_avg_pool3d.default")
def adaptive_avg_pool3d(build: Builder, x: Value, output_size: Sequence[int]) -> Value:
    if tuple(output_size) != (1, 1, 1):
        build.refuse(f"output size {list(output_size)}; only 1 is supported over three axes")
    rank = build.kind(x).rank
    return build.emit(core.Mean(x, axes=(rank - 3, rank - 2, rank - 1), keepdims=True))


@register(
    "aten.adaptive_max_pool1d.default", "aten.adaptive_max_pool2d.default", "aten.adaptive_max_pool3d.default"
)
def adaptive_max_pool(build: Builder, x: Value, output_size: Sequence[int]) -> tuple[Value, None]:
    """Equal windows only: each axis is cut into blocks and the maximum taken over them."""
    kind = build.kind(x)
    spatial = len(output_size)
    apart: list[IntLike] = list(kind.shape[: kind.rank - spatial])
    axes = []
    for size, count in zip(kind.shape[kind.rank - spatial :], output_size, strict=True):
        if count != 1 and (not isinstance(size, int) or size % count):
            build.refuse(f"{count} windows of unequal size over {size} elements")
        axes.append(len(apart) + 1)
        apart += [count, size // count]
    return build.emit(core.Max(build.reshape(x, apart), axes=tuple(axes))), None


# -- resampling ------------------------------------------------------------------------------------
_Mode = Literal["nearest", "linear", "cubic"]
_Coordinates = Literal["half_pixel", "align_corners", "asymmetric"]


def _resize(
    build: Builder, x: Value, mode: _Mode, coordinates: _Coordinates, scales: Sequence[float | None] | None
) -> Value:
    kind, out = build.kind(x), build.out
    spatial = kind.rank - 2
    if spatial == 3:
        build.refuse("resampling over three axes")
    for size, target, scale in zip(kind.shape[2:], out.shape[2:], scales or (), strict=False):
        if scale is None or coordinates == "align_corners":
            continue
        exact = isinstance(size, int) and isinstance(target, int) and math.isclose(size * scale, target)
        if not exact and not float(scale).is_integer():
            build.refuse(f"scale {scale} does not take {size} to a whole size; pass size= or a whole scale")
    if spatial == 1:
        row = build.insert_axis(x, 2)
        resized = nn.Resize2d(row, size=(1, out.shape[2]), mode=mode, coordinates=coordinates)
        return build.drop_axis(build.emit(resized), 2)
    return build.emit(nn.Resize2d(x, size=(out.shape[2], out.shape[3]), mode=mode, coordinates=coordinates))


def _scales(arguments: Sequence[object]) -> Sequence[float | None] | None:
    """Scale factors, whether given as one list or one by one."""
    if arguments and isinstance(arguments[0], (list, tuple)):
        return list(arguments[0])
    return [a if isinstance(a, float) else None for a in arguments] or None


@register(
    "aten.upsample_nearest1d.vec", "aten.upsample_nearest2d.vec", "aten.upsample_nearest3d.vec",
    "aten.upsample_nearest1d.default", "aten.upsample_nearest2d.default",
)  # fmt: skip
def upsample_nearest(build: Builder, x: Value, output_size: object, *scales: object) -> Value:
    return _resize(build, x, "nearest", "asymmetric", _scales(scales))


@register(
    "aten._upsample_nearest_exact1d.vec", "aten._upsample_nearest_exact2d.vec",
    "aten._upsample_nearest_exact1d.default", "aten._upsample_nearest_exact2d.default",
)  # fmt: skip
def upsample_nearest_exact(build: Builder, x: Value, output_size: object, *scales: object) -> Value:
    return _resize(build, x, "nearest", "half_pixel", _scales(scales))


@register(
    "aten.upsample_linear1d.vec", "aten.upsample_bilinear2d.vec", "aten.upsample_trilinear3d.vec",
    "aten.upsample_linear1d.default", "aten.upsample_bilinear2d.default",
)  # fmt: skip
def upsample_linear(
    build: Builder, x: Value, output_size: object, align_corners: bool, *scales: object
) -> Value:
    coordinates: _Coordinates = "align_corners" if align_corners else "half_pixel"
    return _resize(build, x, "linear", coordinates, _scales(scales))


@register("aten.upsample_bicubic2d.vec", "aten.upsample_bicubic2d.default")
def upsample_bicubic(
    build: Builder, x: Value, output_size: object, align_corners: bool, *scales: object
) -> Value:
    coordinates: _Coordinates = "align_corners" if align_corners else "half_pixel"
    return _resize(build, x, "cubic", coordinates, _scales(scales))
