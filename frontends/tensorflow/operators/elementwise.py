"""Arithmetic, comparison, logic, selection and casts."""

from __future__ import annotations

from typing import Any

from plait.frontends.nodes import elementwise
from plait.frontends.tensorflow.call import Call
from plait.frontends.tensorflow.operand import Item, Operand
from plait.frontends.tensorflow.registry import lowers
from plait.ir import Op, TensorType, Value
from plait.ir import types as t
from plait.ir.ops import core

_UNARY: dict[str, Any] = {
    **elementwise.UNARY,
    "Expm1": core.Expm1,
    "Inv": core.Reciprocal,
    "Invert": core.Not,
    "IsInf": core.IsInf,
    "IsNan": core.IsNan,
    "Log1p": core.Log1p,
    "LogicalNot": core.Not,
    "Rint": core.Round,
    "Rsqrt": core.Rsqrt,
}
_BINARY: dict[str, Any] = {
    **elementwise.BINARY,
    "AddV2": core.Add,
    "Atan2": core.Atan2,
    "FloorDiv": core.FloorDiv,
    "FloorMod": core.Remainder,
    "GreaterEqual": core.Ge,
    "LessEqual": core.Le,
    "LogicalAnd": core.And,
    "LogicalOr": core.Or,
    "Maximum": core.Maximum,
    "Minimum": core.Minimum,
    "NotEqual": core.Ne,
    "Pow": core.Pow,
    "RealDiv": core.Div,
    "TruncateDiv": core.Div,
}
#: Rounding is the identity on integers.
_ROUNDING = ("Ceil", "Floor", "Rint", "Round")


@lowers("Identity", "StopGradient", "PreventGradient", "Snapshot", "EnsureShape", "CheckNumerics")
def identity(call: Call) -> Item:
    return call.item(0)


@lowers("IdentityN")
def identities(call: Call) -> list[Item]:
    return list(call.inputs)


@lowers("ReadVariableOp")
def read_variable(call: Call) -> Operand:
    """The numbers of a variable, which is a constant of the graph."""
    contents = call.handle(0).contents
    if contents is None:
        raise call.error(f"{call.handle(0).name} is no variable", why="only variables hold numbers")
    return contents.fork()


@lowers(*_UNARY)
def unary(call: Call) -> Operand:
    if call.op_type in _ROUNDING and not call.element(0).is_float:
        return call.operand(0)
    x, _, wrap = call.held(0)
    return wrap(call.emit(_UNARY[call.op_type](x)))


@lowers(*_BINARY)
def binary(call: Call) -> Operand:
    (left, right), wrap = call.aligned(0, 1)
    return wrap(call.emit(_BINARY[call.op_type](left, right)))


@lowers("SquaredDifference")
def squared_difference(call: Call) -> Operand:
    (left, right), wrap = call.aligned(0, 1)
    difference = call.step(core.Sub(left, right))
    return wrap(call.emit(core.Mul(difference, difference)))


@lowers("Square")
def square(call: Call) -> Operand:
    x, _, wrap = call.held(0)
    return wrap(call.emit(core.Mul(x, x)))


@lowers("DivNoNan", "MulNoNan", "Xdivy", "Xlogy", "Xlog1py")
def guarded(call: Call) -> Operand:
    """Products and quotients that are 0 where one operand is, whatever the other one holds.

    DivNoNan and MulNoNan ask this of the right operand, the X- ones of the left.
    """
    (left, right), wrap = call.aligned(0, 1)
    zero = call.scalar_like(0, left)
    makes: dict[str, Any] = {"DivNoNan": core.Div, "Xdivy": core.Div, "MulNoNan": core.Mul}
    if call.op_type in makes:
        plain = call.step(makes[call.op_type](left, right))
    else:
        logarithm = core.Log(right) if call.op_type == "Xlogy" else core.Log1p(right)
        plain = call.step(core.Mul(left, call.step(logarithm)))
    guard = right if call.op_type.endswith("NoNan") else left
    return wrap(call.emit(core.Where(call.step(core.Eq(guard, zero)), zero, plain)))


@lowers("Mod", "TruncateMod")
def truncated_remainder(call: Call) -> Operand:
    """left - trunc(left / right) * right: the sign follows `left`."""
    (left, right), wrap = call.aligned(0, 1)
    quotient = call.step(core.Div(left, right))
    if left.shaped.dtype.is_float:
        quotient = call.step(core.Trunc(quotient))
    return wrap(call.emit(core.Sub(left, call.step(core.Mul(quotient, right)))))


@lowers("AddN", "AccumulateNV2")
def sum_of_all(call: Call) -> Operand:
    values, wrap = call.aligned(*range(len(call.inputs)))
    total = values[0]
    for value in values[1:]:
        total = call.step(core.Add(total, value))
    return wrap(total)


@lowers("IsFinite")
def is_finite(call: Call) -> Operand:
    x, _, wrap = call.held(0)
    broken = call.step(core.Or(call.step(core.IsNan(x)), call.step(core.IsInf(x))))
    return wrap(call.emit(core.Not(broken)))


@lowers("Erfc")
def complementary_error(call: Call) -> Operand:
    """1 - erf(x)."""
    x, _, wrap = call.held(0)
    return wrap(call.emit(core.Sub(call.scalar_like(1, x), call.step(core.Erf(x)))))


@lowers("LogicalXor")
def exclusive_or(call: Call) -> Operand:
    (left, right), wrap = call.aligned(0, 1)
    return wrap(call.emit(core.Xor(left, right)))


@lowers("ApproximateEqual")
def approximately_equal(call: Call) -> Operand:
    (left, right), wrap = call.aligned(0, 1)
    distance = call.step(core.Abs(call.step(core.Sub(left, right))))
    return wrap(call.emit(core.Lt(distance, call.scalar_like(call.real("tolerance", 1e-5), left))))


@lowers("ClipByValue")
def clip(call: Call) -> Operand:
    (x, low, high), wrap = call.aligned(0, 1, 2)
    return wrap(call.emit(core.Minimum(call.step(core.Maximum(x, low)), high)))


@lowers("Cast")
def cast(call: Call) -> Operand:
    x, _, wrap = call.held(0)
    out = TensorType(call.element_attribute("DstT"), x.shaped.shape)
    if x.type == out:
        return call.operand(0)
    if out.element == t.boolean:
        zero = call.full(0.0 if x.shaped.dtype.is_float else 0, x.shaped.dtype)
        return wrap(call.emit(core.Ne(x, zero)))
    return wrap(call.emit(core.Cast(x, out=out)))


@lowers("SelectV2")
def select(call: Call) -> Operand:
    (condition, x, y), wrap = call.aligned(0, 1, 2)
    return wrap(call.emit(core.Where(condition, x, y)))


@lowers("Select")
def select_rows(call: Call) -> Operand:
    """As SelectV2, but a vector condition picks whole rows."""
    condition, rank = call.operand(0), call.rank(1)
    if condition.rank == rank or condition.rank == 0:
        return select(call)
    rows = call.reshape(call.value(0), (*condition.shape, *(1,) * (rank - condition.rank)))
    return Operand.of(call.emit(core.Where(rows, call.value(1), call.value(2))))


@lowers("Lgamma", "Digamma", "Erfinv", "Ndtri")
def special(call: Call) -> Operand | None:
    """Special functions that the IR has under the name of the op; None where it has none."""
    make: Any = getattr(core, call.op_type, None)
    if make is None:
        return None
    x, _, wrap = call.held(0)
    op: Op = make(x)
    return wrap(call.emit(op))


@lowers("L2Loss")
def l2_loss(call: Call) -> Value:
    """Half the sum of squares."""
    x = call.value(0)
    total = call.step(core.Sum(call.step(core.Mul(x, x)), axes=tuple(range(x.shaped.rank))))
    return call.emit(core.Mul(total, call.scalar_like(0.5, x)))
