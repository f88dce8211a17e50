"""Exponentials and their kin in f32 as polynomials, which vectors of the CPU can evaluate.

LLVM calls the C library for these functions, one lane at a time.  The approximations here
are within a few units in the last place: exp by range reduction to 2^n times a polynomial
(Cephes, expf), tanh and erf as ratios of polynomials (the coefficients that Eigen uses).
Infinities and NaN give what the C library gives; results below 2^-125 become zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.ir import Expr
from tvm.ir.expr import Call

_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
_LOG2_E = 1.44269504088896341
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
#: Below, the power of two is zero; above, the product overflows.
_EXP_LOW, _EXP_HIGH = -87.33654022216797, 89.0

_TANH_LIMIT = 7.90531110763549805
_TANH_ABOVE = (
    -2.76076847742355e-16,
    2.00018790482477e-13,
    -8.60467152213735e-11,
    5.12229709037114e-08,
    1.48572235717979e-05,
    6.37261928875436e-04,
    4.89352455891786e-03,
)
_TANH_BELOW = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)

_ERF_LIMIT = 4.0
_ERF_ABOVE = (
    -2.72614225801306e-10,
    2.77068142495902e-08,
    -2.10102402082508e-06,
    -5.69250639462346e-05,
    -7.34990630326855e-04,
    -2.95459980854025e-03,
    -1.60960333262415e-02,
)
_ERF_BELOW = (
    -1.45660718464996e-05,
    -2.13374055278905e-04,
    -1.68282697438203e-03,
    -7.37332916720468e-03,
    -1.42647390514189e-02,
)


def _f32(value: float) -> Expr:
    return tirx.const(value, "float32")


def _polynomial(coefficients: Sequence[float], x: Expr) -> Expr:
    """c[0] x^n + ... + c[n], by Horner's rule."""
    total = _f32(coefficients[0])
    for coefficient in coefficients[1:]:
        total = total * x + _f32(coefficient)
    return total


def _named(value: Expr, body: Callable[[Expr], Expr]) -> Expr:
    """`body` of a value that is computed once."""
    var = tirx.Var("x", str(value.ty.dtype))
    return tirx.Let(var, value, body(var))


def _clamped(x: Expr, low: float, high: float) -> Expr:
    return tirx.min(tirx.max(x, _f32(low)), _f32(high))


def _exp(x: Expr) -> Expr:
    clamped = _clamped(x, _EXP_LOW, _EXP_HIGH)

    def reduced(n: Expr) -> Expr:
        rest = clamped - n * _f32(_LN2_HIGH) - n * _f32(_LN2_LOW)

        def scaled(r: Expr) -> Expr:
            value = _polynomial(_EXP, r) * r * r + r + _f32(1.0)
            # 2^(n - 1), as 2^n may be no normal number where the result is one.
            return value * _power_of_two(tirx.Cast("int32", n) - tirx.const(1, "int32")) * _f32(2.0)

        return _named(rest, scaled)

    inside = _named(tirx.floor(clamped * _f32(_LOG2_E) + _f32(0.5)), reduced)
    return tirx.Select(tirx.isnan(x), x, inside)


def _power_of_two(n: Expr) -> Expr:
    """2^n for an integer n from -126 to 127; zero for -127."""
    return tirx.reinterpret("float32", (n + tirx.const(127, "int32")) << tirx.const(23, "int32"))


def _ratio(x: Expr, limit: float, above: Sequence[float], below: Sequence[float]) -> Expr:
    """x P(x^2) / Q(x^2) for |x| <= limit, and its value there beyond; NaN stays."""

    def of_square(y: Expr) -> Expr:
        return _named(y * y, lambda s: y * _polynomial(above, s) / _polynomial(below, s))

    found = _named(_clamped(x, -limit, limit), of_square)
    return tirx.Select(tirx.isnan(x), x, found)


def _tanh(x: Expr) -> Expr:
    return _ratio(x, _TANH_LIMIT, _TANH_ABOVE, _TANH_BELOW)


def _erf(x: Expr) -> Expr:
    return _ratio(x, _ERF_LIMIT, _ERF_ABOVE, _ERF_BELOW)


_FUNCTIONS = {"tirx.exp": _exp, "tirx.tanh": _tanh, "tirx.erf": _erf}


def vector_functions(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """A function whose exp, tanh and erf of f32 are polynomials."""

    def replaced(call: Any) -> Any:
        made = _FUNCTIONS.get(getattr(call.op, "name", ""))
        if made is None or str(call.ty.dtype) != "float32":
            return call
        return _named(call.args[0], made)

    return tvm_ffi.structural_map(function, (Call, replaced), order="post")
