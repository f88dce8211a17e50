"""Activations and softmax."""

from __future__ import annotations

from typing import Any

from plait.frontends.onnx.call import Call
from plait.frontends.onnx.registry import lowers
from plait.ir import Value
from plait.ir import dims as d
from plait.ir.ops import core, nn

_PLAIN: dict[str, Any] = {
    "HardSwish": nn.Hardswish,
    "Mish": nn.Mish,
    "Relu": nn.Relu,
    "Sigmoid": nn.Sigmoid,
    "Softplus": nn.Softplus,
}


@lowers(*_PLAIN)
def plain(call: Call) -> Value:
    return call.emit(_PLAIN[call.op_type](call.value(0)))


@lowers("LeakyRelu", since=6)
def leaky_relu(call: Call) -> Value:
    return call.emit(nn.LeakyRelu(call.value(0), alpha=call.number_attribute("alpha", 0.01)))


@lowers("Elu", since=6)
def elu(call: Call) -> Value:
    return call.emit(nn.Elu(call.value(0), alpha=call.number_attribute("alpha", 1.0)))


@lowers("Celu", since=12)
def celu(call: Call) -> Value:
    """alpha * elu(x / alpha)."""
    x, alpha = call.value(0), call.number_attribute("alpha", 1.0)
    if alpha == 1.0:
        return call.emit(nn.Elu(x))
    scale = call.scalar_like(alpha, x)
    return call.emit(core.Mul(call.step(nn.Elu(call.step(core.Div(x, scale)))), scale))


@lowers("Selu", since=6)
def selu(call: Call) -> Value:
    """gamma * elu(x), the op itself with the constants of the paper."""
    x = call.value(0)
    alpha = call.number_attribute("alpha", 1.6732632)
    gamma = call.number_attribute("gamma", 1.0507009)
    if abs(alpha - 1.6732632) < 1e-5 and abs(gamma - 1.0507010) < 1e-5:
        return call.emit(nn.Selu(x))
    return call.emit(core.Mul(call.step(nn.Elu(x, alpha=alpha)), call.scalar_like(gamma, x)))


@lowers("HardSigmoid", since=6)
def hard_sigmoid(call: Call) -> Value:
    alpha, beta = call.number_attribute("alpha", 0.2), call.number_attribute("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-6:
        alpha = 1 / 6
    return call.emit(nn.Hardsigmoid(call.value(0), alpha=alpha, beta=beta))


@lowers("PRelu", since=7)
def prelu(call: Call) -> Value:
    return call.emit(nn.Prelu(call.value(0), call.value(1)))


@lowers("Gelu", since=20)
def gelu(call: Call) -> Value:
    approximate: Any = call.text("approximate", "none")
    return call.emit(nn.Gelu(call.value(0), approximate=approximate))


@lowers("Swish", since=24)
def swish(call: Call) -> Value:
    """x * sigmoid(alpha * x)."""
    x, alpha = call.value(0), call.number_attribute("alpha", 1.0)
    if alpha == 1.0:
        return call.emit(nn.Silu(x))
    gate = call.step(nn.Sigmoid(call.step(core.Mul(x, call.scalar_like(alpha, x)))))
    return call.emit(core.Mul(x, gate))


@lowers("Softsign")
def softsign(call: Call) -> Value:
    x = call.value(0)
    below = call.step(core.Add(call.step(core.Abs(x)), call.scalar_like(1, x)))
    return call.emit(core.Div(x, below))


@lowers("ThresholdedRelu", since=10)
def thresholded_relu(call: Call) -> Value:
    x = call.value(0)
    above = call.step(core.Gt(x, call.scalar_like(call.number_attribute("alpha", 1.0), x)))
    return call.emit(core.Where(above, x, call.scalar_like(0, x)))


@lowers("Softmax", "LogSoftmax", since=13)
def softmax(call: Call) -> Value:
    make: Any = nn.Softmax if call.op_type == "Softmax" else nn.LogSoftmax
    return call.emit(make(call.value(0), axis=call.axis(-1, call.rank(0))))


@lowers("Softmax", "LogSoftmax", until=12)
def softmax_of_rows(call: Call) -> Value:
    """Before opset 13 the tensor is taken as a matrix: the axes from `axis` on form one row."""
    make: Any = nn.Softmax if call.op_type == "Softmax" else nn.LogSoftmax
    x, shape = call.value(0), call.shape(0)
    axis = call.axis(1, len(shape))
    if all(dim == 1 for dim in shape[axis + 1 :]):
        return call.emit(make(x, axis=axis))
    rows = call.reshape(x, (d.product(shape[:axis]), d.product(shape[axis:])))
    return call.emit(core.Reshape(call.step(make(rows, axis=1)), out=x.shaped))
