"""Emissions of elementwise ops: arithmetic, comparison, logic, casts and activations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tvm import te, tirx
from tvm.ir import Expr

from plait.backends.tvm.emit import minifloat
from plait.backends.tvm.emit.expressions import (
    activate,
    clip,
    gelu,
    gelu_tanh,
    hardsigmoid,
    leaky_relu,
    number,
    pointwise,
    sigmoid,
    softplus,
)
from plait.backends.tvm.emit.table import Arguments, Emitter, Kind, emit
from plait.ir import DType, Op
from plait.ir.ops import core, nn


def _is_float(x: Expr) -> bool:
    return "float" in str(x.ty.dtype)


def _expm1(x: Expr) -> Expr:
    """e^x - 1; near zero by its series, where the difference would cancel."""
    one = number(1, x.ty.dtype)
    half, third, quarter = (number(1 / n, x.ty.dtype) for n in (2, 3, 4))
    series = x * (one + x * half * (one + x * third * (one + x * quarter)))
    return tirx.Select(tirx.abs(x) < number(0.02, x.ty.dtype), series, tirx.exp(x) - one)


def _sinh(x: Expr) -> Expr:
    """Through e^|x| - 1, which keeps what e^x - e^-x would cancel near zero.

    Where e^-|x| no longer counts it is e^|x| / 2, whose factors do not overflow before it does.
    """
    one, half, size = number(1, x.ty.dtype), number(0.5, x.ty.dtype), tirx.abs(x)
    power, root = _expm1(size), tirx.exp(size * half)
    found = tirx.Select(
        size > number(10, x.ty.dtype), half * root * root, half * (power + power / (power + one))
    )
    return tirx.Select(x < number(0, x.ty.dtype), -found, found)


def _cosh(x: Expr) -> Expr:
    return (tirx.exp(x) + tirx.exp(-x)) * number(0.5, x.ty.dtype)


def _asinh(x: Expr) -> Expr:
    """sign(x) log1p(|x| + x^2 / (1 + sqrt(1 + x^2)))."""
    one, size = number(1, x.ty.dtype), tirx.abs(x)
    found = tirx.log1p(size + size * size / (one + tirx.sqrt(one + size * size)))
    return tirx.Select(x < number(0, x.ty.dtype), -found, found)


def _acosh(x: Expr) -> Expr:
    return tirx.log(x + tirx.sqrt(x * x - number(1, x.ty.dtype)))


def _atanh(x: Expr) -> Expr:
    one, half = number(1, x.ty.dtype), number(0.5, x.ty.dtype)
    return half * tirx.log1p((x + x) / (one - x))


def _sign(x: Expr) -> Expr:
    zero, one = number(0, x.ty.dtype), number(1, x.ty.dtype)
    # NaN is neither above nor below zero, and stays what it is.
    rest = x if _is_float(x) else zero
    return tirx.Select(x > zero, one, tirx.Select(x < zero, -one, rest))


def _elu(x: Expr, alpha: float) -> Expr:
    below = _expm1(te.min(x, number(0, x.ty.dtype))) * number(alpha, x.ty.dtype)
    return tirx.Select(x > number(0, x.ty.dtype), x, below)


def _selu(x: Expr) -> Expr:
    return _elu(x, 1.6732632423543772) * number(1.0507009873554805, x.ty.dtype)


def _clamp(op: Any, x: Expr) -> Expr:
    low = -math.inf if op.low is None else op.low
    high = math.inf if op.high is None else op.high
    if not _is_float(x):
        if op.low is not None:
            x = te.max(x, number(math.ceil(low), x.ty.dtype))
        return x if op.high is None else te.min(x, number(math.floor(high), x.ty.dtype))
    if op.low is not None:
        x = te.max(x, number(low, x.ty.dtype))
    return x if op.high is None else te.min(x, number(high, x.ty.dtype))


_UNARY: dict[type[Op], Callable[[Any, Expr], Expr]] = {
    core.Neg: lambda op, x: -x,
    core.Abs: lambda op, x: tirx.abs(x),
    core.Sign: lambda op, x: _sign(x),
    core.Exp: lambda op, x: tirx.exp(x),
    core.Expm1: lambda op, x: _expm1(x),
    core.Log: lambda op, x: tirx.log(x),
    core.Log1p: lambda op, x: tirx.log1p(x),
    core.Sqrt: lambda op, x: tirx.sqrt(x),
    core.Rsqrt: lambda op, x: number(1, x.ty.dtype) / tirx.sqrt(x),
    core.Reciprocal: lambda op, x: number(1, x.ty.dtype) / x,
    core.Sin: lambda op, x: tirx.sin(x),
    core.Cos: lambda op, x: tirx.cos(x),
    core.Tan: lambda op, x: tirx.tan(x),
    core.Asin: lambda op, x: tirx.asin(x),
    core.Acos: lambda op, x: tirx.acos(x),
    core.Atan: lambda op, x: tirx.atan(x),
    core.Sinh: lambda op, x: _sinh(x),
    core.Cosh: lambda op, x: _cosh(x),
    core.Asinh: lambda op, x: _asinh(x),
    core.Acosh: lambda op, x: _acosh(x),
    core.Atanh: lambda op, x: _atanh(x),
    core.Erf: lambda op, x: tirx.erf(x),
    core.Floor: lambda op, x: tirx.floor(x),
    core.Ceil: lambda op, x: tirx.ceil(x),
    core.Round: lambda op, x: tirx.nearbyint(x),
    core.Trunc: lambda op, x: tirx.trunc(x),
    core.Not: lambda op, x: tirx.Not(x) if str(x.ty.dtype) == "bool" else tirx.bitwise_not(x),
    core.IsNan: lambda op, x: tirx.isnan(x),
    core.IsInf: lambda op, x: tirx.abs(x) > tirx.max_value(x.ty.dtype),
    core.Clamp: _clamp,
    nn.Relu: lambda op, x: te.max(x, number(0, x.ty.dtype)),
    nn.Relu6: lambda op, x: clip(x, 0.0, 6.0),
    nn.LeakyRelu: lambda op, x: leaky_relu(x, op.alpha),
    nn.Elu: lambda op, x: _elu(x, op.alpha),
    nn.Selu: lambda op, x: _selu(x),
    nn.Sigmoid: lambda op, x: sigmoid(x),
    nn.Tanh: lambda op, x: tirx.tanh(x),
    nn.Gelu: lambda op, x: gelu_tanh(x) if op.approximate == "tanh" else gelu(x),
    nn.Silu: lambda op, x: x * sigmoid(x),
    nn.Mish: lambda op, x: x * tirx.tanh(softplus(x)),
    nn.Softplus: lambda op, x: softplus(x, op.beta),
    nn.Hardswish: lambda op, x: x * hardsigmoid(x),
    nn.Hardsigmoid: lambda op, x: hardsigmoid(x, op.alpha, op.beta),
}


@emit(*_UNARY, kind=Kind.ELEMENTWISE)
def _unary(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    function = _UNARY[type(op)]
    return pointwise(
        emitter.shape(op.result.type.shape),
        lambda x: function(op, x),
        args.x,
        name=op.opname.rpartition(".")[2],
    )


def _fmod(op: Any, a: Expr, b: Expr) -> Expr:
    """C's function, which is exact, in f32 for half precision."""
    if not _is_float(a):
        return tirx.truncmod(a, b)
    dtype = str(a.ty.dtype)
    if dtype == "float64":
        return tirx.call_pure_extern(dtype, "fmod", a, b)
    wide = [x if dtype == "float32" else tirx.Cast("float32", x) for x in (a, b)]
    found = tirx.call_pure_extern("float32", "fmodf", *wide)
    return found if dtype == "float32" else tirx.Cast(dtype, found)


def _remainder(op: Any, a: Expr, b: Expr) -> Expr:
    """The exact remainder, moved by one divisor where its sign is not the divisor's."""
    if not _is_float(a):
        return tirx.floormod(a, b)
    zero = number(0, a.ty.dtype)
    rest = _fmod(op, a, b)
    return tirx.Select(tirx.And(rest != zero, _differ(rest < zero, b < zero)), rest + b, rest)


def _differ(first: Expr, second: Expr) -> Expr:
    return tirx.Or(tirx.And(first, tirx.Not(second)), tirx.And(tirx.Not(first), second))


def _within(op: Any, a: Expr, b: Expr) -> Expr:
    """Whether a shift is by fewer bits than there are, and not by a negative number."""
    return tirx.And(b >= number(0, b.ty.dtype), b < number(op.left.type.dtype.bits, b.ty.dtype))


def _shift_left(op: Any, a: Expr, b: Expr) -> Expr:
    zero = number(0, a.ty.dtype)
    inside = _within(op, a, b)
    return tirx.Select(inside, a << tirx.Select(inside, b, zero), zero)


def _shift_right(op: Any, a: Expr, b: Expr) -> Expr:
    zero = number(0, a.ty.dtype)
    inside = _within(op, a, b)
    beyond = tirx.Select(a < zero, -number(1, a.ty.dtype), zero) if op.left.type.dtype.kind == "int" else zero
    return tirx.Select(inside, a >> tirx.Select(inside, b, zero), beyond)


def _power(op: Any, a: Expr, b: Expr) -> Expr:
    if _is_float(a):
        return tirx.power(a, b)
    # Whole numbers within the exact range of a double.
    exact = tirx.power(tirx.Cast("float64", a), tirx.Cast("float64", b))
    return tirx.Cast(str(a.ty.dtype), exact)


def _extreme(choose: Callable[[Expr, Expr], Expr]) -> Callable[[Any, Expr, Expr], Expr]:
    def function(op: Any, a: Expr, b: Expr) -> Expr:
        if not _is_float(a):
            return choose(a, b)
        return tirx.Select(tirx.isnan(a), a, tirx.Select(tirx.isnan(b), b, choose(a, b)))

    return function


def _division(op: Any, a: Expr, b: Expr) -> Expr:
    return a / b if _is_float(a) else tirx.truncdiv(a, b)


def _floor_division(op: Any, a: Expr, b: Expr) -> Expr:
    """floor((a - r) / b) with r the exact remainder, so that rounding never reaches the next number."""
    if not _is_float(a):
        return tirx.floordiv(a, b)
    whole = tirx.nearbyint((a - _remainder(op, a, b)) / b)
    return tirx.Select(b == number(0, a.ty.dtype), a / b, whole)


def _logic(
    of_booleans: Callable[[Expr, Expr], Expr], of_bits: Callable[[Expr, Expr], Expr]
) -> Callable[[Any, Expr, Expr], Expr]:
    return lambda op, a, b: of_booleans(a, b) if str(a.ty.dtype) == "bool" else of_bits(a, b)


_BINARY: dict[type[Op], Callable[[Any, Expr, Expr], Expr]] = {
    core.Add: lambda op, a, b: activate(a + b, op),
    core.Sub: lambda op, a, b: activate(a - b, op),
    core.Mul: lambda op, a, b: activate(a * b, op),
    core.Div: lambda op, a, b: activate(_division(op, a, b), op),
    core.FloorDiv: _floor_division,
    core.Remainder: _remainder,
    core.Fmod: _fmod,
    core.Pow: _power,
    core.Maximum: _extreme(te.max),
    core.Minimum: _extreme(te.min),
    core.Atan2: lambda op, a, b: tirx.atan2(a, b),
    core.Eq: lambda op, a, b: a == b,
    core.Ne: lambda op, a, b: a != b,
    core.Lt: lambda op, a, b: a < b,
    core.Le: lambda op, a, b: a <= b,
    core.Gt: lambda op, a, b: a > b,
    core.Ge: lambda op, a, b: a >= b,
    core.And: _logic(tirx.And, tirx.bitwise_and),
    core.Or: _logic(tirx.Or, tirx.bitwise_or),
    core.Xor: _logic(_differ, tirx.bitwise_xor),
    core.ShiftLeft: _shift_left,
    core.ShiftRight: _shift_right,
}


def _comparable(x: Expr) -> Expr:
    """Booleans as bytes, which compare like numbers."""
    return tirx.Cast("int8", x) if str(x.ty.dtype) == "bool" else x


@emit(*_BINARY, kind=Kind.ELEMENTWISE)
def _binary(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    function = _BINARY[type(op)]
    compares = isinstance(op, core.Compare)

    def at(a: Expr, b: Expr) -> Expr:
        if compares:
            a, b = _comparable(a), _comparable(b)
            result = function(op, a, b)
            return result.asobject() if hasattr(result, "asobject") else result
        return function(op, a, b)

    name = op.opname.rpartition(".")[2]
    return pointwise(emitter.shape(op.result.type.shape), at, args.left, args.right, name=name)


@emit(core.Where, kind=Kind.ELEMENTWISE)
def _where(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    shape = emitter.shape(op.result.type.shape)
    return pointwise(
        shape, lambda c, x, y: tirx.Select(c, x, y), args.condition, args.x, args.y, name="where"
    )


@emit(nn.Prelu, kind=Kind.ELEMENTWISE)
def _prelu(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    def at(x: Expr, slope: Expr) -> Expr:
        return tirx.Select(x > number(0, x.ty.dtype), x, x * slope)

    return pointwise(emitter.shape(op.result.type.shape), at, args.x, args.slope, name="prelu")


def convert(x: Expr, dtype: str) -> Expr:
    """An element in another element type of TVM; to bool by comparison with zero.

    Floats go to narrow and to unsigned integers through wide signed ones, so that they wrap around.
    """
    source = str(x.ty.dtype)
    if source == dtype:
        return x
    if dtype == "bool":
        some = x != number(0, source)
        # TVM's comparison is false for NaN, which is not zero.
        return tirx.any(some, tirx.isnan(x)) if "float" in source else some
    if source == "bool":
        return tirx.Select(x, number(1, dtype), number(0, dtype))
    if "float" in source and dtype in ("int8", "int16", "uint8", "uint16"):
        return tirx.Cast(dtype, tirx.Cast("int32", x))
    if "float" in source and dtype == "uint32":
        return tirx.Cast(dtype, tirx.Cast("int64", x))
    if "float" in source and dtype == "uint64":
        half = number(2.0**63, "float64")
        wide = tirx.Cast("float64", x)
        low = tirx.Cast(dtype, tirx.Cast("int64", tirx.Select(wide < half, wide, wide - half)))
        return tirx.Select(wide < half, low, low + tirx.const(1 << 63, dtype))
    return tirx.Cast(dtype, x)


def cast(x: Expr, source: DType, target: DType, dtype: str, op: Any) -> Expr:
    """An element in another element type; `dtype` is TVM's name of it."""
    if source.is_minifloat:
        if source == target:
            return x
        x = minifloat.decode(x, source)
    if target.is_minifloat:
        return minifloat.encode(x, target, saturate=op.saturate, round_mode=op.round_mode)
    if target.is_integer and target.bits < 8:
        whole = x if "int" in str(x.ty.dtype) else convert(x, "int64")
        return minifloat.wrapped(tirx.Cast("int64", whole), target)
    return convert(x, dtype)


@emit(core.Cast, kind=Kind.ELEMENTWISE)
def _cast(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    kind = op.result.type
    source, dtype = op.x.type.dtype, emitter.dtype(kind)
    return pointwise(
        emitter.shape(kind.shape), lambda x: cast(x, source, kind.dtype, dtype, op), args.x, name="cast"
    )


@emit(core.BitCast, kind=Kind.ELEMENTWISE)
def _bit_cast(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    kind = op.result.type
    dtype = emitter.dtype(kind)

    def at(x: Expr) -> Expr:
        if kind.dtype.is_integer and kind.dtype.bits < 8:
            return minifloat.wrapped(tirx.Cast("int64", x), kind.dtype)
        if kind.dtype.bits < 8:
            return tirx.bitwise_and(tirx.Cast("uint8", x), number((1 << kind.dtype.bits) - 1, "uint8"))
        return x if str(x.ty.dtype) == dtype else tirx.reinterpret(dtype, x)

    return pointwise(emitter.shape(kind.shape), at, args.x, name="bit_cast")
