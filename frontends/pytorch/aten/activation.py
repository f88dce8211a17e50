"""Rules: activations, softmax."""

from __future__ import annotations

from plait.frontends.pytorch.builder import Builder
from plait.frontends.pytorch.registry import register
from plait.ir.ops import core, nn
from plait.ir.ops.core.elementwise import FloatUnary
from plait.ir.types import DType
from plait.ir.value import Value

_DIRECT: dict[str, type[FloatUnary]] = {
    "relu6": nn.Relu6,
    "selu": nn.Selu,
    "silu": nn.Silu,
    "mish": nn.Mish,
    "hardswish": nn.Hardswish,
    "hardsigmoid": nn.Hardsigmoid,
}


def _define(name: str, op: type[FloatUnary]) -> None:
    @register(f"aten.{name}.default")
    def rule(build: Builder, x: Value) -> Value:
        return build.emit(op(x))


for _name, _op in _DIRECT.items():
    _define(_name, _op)


@register("aten.relu.default")
def relu(build: Builder, x: Value) -> Value:
    return build.emit(nn.Relu(x))


@register("aten.hardtanh.default")
def hardtanh(build: Builder, x: Value, min_val: float = -1.0, max_val: float = 1.0) -> Value:
    if (min_val, max_val) == (0, 6):
        return build.emit(nn.Relu6(x))
    return build.emit(core.Clamp(x, low=min_val, high=max_val))


@register("aten.leaky_relu.default")
def leaky_relu(build: Builder, x: Value, negative_slope: float = 0.01) -> Value:
    return build.emit(nn.LeakyRelu(x, alpha=negative_slope))


@register("aten.rrelu.default")
def rrelu(
    build: Builder, x: Value, lower: float = 0.125, upper: float = 1 / 3, training: bool = False, *_: object
) -> Value:
    if training:
        build.refuse("random slopes in training mode")
    return build.emit(nn.LeakyRelu(x, alpha=(lower + upper) / 2))


@register("aten.elu.default")
def elu(build: Builder, x: Value, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Value:
    if scale == input_scale == 1:
        return build.emit(nn.Elu(x, alpha=alpha))
    negative = build.mul(build.emit(core.Expm1(build.mul(x, input_scale))), alpha * scale)
    positive = build.emit(core.Gt(x, build.full(0, build.out.dtype)))
    return build.emit(core.Where(positive, build.mul(x, scale), negative))


@register("aten.celu.default")
def celu(build: Builder, x: Value, alpha: float = 1.0) -> Value:
    return elu(build, x, alpha, 1.0, 1.0 / alpha)


@register("aten.gelu.default")
def gelu(build: Builder, x: Value, approximate: str = "none") -> Value:
    return build.emit(nn.Gelu(x, approximate="tanh" if approximate == "tanh" else "none"))


@register("aten.softplus.default")
def softplus(build: Builder, x: Value, beta: float = 1.0, threshold: float = 20.0) -> Value:
    smooth = build.emit(nn.Softplus(x, beta=beta))
    if threshold >= 20:  # beyond it the two agree to single precision
        return smooth
    linear = build.emit(core.Gt(build.mul(x, beta), build.full(threshold, build.out.dtype)))
    return build.emit(core.Where(linear, x, smooth))


@register("aten.log_sigmoid.default")
def log_sigmoid(build: Builder, x: Value) -> Value:
    return build.emit(core.Neg(build.emit(nn.Softplus(build.emit(core.Neg(x))))))


@register("aten.glu.default")
def glu(build: Builder, x: Value, dim: int = -1) -> Value:
    shape = build.kind(x).shape
    axis = dim % len(shape)
    half = shape[axis] // 2
    gate = build.emit(nn.Sigmoid(build.slice(x, axis, half, shape[axis])))
    return build.mul(build.slice(x, axis, 0, half), gate)


@register("aten.prelu.default", "aten._prelu_kernel.default")
def prelu(build: Builder, x: Value, weight: Value) -> Value:
    rank, kind = build.kind(x).rank, build.kind(weight)
    if kind.rank == 1 and rank >= 2:
        weight = build.reshape(weight, (*kind.shape, *(1,) * (rank - 2)))
    return build.emit(nn.Prelu(x, build.cast(weight, build.out.dtype)))


def _along_axis(build: Builder, op: type[nn.Softmax | nn.LogSoftmax], x: Value, dim: int) -> Value:
    """A softmax in the element type of the result; a scalar is a row of one element."""
    shape = build.kind(x).shape
    row = build.reshape(build.cast(x, build.out.dtype), shape or (1,))
    return build.reshape(build.emit(op(row, axis=dim)), shape)


@register("aten.softmax.int", "aten._softmax.default")
def softmax(build: Builder, x: Value, dim: int, dtype: DType | bool | None = None) -> Value:
    return _along_axis(build, nn.Softmax, x, dim)


@register("aten.log_softmax.int", "aten._log_softmax.default")
def log_softmax(build: Builder, x: Value, dim: int, dtype: DType | bool | None = None) -> Value:
    return _along_axis(build, nn.LogSoftmax, x, dim)
