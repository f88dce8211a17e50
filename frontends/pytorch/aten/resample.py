"""Rules: resampling, sampling at positions that are data, and windows as columns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from plait.frontends.pytorch.aten.conv import batched
from plait.frontends.pytorch.builder import Builder
from plait.frontends.pytorch.registry import register
from plait.frontends.resampling import Mode, Rule, interpolation_matrix, nearest_indices, positions
from plait.ir import types as t
from plait.ir.dims import IntLike, product
from plait.ir.ops import core, linalg, nn
from plait.ir.value import Value

_Coordinates = Literal["half_pixel", "align_corners", "asymmetric"]
_Scales = Sequence[float | None]


# -- resampling ------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Axis:
    """One spatial axis: its number, sizes before and after, and the scale that positions go by, if given."""

    number: int
    size: IntLike
    count: IntLike
    scale: float | None

    @property
    def plain(self) -> bool:
        """Whether positions follow from the sizes alone."""
        if self.scale is None or (self.size == self.count and self.scale == 1):
            return True
        if isinstance(self.size, int) and isinstance(self.count, int):
            return math.isclose(self.size * self.scale, self.count)
        return float(self.scale).is_integer()


def _resize(build: Builder, x: Value, mode: Mode, coordinates: _Coordinates, scales: _Scales | None) -> Value:
    """By nn.resize2d where positions follow from the sizes, else by takes or products with weights."""
    kind, out = build.kind(x), build.out
    spatial = kind.rank - 2
    given = [None] * spatial if scales is None or coordinates == "align_corners" else list(scales)
    axes = [
        _Axis(2 + i, kind.shape[2 + i], out.shape[2 + i], scale)
        for i, scale in enumerate((*given, *[None] * spatial)[:spatial])
    ]
    if kind.dtype.is_float and all(axis.plain for axis in axes):
        return _planar(build, x, [axis.count for axis in axes], mode, coordinates)
    rounding = "floor" if coordinates == "asymmetric" else "round_prefer_ceil"
    return _by_axes(build, x, axes, Rule(mode, coordinates, rounding))


def _planar(
    build: Builder, x: Value, counts: Sequence[IntLike], mode: Mode, coordinates: _Coordinates
) -> Value:
    """nn.resize2d of a line as a row, of a volume plane by plane and then along its depth."""

    def resized(y: Value, rows: IntLike, columns: IntLike) -> Value:
        return build.emit(nn.Resize2d(y, size=(rows, columns), mode=mode, coordinates=coordinates))

    if len(counts) == 1:
        return build.drop_axis(resized(build.insert_axis(x, 2), 1, counts[0]), 2)
    if len(counts) == 2:
        return resized(x, counts[0], counts[1])
    batch, channels, depth, height, width = build.kind(x).shape
    count, rows, columns = counts
    planes = resized(build.reshape(x, (batch, channels * depth, height, width)), rows, columns)
    if count != depth:
        lines = build.reshape(planes, (batch, channels, depth, rows * columns))
        planes = resized(lines, count, rows * columns)
    return build.reshape(planes, (batch, channels, count, rows, columns))


def _by_axes(build: Builder, x: Value, axes: Sequence[_Axis], rule: Rule) -> Value:
    """Each axis by a take (nearest) or a product with its weights."""
    for axis in axes:
        size, count, scale = axis.size, axis.count, axis.scale
        if not isinstance(size, int) or not isinstance(count, int):
            build.refuse(
                f"resampling {size} to {count} elements by a scale of {scale}; pass size= or a whole scale"
            )
        if size == count and scale in (None, 1):
            continue
        where = positions(size, count, rule.coordinates, scale)
        if rule.mode == "nearest":
            picks = build.constant(f"indices{axis.number}", nearest_indices(where, rule.rounding, size))
            x = build.emit(core.Take(x, picks, axis=axis.number))
            continue
        factor = count / size if scale is None else scale
        matrix = interpolation_matrix(where, rule, size, factor)
        weights = build.constant(
            f"weights{axis.number}", matrix.T.astype(build.kind(x).dtype.numpy, order="C")
        )
        last = build.kind(x).rank - 1
        y = build.emit(linalg.Matmul(build.swap(x, axis.number, last), weights))
        x = build.swap(y, axis.number, last)
    return x


def _scales(arguments: Sequence[object]) -> _Scales | None:
    """Scale factors, whether given as one list or one by one."""
    if arguments and isinstance(arguments[0], (list, tuple)):
        return list(arguments[0])
    return [a if isinstance(a, float) else None for a in arguments] or None


def _corners(align_corners: bool) -> _Coordinates:
    return "align_corners" if align_corners else "half_pixel"


@register("aten.upsample_nearest1d", "aten.upsample_nearest2d", "aten.upsample_nearest3d")
def upsample_nearest(build: Builder, x: Value, output_size: object, *scales: object) -> Value:
    return _resize(build, x, "nearest", "asymmetric", _scales(scales))


@register(
    "aten._upsample_nearest_exact1d", "aten._upsample_nearest_exact2d", "aten._upsample_nearest_exact3d"
)
def upsample_nearest_exact(build: Builder, x: Value, output_size: object, *scales: object) -> Value:
    return _resize(build, x, "nearest", "half_pixel", _scales(scales))


@register("aten.upsample_linear1d", "aten.upsample_bilinear2d", "aten.upsample_trilinear3d")
def upsample_linear(
    build: Builder, x: Value, output_size: object, align_corners: bool, *scales: object
) -> Value:
    return _resize(build, x, "linear", _corners(align_corners), _scales(scales))


@register("aten.upsample_bicubic2d")
def upsample_bicubic(
    build: Builder, x: Value, output_size: object, align_corners: bool, *scales: object
) -> Value:
    return _resize(build, x, "cubic", _corners(align_corners), _scales(scales))


def _antialiased(build: Builder, x: Value, mode: Mode, align_corners: bool, scales: _Scales | None) -> Value:
    """Kernels as wide as the shrinkage, of elements inside; a = -0.5 for the cubic, as in Pillow."""
    kind, out = build.kind(x), build.out
    axes = []
    for i, scale in enumerate((*(scales or ()), None, None)[:2]):
        size, count = kind.shape[2 + i], out.shape[2 + i]
        if align_corners and isinstance(size, int) and isinstance(count, int):
            scale = (count - 1) / (size - 1) if count > 1 and size > 1 else None
        axes.append(_Axis(2 + i, size, count, scale))
    rule = Rule(mode, "half_pixel", cubic=-0.5, exclude_outside=True, antialias=True)
    return _by_axes(build, x, axes, rule)


@register("aten._upsample_bilinear2d_aa")
def upsample_linear_antialiased(
    build: Builder, x: Value, output_size: object, align_corners: bool, *scales: object
) -> Value:
    return _antialiased(build, x, "linear", align_corners, _scales(scales))


@register("aten._upsample_bicubic2d_aa")
def upsample_bicubic_antialiased(
    build: Builder, x: Value, output_size: object, align_corners: bool, *scales: object
) -> Value:
    return _antialiased(build, x, "cubic", align_corners, _scales(scales))


# -- grids -------------------------------------------------------------------------------------------
_MODES: tuple[Mode, ...] = ("linear", "nearest", "cubic")
_PADDINGS: tuple[Literal["zeros", "border", "reflection"], ...] = ("zeros", "border", "reflection")


@register("aten.grid_sampler.default", "aten.grid_sampler_2d.default", "aten.grid_sampler_3d.default")
def grid_sampler(
    build: Builder, x: Value, grid: Value, interpolation_mode: int, padding_mode: int, align_corners: bool
) -> Value:
    return build.emit(
        nn.GridSample(
            x,
            build.cast(grid, build.kind(x).dtype),
            mode=_MODES[interpolation_mode],
            padding=_PADDINGS[padding_mode],
            coordinates="align_corners" if align_corners else "half_pixel",
        )
    )


@register("aten.affine_grid_generator.default")
def affine_grid(build: Builder, theta: Value, size: Sequence[IntLike], align_corners: bool) -> Value:
    """Positions [-1, 1] along each axis, columns first, and a 1, times the transposed matrices."""
    sizes = [n for n in size[2:] if isinstance(n, int)]
    if len(sizes) != len(size) - 2:
        build.refuse(f"an affine grid of {list(map(str, size))} elements")
    lines = []
    for n in sizes:
        line = np.linspace(-1.0, 1.0, n) if n > 1 else np.zeros(1)
        lines.append(line if align_corners or n == 1 else line * (n - 1) / n)
    mesh = np.meshgrid(*lines, indexing="ij")[::-1]
    base = np.stack([*mesh, np.ones(sizes)], axis=-1).reshape(-1, len(sizes) + 1)
    points = build.constant("points", base.astype(build.kind(theta).dtype.numpy))
    y = build.emit(linalg.Matmul(points, build.swap(theta, 1, 2)))
    return build.reshape(y, (size[0], *sizes, len(sizes)))


# -- windows as columns ----------------------------------------------------------------------------------
@register("aten.im2col.default")
def image_to_columns(
    build: Builder,
    x: Value,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> Value:
    """Rows, then columns, gathered into [window, steps]; the windows go in front."""
    x, single = batched(build, x, 2)
    sides = (0, 0, *padding)
    batch, channels, *sizes = build.kind(x).shape
    y = build.emit(core.Pad(x, before=sides, after=sides)) if any(padding) else x
    counts: list[IntLike] = []
    for i, (size, k, d, p, s) in enumerate(zip(sizes, kernel_size, dilation, padding, stride, strict=True)):
        counts.append((size + 2 * p - d * (k - 1) - 1) // s + 1)
        inside = build.reshape(build.iota(k, t.i64, step=d), (k, 1))
        places = build.add(inside, build.iota(counts[-1], t.i64, step=s))
        y = build.emit(core.Take(y, places, axis=2 + 2 * i))
    y = build.transpose(y, (0, 1, 2, 4, 3, 5))
    y = build.reshape(y, (batch, channels * math.prod(kernel_size), product(counts)))
    return build.drop_axis(y, 0) if single else y


@register("aten.col2im.default")
def columns_to_image(
    build: Builder,
    x: Value,
    output_size: Sequence[IntLike],
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> Value:
    x, single = batched(build, x, 1)
    y = build.emit(
        nn.Fold(
            x,
            size=tuple(output_size),
            kernel=tuple(kernel_size),
            stride=tuple(stride),
            pad=tuple(padding),
            dilation=tuple(dilation),
        )
    )
    return build.drop_axis(y, 0) if single else y
