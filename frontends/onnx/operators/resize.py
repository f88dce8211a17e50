"""Resampling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from plait.frontends.onnx.call import Call
from plait.frontends.onnx.operand import Operand
from plait.frontends.onnx.operators.elementwise import shortest
from plait.frontends.onnx.registry import lowers
from plait.ir import IntLike, Value
from plait.ir.ops import core, linalg, nn

Mode = Literal["nearest", "linear", "cubic"]
Coordinates = Literal["half_pixel", "align_corners", "asymmetric"]
_COORDINATES: tuple[Coordinates, ...] = ("half_pixel", "align_corners", "asymmetric")
_TINY = 1e-9


@dataclass(frozen=True)
class Rule:
    """How a result index finds its source.

    Attributes:
        coordinates: coordinate_transformation_mode of the standard.
        rounding: nearest_mode of the standard.
        cubic: the coefficient a of the cubic.
        exclude_outside: whether taps outside the source weigh nothing.
    """

    mode: Mode
    coordinates: str
    rounding: str = "round_prefer_floor"
    cubic: float = -0.75
    exclude_outside: bool = False


@dataclass(frozen=True)
class Axis:
    """One resampled axis: its number, sizes before and after, and the scale where one is given."""

    number: int
    size: IntLike
    count: IntLike
    scale: float | None

    @property
    def fixed(self) -> tuple[int, int] | None:
        """Both sizes where they are numbers."""
        if isinstance(self.size, int) and isinstance(self.count, int):
            return self.size, self.count
        return None


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
    coordinates = call.text("coordinate_transformation_mode", "half_pixel")
    if call.integer("antialias", 0) or coordinates == "tf_crop_and_resize":
        raise call.unsupported("Resize with antialias or tf_crop_and_resize")
    if call.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise call.unsupported("Resize that keeps the aspect ratio")
    rule = Rule(
        mode,
        coordinates,
        call.text("nearest_mode", "round_prefer_floor"),
        call.number_attribute("cubic_coeff_a", -0.75),
        bool(call.integer("exclude_outside", 0)),
    )
    given = call.integers("axes")
    if call.has(3) and call.shape(3) != (0,):
        shape = call.shape(0)
        sizes = call.dims(3, "the sizes")
        chosen = given if given is not None else tuple(range(len(shape)))
        numbers = [call.normalise(axis, len(shape)) for axis in chosen]
        axes = [Axis(n, shape[n], count, None) for n, count in zip(numbers, sizes, strict=True)]
        return resampled(call, axes, rule)
    scales = [shortest(s) for s in call.array(2, "the scales")]
    return resampled(call, by_scales(call, scales, given), rule)


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
    changed = [axis for axis in axes if axis.count != axis.size or axis.scale not in (None, 1.0)]
    if not changed:
        return call.operand(0)
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
        if rule.mode == "nearest":
            picks = call.constant(nearest_indices(axis, rule), "indices")
            x = call.step(core.Take(x, picks, axis=axis.number))
        else:
            x = _along(call, x, axis.number, interpolation_matrix(axis, rule))
    return x


def _native(call: Call, axes: list[Axis], rule: Rule) -> Coordinates | None:
    """The coordinate mode under which nn.resize2d gives this result; None where there is none."""
    rank = call.rank(0)
    if rank not in (3, 4) or any(axis.number < 2 for axis in axes):
        return None
    if rule.mode == "cubic" and (rule.cubic != -0.75 or rule.exclude_outside):
        return None
    fits = _same_nearest if rule.mode == "nearest" else _same_positions
    return next((c for c in _COORDINATES if all(fits(axis, rule, c) for axis in axes)), None)


def _same_positions(axis: Axis, rule: Rule, coordinates: Coordinates) -> bool:
    if axis.fixed is None:
        whole = axis.scale is None or float(axis.scale).is_integer()
        return rule.coordinates == coordinates and whole
    if rule.exclude_outside:
        return False
    return bool(np.allclose(positions(axis, rule), _own(axis, coordinates), rtol=0, atol=_TINY))


def _same_nearest(axis: Axis, rule: Rule, coordinates: Coordinates) -> bool:
    if axis.fixed is None:  # an integer scale meets no tie under half_pixel
        whole = axis.scale is not None and float(axis.scale).is_integer()
        if rule.coordinates == "asymmetric" == coordinates:
            return rule.rounding == "floor"
        return rule.coordinates == coordinates == "half_pixel" and whole and rule.rounding.startswith("round")
    own = _own(axis, coordinates)
    index = np.floor(own if coordinates == "asymmetric" else own + 0.5)
    return bool(np.array_equal(np.clip(index, 0, axis.fixed[0] - 1), nearest_indices(axis, rule)))


def _own(axis: Axis, coordinates: Coordinates) -> np.ndarray:
    """Source positions as nn.resize2d computes them."""
    return positions(Axis(axis.number, axis.size, axis.count, None), Rule("linear", coordinates))


def _resize2d(call: Call, axes: list[Axis], mode: Mode, coordinates: Coordinates) -> Value:
    shape, counts = call.shape(0), {axis.number: axis.count for axis in axes}
    if len(shape) == 4:
        size = (counts.get(2, shape[2]), counts.get(3, shape[3]))
        return call.emit(nn.Resize2d(call.value(0), size=size, mode=mode, coordinates=coordinates))
    row = call.reshape(call.value(0), (*shape[:2], 1, shape[2]))
    y = call.step(nn.Resize2d(row, size=(1, counts[2]), mode=mode, coordinates=coordinates))
    return call.emit(core.Reshape(y, out=y.shaped.with_shape((*shape[:2], counts[2]))))


def positions(axis: Axis, rule: Rule) -> np.ndarray:
    """The source position of each result element, by the formulas of the standard."""
    assert axis.fixed is not None
    size, count = axis.fixed
    scale = count / size if axis.scale is None else axis.scale
    steps = np.arange(count, dtype=np.float64)
    match rule.coordinates:
        case "asymmetric":
            return steps / scale
        case "align_corners":
            last = scale * size - 1  # a given scale counts with its fraction
            return steps * ((size - 1) / last) if count > 1 else steps * 0.0
        case "pytorch_half_pixel" if count <= 1:
            return steps * 0.0
        case "half_pixel_symmetric":
            adjustment = count / (size * scale)
            return size / 2 * (1 - adjustment) + (steps + 0.5) / scale - 0.5
        case _:
            return (steps + 0.5) / scale - 0.5


def nearest_indices(axis: Axis, rule: Rule) -> np.ndarray:
    """The source index of each result element."""
    assert axis.fixed is not None
    where = positions(axis, rule)
    rounding: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "floor": np.floor,
        "ceil": np.ceil,
        "round_prefer_ceil": lambda p: np.floor(p + 0.5),
        "round_prefer_floor": lambda p: np.ceil(p - 0.5),
    }
    return np.clip(rounding[rule.rounding](where), 0, axis.fixed[0] - 1).astype(np.int64)


def interpolation_matrix(axis: Axis, rule: Rule) -> np.ndarray:
    """Weights [count, size] with which source elements make up each result element."""
    assert axis.fixed is not None
    size, count = axis.fixed
    where = positions(axis, rule)
    base = np.floor(where)
    fraction = where - base
    if rule.mode == "linear":
        taps = [(0, 1 - fraction), (1, fraction)]
    else:
        taps = [(k, _cubic(np.abs(fraction - k), rule.cubic)) for k in (-1, 0, 1, 2)]
    matrix = np.zeros((count, size))
    rows = np.arange(count)
    for offset, weight in taps:
        column = base.astype(np.int64) + offset
        inside = (column >= 0) & (column < size)
        kept = np.where(inside, weight, 0.0) if rule.exclude_outside else weight
        np.add.at(matrix, (rows, np.clip(column, 0, size - 1)), kept)
    return matrix / matrix.sum(axis=1, keepdims=True) if rule.exclude_outside else matrix


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel (1981)."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def _along(call: Call, x: Value, axis: int, matrix: np.ndarray) -> Value:
    """`matrix` [count, size] applied along an axis."""
    rank = x.shaped.rank
    weights = call.constant(matrix.T.astype(x.shaped.dtype.numpy, order="C"), "weights")
    order = [i for i in range(rank) if i != axis] + [axis]
    y = call.step(linalg.Matmul(call.transpose(x, order), weights))
    back = [order.index(i) for i in range(rank)]
    return call.transpose(y, back)
