"""Exports of core's elementwise ops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from plait.backends.onnx.activations import activated
from plait.backends.onnx.table import Inexpressible, exports
from plait.backends.onnx.writer import Writer
from plait.ir import Op, Value
from plait.ir import types as t
from plait.ir.ops import core

_DIRECT: dict[type[Op], str] = {
    core.Neg: "Neg",
    core.Abs: "Abs",
    core.Sign: "Sign",
    core.Exp: "Exp",
    core.Log: "Log",
    core.Sqrt: "Sqrt",
    core.Reciprocal: "Reciprocal",
    core.Sin: "Sin",
    core.Cos: "Cos",
    core.Tan: "Tan",
    core.Asin: "Asin",
    core.Acos: "Acos",
    core.Atan: "Atan",
    core.Sinh: "Sinh",
    core.Cosh: "Cosh",
    core.Asinh: "Asinh",
    core.Acosh: "Acosh",
    core.Atanh: "Atanh",
    core.Erf: "Erf",
    core.Floor: "Floor",
    core.Ceil: "Ceil",
    core.Round: "Round",
    core.IsNan: "IsNaN",
    core.IsInf: "IsInf",
}
_PAIRS: dict[type[Op], str] = {
    core.Pow: "Pow",
    core.Maximum: "Max",
    core.Minimum: "Min",
    core.Eq: "Equal",
}
_ORDER: dict[type[Op], str] = {
    core.Lt: "Less",
    core.Le: "LessOrEqual",
    core.Gt: "Greater",
    core.Ge: "GreaterOrEqual",
}
_ARITHMETIC: dict[type[Op], str] = {core.Add: "Add", core.Sub: "Sub", core.Mul: "Mul", core.Div: "Div"}
_LOGIC: dict[type[Op], tuple[str, str]] = {
    core.And: ("And", "BitwiseAnd"),
    core.Or: ("Or", "BitwiseOr"),
    core.Xor: ("Xor", "BitwiseXor"),
}


def one_like(writer: Writer, x: Value, number: float) -> str:
    """A scalar of the element type of `x`."""
    return writer.number(number, x.shaped.dtype)


@exports(*_DIRECT)
def _unary(op: Any, writer: Writer) -> str:
    return writer.node(_DIRECT[type(op)], op.x)


@exports(core.Expm1)
def _expm1(op: Any, writer: Writer) -> str:
    """tanh(x / 2) (e^x + 1), which cancels nothing near zero."""
    half = writer.node("Tanh", writer.node("Mul", op.x, one_like(writer, op.x, 0.5)))
    return writer.node("Mul", half, writer.node("Add", writer.node("Exp", op.x), one_like(writer, op.x, 1)))


@exports(core.Log1p)
def _log1p(op: Any, writer: Writer) -> str:
    """2 atanh(x / (x + 2)) near zero, where 1 + x would lose digits; else log(1 + x)."""
    two, one = one_like(writer, op.x, 2), one_like(writer, op.x, 1)
    near = writer.node("Atanh", writer.node("Div", op.x, writer.node("Add", op.x, two)))
    far = writer.node("Log", writer.node("Add", op.x, one))
    small = writer.node("Less", writer.node("Abs", op.x), one_like(writer, op.x, 0.5))
    return writer.node("Where", small, writer.node("Mul", near, two), far)


@exports(core.Rsqrt)
def _rsqrt(op: Any, writer: Writer) -> str:
    return writer.node("Reciprocal", writer.node("Sqrt", op.x))


@exports(core.Trunc)
def _trunc(op: Any, writer: Writer) -> str:
    below = writer.node("Less", op.x, one_like(writer, op.x, 0))
    return writer.node("Where", below, writer.node("Ceil", op.x), writer.node("Floor", op.x))


@exports(core.Not)
def _not(op: Any, writer: Writer) -> str:
    return writer.node("Not" if op.x.shaped.dtype == t.boolean else "BitwiseNot", op.x)


@exports(core.Cast)
def _cast(op: Any, writer: Writer) -> str:
    source, target = op.x.shaped.dtype, op.out.dtype
    if "complex" in (source.kind, target.kind):
        raise Inexpressible(f"Cast takes neither {source} nor {target}")
    saturate = int(op.saturate) if target.is_minifloat and target.bits == 8 else None
    if target == t.f8e8m0fnu and op.round_mode != "up":
        return writer.node("Cast", op.x, to=writer.code(target), saturate=saturate, round_mode=op.round_mode)
    x = op.x
    if source.is_float and target.kind == "uint" and target.bits < 64:
        x = writer.cast(x, t.i64)  # so that negative numbers wrap around
    return writer.node("Cast", x, to=writer.code(target), saturate=saturate)


@exports(core.BitCast)
def _bit_cast(op: Any, writer: Writer) -> str:
    if writer.opset < 26:
        raise Inexpressible("BitCast came with operator set 26: give opset=26 or above")
    return writer.node("BitCast", op.x, to=writer.code(op.out.dtype))


@exports(core.Clamp)
def _clamp(op: Any, writer: Writer) -> str:
    element = op.x.shaped.dtype
    bounds: list[str | None] = [None, None]
    for place, (given, whole) in enumerate(((op.low, math.ceil), (op.high, math.floor))):
        if given is None or (element.is_integer and math.isinf(given)):
            continue
        if element.is_integer:
            limits = np.iinfo(element.numpy)
            given = min(max(whole(given), limits.min), limits.max)
        bounds[place] = writer.number(given, element)
    return writer.node("Clip", op.x, *bounds)


@exports(*_PAIRS)
def _pair(op: Any, writer: Writer) -> str:
    return writer.node(_PAIRS[type(op)], op.left, op.right)


@exports(core.Ne)
def _ne(op: Any, writer: Writer) -> str:
    return writer.node("Not", writer.node("Equal", op.left, op.right))


@exports(*_ORDER)
def _order(op: Any, writer: Writer) -> str:
    left, right = op.left, op.right
    if left.shaped.dtype == t.boolean:
        left, right = writer.cast(left, t.i32), writer.cast(right, t.i32)
    return writer.node(_ORDER[type(op)], left, right)


@exports(*_LOGIC)
def _logic(op: Any, writer: Writer) -> str:
    return writer.node(_LOGIC[type(op)][op.left.shaped.dtype != t.boolean], op.left, op.right)


@exports(*_ARITHMETIC)
def _arithmetic(op: Any, writer: Writer) -> str:
    return activated(writer, writer.node(_ARITHMETIC[type(op)], op.left, op.right), op, op.left)


def _signs_differ(writer: Writer, rest: str, divisor: Value) -> str:
    """Whether a remainder is not zero and of the other sign than the divisor."""
    zero = one_like(writer, divisor, 0)
    apart = writer.node("Xor", writer.node("Less", rest, zero), writer.node("Less", divisor, zero))
    return writer.node("And", writer.node("Not", writer.node("Equal", rest, zero)), apart)


@exports(core.FloorDiv)
def _floor_div(op: Any, writer: Writer) -> str:
    quotient = writer.node("Div", op.left, op.right)
    element = op.left.shaped.dtype
    if element.is_float:
        return writer.node("Floor", quotient)
    if element.kind == "uint":
        return quotient
    rest = writer.node("Sub", op.left, writer.node("Mul", quotient, op.right))
    lower = writer.node("Sub", quotient, one_like(writer, op.left, 1))
    return writer.node("Where", _signs_differ(writer, rest, op.right), lower, quotient)


@exports(core.Remainder)
def _remainder(op: Any, writer: Writer) -> str:
    if not op.left.shaped.dtype.is_float:
        return writer.node("Mod", op.left, op.right)
    rest = writer.node("Mod", op.left, op.right, fmod=1)  # its sign is that of the dividend
    moved = writer.node("Add", rest, op.right)
    return writer.node("Where", _signs_differ(writer, rest, op.right), moved, rest)


@exports(core.Fmod)
def _fmod(op: Any, writer: Writer) -> str:
    return writer.node("Mod", op.left, op.right, fmod=1)


@exports(core.ShiftLeft, core.ShiftRight)
def _shift(op: Any, writer: Writer) -> str:
    if op.left.shaped.dtype.kind != "uint":
        raise Inexpressible("BitShift takes unsigned integers")
    direction = "LEFT" if isinstance(op, core.ShiftLeft) else "RIGHT"
    return writer.node("BitShift", op.left, op.right, direction=direction)


@exports(core.Atan2)
def _atan2(op: Any, writer: Writer) -> str:
    """The arc tangent of y / x in the half plane x > 0, moved by pi elsewhere."""
    y, x = op.left, op.right

    def number(value: float) -> str:
        return one_like(writer, y, value)

    slope = writer.node("Atan", writer.node("Div", y, x))
    upwards = writer.node("GreaterOrEqual", y, number(0))
    turned = writer.node(
        "Where",
        upwards,
        writer.node("Add", slope, number(math.pi)),
        writer.node("Sub", slope, number(math.pi)),
    )
    straight = writer.node("Mul", writer.node("Sign", y), number(math.pi / 2))
    left = writer.node("Where", writer.node("Less", x, number(0)), turned, straight)
    return writer.node("Where", writer.node("Greater", x, number(0)), slope, left)


@exports(core.Where)
def _where(op: Any, writer: Writer) -> str:
    return writer.node("Where", op.condition, op.x, op.y)
