"""Activations."""

from __future__ import annotations

from typing import Any

from plait.frontends.tensorflow.call import Call
from plait.frontends.tensorflow.operand import Operand
from plait.frontends.tensorflow.registry import lowers
from plait.ir.ops import core, nn

_ACTIVATIONS: dict[str, Any] = {
    "Elu": nn.Elu,
    "Relu": nn.Relu,
    "Relu6": nn.Relu6,
    "Selu": nn.Selu,
    "Sigmoid": nn.Sigmoid,
    "Softplus": nn.Softplus,
    "Tanh": nn.Tanh,
}


@lowers(*_ACTIVATIONS)
def activation(call: Call) -> Operand:
    x, _, wrap = call.held(0)
    return wrap(call.emit(_ACTIVATIONS[call.op_type](x)))


@lowers("LeakyRelu")
def leaky_relu(call: Call) -> Operand:
    x, _, wrap = call.held(0)
    return wrap(call.emit(nn.LeakyRelu(x, alpha=call.real("alpha", 0.2))))


@lowers("Softsign")
def softsign(call: Call) -> Operand:
    """x / (1 + |x|)."""
    x, _, wrap = call.held(0)
    below = call.step(core.Add(call.step(core.Abs(x)), call.scalar_like(1, x)))
    return wrap(call.emit(core.Div(x, below)))


@lowers("Softmax", "LogSoftmax")
def softmax(call: Call) -> Operand:
    """Over the last axis."""
    make: Any = nn.Softmax if call.op_type == "Softmax" else nn.LogSoftmax
    x, axis_of, wrap = call.held(0)
    return wrap(call.emit(make(x, axis=axis_of(call.rank(0) - 1))))
