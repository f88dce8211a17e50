"""Rescaling integers by integers: a real factor as a mantissa of 31 bits and a shift.

An i32 accumulator of operands with scales s_x and s_w stands for acc * s_x * s_w.  Under the
scale s_out it is acc * M with M = s_x * s_w / s_out, which integers compute as

    (acc * m + 2^(n-1)) >> n,    M = m * 2^-n,  m in [2^30, 2^31),

rounded to nearest, halves up (Jacob et al. 2018, "Quantization and Training of Neural Networks
for Efficient Integer-Arithmetic-Only Inference", arXiv 1712.05877, section 2.2).  The product
has 62 bits and a sign, so that 64-bit integers hold all of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from plait.ir.errors import InputError
from plait.ir.types import QuantType

#: How a quantised result is rounded: by the real ratio of the scales, or by integers alone.
Requantization = Literal["real", "fixed_point"]
#: Activations that are bounds of a quantised result.
Rectifier = Literal["none", "relu", "relu6"]

MANTISSA_BITS = 31
#: From here on the shift leaves less than one half of any 32-bit accumulator.
_LAST_SHIFT = 62


@dataclass(frozen=True)
class FixedPoint:
    """Factors m * 2^-n.

    Attributes:
        mantissa: int32 of any shape, 2^30 <= m < 2^31; 0 for factors below 2^-32, which leave
            nothing of an accumulator.
        shift: int32 of the same shape, 1 <= n <= 62.
    """

    mantissa: np.ndarray
    shift: np.ndarray

    @property
    def half(self) -> np.ndarray:
        """2^(n-1) as int64: what is added before the shift, for rounding."""
        found: np.ndarray = np.left_shift(np.int64(1), self.shift.astype(np.int64) - 1)
        return found

    @property
    def factor(self) -> np.ndarray:
        """m * 2^-n in float64, which is exact."""
        found: np.ndarray = np.ldexp(self.mantissa.astype(np.float64), -self.shift)
        return found

    def rescale(self, total: np.ndarray) -> np.ndarray:
        """round(total * factor), halves up, as int64; `total` holds 32-bit integers."""
        wide = total.astype(np.int64) * self.mantissa.astype(np.int64)
        found: np.ndarray = np.right_shift(wide + self.half, self.shift.astype(np.int64))
        return found


def fixed_point(factor: np.ndarray | float) -> FixedPoint:
    """Real factors as fixed-point ones.

    Raises InputError where one is not positive and finite, or is 2^30 and more.
    """
    real = np.asarray(factor, np.float64)
    if not np.all(np.isfinite(real)) or np.any(real <= 0) or np.any(real >= 2.0 ** (MANTISSA_BITS - 1)):
        raise InputError(
            f"a factor between scales leaves (0, 2^{MANTISSA_BITS - 1})",
            where="fixed-point requantisation",
            why=f"factors run from {real.min()} to {real.max()}",
            remedy="check the scales of the operands and of the result",
        )
    fraction, exponent = np.frexp(real)
    mantissa = np.rint(np.ldexp(fraction, MANTISSA_BITS)).astype(np.int64)
    full = mantissa == 1 << MANTISSA_BITS  # rounded up to the next power of two
    mantissa = np.where(full, mantissa >> 1, mantissa)
    shift = MANTISSA_BITS - exponent.astype(np.int64) - full
    vanishes = shift > _LAST_SHIFT
    return FixedPoint(
        np.where(vanishes, 0, mantissa).astype(np.int32), np.where(vanishes, 1, shift).astype(np.int32)
    )


def scale_of(kind: QuantType, constant: Callable[[str], np.ndarray]) -> np.ndarray:
    """The scale of a type in float64: shape () per tensor, else that of the constant."""
    if isinstance(kind.scale, str):
        array = constant(kind.scale).astype(np.float64)
        return array.reshape(()) if kind.axis is None else array
    return np.asarray(kind.scale, np.float64)


def bounds_of(out: QuantType, act: str) -> tuple[int, int]:
    """Smallest and largest stored integer of a result after a rectifier.

    relu starts at the zero point, relu6 ends at round(6 / scale) above it as well.
    """
    low, high = out.range
    assert isinstance(out.zero_point, int)
    assert isinstance(out.scale, float)
    if act in ("relu", "relu6"):
        low = min(max(low, out.zero_point), high)
    if act == "relu6":
        high = max(min(high, round(6.0 / out.scale) + out.zero_point), low)
    return low, high


def product_factor(left: np.ndarray, right: np.ndarray, out: QuantType) -> FixedPoint:
    """What a sum of products, of operands with these scales, is multiplied with on the grid of `out`.

    Args:
        left: the scale of x, shape ().
        right: the scale of w, shape () or [outputs].
    """
    assert isinstance(out.scale, float)
    return fixed_point(left * right / out.scale)


def mean_factor(kind: QuantType, out: QuantType, count: int) -> FixedPoint:
    """What a sum of `count` stored integers is multiplied with for their mean on the grid of `out`."""
    assert isinstance(kind.scale, float)
    assert isinstance(out.scale, float)
    return fixed_point(kind.scale / (out.scale * count))


@dataclass(frozen=True)
class SumScales:
    """What two quantised tensors are multiplied with before they are added: m_x, m_y and one shift n.

    With |x - z_x| <= a and |y - z_y| <= b, n is the largest one for which

        a * m_x + b * m_y + 2^(n-1) < 2^31,    m_x = round(s_x / s_out * 2^n), m_y likewise,

    so that 32-bit integers hold every step.  For 8-bit operands the rounding of both
    multipliers moves the sum by less than 255 * 2^-n quanta of the result.
    """

    left: int
    right: int
    shift: int


def sum_scales(left: QuantType, right: QuantType, out: QuantType) -> SumScales:
    """Multipliers and shift for a sum of two tensors that have one scale each.

    Raises InputError where no shift of 1 and more keeps the sum in 32 bits.
    """
    ratios = []
    for kind in (left, right):
        assert isinstance(kind.scale, float)
        assert isinstance(out.scale, float)
        ratios.append(kind.scale / out.scale)
    reach = [_reach(kind) for kind in (left, right)]
    for shift in range(30, 0, -1):
        found = [round(ratio * 2**shift) for ratio in ratios]
        if sum(a * m for a, m in zip(reach, found, strict=True)) + (1 << (shift - 1)) < 1 << 31:
            return SumScales(found[0], found[1], shift)
    raise InputError(
        f"a sum of {left} and {right} does not fit the grid of {out}",
        where="quant.add",
        why=f"the scales of the operands are {ratios[0]} and {ratios[1]} times that of the result",
        remedy="check the ranges that the scales were taken from",
    )


def _reach(kind: QuantType) -> int:
    """The largest |stored - zero_point|."""
    assert isinstance(kind.zero_point, int)
    return max(abs(bound - kind.zero_point) for bound in kind.range)
