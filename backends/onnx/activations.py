"""Exports of activations, alone and fused into other ops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from plait.backends.onnx.table import exports
from plait.backends.onnx.writer import Operand, Writer
from plait.ir import DType, Op, Value
from plait.ir.ops import nn
from plait.ir.types import f32

Write = Callable[[Writer, Operand, DType, float], str]


def _silu(writer: Writer, x: Operand, element: DType, alpha: float) -> str:
    return writer.node("Mul", x, writer.node("Sigmoid", x))


def _relu6(writer: Writer, x: Operand, element: DType, alpha: float) -> str:
    return writer.node("Clip", x, writer.number(0, element), writer.number(6, element))


_ACTIVATIONS: dict[str, Write] = {
    "none": lambda writer, x, element, alpha: writer.name(x),
    "relu": lambda writer, x, element, alpha: writer.node("Relu", x),
    "relu6": _relu6,
    "leaky_relu": lambda writer, x, element, alpha: writer.node("LeakyRelu", x, alpha=alpha),
    "sigmoid": lambda writer, x, element, alpha: writer.node("Sigmoid", x),
    "tanh": lambda writer, x, element, alpha: writer.node("Tanh", x),
    "gelu": lambda writer, x, element, alpha: writer.node("Gelu", x),
    "gelu_tanh": lambda writer, x, element, alpha: writer.node("Gelu", x, approximate="tanh"),
    "silu": _silu,
    "hardswish": lambda writer, x, element, alpha: writer.node("HardSwish", x),
    "hardsigmoid": lambda writer, x, element, alpha: writer.node("HardSigmoid", x, alpha=1 / 6, beta=0.5),
}


def activate(writer: Writer, x: Operand, op: Any, element: DType) -> str:
    """The activation that the attributes `act` and `act_alpha` of an op name."""
    return _ACTIVATIONS[op.act](writer, x, element, op.act_alpha)


def rectified(writer: Writer, x: Operand, act: str) -> str:
    """An activation without parameters of a tensor in f32."""
    return _ACTIVATIONS[act](writer, x, f32, 0.0)


def activated(writer: Writer, x: str, op: Any, like: Value) -> str:
    """The activation of an op on its result, which has the element type of `like`."""
    return activate(writer, x, op, like.shaped.dtype)


_ALONE: dict[type[Op], Callable[[Any], tuple[str, float]]] = {
    nn.Relu: lambda op: ("relu", 0.0),
    nn.Relu6: lambda op: ("relu6", 0.0),
    nn.LeakyRelu: lambda op: ("leaky_relu", op.alpha),
    nn.Sigmoid: lambda op: ("sigmoid", 0.0),
    nn.Tanh: lambda op: ("tanh", 0.0),
    nn.Gelu: lambda op: ("gelu_tanh" if op.approximate == "tanh" else "gelu", 0.0),
    nn.Silu: lambda op: ("silu", 0.0),
    nn.Hardswish: lambda op: ("hardswish", 0.0),
}


@exports(*_ALONE)
def _activation(op: Any, writer: Writer) -> str:
    name, alpha = _ALONE[type(op)](op)
    return _ACTIVATIONS[name](writer, op.x, op.x.shaped.dtype, alpha)


@exports(nn.Elu)
def _elu(op: Any, writer: Writer) -> str:
    return writer.node("Elu", op.x, alpha=op.alpha)


@exports(nn.Selu)
def _selu(op: Any, writer: Writer) -> str:
    return writer.node("Selu", op.x)


@exports(nn.Mish)
def _mish(op: Any, writer: Writer) -> str:
    return writer.node("Mish", op.x)


@exports(nn.Softplus)
def _softplus(op: Any, writer: Writer) -> str:
    if op.beta == 1.0:
        return writer.node("Softplus", op.x)
    beta = writer.number(op.beta, op.x.shaped.dtype)
    return writer.node("Div", writer.node("Softplus", writer.node("Mul", op.x, beta)), beta)


@exports(nn.Hardsigmoid)
def _hardsigmoid(op: Any, writer: Writer) -> str:
    return writer.node("HardSigmoid", op.x, alpha=op.alpha, beta=op.beta)


@exports(nn.Prelu)
def _prelu(op: Any, writer: Writer) -> str:
    return writer.node("PRelu", op.x, op.slope)


@exports(nn.Softmax)
def _softmax(op: Any, writer: Writer) -> str:
    return writer.node("Softmax", op.x, axis=op.axis)


@exports(nn.LogSoftmax)
def _log_softmax(op: Any, writer: Writer) -> str:
    return writer.node("LogSoftmax", op.x, axis=op.axis)
