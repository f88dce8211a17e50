"""Where a resampled axis reads its source, and with which weights, as arrays.

The formulas are those of the ONNX standard, which names the modes; other frameworks'
modes are cases of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

Mode = Literal["nearest", "linear", "cubic"]


@dataclass(frozen=True)
class Rule:
    """How a result element finds its source.

    Attributes:
        coordinates: how a result index maps to a position (coordinate_transformation_mode).
        rounding: how `nearest` rounds a position.
        cubic: the coefficient a of the cubic.
        exclude_outside: whether taps outside the source weigh nothing.
        antialias: whether the kernel widens where the axis shrinks.
    """

    mode: Mode
    coordinates: str
    rounding: str = "round_prefer_floor"
    cubic: float = -0.75
    exclude_outside: bool = False
    antialias: bool = False


def positions(
    size: int,
    count: int,
    coordinates: str,
    scale: float | None = None,
    region: tuple[float, float] = (0.0, 1.0),
) -> np.ndarray:
    """The source position, in elements, of each of `count` result elements along an axis of `size`.

    `scale` is count / size where it is not given; `region` is the part of the source
    that tf_crop_and_resize reads, from 0 to 1.
    """
    factor = count / size if scale is None else scale
    steps = np.arange(count, dtype=np.float64)
    match coordinates:
        case "asymmetric":
            return steps / factor
        case "align_corners":
            last = factor * size - 1  # a given scale counts with its fraction
            return steps * ((size - 1) / last) if count > 1 else steps * 0.0
        case "pytorch_half_pixel" if count <= 1:
            return steps * 0.0
        case "half_pixel_symmetric":
            adjustment = count / (size * factor)
            return size / 2 * (1 - adjustment) + (steps + 0.5) / factor - 0.5
        case "tf_crop_and_resize":
            start, stop = region
            if count == 1:
                return np.full(1, 0.5 * (start + stop) * (size - 1))
            return start * (size - 1) + steps * ((stop - start) * (size - 1) / (count - 1))
        case _:
            return (steps + 0.5) / factor - 0.5


def nearest_indices(where: np.ndarray, rounding: str, size: int) -> np.ndarray:
    """The source index of each position."""
    rules: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "floor": np.floor,
        "ceil": np.ceil,
        "round_prefer_ceil": lambda p: np.floor(p + 0.5),
        "round_prefer_floor": lambda p: np.ceil(p - 0.5),
    }
    return np.clip(rules[rounding](where), 0, size - 1).astype(np.int64)


def interpolation_matrix(where: np.ndarray, rule: Rule, size: int, scale: float = 1.0) -> np.ndarray:
    """Weights [positions, size] with which source elements make up each result element.

    `scale` below 1 widens the kernel of a rule with antialias.
    """
    shrink = min(scale, 1.0) if rule.antialias else 1.0
    base = np.floor(where)
    fraction = where - base
    reach = {"linear": 1, "cubic": 2}[rule.mode] / shrink
    first = int(np.floor(-reach)) + 1
    matrix = np.zeros((len(where), size))
    rows = np.arange(len(where))
    totals = np.zeros(len(where))
    for offset in range(first, 2 - first):
        distance = np.abs(offset - fraction) * shrink
        weight = cubic_kernel(distance, rule.cubic) if rule.mode == "cubic" else np.maximum(1 - distance, 0)
        column = base.astype(np.int64) + offset
        inside = (column >= 0) & (column < size)
        kept = np.where(inside, weight, 0.0) if rule.exclude_outside else weight
        totals += kept
        np.add.at(matrix, (rows, np.clip(column, 0, size - 1)), kept)
    if rule.exclude_outside or shrink < 1:
        matrix /= totals[:, None]
    return matrix


def cubic_kernel(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel (1981)."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
