"""Resampling."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from plait.frontends.onnx.call import Call
from plait.frontends.onnx.operand import Operand
from plait.frontends.onnx.operators.elementwise import shortest
from plait.frontends.onnx.registry import lowers
from plait.frontends.resampling import Mode, Rule, interpolation_matrix, nearest_indices, positions
from plait.ir import IntLike, Value
from plait.ir.ops import core, linalg, nn

Coordinates = Literal["half_pixel", "align_corners", "asymmetric"]
_COORDINATES: tuple[Coordinates, ...] = ("half_pixel", "align_corners", "asymmetric")
_TINY = 1e-9


@dataclass(frozen=True)
class Axis:
    """One resampled axis.

    Attributes:
        number: which axis.
        size, count: elements before and after.
        scale: the scale where one is given.
        region: the part of the source that is read, where it is cropped.
    """

    number: int
    size: IntLike
    count: IntLike
    scale: float | None
    region: tuple[float, float] | None = None

    @property
    def fixed(self) -> tuple[int, int] | None:
        """Both sizes where they are numbers."""
        if isinstance(self.size, int) and isinstance(self.count, int):
            return self.size, self.count
        return None

    @property
    def idle(self) -> bool:
        """Whether the axis stays as it is."""
        return self.count == self.size and self.scale in (None, 1.0) and self.region is None

    def positions(self, coordinates: str) -> np.ndarray:
        """The source position of each result element; both sizes are numbers."""
        assert self.fixed is not None
        return positions(*self.fixed, coordinates, self.scale, self.region or (0.0, 1.0))


@lowers("Upsample", until=6)
def upsample_plane(call: Call) -> Value | Operand:
    names = ("height_scale", "width_scale")
    scales = [1.0, 1.0, *(call.number_attribute(name, 1.0) for name in names)]
    return resampled(call, by_scales(call, scales, None), _old_rule(call))


@lowers("Upsample", since=7, until=8)
def upsample_by_attribute(call: Call) -> Value | Operand:
    scales = [float(str(np.float32(s))) for s in call.attributes["scales"]]
    return resampled(call, by_scales(call, scales, None), _old_rule(call))


@lowers("Upsample", since=9)
@lowers("Resize", since=10, until=10)
def upsample(call: Call) -> Value | Operand:
    scales = [shortest(s) for s in call.array(1, "the scales")]
    return resampled(call, by_scales(call, scales, None), _old_rule(call))


def _old_rule(call: Call) -> Rule:
    mode: Any = call.text("mode", "nearest")
    return Rule(mode, "asymmetric", "floor")


@lowers("Resize", since=11)
def resize(call: Call) -> Value | Operand:
    mode: Any = call.text("mode", "nearest")
    rule = Rule(
        mode,
        call.text("coordinate_transformation_mode", "half_pixel"),
        call.text("nearest_mode", "round_prefer_floor"),
        call.number_attribute("cubic_coeff_a", -0.75),
        bool(call.integer("exclude_outside", 0)),
        bool(call.integer("antialias", 0)),
    )
    given = call.integers("axes")
    shape = call.shape(0)
    chosen = [call.normalise(axis, len(shape)) for axis in (range(len(shape)) if given is None else given)]
    if call.has(3) and call.shape(3) != (0,):
        axes = _by_sizes(call, chosen, call.dims(3, "the sizes"))
    else:
        axes = by_scales(call, [shortest(s) for s in call.array(2, "the scales")], given)
    if rule.coordinates != "tf_crop_and_resize":
        return resampled(call, axes, rule)
    region = [float(edge) for edge in call.array(1, "the region")]
    half = len(region) // 2
    axes = [replace(axis, region=(region[i], region[half + i])) for i, axis in enumerate(axes)]
    return _extrapolated(call, axes, resampled(call, axes, rule))


def _by_sizes(call: Call, chosen: list[int], sizes: tuple[IntLike, ...]) -> list[Axis]:
    """The axes under sizes, which bound the result where the aspect ratio is kept."""
    shape, policy = call.shape(0), call.text("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return [Axis(n, shape[n], count, None) for n, count in zip(chosen, sizes, strict=True)]
    ratios = []
    for n, count in zip(chosen, sizes, strict=True):
        size = shape[n]
        if not isinstance(size, int) or not isinstance(count, int):
            raise call.unsupported(f"Resize of a dim of {size} that keeps the aspect ratio")
        ratios.append(Fraction(count, size))
    scale = min(ratios) if policy == "not_larger" else max(ratios)
    up, down = scale.numerator, scale.denominator
    # rounded to the nearest whole number, halves upwards
    return [Axis(n, shape[n], (2 * shape[n] * up + down) // (2 * down), float(scale)) for n in chosen]


def _extrapolated(call: Call, axes: list[Axis], y: Value | Operand) -> Value | Operand:
    """`y` with a number where the region that is read lies outside of the source along some axis."""
    outside: np.ndarray = np.zeros((1,) * call.rank(0), dtype=bool)
    for axis in axes:
        if axis.fixed is None:
            raise call.unsupported(f"a region of a dim of {axis.size}")
        where = axis.positions("tf_crop_and_resize")
        shape = [-1 if n == axis.number else 1 for n in range(call.rank(0))]
        outside = outside | ((where < 0) | (where > axis.fixed[0] - 1)).reshape(shape)
    if not outside.any() or not isinstance(y, Value):
        return y
    number = call.scalar_like(call.number_attribute("extrapolation_value", 0.0), y)
    return call.emit(core.Where(call.constant(outside, "outside"), number, y))


def by_scales(call: Call, scales: list[float], given: tuple[int, ...] | None) -> list[Axis]:
    """The axes under scale factors: the result has floor(size * scale) elements."""
    shape = call.shape(0)
    axes = []
    for axis, scale in zip(given if given is not None else range(len(shape)), scales, strict=True):
        number = call.normalise(axis, len(shape))
        exact = Fraction(scale).limit_denominator(1 << 16)
        count = (shape[number] * exact.numerator) // exact.denominator
        axes.append(Axis(number, shape[number], count, scale))
    return axes


def resampled(call: Call, axes: list[Axis], rule: Rule) -> Value | Operand:
    """nn.resize2d where it computes the same; else takes (nearest) or matrix products (linear, cubic)."""
    changed = [axis for axis in axes if not axis.idle]
    if not changed:
        return call.operand(0)
    element = call.element(0)
    if rule.mode != "nearest" and not element.is_float:
        raise call.unsupported(f"{call.op_type} of {element} by mode {rule.mode}", "cast the input to f32")
    coordinates = _native(call, changed, rule)
    if coordinates is not None:
        return _resize2d(call, changed, rule.mode, coordinates)
    x = call.value(0)
    for axis in changed:
        if axis.fixed is None:
            raise call.unsupported(
                f"{call.op_type} of a dim of {axis.size} by mode {rule.mode}, {rule.coordinates}",
                remedy="fix the dim with inputs=, or use coordinate_transformation_mode half_pixel",
            )
        size, count = axis.fixed
        where = axis.positions(rule.coordinates)
        if rule.mode == "nearest":
            picks = call.constant(nearest_indices(where, rule.rounding, size), "indices")
            x = call.step(core.Take(x, picks, axis=axis.number))
        else:
            scale = count / size if axis.scale is None else axis.scale
            x = _along(call, x, axis.number, interpolation_matrix(where, rule, size, scale))
    return x


def _native(call: Call, axes: list[Axis], rule: Rule) -> Coordinates | None:
    """The coordinate mode under which nn.resize2d gives this result; None where there is none."""
    rank = call.rank(0)
    if rank not in (3, 4) or any(axis.number < 2 for axis in axes) or not call.element(0).is_float:
        return None
    if rule.mode == "cubic" and (rule.cubic != -0.75 or rule.exclude_outside):
        return None
    if rule.antialias and any(axis.fixed is None or axis.fixed[0] > axis.fixed[1] for axis in axes):
        return None
    fits = _same_nearest if rule.mode == "nearest" else _same_positions
    return next((c for c in _COORDINATES if all(fits(axis, rule, c) for axis in axes)), None)


def _same_positions(axis: Axis, rule: Rule, coordinates: Coordinates) -> bool:
    if axis.fixed is None:
        whole = axis.scale is None or float(axis.scale).is_integer()
        return rule.coordinates == coordinates and whole
    if rule.exclude_outside:
        return False
    return bool(np.allclose(axis.positions(rule.coordinates), _own(axis, coordinates), rtol=0, atol=_TINY))


def _same_nearest(axis: Axis, rule: Rule, coordinates: Coordinates) -> bool:
    if axis.fixed is None:  # an integer scale meets no tie under half_pixel
        whole = axis.scale is not None and float(axis.scale).is_integer()
        if rule.coordinates == "asymmetric" == coordinates:
            return rule.rounding == "floor"
        return rule.coordinates == coordinates == "half_pixel" and whole and rule.rounding.startswith("round")
    size = axis.fixed[0]
    own = _own(axis, coordinates)
    index = np.floor(own if coordinates == "asymmetric" else own + 0.5)
    wanted = nearest_indices(axis.positions(rule.coordinates), rule.rounding, size)
    return bool(np.array_equal(np.clip(index, 0, size - 1), wanted))


def _own(axis: Axis, coordinates: Coordinates) -> np.ndarray:
    """Source positions as nn.resize2d computes them."""
    return Axis(axis.number, axis.size, axis.count, None).positions(coordinates)


def _resize2d(call: Call, axes: list[Axis], mode: Mode, coordinates: Coordinates) -> Value:
    shape, counts = call.shape(0), {axis.number: axis.count for axis in axes}
    if len(shape) == 4:
        size = (counts.get(2, shape[2]), counts.get(3, shape[3]))
        return call.emit(nn.Resize2d(call.value(0), size=size, mode=mode, coordinates=coordinates))
    row = call.reshape(call.value(0), (*shape[:2], 1, shape[2]))
    y = call.step(nn.Resize2d(row, size=(1, counts[2]), mode=mode, coordinates=coordinates))
    return call.emit(core.Reshape(y, out=y.shaped.with_shape((*shape[:2], counts[2]))))


def _along(call: Call, x: Value, axis: int, matrix: np.ndarray) -> Value:
    """`matrix` [count, size] applied along an axis."""
    rank = x.shaped.rank
    weights = call.constant(matrix.T.astype(x.shaped.dtype.numpy, order="C"), "weights")
    order = [i for i in range(rank) if i != axis] + [axis]
    y = call.step(linalg.Matmul(call.transpose(x, order), weights))
    back = [order.index(i) for i in range(rank)]
    return call.transpose(y, back)
