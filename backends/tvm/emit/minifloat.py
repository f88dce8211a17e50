"""Minifloats as expressions on their bit patterns, held as uint8 (layouts: `plait.ir.minifloat`)."""

from __future__ import annotations

import numpy as np
from tvm import tirx
from tvm.ir import Expr

from plait.backends.tvm.emit.expressions import number
from plait.ir import DType
from plait.ir.minifloat import MINIFLOATS

#: Bits, fraction bits and exponent bias of the wider floats that numbers pass through.
#: The integers are unsigned because TVM widens signed ones of 32 bits, which it takes for indices.
_WIDE = {"float32": ("uint32", 23, 127), "float64": ("uint64", 52, 1023)}


def pattern_of(value: float, target: DType) -> int:
    """The bit pattern of a number."""
    return int(np.asarray(value, np.float64).astype(target.numpy).view(np.uint8))


def decode(pattern: Expr, source: DType) -> Expr:
    """The number of a bit pattern, as float32."""

    def whole(value: int) -> Expr:
        return number(value, "uint32")

    bits = tirx.Cast("uint32", pattern)
    quiet = number(float("nan"), "float32")
    if source.name == "f8e8m0fnu":
        # 2^-127 is no normal number of float32: its fraction holds the bit.
        power = tirx.Select(bits == whole(0), whole(1 << 22), tirx.shift_left(bits, whole(23)))
        return tirx.Select(bits == whole(255), quiet, tirx.reinterpret("float32", power))
    layout = MINIFLOATS[source.name]
    size = tirx.bitwise_and(bits, whole(layout.magnitude_mask))
    unit = 2.0 ** (layout.min_exponent - layout.mantissa)
    subnormal = tirx.Cast("float32", size) * number(unit, "float32")
    rebiased = size + whole((127 - layout.bias) << layout.mantissa)
    normal = tirx.reinterpret("float32", tirx.shift_left(rebiased, whole(23 - layout.mantissa)))
    magnitude = tirx.Select(size < whole(1 << layout.mantissa), subnormal, normal)
    if layout.infinity is not None:
        infinite = number(float("inf"), "float32")
        magnitude = tirx.Select(size == whole(layout.infinity), infinite, magnitude)
        magnitude = tirx.Select(size > whole(layout.infinity), quiet, magnitude)
    elif layout.special == "fn":
        magnitude = tirx.Select(size == whole(layout.nan), quiet, magnitude)
    negative = tirx.bitwise_and(bits, whole(layout.sign_bit)) != whole(0)
    signed = tirx.Select(negative, -magnitude, magnitude)
    return tirx.Select(bits == whole(layout.nan), quiet, signed) if layout.special == "fnuz" else signed


def encode(x: Expr, target: DType, *, saturate: bool, round_mode: str) -> Expr:
    """The bit pattern of a number, halves to even, as core.cast defines it."""
    if target.name == "f8e8m0fnu":
        return _encode_exponent(_widened(x, "float32"), saturate, round_mode)
    layout = MINIFLOATS[target.name]
    x = _widened(x, "float32" if str(x.ty.dtype) in ("float16", "bfloat16", "float32") else "float64")
    wide = str(x.ty.dtype)
    integer, fraction, bias = _WIDE[wide]

    def whole(value: int) -> Expr:
        return number(value, integer)

    sign = 1 << (fraction + bias.bit_length() + 1)
    bits = tirx.reinterpret(integer, x)
    size = tirx.bitwise_and(bits, whole(sign - 1))
    lowest = layout.min_exponent + bias
    field = tirx.shift_right(size, whole(fraction))
    field = tirx.max(tirx.min(field, whole(layout.max_exponent + 1 + bias)), whole(lowest))
    # In units of the last place; the carry of the rounding runs into the exponent by itself.
    unit = tirx.reinterpret(wide, tirx.shift_left(whole(2 * bias + layout.mantissa) - field, whole(fraction)))
    magnitude = tirx.reinterpret(wide, size)
    steps = tirx.nearbyint(tirx.min(magnitude * unit, number(float(1 << 20), wide)))
    pattern = tirx.Cast(integer, steps) + tirx.shift_left(field - whole(lowest), whole(layout.mantissa))
    excess = layout.largest if saturate else layout.overflow
    pattern = tirx.Select(pattern > whole(layout.largest), whole(excess), pattern)
    negative = tirx.bitwise_and(bits, whole(sign)) != whole(0)
    if layout.special == "fnuz":
        negative = tirx.all(negative, pattern != whole(0), pattern != whole(layout.nan))
    pattern = tirx.Select(negative, tirx.bitwise_or(pattern, whole(layout.sign_bit)), pattern)
    return tirx.Cast("uint8", tirx.Select(tirx.isnan(x), whole(layout.nan), pattern))


def _encode_exponent(x: Expr, saturate: bool, round_mode: str) -> Expr:
    """f8e8m0fnu of the magnitude of a float32; infinity and NaN become NaN."""

    def whole(value: int) -> Expr:
        return number(value, "uint32")

    bits = tirx.bitwise_and(tirx.reinterpret("uint32", x), whole(0x7FFFFFFF))
    field = tirx.shift_right(bits, whole(23))
    fraction = tirx.bitwise_and(bits, whole(0x7FFFFF))
    half = whole(0x400000)
    raised = {
        "up": fraction > whole(0),
        "nearest": tirx.any(fraction > half, tirx.all(fraction == half, field > whole(0))),
        "down": tirx.const(False, "bool"),
    }[round_mode]
    limit = whole(0xFE if saturate else 0xFF)
    upper = tirx.Select(tirx.all(raised, field < limit), field + whole(1), field)
    return tirx.Cast("uint8", upper)


def wrapped(x: Expr, target: DType) -> Expr:
    """A 64-bit integer modulo the range of an integer type below 8 bits, in its byte."""
    mask = number((1 << target.bits) - 1, "int64")
    if target.kind == "uint":
        return tirx.Cast("uint8", tirx.bitwise_and(x, mask))
    half = number(1 << (target.bits - 1), "int64")
    return tirx.Cast("int8", tirx.bitwise_and(x + half, mask) - half)


def _widened(x: Expr, dtype: str) -> Expr:
    source = str(x.ty.dtype)
    if source == "bool":
        return tirx.Select(x, number(1.0, dtype), number(0.0, dtype))
    return x if source == dtype else tirx.Cast(dtype, x)
