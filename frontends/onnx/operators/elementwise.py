"""Arithmetic, comparison, logic, selection and casts."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np

from plait.frontends.nodes import elementwise
from plait.frontends.onnx.call import Call
from plait.frontends.onnx.operand import Operand
from plait.frontends.onnx.registry import lowers
from plait.ir import DType, Op, TensorType, Value
from plait.ir import types as t
from plait.ir.ops import core, nn

_UNARY: dict[str, Any] = {
    **elementwise.UNARY,
    "IsNaN": core.IsNan,
    "Not": core.Not,
    "Tanh": nn.Tanh,
}
_BINARY: dict[str, Any] = {
    **elementwise.BINARY,
    "And": core.And,
    "GreaterOrEqual": core.Ge,
    "LessOrEqual": core.Le,
    "Or": core.Or,
    "Xor": core.Xor,
}


@lowers(*_UNARY)
def unary(call: Call) -> Value:
    op: Op = _UNARY[call.op_type](call.value(0))
    return call.emit(op)


@lowers(*_BINARY, since=7)
def binary(call: Call) -> Value:
    op: Op = _BINARY[call.op_type](call.value(0), call.value(1))
    return call.emit(op)


@lowers("Sum", "Max", "Min", since=6)
def variadic(call: Call) -> Value | Operand:
    if len(call.inputs) == 1:
        return call.operand(0)
    make: Any = {"Sum": core.Add, "Max": core.Maximum, "Min": core.Minimum}[call.op_type]
    values = [call.value(i) for i in range(len(call.inputs))]
    total = reduce(lambda a, b: call.step(make(a, b)), values[:-1])
    return call.emit(make(total, values[-1]))


@lowers("Mean", since=6)
def mean(call: Call) -> Value:
    values = [call.value(i) for i in range(len(call.inputs))]
    total = reduce(lambda a, b: call.step(core.Add(a, b)), values)
    return call.emit(core.Div(total, call.scalar_like(len(values), total)))


@lowers("Pow", since=7)
def power(call: Call) -> Value:
    base, exponent = call.value(0), call.value(1)
    known = call.operand(1).array
    if base.shaped.dtype.is_float and known is not None and known.size == 1 and call.rank(1) <= call.rank(0):
        number = float(known.reshape(()).item())
        if number == 2.0:
            return call.emit(core.Mul(base, base))
        if number == 0.5:
            return call.emit(core.Sqrt(base))
    common = base.shaped.dtype
    if exponent.shaped.dtype.is_float and not common.is_float:
        common = exponent.shaped.dtype  # an integer base keeps the fraction of the exponent
    result = core.Pow(call.cast(base, common), call.cast(exponent, common))
    if common == base.shaped.dtype:
        return call.emit(result)
    powered = call.step(result)
    return call.emit(core.Cast(powered, out=TensorType(base.shaped.dtype, powered.shaped.shape)))


@lowers("Mod", since=10)
def modulo(call: Call) -> Value:
    """fmod=0: the sign follows the divisor; fmod=1: it follows the dividend, as C's fmod."""
    left, right = call.value(0), call.value(1)
    if not call.integer("fmod", 0):
        return call.emit(core.Remainder(left, right))
    return call.emit(core.Fmod(left, right))


@lowers("BitShift", since=11)
def bit_shift(call: Call) -> Value:
    make: Any = core.ShiftLeft if call.text("direction", "LEFT") == "LEFT" else core.ShiftRight
    return call.emit(make(call.value(0), call.value(1)))


@lowers("IsInf", since=10)
def is_infinite(call: Call) -> Value:
    x = call.value(0)
    positive, negative = call.integer("detect_positive", 1), call.integer("detect_negative", 1)
    if positive and negative:
        return call.emit(core.IsInf(x))
    zero = call.scalar_like(0, x)
    if not positive and not negative:
        return call.emit(core.Full(value=False, out=TensorType(t.boolean, x.shaped.shape)))
    side = call.step(core.Gt(x, zero) if positive else core.Lt(x, zero))
    return call.emit(core.And(call.step(core.IsInf(x)), side))


@lowers("Where", since=9)
def where(call: Call) -> Value:
    return call.emit(core.Where(call.value(0), call.value(1), call.value(2)))


def conversion(call: Call, x: Value, element: DType) -> core.Cast:
    """A cast with the node's attributes `saturate` and `round_mode`."""
    out = TensorType(element, x.shaped.shape)
    if not element.is_minifloat:
        return core.Cast(x, out=out)
    saturate = bool(call.integer("saturate", 1))
    if element != t.f8e8m0fnu:
        return core.Cast(x, out=out, saturate=saturate)
    mode = call.text("round_mode", "up")
    if mode not in ("up", "down", "nearest"):
        raise call.error(f"round_mode '{mode}' is none of up, down and nearest")
    return core.Cast(x, out=out, saturate=saturate, round_mode=mode)  # type: ignore[arg-type]


@lowers("Cast", since=6)
def cast(call: Call) -> Value | Operand:
    element = call.element_of(call.integer("to", 1))
    if element == call.element(0):
        return call.operand(0)
    return call.emit(conversion(call, call.value(0), element))


@lowers("CastLike", since=15)
def cast_like(call: Call) -> Value | Operand:
    element = call.element(1)
    if element == call.element(0):
        return call.operand(0)
    array = call.operand(0).array
    exact = not (element.is_minifloat or call.element(0).is_minifloat) and element.bits >= 8
    if array is not None and array.size <= 16 and exact and element.kind != "complex":
        return call.known(array.astype(element.numpy), element)
    return call.emit(conversion(call, call.value(0), element))


@lowers("BitCast", since=26)
def bit_cast(call: Call) -> Value | Operand:
    element = call.element_of(call.integer("to", 1))
    if element == call.element(0):
        return call.operand(0)
    out = TensorType(element, call.shape(0))
    if "bool" in (element.kind, call.element(0).kind):
        return call.emit(core.Cast(call.value(0), out=out))  # a boolean is a byte of 0 or 1
    return call.emit(core.BitCast(call.value(0), out=out))


@lowers("Clip", since=6, until=10)
def clip_by_attributes(call: Call) -> Value:
    low, high = call.attributes.get("min"), call.attributes.get("max")
    return _clamp(
        call,
        None if low is None else call.number_attribute("min", 0.0),
        None if high is None else call.number_attribute("max", 0.0),
    )


@lowers("Clip", since=11)
def clip(call: Call) -> Value | Operand:
    bounds = [call.operand(i).array if call.has(i) else None for i in (1, 2)]
    if any(call.has(i) and bound is None for i, bound in zip((1, 2), bounds, strict=True)):
        x = call.value(0)
        if call.has(1):
            x = call.step(core.Maximum(x, call.reshape(call.value(1), ())))
        return call.emit(core.Minimum(x, call.reshape(call.value(2), ()))) if call.has(2) else x
    low, high = (None if bound is None else shortest(bound) for bound in bounds)
    if low is None and high is None:
        return call.operand(0)
    return _clamp(call, low, high)


def shortest(array: np.ndarray) -> float:
    """The element of a one-element array; for f32 the shortest decimal that gives it back."""
    number = array.reshape(())[()]
    return float(str(number)) if array.dtype == np.float32 else float(number)


def _clamp(call: Call, low: float | None, high: float | None) -> Value:
    x = call.value(0)
    infinite = float("inf")
    low = None if low is None or low <= -infinite else low
    high = None if high is None or high >= infinite else high
    if low is not None and high is not None and low > high:
        low = high  # the upper bound is applied last
    if low == 0.0 and high is None:
        return call.emit(nn.Relu(x))
    if low == 0.0 and high == 6.0 and x.shaped.dtype.is_float:
        return call.emit(nn.Relu6(x))
    return call.emit(core.Clamp(x, low=low, high=high))
