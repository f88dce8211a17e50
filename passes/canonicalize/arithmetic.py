"""Canonical arithmetic: neutral elements, signs, casts, and constants on the right."""

from __future__ import annotations

import numpy as np

from plait.ir import DType, TensorType, Value
from plait.ir.ops import core
from plait.ir.ops.core.elementwise import Binary
from plait.ir.ops.core.reduce import Reduction
from plait.passes.canonicalize.definition import Canonicalize
from plait.passes.constants import is_constant, uniform
from plait.passes.rewriter import Replace, Rewriter, Skip, rule

#: Bits of the significand, the hidden one included.
_SIGNIFICAND = {"f64": 53, "f32": 24, "f16": 11, "bf16": 8}


@rule(Canonicalize, "constant op x => x op constant")
def constant_to_the_right(op: Binary, rw: Rewriter) -> Replace | Skip:
    """Operands of a commutative op in one order.

    Given:
        @c : f32[4]
        %x : f32[B,4]
        %y = core.add(@c, %x) : f32[B,4]
        return %y
    Result:
        %y = core.add(%x, @c) : f32[B,4]
        return %y
    """
    if not op.commutative:
        return Skip(f"{op.opname} is not commutative")
    if not is_constant(op.left) or is_constant(op.right):
        return Skip("no constant stands left of a value")
    return rw.replace(op, with_=op.evolve(left=op.right, right=op.left))


def _neutral(op: Binary, rw: Rewriter, element: float) -> Replace | Skip:
    """Replace `x op element` by x."""
    if op.attributes():
        return Skip(f"{op.result} applies an activation")
    known = uniform(op.right)
    if known is None:
        return Skip(f"{op.right} is not known to be one number")
    if known != element:
        return Skip(f"{op.right} is {known}, not {element:g}")
    if op.left.type != op.result.type:
        return Skip(f"it broadcasts {op.left.type} to {op.result.type}")
    return rw.replace_value(op.result, op.left)


@rule(Canonicalize, "x + 0 => x")
def add_zero(op: core.Add, rw: Rewriter) -> Replace | Skip:
    """Adding zero.

    Given:
        %x : f32[B,4]
        %zero = core.full() {value=0.0} : f32[]
        %y = core.add(%x, %zero) : f32[B,4]
        return %y
    Result:
        return %x
    """
    return _neutral(op, rw, 0.0)


@rule(Canonicalize, "x - 0 => x")
def subtract_zero(op: core.Sub, rw: Rewriter) -> Replace | Skip:
    """Subtracting zero.

    Given:
        %x : f32[B,4]
        %zero = core.full() {value=0.0} : f32[]
        %y = core.sub(%x, %zero) : f32[B,4]
        return %y
    Result:
        return %x
    """
    return _neutral(op, rw, 0.0)


@rule(Canonicalize, "x * 1 => x")
def multiply_by_one(op: core.Mul, rw: Rewriter) -> Replace | Skip:
    """Multiplying by one, which is also what dropout is at inference.

    Given:
        %x : f32[B,4]
        %one = core.full() {value=1.0} : f32[4]
        %y = core.mul(%x, %one) : f32[B,4]
        return %y
    Result:
        return %x
    """
    return _neutral(op, rw, 1.0)


@rule(Canonicalize, "x / 1 => x")
def divide_by_one(op: core.Div, rw: Rewriter) -> Replace | Skip:
    """Dividing by one.

    Given:
        %x : i32[B]
        %one = core.full() {value=1} : i32[]
        %y = core.div(%x, %one) : i32[B]
        return %y
    Result:
        return %x
    """
    return _neutral(op, rw, 1.0)


@rule(Canonicalize, "x ** 1 => x")
def power_of_one(op: core.Pow, rw: Rewriter) -> Replace | Skip:
    """The first power.

    Given:
        %x : f32[B]
        %one = core.full() {value=1.0} : f32[]
        %y = core.pow(%x, %one) : f32[B]
        return %y
    Result:
        return %x
    """
    return _neutral(op, rw, 1.0)


@rule(Canonicalize, "x ** 2 => x * x")
def square(op: core.Pow, rw: Rewriter) -> Replace | Skip:
    """The second power, which as a power costs a logarithm and an exponential.

    Given:
        %x : f32[B]
        %two = core.full() {value=2.0} : f32[]
        %y = core.pow(%x, %two) : f32[B]
        return %y
    Result:
        %y = core.mul(%x, %x) : f32[B]
        return %y
    """
    if uniform(op.right) != 2:
        return Skip(f"{op.right} is not known to be 2")
    if op.left.type != op.result.type:
        return Skip(f"it broadcasts {op.left.type} to {op.result.type}")
    return rw.replace(op, with_=core.Mul(op.left, op.left))


@rule(Canonicalize, "x * -1 => -x")
def multiply_by_minus_one(op: core.Mul, rw: Rewriter) -> Replace | Skip:
    """A change of sign.

    Given:
        %x : f32[B,4]
        %m = core.full() {value=-1.0} : f32[]
        %y = core.mul(%x, %m) : f32[B,4]
        return %y
    Result:
        %y = core.neg(%x) : f32[B,4]
        return %y
    """
    if op.act != "none":
        return Skip(f"{op.result} applies {op.act}")
    if uniform(op.right) != -1:
        return Skip(f"{op.right} is not known to be -1")
    if op.left.type != op.result.type:
        return Skip(f"it broadcasts {op.left.type} to {op.result.type}")
    return rw.replace(op, with_=core.Neg(op.left))


@rule(Canonicalize, "-(-x) => x")
def double_negation(op: core.Neg, rw: Rewriter) -> Replace | Skip:
    """Two changes of sign.

    Given:
        %x : f32[B]
        %y = core.neg(%x) : f32[B]
        %z = core.neg(%y) : f32[B]
        return %z
    Result:
        return %x
    """
    inner = op.x.producer
    if not isinstance(inner, core.Neg):
        return Skip(f"{op.x} is no core.neg")
    return rw.replace_value(op.result, inner.x)


@rule(Canonicalize, "x + (-y) => x - y")
def add_negative(op: core.Add, rw: Rewriter) -> Replace | Skip:
    """A sum with a negated term.

    Given:
        %x : f32[B]
        %y : f32[B]
        %n = core.neg(%y) : f32[B]
        %z = core.add(%x, %n) {act="relu"} : f32[B]
        return %z
    Result:
        %z = core.sub(%x, %y) {act="relu"} : f32[B]
        return %z
    """
    inner = op.right.producer
    if not isinstance(inner, core.Neg):
        return Skip(f"{op.right} is no core.neg")
    return rw.replace(
        op, with_=core.Sub(op.left, inner.x, act=op.act, act_alpha=op.act_alpha), matched=(inner,)
    )


@rule(Canonicalize, "where(true, x, y) => x; where(false, x, y) => y")
def decided_where(op: core.Where, rw: Rewriter) -> Replace | Skip:
    """A choice that is known.

    Given:
        %x : f32[B]
        %y : f32[B]
        %c = core.full() {value=false} : bool[]
        %z = core.where(%c, %x, %y) : f32[B]
        return %z
    Result:
        return %y
    """
    known = uniform(op.condition)
    if known is None:
        return Skip(f"{op.condition} is not known to be one truth value")
    chosen = op.x if known else op.y
    if chosen.type != op.result.type:
        return Skip(f"it broadcasts {chosen.type} to {op.result.type}")
    return rw.replace_value(op.result, chosen)


@rule(Canonicalize, "reduction over no axes => x")
def empty_reduction(op: Reduction, rw: Rewriter) -> Replace | Skip:
    """A reduction without axes.

    Given:
        %x : f32[B,4]
        %y = core.sum(%x) {axes=[]} : f32[B,4]
        return %y
    Result:
        return %x
    """
    if op.axes:
        return Skip(f"it reduces axes {list(op.axes)}")
    return rw.replace_value(op.result, op.x)


# -- casts -------------------------------------------------------------------------
@rule(Canonicalize, "cast(x) to its own type => x")
def idle_cast(op: core.Cast, rw: Rewriter) -> Replace | Skip:
    """A cast to the type that the operand has.

    Given:
        %x : f32[B]
        %y = core.cast(%x) : f32[B]
        return %y
    Result:
        return %x
    """
    if op.x.type != op.out:
        return Skip(f"it changes {op.x.type} to {op.out}")
    return rw.replace_value(op.result, op.x)


@rule(Canonicalize, "cast(cast(x)) => cast(x)")
def double_cast(op: core.Cast, rw: Rewriter) -> Replace | Skip:
    """Two casts of which the first loses nothing.

    Given:
        %x : u8[B]
        %y = core.cast(%x) : i32[B]
        %z = core.cast(%y) : f32[B]
        return %z
    Result:
        %z = core.cast(%x) : f32[B]
        return %z
    """
    inner = op.x.producer
    if not isinstance(inner, core.Cast) or not isinstance(inner.x.type, TensorType):
        return Skip(f"{op.x} is no core.cast of a dense tensor")
    first, second = inner.x.type.dtype, inner.out.dtype
    if not holds(second, first):
        return Skip(f"{second} does not hold every {first}")
    return rw.replace(op, with_=op.evolve(x=inner.x), matched=(inner,))


def holds(wide: DType, narrow: DType) -> bool:
    """Whether every value of element type `narrow` is one of `wide`, exactly."""
    if wide == narrow:
        return True
    if "complex" in (wide.kind, narrow.kind) or wide.kind == "bool":
        return False
    if narrow.kind == "bool":
        return True
    if wide.is_minifloat:
        return False
    if narrow.name == "f8e8m0fnu":  # its exponents are those of f32
        return wide.name in ("bf16", "f32", "f64")
    if narrow.is_float:
        return wide.is_float and wide.bits > narrow.bits
    magnitude = narrow.bits - (narrow.kind == "int")
    if wide.is_float:
        return magnitude <= _SIGNIFICAND[wide.name]
    return magnitude <= wide.bits - (wide.kind == "int") and (narrow.kind == "uint" or wide.kind == "int")


@rule(Canonicalize, "cast(full) => full")
def cast_of_full(op: core.Cast, rw: Rewriter) -> Replace | Skip:
    """A cast of a fill.

    Given:
        %x = core.full() {value=2.7} : f32[4]
        %y = core.cast(%x) : i32[4]
        return %y
    Result:
        %y = core.full() {value=2} : i32[4]
        return %y
    """
    inner = op.x.producer
    if not isinstance(inner, core.Full):
        return Skip(f"{op.x} is no core.full")
    value = recast(inner.value, inner.out.dtype, op.out.dtype)
    if value is None:
        return Skip(f"{inner.value} has no exact meaning as {op.out.dtype}")
    return rw.replace(op, with_=core.Full(value=value, out=op.out))


def recast(value: float | int | bool, source: DType, target: DType) -> float | int | bool | None:
    """A number after a cast; None where the cast is undefined, as from infinity to an integer."""
    if "complex" in (source.kind, target.kind) or target.is_minifloat:
        return None
    held = float(np.asarray(value, source.numpy)) if source.is_float else int(value)
    if target.kind == "bool":
        return bool(held)
    if target.is_float:
        return float(np.asarray(held).astype(target.numpy))
    if not np.isfinite(held):
        return None
    low = -(1 << (target.bits - 1)) if target.kind == "int" else 0
    high = (1 << (target.bits - (target.kind == "int"))) - 1
    return int(held) if low <= int(held) <= high else None


def is_float(value: Value) -> bool:
    """Whether a value is a dense floating-point tensor."""
    return isinstance(value.type, TensorType) and value.type.dtype.is_float
