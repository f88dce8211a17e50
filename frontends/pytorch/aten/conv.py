"""Rules: convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from plait.frontends.pytorch.builder import Builder
from plait.frontends.pytorch.registry import register
from plait.ir import types as t
from plait.ir.op import Op
from plait.ir.ops import core, nn
from plait.ir.value import Value

_Sizes = Sequence[int]


def spread(values: int | Sequence[int], count: int) -> tuple[int, ...]:
    """One number per spatial axis, where torch also takes one for all."""
    listed = (values,) if isinstance(values, int) else tuple(values)
    return listed * count if len(listed) == 1 else listed


def batched(build: Builder, x: Value, spatial: int) -> tuple[Value, bool]:
    """`x` with a batch axis, and whether it had none."""
    kind = build.kind(x)
    if kind.rank == spatial + 1:
        return build.reshape(x, (1, *kind.shape)), True
    return x, False


def convolve(
    build: Builder,
    x: Value,
    weight: Value,
    bias: Value | None,
    stride: _Sizes,
    pads: tuple[int, ...],
    dilation: _Sizes,
    groups: int,
) -> Value:
    """Convolution over 1, 2 or 3 axes; whole numbers in f64, which is exact up to 2^53."""
    dtype = build.kind(x).dtype
    if dtype.is_integer:
        x, weight = build.cast(x, t.f64), build.cast(weight, t.f64)
        bias = None if bias is None else build.cast(bias, t.f64)
        return build.cast(convolve(build, x, weight, bias, stride, pads, dilation, groups), dtype)
    spatial = build.kind(weight).rank - 2
    x, single = batched(build, x, spatial)
    s, d = spread(stride, spatial), spread(dilation, spatial)
    op: Op
    if spatial == 1:
        op = nn.Conv1d(x, weight, bias, stride=(s[0],), pad=pads, dilation=(d[0],), groups=groups)
    elif spatial == 2:
        op = nn.Conv2d(x, weight, bias, stride=(s[0], s[1]), pad=pads, dilation=(d[0], d[1]), groups=groups)
    else:
        steps, dilations = (s[0], s[1], s[2]), (d[0], d[1], d[2])
        op = nn.Conv3d(x, weight, bias, stride=steps, pad=pads, dilation=dilations, groups=groups)
    y = build.emit(op)
    return build.drop_axis(y, 0) if single else y


@register("aten.conv1d.default", "aten.conv2d.default", "aten.conv3d.default")
def conv(
    build: Builder,
    x: Value,
    weight: Value,
    bias: Value | None = None,
    stride: _Sizes = (1,),
    padding: _Sizes = (0,),
    dilation: _Sizes = (1,),
    groups: int = 1,
) -> Value:
    pads = spread(padding, build.kind(weight).rank - 2)
    return convolve(build, x, weight, bias, stride, pads, dilation, groups)


@register("aten.conv1d.padding", "aten.conv2d.padding", "aten.conv3d.padding")
def conv_named_padding(
    build: Builder,
    x: Value,
    weight: Value,
    bias: Value | None = None,
    stride: _Sizes = (1,),
    padding: str = "valid",
    dilation: _Sizes = (1,),
    groups: int = 1,
) -> Value:
    kernel = build.kind(weight).shape[2:]
    spatial = len(kernel)
    if padding == "valid":
        return convolve(build, x, weight, bias, stride, (0,) * spatial, dilation, groups)
    totals = []
    for size, step in zip(kernel, spread(dilation, spatial), strict=True):
        if not isinstance(size, int):
            build.refuse("padding 'same' with a symbolic kernel size")
        totals.append(step * (size - 1))
    before = tuple(total // 2 for total in totals)
    after = tuple(total - total // 2 for total in totals)
    pads = before if before == after else (*before, *after)
    return convolve(build, x, weight, bias, stride, pads, dilation, groups)


def convolve_transposed(
    build: Builder,
    x: Value,
    weight: Value,
    bias: Value | None,
    stride: _Sizes,
    padding: _Sizes,
    output_padding: _Sizes,
    groups: int,
    dilation: _Sizes,
) -> Value:
    """Transposed convolution over 1, 2 or 3 axes; whole numbers in f64."""
    dtype = build.kind(x).dtype
    if dtype.is_integer:
        x, weight = build.cast(x, t.f64), build.cast(weight, t.f64)
        bias = None if bias is None else build.cast(bias, t.f64)
        y = convolve_transposed(build, x, weight, bias, stride, padding, output_padding, groups, dilation)
        return build.cast(y, dtype)
    spatial = build.kind(weight).rank - 2
    x, single = batched(build, x, spatial)
    strides, pads, extra, dilations = (
        spread(sizes, spatial) for sizes in (stride, padding, output_padding, dilation)
    )
    if spatial == 1:  # as one row of an image
        x, weight = build.insert_axis(x, 2), build.insert_axis(weight, 2)
        strides, pads, extra, dilations = (1, *strides), (0, *pads), (0, *extra), (1, *dilations)
    make: Any = nn.ConvTranspose3d if spatial == 3 else nn.ConvTranspose2d
    y = build.emit(
        make(
            x,
            weight,
            bias,
            stride=strides,
            pad=pads,
            output_pad=extra,
            dilation=dilations,
            groups=groups,
        )
    )
    if spatial == 1:
        y = build.drop_axis(y, 2)
    return build.drop_axis(y, 0) if single else y


@register("aten.conv_transpose1d.default", "aten.conv_transpose2d.input", "aten.conv_transpose3d.input")
def conv_transpose(
    build: Builder,
    x: Value,
    weight: Value,
    bias: Value | None = None,
    stride: _Sizes = (1,),
    padding: _Sizes = (0,),
    output_padding: _Sizes = (0,),
    groups: int = 1,
    dilation: _Sizes = (1,),
) -> Value:
    return convolve_transposed(build, x, weight, bias, stride, padding, output_padding, groups, dilation)


@register("aten.convolution.default")
def convolution(
    build: Builder,
    x: Value,
    weight: Value,
    bias: Value | None,
    stride: _Sizes,
    padding: _Sizes,
    dilation: _Sizes,
    transposed: bool,
    output_padding: _Sizes,
    groups: int,
) -> Value:
    if transposed:
        return convolve_transposed(build, x, weight, bias, stride, padding, output_padding, groups, dilation)
    return conv(build, x, weight, bias, stride, padding, dilation, groups)


@register("aten.conv_tbc.default")
def conv_time_batch_channels(build: Builder, x: Value, weight: Value, bias: Value, pad: int = 0) -> Value:
    """[T, B, I] x [K, I, O] -> [T', B, O]."""
    images = build.emit(core.Transpose(x, permutation=(1, 2, 0)))
    kernels = build.emit(core.Transpose(weight, permutation=(2, 1, 0)))
    y = build.emit(nn.Conv1d(images, kernels, bias, pad=(pad,)))
    return build.emit(core.Transpose(y, permutation=(2, 0, 1)))
