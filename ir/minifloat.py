"""The layouts of the floats of 8 bits and fewer (minifloats).

An element is sign, exponent and mantissa from the high bits to the low ones; with
the exponent field 0 it is fraction * 2^(1 - bias), else (1 + fraction) * 2^(field - bias).
f8e8m0fnu is a bare exponent instead: 2^(field - 127), with NaN at 255 (the scale type of
the OCP Microscaling formats).  The others are those of Micikevicius et al., FP8 Formats for
Deep Learning (arXiv:2209.05433), Noune et al., 8-bit Numerical Formats for Deep Neural
Networks (arXiv:2206.02915: the fnuz types), and the OCP Microscaling specification (f6, f4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Minifloat:
    """A layout.

    Attributes:
        exponent, mantissa: width of the fields in bits.
        bias: what the exponent field exceeds the exponent by.
        special: `ieee` has infinities and NaNs in the last exponent, `fn` NaN in the last
            pattern only, `fnuz` NaN in the place of -0, `finite` neither.
    """

    exponent: int
    mantissa: int
    bias: int
    special: Literal["ieee", "fn", "fnuz", "finite"]

    @property
    def sign_bit(self) -> int:
        return 1 << (self.exponent + self.mantissa)

    @property
    def magnitude_mask(self) -> int:
        return self.sign_bit - 1

    @property
    def min_exponent(self) -> int:
        """Exponent of the smallest normal number, and of the subnormal ones."""
        return 1 - self.bias

    @property
    def max_exponent(self) -> int:
        """Exponent of the largest number."""
        return (self.largest >> self.mantissa) - self.bias

    @property
    def infinity(self) -> int | None:
        """The pattern of infinity."""
        return ((1 << self.exponent) - 1) << self.mantissa if self.special == "ieee" else None

    @property
    def largest(self) -> int:
        """The pattern of the largest number."""
        if self.infinity is not None:
            return self.infinity - 1
        return self.magnitude_mask - (self.special == "fn")

    @property
    def nan(self) -> int:
        """The pattern that NaN becomes; -0 in the types that lack NaN."""
        if self.infinity is not None:
            return self.infinity | 1 << (self.mantissa - 1)
        return self.magnitude_mask if self.special == "fn" else self.sign_bit

    @property
    def overflow(self) -> int:
        """The pattern, without its sign, of what exceeds the largest number and does not saturate."""
        if self.infinity is not None:
            return self.infinity
        return self.largest if self.special == "finite" else self.nan


#: Layouts by element type; f8e8m0fnu has its own rules.
MINIFLOATS: dict[str, Minifloat] = {
    "f8e4m3fn": Minifloat(4, 3, 7, "fn"),
    "f8e5m2": Minifloat(5, 2, 15, "ieee"),
    "f8e4m3fnuz": Minifloat(4, 3, 8, "fnuz"),
    "f8e5m2fnuz": Minifloat(5, 2, 16, "fnuz"),
    "f6e2m3fn": Minifloat(2, 3, 1, "finite"),
    "f6e3m2fn": Minifloat(3, 2, 3, "finite"),
    "f4e2m1fn": Minifloat(2, 1, 1, "finite"),
}
