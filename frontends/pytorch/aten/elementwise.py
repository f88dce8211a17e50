"""Rules: elementwise arithmetic, comparison, logic, selection and casts."""

from __future__ import annotations

from plait.frontends.pytorch.aten.fourier import exponential, magnitude
from plait.frontends.pytorch.builder import Builder, Operand, Scalar
from plait.frontends.pytorch.registry import register
from plait.ir import types as t
from plait.ir.dims import Dim
from plait.ir.ops import core, nn
from plait.ir.ops.core.elementwise import Binary, Compare, FloatUnary
from plait.ir.types import DType
from plait.ir.value import Value

_FLOAT_UNARY: dict[str, type[FloatUnary]] = {
    "exp": core.Exp,
    "expm1": core.Expm1,
    "log": core.Log,
    "log1p": core.Log1p,
    "sqrt": core.Sqrt,
    "rsqrt": core.Rsqrt,
    "reciprocal": core.Reciprocal,
    "sin": core.Sin,
    "cos": core.Cos,
    "tan": core.Tan,
    "asin": core.Asin,
    "acos": core.Acos,
    "atan": core.Atan,
    "sinh": core.Sinh,
    "cosh": core.Cosh,
    "asinh": core.Asinh,
    "acosh": core.Acosh,
    "atanh": core.Atanh,
    "erf": core.Erf,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}
_ROUNDING: dict[str, type[FloatUnary]] = {
    "floor": core.Floor,
    "ceil": core.Ceil,
    "round": core.Round,
    "trunc": core.Trunc,
    "fix": core.Trunc,
}
_COMPARE: dict[str, type[Compare]] = {
    "eq": core.Eq,
    "ne": core.Ne,
    "lt": core.Lt,
    "le": core.Le,
    "gt": core.Gt,
    "ge": core.Ge,
}


def _define_float_unary(name: str, op: type[FloatUnary]) -> None:
    @register(f"aten.{name}.default")
    def rule(build: Builder, x: Value) -> Value:
        if op is core.Exp and build.kind(x).dtype.kind == "complex":
            return exponential(build, x)
        return build.emit(op(build.cast(x, build.out.dtype)))


def _define_rounding(name: str, op: type[FloatUnary]) -> None:
    @register(f"aten.{name}.default")
    def rule(build: Builder, x: Value) -> Value:
        return build.emit(op(x)) if build.kind(x).dtype.is_float else x


def _define_compare(name: str, op: type[Compare]) -> None:
    @register(f"aten.{name}.Tensor", f"aten.{name}.Scalar")
    def rule(build: Builder, left: Value, right: Operand) -> Value:
        a, b = build.common(left, right)
        return build.emit(op(a, b))


def _define_binary(op: type[Binary], *overloads: str) -> None:
    @register(*overloads)
    def rule(build: Builder, left: Operand, right: Operand) -> Value:
        dtype = build.out.dtype
        return build.emit(op(build.operand(left, dtype), build.operand(right, dtype)))


for _name, _op in _FLOAT_UNARY.items():
    _define_float_unary(_name, _op)
for _name, _rounding in _ROUNDING.items():
    _define_rounding(_name, _rounding)
for _name, _compare in _COMPARE.items():
    _define_compare(_name, _compare)
_define_binary(
    core.Remainder, "aten.remainder.Tensor", "aten.remainder.Scalar", "aten.remainder.Scalar_Tensor"
)
_define_binary(core.Fmod, "aten.fmod.Tensor", "aten.fmod.Scalar")
_define_binary(
    core.ShiftLeft, "aten.bitwise_left_shift.Tensor", "aten.bitwise_left_shift.Tensor_Scalar",
    "aten.__lshift__.Tensor", "aten.__lshift__.Scalar",
)  # fmt: skip
_define_binary(
    core.ShiftRight, "aten.bitwise_right_shift.Tensor", "aten.bitwise_right_shift.Tensor_Scalar",
    "aten.__rshift__.Tensor", "aten.__rshift__.Scalar",
)  # fmt: skip
_define_binary(core.Maximum, "aten.maximum.default", "aten.fmax.default", "aten.max.other")
_define_binary(core.Minimum, "aten.minimum.default", "aten.fmin.default", "aten.min.other")
_define_binary(core.Atan2, "aten.atan2.default", "aten.arctan2.default")
_define_binary(core.FloorDiv, "aten.floor_divide.default", "aten.floor_divide.Scalar")


# -- arithmetic -----------------------------------------------------------------------
def scaled(build: Builder, x: Operand, alpha: Scalar) -> Operand:
    """alpha * x in the element type of the result."""
    if alpha == 1:
        return x
    return build.mul(build.operand(x, build.out.dtype), alpha)


@register("aten.add.Tensor", "aten.add.Scalar")
def add(build: Builder, left: Operand, right: Operand, alpha: Scalar = 1) -> Value:
    dtype = build.out.dtype
    a, b = build.operand(left, dtype), build.operand(scaled(build, right, alpha), dtype)
    return build.emit(core.Or(a, b) if dtype == t.boolean else core.Add(a, b))


@register("aten.sub.Tensor", "aten.sub.Scalar", "aten.subtract.Tensor")
def sub(build: Builder, left: Operand, right: Operand, alpha: Scalar = 1) -> Value:
    dtype = build.out.dtype
    return build.emit(core.Sub(build.operand(left, dtype), build.operand(scaled(build, right, alpha), dtype)))


@register("aten.rsub.Tensor", "aten.rsub.Scalar")
def rsub(build: Builder, left: Operand, right: Operand, alpha: Scalar = 1) -> Value:
    return sub(build, right, left, alpha)


@register("aten.mul.Tensor", "aten.mul.Scalar", "aten.multiply.Tensor")
def mul(build: Builder, left: Operand, right: Operand) -> Value:
    dtype = build.out.dtype
    a, b = build.operand(left, dtype), build.operand(right, dtype)
    return build.emit(core.And(a, b) if dtype == t.boolean else core.Mul(a, b))


@register(
    "aten.div.Tensor", "aten.div.Scalar", "aten.div.Tensor_mode", "aten.div.Scalar_mode",
    "aten.divide.Tensor", "aten.true_divide.Tensor",
)  # fmt: skip
def div(build: Builder, left: Operand, right: Operand, rounding_mode: str | None = None) -> Value:
    dtype = build.out.dtype
    a, b = build.operand(left, dtype), build.operand(right, dtype)
    if rounding_mode == "floor":
        return build.emit(core.FloorDiv(a, b))
    quotient = build.emit(core.Div(a, b))
    return build.emit(core.Trunc(quotient)) if rounding_mode == "trunc" and dtype.is_float else quotient


@register("aten.pow.Tensor_Scalar", "aten.pow.Tensor_Tensor", "aten.pow.Scalar")
def power(build: Builder, base: Operand, exponent: Operand) -> Value:
    dtype = build.out.dtype
    x = build.operand(base, dtype)
    if exponent == 2:
        return build.emit(core.Mul(x, x))
    if exponent == 0.5:
        return build.emit(core.Sqrt(x))
    if exponent == -0.5:
        return build.emit(core.Rsqrt(x))
    return build.emit(core.Pow(x, build.operand(exponent, dtype)))


@register("aten.neg.default")
def neg(build: Builder, x: Value) -> Value:
    return build.emit(core.Neg(x))


@register("aten.atan2.out")
def atan2_into(build: Builder, left: Value, right: Value, *, out: Value) -> Value:
    dtype = build.out.dtype
    return build.emit(core.Atan2(build.operand(left, dtype), build.operand(right, dtype)))


@register("aten.abs.default")
def absolute(build: Builder, x: Value) -> Value:
    if build.kind(x).dtype.kind == "complex":
        return magnitude(build, x)
    return build.emit(core.Abs(x))


@register("aten.sign.default", "aten.sgn.default")
def sign(build: Builder, x: Value) -> Value:
    return build.emit(core.Sign(x))


@register("aten.square.default")
def square(build: Builder, x: Value) -> Value:
    return build.emit(core.Mul(x, x))


@register("aten.hypot.default", "prims.hypot.default")
def hypot(build: Builder, left: Value, right: Value) -> Value:
    return build.emit(core.Sqrt(build.add(build.mul(left, left), build.mul(right, right))))


@register("aten.exp2.default")
def exp2(build: Builder, x: Value) -> Value:
    dtype = build.out.dtype
    return build.emit(core.Pow(build.full(2, dtype), build.cast(x, dtype)))


def _logarithm(build: Builder, x: Value, scale: float) -> Value:
    return build.mul(build.emit(core.Log(build.cast(x, build.out.dtype))), scale)


@register("aten.log2.default")
def log2(build: Builder, x: Value) -> Value:
    return _logarithm(build, x, 1.4426950408889634)  # 1 / ln 2


@register("aten.log10.default")
def log10(build: Builder, x: Value) -> Value:
    return _logarithm(build, x, 0.4342944819032518)  # 1 / ln 10


@register("aten.erfc.default")
def erfc(build: Builder, x: Value) -> Value:
    dtype = build.out.dtype
    return build.sub(build.full(1, dtype), build.emit(core.Erf(build.cast(x, dtype))))


@register("aten.frac.default")
def frac(build: Builder, x: Value) -> Value:
    return build.sub(x, build.emit(core.Trunc(x)))


@register("aten.addcmul.default")
def addcmul(build: Builder, x: Value, left: Value, right: Value, value: Scalar = 1) -> Value:
    product = mul(build, left, right)
    return add(build, x, product, value)


@register("aten.addcdiv.default")
def addcdiv(build: Builder, x: Value, left: Value, right: Value, value: Scalar = 1) -> Value:
    return add(build, x, div(build, left, right), value)


@register("aten.lerp.Scalar", "aten.lerp.Tensor")
def lerp(build: Builder, start: Value, end: Value, weight: Operand) -> Value:
    return build.add(start, build.mul(build.sub(end, start), weight))


@register("aten.clamp.default", "aten.clamp.Tensor")
def clamp(build: Builder, x: Value, min: Operand | None = None, max: Operand | None = None) -> Value:
    dtype = build.out.dtype
    y = build.cast(x, dtype)
    if any(isinstance(bound, (Value, Dim)) for bound in (min, max)):
        if min is not None:
            y = build.emit(core.Maximum(y, build.operand(min, dtype)))
        return y if max is None else build.emit(core.Minimum(y, build.operand(max, dtype)))
    low = None if min is None else float(min)  # type: ignore[arg-type]  # a Python number here
    high = None if max is None else float(max)  # type: ignore[arg-type]  # a Python number here
    if low is not None and high is not None and low > high:
        return build.full(high, dtype, build.out.shape)  # torch lets the upper bound win
    return build.emit(core.Clamp(y, low=low, high=high))


@register("aten.clamp_min.default", "aten.clamp_min.Tensor")
def clamp_min(build: Builder, x: Value, min: Operand) -> Value:
    return clamp(build, x, min, None)


@register("aten.clamp_max.default", "aten.clamp_max.Tensor")
def clamp_max(build: Builder, x: Value, max: Operand) -> Value:
    return clamp(build, x, None, max)


# -- logic --------------------------------------------------------------------------------
@register("aten.bitwise_and.Tensor", "aten.bitwise_and.Scalar", "aten.__and__.Tensor")
def bitwise_and(build: Builder, left: Value, right: Operand) -> Value:
    a, b = build.common(left, right)
    return build.emit(core.And(a, b))


@register("aten.bitwise_or.Tensor", "aten.bitwise_or.Scalar", "aten.__or__.Tensor")
def bitwise_or(build: Builder, left: Value, right: Operand) -> Value:
    a, b = build.common(left, right)
    return build.emit(core.Or(a, b))


@register("aten.bitwise_xor.Tensor", "aten.bitwise_xor.Scalar", "aten.__xor__.Tensor")
def bitwise_xor(build: Builder, left: Value, right: Operand) -> Value:
    a, b = build.common(left, right)
    return build.emit(core.Xor(a, b))


@register("aten.bitwise_not.default")
def bitwise_not(build: Builder, x: Value) -> Value:
    return build.emit(core.Not(x))


@register("aten.logical_and.default")
def logical_and(build: Builder, left: Value, right: Value) -> Value:
    return build.emit(core.And(build.cast(left, t.boolean), build.cast(right, t.boolean)))


@register("aten.logical_or.default")
def logical_or(build: Builder, left: Value, right: Value) -> Value:
    return build.emit(core.Or(build.cast(left, t.boolean), build.cast(right, t.boolean)))


@register("aten.logical_xor.default")
def logical_xor(build: Builder, left: Value, right: Value) -> Value:
    return build.emit(core.Xor(build.cast(left, t.boolean), build.cast(right, t.boolean)))


@register("aten.logical_not.default")
def logical_not(build: Builder, x: Value) -> Value:
    return build.emit(core.Not(build.cast(x, t.boolean)))


@register("aten.isnan.default")
def isnan(build: Builder, x: Value) -> Value:
    if not build.kind(x).dtype.is_float:
        return build.full(False, t.boolean, build.out.shape)
    return build.emit(core.IsNan(x))


@register("aten.isinf.default")
def isinf(build: Builder, x: Value) -> Value:
    if not build.kind(x).dtype.is_float:
        return build.full(False, t.boolean, build.out.shape)
    return build.emit(core.IsInf(x))


@register("aten.isfinite.default")
def isfinite(build: Builder, x: Value) -> Value:
    return build.emit(core.Not(build.emit(core.Or(isnan(build, x), isinf(build, x)))))


# -- selection ------------------------------------------------------------------------------
@register("aten.where.self", "aten.where.ScalarOther", "aten.where.ScalarSelf", "aten.where.Scalar")
def where(build: Builder, condition: Value, x: Operand, y: Operand) -> Value:
    dtype = build.out.dtype
    test = build.cast(condition, t.boolean)
    return build.emit(core.Where(test, build.operand(x, dtype), build.operand(y, dtype)))


@register("aten.masked_fill.Scalar", "aten.masked_fill.Tensor")
def masked_fill(build: Builder, x: Value, mask: Value, value: Operand) -> Value:
    return where(build, mask, value, x)


# -- casts and copies ---------------------------------------------------------------------------
@register(
    "aten.clone.default", "aten.detach.default", "aten.alias.default", "aten.contiguous.default",
    "aten.lift_fresh_copy.default", "aten.lift_fresh.default", "aten.positive.default",
    "aten.resolve_conj.default", "aten.resolve_neg.default",
)  # fmt: skip
def identity(build: Builder, x: Value) -> Value:
    return x


@register("aten.dropout.default", "aten.feature_dropout.default", "aten.alpha_dropout.default")
def dropout(build: Builder, x: Value, p: float, train: bool) -> Value:
    if train and p:
        build.refuse(f"p={p} in training mode")
    return x


@register("aten._to_copy.default", "aten.to.dtype", "aten.to.dtype_layout", "aten.to.device", "aten.to.other")
def to_copy(build: Builder, x: Value, *_: object, dtype: DType | None = None) -> Value:
    return build.cast(x, build.out.dtype)


@register("aten.type_as.default", "prims.convert_element_type.default")
def convert(build: Builder, x: Value, _: object) -> Value:
    return build.cast(x, build.out.dtype)


@register("aten.copy.default")
def copy(build: Builder, x: Value, source: Value, non_blocking: bool = False) -> Value:
    return build.broadcast(build.cast(source, build.kind(x).dtype), build.kind(x).shape)


@register("aten.fill.Scalar", "aten.fill.Tensor")
def fill(build: Builder, x: Value, value: Operand) -> Value:
    kind = build.kind(x)
    return build.broadcast(build.operand(value, kind.dtype), kind.shape)


# -- arithmetic on sizes that is no size itself: double-precision scalars ---------------------------
@register("torch.sym_float")
def sym_float(build: Builder, x: Operand) -> Value:
    return build.operand(x, t.f64)


@register("operator.truediv")
def size_quotient(build: Builder, left: Operand, right: Operand) -> Value:
    return build.div(build.operand(left, t.f64), right)


@register("operator.mul")
def size_product(build: Builder, left: Operand, right: Operand) -> Value:
    return build.mul(build.operand(left, t.f64), right)


@register("operator.add")
def size_sum(build: Builder, left: Operand, right: Operand) -> Value:
    return build.add(build.operand(left, t.f64), right)


@register("operator.sub")
def size_difference(build: Builder, left: Operand, right: Operand) -> Value:
    return build.sub(build.operand(left, t.f64), right)


@register("operator.pow")
def size_power(build: Builder, base: Operand, exponent: Operand) -> Value:
    return build.emit(core.Pow(build.operand(base, t.f64), build.operand(exponent, t.f64)))


@register("math.sqrt", "torch._sym_sqrt")
def size_root(build: Builder, x: Operand) -> Value:
    return build.emit(core.Sqrt(build.operand(x, t.f64)))


@register("aten.scalar_tensor.default")
def scalar_tensor(build: Builder, x: Operand, dtype: DType | None = None) -> Value:
    return build.operand(x, build.out.dtype)
