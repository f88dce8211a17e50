"""core: elementwise arithmetic, comparison, logic, selection and casts."""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import ClassVar, Literal

from plait.ir.op import Op, abstract, op, shaped
from plait.ir.ops.common import Activation, broadcast, computable, dense, floating, numeric, same_dtype
from plait.ir.types import ShapedType, TensorType, Type, boolean
from plait.ir.value import Value


@abstract
class Unary(Op):
    """Base of ops that map each element of one numeric tensor; the result has the operand's type."""

    x: Value

    def infer(self) -> tuple[Type, ...]:
        return (numeric(self, self.x, "x"),)


@abstract
class FloatUnary(Unary):
    """Base of ops that map each element of one floating-point tensor."""

    def infer(self) -> tuple[Type, ...]:
        return (floating(self, self.x, "x"),)


@abstract
class Binary(Op):
    """Base of ops on two tensors of one element type, broadcast against each other."""

    commutative: ClassVar[bool] = False
    left: Value
    right: Value

    def infer(self) -> tuple[Type, ...]:
        a, b = numeric(self, self.left, "left"), numeric(self, self.right, "right")
        same_dtype(self, self.left, self.right)
        return (a.with_shape(broadcast(self, a, b, (self.left, self.right))),)


@abstract
class Compare(Binary):
    """Base of comparisons; the result is boolean."""

    def infer(self) -> tuple[Type, ...]:
        a, b = dense(self, self.left, "left"), dense(self, self.right, "right")
        same_dtype(self, self.left, self.right)
        computable(self, self.left, a, "left")
        return (TensorType(boolean, broadcast(self, a, b, (self.left, self.right))),)


@abstract
class Logical(Binary):
    """Base of logic on booleans and bitwise operations on integers."""

    def infer(self) -> tuple[Type, ...]:
        a, b = dense(self, self.left, "left"), dense(self, self.right, "right")
        if same_dtype(self, self.left, self.right).is_float:
            raise self.error(f"{self.left} is {a}", why="booleans or integers are wanted")
        return (a.with_shape(broadcast(self, a, b, (self.left, self.right))),)


# -- one operand ------------------------------------------------------------------
@op("core.neg")
class Neg(Unary):
    """-x."""


@op("core.abs")
class Abs(Unary):
    """|x|."""


@op("core.sign")
class Sign(Unary):
    """-1, 0 or 1 by the sign of x."""


@op("core.exp")
class Exp(FloatUnary):
    """e to the power x."""


@op("core.expm1")
class Expm1(FloatUnary):
    """e to the power x, minus 1, exact near zero."""


@op("core.log")
class Log(FloatUnary):
    """Natural logarithm of x."""


@op("core.log1p")
class Log1p(FloatUnary):
    """Natural logarithm of 1 + x, exact near zero."""


@op("core.sqrt")
class Sqrt(FloatUnary):
    """Square root of x."""


@op("core.rsqrt")
class Rsqrt(FloatUnary):
    """1 / sqrt(x)."""


@op("core.reciprocal")
class Reciprocal(FloatUnary):
    """1 / x."""


@op("core.sin")
class Sin(FloatUnary):
    """Sine of x in radians."""


@op("core.cos")
class Cos(FloatUnary):
    """Cosine of x in radians."""


@op("core.tan")
class Tan(FloatUnary):
    """Tangent of x in radians."""


@op("core.asin")
class Asin(FloatUnary):
    """Inverse sine of x."""


@op("core.acos")
class Acos(FloatUnary):
    """Inverse cosine of x."""


@op("core.atan")
class Atan(FloatUnary):
    """Inverse tangent of x."""


@op("core.sinh")
class Sinh(FloatUnary):
    """Hyperbolic sine of x."""


@op("core.cosh")
class Cosh(FloatUnary):
    """Hyperbolic cosine of x."""


@op("core.asinh")
class Asinh(FloatUnary):
    """Inverse hyperbolic sine of x."""


@op("core.acosh")
class Acosh(FloatUnary):
    """Inverse hyperbolic cosine of x."""


@op("core.atanh")
class Atanh(FloatUnary):
    """Inverse hyperbolic tangent of x."""


@op("core.erf")
class Erf(FloatUnary):
    """Gauss error function of x."""


@op("core.floor")
class Floor(FloatUnary):
    """Largest integer not above x."""


@op("core.ceil")
class Ceil(FloatUnary):
    """Smallest integer not below x."""


@op("core.round")
class Round(FloatUnary):
    """Nearest integer to x, halves to even."""


@op("core.trunc")
class Trunc(FloatUnary):
    """x without its fraction."""


@op("core.not")
class Not(Op):
    """Logical not of booleans, bitwise not of integers."""

    x: Value

    def infer(self) -> tuple[Type, ...]:
        kind = dense(self, self.x, "x")
        if kind.dtype.is_float:
            raise self.error(f"{self.x} is {kind}", why="booleans or integers are wanted")
        return (kind,)


@op("core.is_nan")
class IsNan(Op):
    """Whether x is not a number, as a boolean tensor."""

    x: Value

    def infer(self) -> tuple[Type, ...]:
        return (TensorType(boolean, floating(self, self.x, "x").shape),)


@op("core.is_inf")
class IsInf(Op):
    """Whether x is infinite, as a boolean tensor."""

    x: Value

    def infer(self) -> tuple[Type, ...]:
        return (TensorType(boolean, floating(self, self.x, "x").shape),)


@op("core.cast")
class Cast(Op):
    """The operand in another element type; floats go to integers by truncation, spikes to 0 and 1.

    Integers wrap around.  Floats round, halves to even; a magnitude beyond the largest
    number of a minifloat becomes that number with `saturate`, else infinity or NaN as the
    type has them (f6 and f4 have neither and always saturate; their NaN becomes -0).  f8e8m0fnu
    holds the power of two of the magnitude, rounded by `round_mode`.
    """

    x: Value
    _: KW_ONLY
    saturate: bool = False
    round_mode: Literal["nearest", "up", "down"] = "nearest"
    out: TensorType

    def infer(self) -> tuple[Type, ...]:
        kind = shaped(self, self.x, "x")
        if not isinstance(self.out, TensorType) or self.out.shape != kind.shape:
            raise self.error(f"cannot cast {self.x} : {kind} to {self.out}", why="a cast keeps the shape")
        if self.saturate and not self.out.dtype.is_minifloat:
            raise self.error(f"saturate with a result of {self.out}", why="only minifloats saturate")
        if self.round_mode != "nearest" and self.out.dtype.name != "f8e8m0fnu":
            raise self.error(f"round_mode with a result of {self.out}", why="only f8e8m0fnu has it")
        return (self.out,)


@op("core.bit_cast")
class BitCast(Op):
    """The bits of each element read as another element type of the same width."""

    x: Value
    _: KW_ONLY
    out: TensorType

    def infer(self) -> tuple[Type, ...]:
        kind = dense(self, self.x, "x")
        if not isinstance(self.out, TensorType) or self.out.shape != kind.shape:
            raise self.error(f"{self.x} : {kind} has no bits {self.out}", why="a bit cast keeps the shape")
        if "bool" in (kind.dtype.kind, self.out.dtype.kind) or kind.dtype.bits != self.out.dtype.bits:
            raise self.error(
                f"{self.x} : {kind} has no bits {self.out}", why="both are numbers of one width in bits"
            )
        return (self.out,)


@op("core.clamp")
class Clamp(Op):
    """min(max(x, low), high); an absent bound does not limit."""

    x: Value
    _: KW_ONLY
    low: float | None = None
    high: float | None = None

    def infer(self) -> tuple[Type, ...]:
        if self.low is not None and self.high is not None and self.low > self.high:
            raise self.error(f"low {self.low} exceeds high {self.high}")
        return (numeric(self, self.x, "x"),)


# -- two operands ------------------------------------------------------------------
@abstract
class Arithmetic(Binary):
    """Base of the arithmetic that can apply an activation to its result."""

    _: KW_ONLY
    act: Activation = "none"
    act_alpha: float = 0.01

    def infer(self) -> tuple[Type, ...]:
        (kind,) = super().infer()
        if self.act not in ("none", "relu") and not numeric(self, self.left, "left").dtype.is_float:
            raise self.error(
                f"activation {self.act} on {kind}", why="it is defined on floating-point tensors"
            )
        return (kind,)


@op("core.add")
class Add(Arithmetic):
    """act(left + right)."""

    commutative = True


@op("core.sub")
class Sub(Arithmetic):
    """act(left - right)."""


@op("core.mul")
class Mul(Arithmetic):
    """act(left * right)."""

    commutative = True


@op("core.div")
class Div(Arithmetic):
    """act(left / right); on integers the quotient is truncated toward zero."""


@op("core.floor_div")
class FloorDiv(Binary):
    """Quotient rounded down."""


@op("core.remainder")
class Remainder(Binary):
    """left - floor(left / right) * right: the sign follows `right`."""


@op("core.fmod")
class Fmod(Binary):
    """left - trunc(left / right) * right, exactly: the sign follows `left`."""


@op("core.pow")
class Pow(Binary):
    """left to the power right."""


@op("core.maximum")
class Maximum(Binary):
    """The larger of two elements; NaN wins."""

    commutative = True


@op("core.minimum")
class Minimum(Binary):
    """The smaller of two elements; NaN wins."""

    commutative = True


@op("core.atan2")
class Atan2(Binary):
    """Angle of the point (right, left) in radians."""

    def infer(self) -> tuple[Type, ...]:
        floating(self, self.left, "left")
        return super().infer()


@op("core.eq")
class Eq(Compare):
    """left == right."""

    commutative = True


@op("core.ne")
class Ne(Compare):
    """left != right."""

    commutative = True


@op("core.lt")
class Lt(Compare):
    """left < right."""


@op("core.le")
class Le(Compare):
    """left <= right."""


@op("core.gt")
class Gt(Compare):
    """left > right."""


@op("core.ge")
class Ge(Compare):
    """left >= right."""


@op("core.and")
class And(Logical):
    """Logical and of booleans, bitwise and of integers."""

    commutative = True


@op("core.or")
class Or(Logical):
    """Logical or of booleans, bitwise or of integers."""

    commutative = True


@op("core.xor")
class Xor(Logical):
    """Exclusive or of booleans, bitwise of integers."""

    commutative = True


@abstract
class Shift(Logical):
    """Base of shifts of integers by `right` bits; a shift by a negative number is one by all bits."""

    def infer(self) -> tuple[Type, ...]:
        numeric(self, self.left, "left")
        return super().infer()


@op("core.shift_left")
class ShiftLeft(Shift):
    """left * 2^right; bits beyond the width are lost, so that a shift by all bits gives 0."""


@op("core.shift_right")
class ShiftRight(Shift):
    """floor(left / 2^right): signed integers keep their sign, and a shift by all bits gives -1 or 0."""


@op("core.where")
class Where(Op):
    """`x` where the condition holds, else `y`; all three broadcast."""

    condition: Value
    x: Value
    y: Value

    def infer(self) -> tuple[Type, ...]:
        condition = dense(self, self.condition, "condition")
        if condition.dtype != boolean:
            raise self.error(f"condition {self.condition} is {condition}", why="it must be boolean")
        x, y = dense(self, self.x, "x"), dense(self, self.y, "y")
        same_dtype(self, self.x, self.y)
        chosen: ShapedType = x.with_shape(broadcast(self, x, y, (self.x, self.y)))
        return (x.with_shape(broadcast(self, condition, chosen, (self.condition, self.x))),)
