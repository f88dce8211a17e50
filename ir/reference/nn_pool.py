"""Reference semantics of nn's pooling and resampling."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from plait.ir.ops import nn
from plait.ir.reference.nn_conv import pad_axes, split_pads
from plait.ir.reference.table import Args, Context, reference


def covered(
    sizes: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[int, ...]:
    """Elements per axis that `sizes` windows cover."""
    return tuple(
        (n - 1) * s + d * (k - 1) + 1 for n, k, s, d in zip(sizes, kernel, stride, dilation, strict=True)
    )


def fit(x: torch.Tensor, before: tuple[int, ...], extent: tuple[int, ...], value: float) -> torch.Tensor:
    """`x` with leading pads, padded or cropped behind to `extent` elements per trailing axis."""
    after = tuple(e - n - b for e, n, b in zip(extent, x.shape[-len(extent) :], before, strict=True))
    return pad_axes(x, before, after, value)


@reference(nn.MaxPool2d)
def max_pool2d(op: nn.MaxPool2d, args: Args, ctx: Context) -> torch.Tensor:
    """The inferred number of windows over an input padded with -inf."""
    (x,) = args
    sizes = ctx.shape(op.result.shaped)[2:]
    before, _ = split_pads(op.pad, 2)
    real = x if x.is_floating_point() else x.to(torch.float64)
    padded = fit(real, before, covered(sizes, op.kernel, op.stride, op.dilation), -math.inf)
    return F.max_pool2d(padded, op.kernel, op.stride, 0, op.dilation).to(x.dtype)


@reference(nn.AvgPool2d)
def avg_pool2d(op: nn.AvgPool2d, args: Args, ctx: Context) -> torch.Tensor:
    """Mean of the window over the share of it that counts.

    With `count_pad`, elements and pads count; what rounding up adds behind the pads never does.
    """
    (x,) = args
    sizes = ctx.shape(op.result.shaped)[2:]
    before, after = split_pads(op.pad, 2)
    extent = covered(sizes, op.kernel, op.stride, op.dilation)

    def mean(padded: torch.Tensor) -> torch.Tensor:
        if op.dilation == (1, 1):
            return F.avg_pool2d(padded, op.kernel, op.stride)
        window = torch.full((1, 1, *op.kernel), 1.0 / math.prod(op.kernel), dtype=x.dtype, device=x.device)
        planes = padded.reshape(-1, 1, *padded.shape[2:])
        found = F.conv2d(planes, window, None, op.stride, 0, op.dilation)
        return found.reshape(*padded.shape[:2], *found.shape[2:])

    counts = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
    if op.count_pad:
        counts = fit(pad_axes(counts, before, after, 1.0), (0, 0), extent, 0.0)
    else:
        counts = fit(counts, before, extent, 0.0)
    total = mean(fit(x, before, extent, 0.0))
    return total if bool((counts == 1).all()) else total / mean(counts)


@reference(nn.AdaptiveAvgPool2d)
def adaptive_avg_pool2d(op: nn.AdaptiveAvgPool2d, args: Args, ctx: Context) -> torch.Tensor:
    """Mean over a grid."""
    return F.adaptive_avg_pool2d(args[0], op.size)


def source_positions(count: int, size: int, coordinates: str, device: torch.device) -> torch.Tensor:
    """Position in the source, in f64, of each of `count` result elements along an axis of `size`."""
    steps = torch.arange(count, dtype=torch.float64, device=device)
    if coordinates == "align_corners":
        return steps * ((size - 1) / (count - 1) if count > 1 else 0.0)
    if coordinates == "asymmetric":
        return steps * (size / count)
    return (steps + 0.5) * (size / count) - 0.5


def taps(fraction: torch.Tensor, mode: str) -> list[tuple[int, torch.Tensor]]:
    """(offset, weight) of the source elements around floor(position), by linear or cubic (a = -0.75) rule."""
    if mode == "linear":
        return [(0, 1 - fraction), (1, fraction)]
    a = -0.75

    def near(t: torch.Tensor) -> torch.Tensor:
        return ((a + 2) * t - (a + 3)) * t * t + 1

    def far(t: torch.Tensor) -> torch.Tensor:
        return ((a * t - 5 * a) * t + 8 * a) * t - 4 * a

    return [
        (-1, far(fraction + 1)),
        (0, near(fraction)),
        (1, near(1 - fraction)),
        (2, far(2 - fraction)),
    ]


def resample(x: torch.Tensor, axis: int, count: int, mode: str, coordinates: str) -> torch.Tensor:
    """One axis resampled; positions outside the source take its edge."""
    size = x.shape[axis]
    position = source_positions(count, size, coordinates, x.device)
    if mode == "nearest":
        # half_pixel and align_corners take the nearest element, the later of two; asymmetric the one before
        whole = position.floor() if coordinates == "asymmetric" else (position + 0.5).floor()
        return x.index_select(axis, whole.clamp(0, size - 1).to(torch.int64))
    floor = position.floor()
    base = floor.to(torch.int64)
    shape = [-1 if i == axis else 1 for i in range(x.dim())]
    total: torch.Tensor | None = None
    for offset, weight in taps(position - floor, mode):
        part = x.index_select(axis, (base + offset).clamp(0, size - 1)) * weight.to(x.dtype).view(shape)
        total = part if total is None else total + part
    assert total is not None
    return total


@reference(nn.Resize2d)
def resize2d(op: nn.Resize2d, args: Args, ctx: Context) -> torch.Tensor:
    """Rows, then columns."""
    (x,) = args
    for axis, dim in zip((2, 3), op.size, strict=True):
        count = ctx.size(dim)
        if count != x.shape[axis]:
            x = resample(x, axis, count, op.mode, op.coordinates)
    return x
