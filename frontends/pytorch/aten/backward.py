"""Rules: gradients that torch has operators for, as compositions of forward ops."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from plait.frontends.pytorch.aten.conv import batched, convolve, convolve_transposed, spread
from plait.frontends.pytorch.aten.pool import adaptive_windows
from plait.frontends.pytorch.builder import Builder
from plait.frontends.pytorch.registry import register
from plait.ir.dims import IntLike, product
from plait.ir.ops import core, linalg, nn
from plait.ir.value import Value

_Sizes = Sequence[int]
_Mask = Sequence[bool]
_Three = tuple[Value | None, Value | None, Value | None]


def _sum(build: Builder, x: Value, axes: Sequence[int]) -> Value:
    return build.emit(core.Sum(x, axes=tuple(axes))) if axes else x


# -- convolution -----------------------------------------------------------------------------------
@register("aten.convolution_backward.default")
def convolution_backward(
    build: Builder,
    grad: Value,
    x: Value,
    weight: Value,
    bias_sizes: object,
    stride: _Sizes,
    padding: _Sizes,
    dilation: _Sizes,
    is_transposed: bool,
    output_padding: _Sizes,
    groups: int,
    output_mask: _Mask,
) -> _Three:
    """The gradient by the input is the transposed operator; that by the weight correlates both sides."""
    spatial = build.kind(weight).rank - 2
    steps, pads, gaps = (spread(sizes, spatial) for sizes in (stride, padding, dilation))
    by_input: Value | None = None
    by_weight: Value | None = None
    if output_mask[0] and is_transposed:
        by_input = convolve(build, grad, weight, None, steps, pads, gaps, groups)
        for axis, size in enumerate(build.kind(x).shape[2:], start=2):
            by_input = build.slice(by_input, axis, 0, size)  # a stride within the output padding adds windows
    elif output_mask[0]:
        extra = _rest(build, x, grad, weight, steps, pads, gaps)
        by_input = convolve_transposed(build, grad, weight, None, steps, pads, extra, groups, gaps)
    if output_mask[1]:
        wide, narrow = (grad, x) if is_transposed else (x, grad)
        by_weight = _by_weight(build, wide, narrow, build.kind(weight).shape, steps, pads, gaps, groups)
    by_bias = _sum(build, grad, (0, *range(2, spatial + 2))) if output_mask[2] else None
    return by_input, by_weight, by_bias


def _rest(
    build: Builder, x: Value, grad: Value, weight: Value, stride: _Sizes, pads: _Sizes, dilation: _Sizes
) -> tuple[int, ...]:
    """Elements at the end of the input that no window reached: the output padding to restore them."""
    found = []
    sizes = (build.kind(value).shape[2:] for value in (x, grad, weight))
    for size, count, k, s, p, d in zip(*sizes, stride, pads, dilation, strict=True):
        rest = size - ((count - 1) * s - 2 * p + d * (k - 1) + 1)
        if not isinstance(rest, int):
            build.refuse(f"the gradient of a convolution of {size} elements with stride {s}; fix the size")
        found.append(rest)
    return tuple(found)


def _by_weight(
    build: Builder,
    wide: Value,
    narrow: Value,
    shape: Sequence[IntLike],
    stride: _Sizes,
    pads: _Sizes,
    dilation: _Sizes,
    groups: int,
) -> Value:
    """The sum over samples and places of wide[p * stride + k * dilation - pad] * narrow[p].

    A convolution of the samples as channels, whose stride and dilation are exchanged;
    the channels of a group on the wide side are its batch.
    """
    batch, channels, *sizes = build.kind(wide).shape
    _, others, *counts = build.kind(narrow).shape
    spatial = len(sizes)
    rest = range(3, spatial + 3)
    per_group, per_other = channels // groups, others // groups
    x = build.reshape(wide, (batch, groups, per_group, *sizes))
    x = build.reshape(build.transpose(x, (2, 1, 0, *rest)), (per_group, groups * batch, *sizes))
    kernels = build.reshape(narrow, (batch, groups, per_other, *counts))
    kernels = build.reshape(build.transpose(kernels, (1, 2, 0, *rest)), (others, batch, *counts))
    y = convolve(build, x, kernels, None, dilation, tuple(pads), stride, groups)
    for axis, size in enumerate(shape[2:], start=2):
        y = build.slice(y, axis, 0, size)  # strides that left elements over give more than the kernel has
    return build.swap(y, 0, 1)


# -- pooling -----------------------------------------------------------------------------------------
@register("aten.max_pool2d_with_indices_backward.default")
def max_pool2d_backward(
    build: Builder,
    grad: Value,
    x: Value,
    kernel_size: _Sizes,
    stride: _Sizes,
    padding: _Sizes,
    dilation: _Sizes,
    ceil_mode: bool,
    indices: Value,
) -> Value:
    """Each gradient added where its window found the largest element."""
    kind = build.kind(x)
    rows, places = product(kind.shape[:-2]), product(build.kind(grad).shape[-2:])
    zeros = build.full(0, kind.dtype, (rows, product(kind.shape[-2:])))
    where, values = (build.reshape(value, (rows, places)) for value in (indices, grad))
    y = build.emit(core.ScatterElements(zeros, where, values, axis=1, reduce="add"))
    return build.reshape(y, kind.shape)


@register("aten.avg_pool2d_backward.default")
def avg_pool2d_backward(
    build: Builder,
    grad: Value,
    x: Value,
    kernel_size: _Sizes,
    stride: _Sizes,
    padding: _Sizes,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Value:
    """Each gradient, divided by what its window counted, added to all elements of the window."""
    kernel, pads = spread(kernel_size, 2), spread(padding, 2)
    steps = spread(stride, 2) if stride else kernel
    x, single = batched(build, x, 2)
    grad, _ = batched(build, grad, 2)
    batch, channels, *sizes = build.kind(x).shape
    counts = build.kind(grad).shape[2:]
    divisor = math.prod(kernel) if divisor_override is None else divisor_override
    uniform = not ceil_mode and (count_include_pad or not any(pads))
    if uniform or divisor_override is not None:
        share = build.div(grad, divisor)
    else:
        members = [
            _members(build, n, size, k, s, p, count_include_pad)
            for n, size, k, s, p in zip(counts, sizes, kernel, steps, pads, strict=True)
        ]
        table = (members[0][:, None] * members[1]).astype(build.kind(grad).dtype.numpy)
        share = build.div(grad, build.constant("counts", table))
    after = []
    for n, size, k, s, p in zip(counts, sizes, kernel, steps, pads, strict=True):
        over = (n - 1) * s + k - size - p
        after.append(max(over, 0) if ceil_mode and isinstance(over, int) else p)
    window = math.prod(kernel)
    place = build.reshape(share, (batch, channels, 1, product(counts)))
    columns = build.broadcast(place, (batch, channels, window, product(counts)))
    columns = build.reshape(columns, (batch, channels * window, product(counts)))
    y = build.emit(
        nn.Fold(
            columns,
            size=tuple(sizes),
            kernel=kernel,
            stride=steps,
            pad=(*pads, *after),
            dilation=(1, 1),
        )
    )
    return build.drop_axis(y, 0) if single else y


def _members(
    build: Builder, count: IntLike, size: IntLike, kernel: int, stride: int, pad: int, count_pad: bool
) -> np.ndarray:
    """How many elements each window along an axis counts."""
    if not isinstance(count, int) or not isinstance(size, int):
        build.refuse(f"the gradient of uneven means over {size} elements; fix the size")
    starts = np.arange(count) * stride - pad
    stops = np.minimum(starts + kernel, size + pad)
    return stops - starts if count_pad else np.minimum(stops, size) - np.maximum(starts, 0)


@register("aten._adaptive_avg_pool2d_backward.default")
def adaptive_avg_pool2d_backward(build: Builder, grad: Value, x: Value) -> Value:
    """Products with the shares that the elements have in the windows, along rows and along columns."""
    kind, counts = build.kind(x), build.kind(grad).shape[-2:]
    shares = []
    for name, size, count in zip(("rows", "columns"), kind.shape[-2:], counts, strict=True):
        if not isinstance(size, int) or not isinstance(count, int):
            build.refuse(f"the gradient of adaptive means over {size} elements; fix the size")
        matrix = np.zeros((size, count))
        windows = adaptive_windows(size, count)
        matrix[windows, np.arange(count)[:, None]] = 1.0
        matrix /= matrix.sum(axis=0)
        shares.append(build.constant(name, matrix.astype(kind.dtype.numpy)))
    tall = build.emit(linalg.Matmul(shares[0], grad))
    return build.emit(linalg.Matmul(tall, build.swap(shares[1], 0, 1)))


# -- normalisation -----------------------------------------------------------------------------------
def _centred(build: Builder, grad: Value, normal: Value, deviation: Value, axes: Sequence[int]) -> Value:
    """rstd * (g - mean(g) - normal * mean(g * normal)) over the normalised axes."""

    def mean(value: Value) -> Value:
        return build.emit(core.Mean(value, axes=tuple(axes), keepdims=True))

    along = build.mul(normal, mean(build.mul(grad, normal)))
    return build.mul(build.sub(build.sub(grad, mean(grad)), along), deviation)


@register("aten.native_layer_norm_backward.default")
def layer_norm_backward(
    build: Builder,
    grad: Value,
    x: Value,
    normalized_shape: Sequence[IntLike],
    mean: Value,
    deviation: Value,
    weight: Value | None,
    bias: Value | None,
    output_mask: _Mask,
) -> _Three:
    dtype = build.kind(x).dtype
    rank, inner = build.kind(x).rank, len(normalized_shape)
    outer, axes = range(rank - inner), range(rank - inner, rank)
    mean, deviation = build.cast(mean, dtype), build.cast(deviation, dtype)
    normal = build.mul(build.sub(x, mean), deviation)
    weighted = grad if weight is None else build.mul(grad, weight)
    return (
        _centred(build, weighted, normal, deviation, axes) if output_mask[0] else None,
        _sum(build, build.mul(grad, normal), outer) if output_mask[1] and weight is not None else None,
        _sum(build, grad, outer) if output_mask[2] and bias is not None else None,
    )


@register("aten.native_group_norm_backward.default")
def group_norm_backward(
    build: Builder,
    grad: Value,
    x: Value,
    mean: Value,
    deviation: Value,
    weight: Value | None,
    n: IntLike,
    c: IntLike,
    hw: IntLike,
    group: int,
    output_mask: _Mask,
) -> _Three:
    """Channels of a group and their elements are one row of the statistics."""
    kind = build.kind(x)
    split = (n, group, c // group, hw)
    values, slopes = build.reshape(x, split), build.reshape(grad, split)
    middle, spread_ = (build.reshape(v, (n, group, 1, 1)) for v in (mean, deviation))
    normal = build.mul(build.sub(values, middle), spread_)
    weighted = slopes
    if weight is not None:
        weighted = build.mul(slopes, build.reshape(weight, (group, c // group, 1)))

    def per_channel(value: Value) -> Value:
        return build.reshape(_sum(build, value, (0, 3)), (c,))

    by_input = _centred(build, weighted, normal, spread_, (2, 3)) if output_mask[0] else None
    return (
        None if by_input is None else build.reshape(by_input, kind.shape),
        per_channel(build.mul(slopes, normal)) if output_mask[1] else None,
        per_channel(slopes) if output_mask[2] else None,
    )


# -- embedding -----------------------------------------------------------------------------------------
@register("aten.embedding_dense_backward.default")
def embedding_backward(
    build: Builder,
    grad: Value,
    indices: Value,
    num_weights: IntLike,
    padding_idx: int,
    scale_grad_by_freq: bool,
) -> Value:
    """Rows of the gradient added to those of the table that they were read from."""
    kind = build.kind(grad)
    rows, width = product(kind.shape[:-1]), kind.shape[-1]
    picks = build.reshape(indices, (rows, 1))
    updates = build.reshape(grad, (rows, width))
    if scale_grad_by_freq:
        ones, none = build.full(1, kind.dtype, (rows,)), build.full(0, kind.dtype, (num_weights,))
        counts = build.emit(core.ScatterND(none, picks, ones, reduce="add"))
        often = build.emit(core.Take(counts, build.reshape(indices, (rows,)), axis=0))
        updates = build.div(updates, build.reshape(often, (rows, 1)))
    kept = build.emit(core.Ne(picks, build.full(padding_idx, build.kind(indices).dtype)))
    updates = build.mul(updates, build.cast(kept, kind.dtype)) if padding_idx >= 0 else updates
    zeros = build.full(0, kind.dtype, (num_weights, width))
    return build.emit(core.ScatterND(zeros, picks, updates, reduce="add"))
