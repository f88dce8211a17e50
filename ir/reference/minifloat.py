"""Conversion between minifloats and wider numbers, bit by bit (layouts: `plait.ir.minifloat`)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from plait.ir.minifloat import MINIFLOATS
from plait.ir.types import DType

_FRACTION = 52  # bits of the fraction of a double


def encode(
    x: torch.Tensor, target: DType, *, saturate: bool = False, round_mode: str = "nearest"
) -> torch.Tensor:
    """The bit patterns, as uint8, of real numbers in a minifloat; halves go to even."""
    wide = x.to(torch.float64)
    magnitude = wide.abs()
    if target.name == "f8e8m0fnu":
        return _encode_exponent(wide.float().abs(), saturate, round_mode)
    layout = MINIFLOATS[target.name]
    bits = magnitude.view(torch.int64)
    exponent = ((bits >> _FRACTION) - 1023).clamp(layout.min_exponent, layout.max_exponent + 1)
    # In units of the last place; the carry of the rounding runs into the exponent by itself.
    unit = ((1023 + layout.mantissa - exponent) << _FRACTION).view(torch.float64)
    steps = (magnitude * unit).round().clamp(0, 1 << 30).to(torch.int64)
    pattern = steps + ((exponent - layout.min_exponent) << layout.mantissa)
    excess = layout.largest if saturate else layout.overflow
    pattern = torch.where(pattern > layout.largest, excess, pattern)
    keeps_sign = pattern != layout.nan
    if layout.special == "fnuz":
        keeps_sign &= pattern != 0
    elif layout.special == "fn":
        keeps_sign |= ~wide.isnan()
    pattern = torch.where(torch.signbit(wide) & keeps_sign, pattern | layout.sign_bit, pattern)
    return torch.where(wide.isnan(), layout.nan, pattern).to(torch.uint8)


def _encode_exponent(magnitude: torch.Tensor, saturate: bool, round_mode: str) -> torch.Tensor:
    """f8e8m0fnu of f32 magnitudes; infinity and NaN become NaN."""
    bits = magnitude.view(torch.int32)
    field, fraction = bits >> 23, bits & 0x7FFFFF
    if round_mode == "up":
        raised = fraction > 0
    elif round_mode == "nearest":
        # A half goes up from every power of two; below the smallest normal number it goes to zero's field.
        raised = (fraction > 0x400000) | ((fraction == 0x400000) & (field > 0))
    else:
        raised = torch.zeros_like(fraction, dtype=torch.bool)
    if saturate:
        raised &= field < 0xFE
    return torch.where(field == 0xFF, field, field + raised.int()).to(torch.uint8)


def decode(patterns: torch.Tensor, source: DType) -> torch.Tensor:
    """The numbers, as f32, of bit patterns (uint8) of a minifloat."""
    return _table(source).to(patterns.device)[patterns.long() & ((1 << source.bits) - 1)]


@lru_cache(maxsize=16)
def _table(source: DType) -> torch.Tensor:
    """The number of each bit pattern."""
    patterns = np.arange(1 << source.bits, dtype=np.uint8)
    return torch.from_numpy(patterns.view(source.numpy).astype(np.float32))
