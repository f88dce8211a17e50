"""Operators on stored integers: QLinear..., ...Integer, and those of ONNX Runtime.

With known scales and zero points, operands and results have quantised types and a
contraction is one op on them.  Otherwise the zero points are taken off, the contraction
is computed in f64, where sums of 8-bit products are exact, and the result is requantised.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from plait.frontends.onnx.call import Call
from plait.frontends.onnx.operand import Operand
from plait.frontends.onnx.operators.contrib import DOMAIN
from plait.frontends.onnx.operators.conv import compact, require_known, window, window_pads
from plait.frontends.onnx.operators.linear import product
from plait.frontends.onnx.operators.pool import average_pool
from plait.frontends.onnx.operators.quant import (
    dequantised,
    quantised,
    quantised_type,
    saturated,
    spread,
    stored,
)
from plait.frontends.onnx.registry import lowers
from plait.ir import DType, QuantType, TensorType, Value
from plait.ir import types as t
from plait.ir.ops import core, linalg, nn, quant


def typed(call: Call, x: int, scale: int, zero: int, axis: int | None = None) -> Value | None:
    """Input `x` under the quantised type that inputs `scale` and `zero` give; None where it has none.

    It is a constant, or the result of an op that quantised it with these parameters.
    """
    operand = call.operand(x)
    if operand.array is not None:
        kind = quantised_type(call, operand.element, operand.shape, scale, zero, axis)
        return None if kind is None else stored(call, operand, kind)
    value = operand.value
    if value is None or not isinstance(value.type, QuantType) or isinstance(value.type.scale, str):
        return None
    return (
        value
        if quantised_type(call, operand.element, operand.shape, scale, zero, axis) == value.type
        else None
    )


def plain(call: Call, index: int) -> Value:
    """Stored integers of an input as a plain tensor."""
    value = call.value(index)
    if not isinstance(value.type, QuantType):
        return value
    raise call.error(
        f"input {index} '{call.operand(index).name}' is {value.type}",
        why="its scale or zero point here differs from the one it was quantised with",
        remedy="insert DequantizeLinear and QuantizeLinear in the source model",
    )


def real(call: Call, x: int, scale: int, zero: int, axis: int | None = None) -> Value:
    """Input `x` as real numbers in f32."""
    found = typed(call, x, scale, zero, axis)
    if found is not None:
        return call.step(quant.Dequantize(found))
    return dequantised(call, plain(call, x), call.value(scale), call.optional(zero), axis)


def requantised(call: Call, x: Value, scale: int, zero: int, element: DType) -> Value:
    """Real numbers under the scale and zero point of the result."""
    kind = quantised_type(call, element, x.shaped.shape, scale, zero)
    if kind is not None:
        return call.emit(quant.Quantize(x, out=kind))
    return quantised(call, x, call.value(scale), call.optional(zero), element)


def centred(call: Call, index: int, zero: int, axis: int) -> Value:
    """Input `index` minus its zero point in f64; a zero point per slice runs along `axis`."""
    x = call.cast(plain(call, index), t.f64)
    if not call.has(zero):
        return x
    offset = call.cast(call.value(zero), t.f64)
    return call.step(core.Sub(x, spread(call, offset, x.shaped.shape, axis)))


# -- matrix products --------------------------------------------------------------
@lowers("MatMulInteger", since=10)
def integer_product(call: Call) -> Value:
    """(A - a_zero) @ (B - b_zero) in i32."""
    total = product(
        call, centred(call, 0, 2, max(call.rank(0) - 2, 0)), centred(call, 1, 3, call.rank(1) - 1)
    )
    return call.emit(core.Cast(total, out=TensorType(t.i32, total.shaped.shape)))


@lowers("QLinearMatMul", since=10)
def quantised_product(call: Call) -> Value:
    """Inputs: a, its scale and zero point, b, its ..., scale and zero point of the result."""
    element = call.element(7) if call.has(7) else call.element(0)
    row, column = max(call.rank(0) - 2, 0), call.rank(3) - 1
    left, right = typed(call, 0, 1, 2, row), typed(call, 3, 4, 5, column)
    if left is not None and right is not None and min(call.rank(0), call.rank(3)) >= 2:
        (shaped,) = linalg.Matmul(left, right).infer()
        kind = quantised_type(call, element, shaped.shape, 6, 7)  # type: ignore[attr-defined]  # a tensor
        if kind is not None:
            return call.emit(linalg.Matmul(left, right, out=kind))
    total = product(call, centred(call, 0, 2, row), centred(call, 3, 5, column))
    return _rescaled(
        call, total, (1, 4, 6), 7, element, (max(total.shaped.rank - 2, 0), total.shaped.rank - 1)
    )


def _rescaled(
    call: Call, total: Value, scales: tuple[int, int, int], zero: int, element: DType, axes: tuple[int, int]
) -> Value:
    """A sum in f64 times x_scale * w_scale / y_scale, rounded, shifted and saturated.

    `axes` are those of the result along which scales of x and w per slice run.
    """
    shape = total.shaped.shape
    for index, axis in zip(scales, (*axes, 0), strict=True):
        factor = spread(call, call.cast(call.value(index), t.f64), shape, axis)
        total = call.step((core.Div if index == scales[2] else core.Mul)(total, factor))
    return saturated(call, call.step(core.Round(total)), call.optional(zero), element)


@lowers("QGemm", domain=DOMAIN)
def quantised_gemm(call: Call) -> Value:
    """alpha * A' @ B' + C with C in i32; inputs a, b and c, then scale and zero point of the result."""
    a, b = real(call, 0, 1, 2), real(call, 3, 4, 5, 0 if call.integer("transB", 0) else 1)
    a = call.transpose(a, (1, 0)) if call.integer("transA", 0) else a
    b = call.transpose(b, (1, 0)) if call.integer("transB", 0) else b
    y = call.step(linalg.Matmul(a, b))
    if call.has(6):
        steps = call.step(core.Mul(call.cast(call.value(1), t.f32), call.cast(call.value(4), t.f32)))
        bias = call.step(core.Mul(call.cast(call.value(6), t.f32), steps))
        y = call.step(core.Add(y, bias))
    alpha = call.number_attribute("alpha", 1.0)
    if alpha != 1.0:
        y = call.step(core.Mul(y, call.scalar_like(alpha, y)))
    if not call.has(7):
        return y
    return requantised(call, y, 7, 8, call.element(8) if call.has(8) else call.element(0))


# -- convolutions -----------------------------------------------------------------
def _convolution(call: Call, x: Value, w: Value, b: Value | None, **options: Any) -> Any:
    spatial = x.shaped.rank - 2
    makes: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
    if spatial not in makes:
        raise call.unsupported(f"a convolution over {spatial} axes")
    kernel = require_known(call, w.shaped.shape[2:], "the kernel")
    stride, dilation = window(call, spatial, "strides"), window(call, spatial, "dilations")
    pads = compact(window_pads(call, x.shaped.shape[2:], kernel, stride, dilation))
    groups = call.integer("group", 1)
    return makes[spatial](x, w, b, stride=stride, pad=pads, dilation=dilation, groups=groups, **options)


@lowers("ConvInteger", since=10)
def integer_convolution(call: Call) -> Value:
    """Convolution of x - x_zero with w - w_zero in i32; padding is zero after the subtraction."""
    total = call.step(_convolution(call, centred(call, 0, 2, 1), centred(call, 1, 3, 0), None))
    return call.emit(core.Cast(total, out=TensorType(t.i32, total.shaped.shape)))


@lowers("QLinearConv", since=10)
def quantised_convolution(call: Call) -> Value:
    """Inputs: x, scale, zero; w, scale, zero; scale and zero of the result; a bias in i32."""
    element = call.element(7)
    x, w = typed(call, 0, 1, 2), typed(call, 3, 4, 5, 0)
    if x is not None and w is not None:
        (shaped,) = _convolution(call, x, w, None).infer()
        kind = quantised_type(call, element, shaped.shape, 6, 7)
        if kind is not None:
            return call.emit(_convolution(call, x, w, call.optional(8), out=kind))
    bias = call.cast(call.value(8), t.f64) if call.has(8) else None
    total = call.step(_convolution(call, centred(call, 0, 2, 1), centred(call, 3, 5, 0), bias))
    return _rescaled(call, total, (1, 4, 6), 7, element, (1, 1))


# -- elementwise and pooling operators of ONNX Runtime ------------------------------
@lowers("QLinearAdd", "QLinearMul", domain=DOMAIN)
def quantised_arithmetic(call: Call) -> Value:
    make: Any = core.Add if call.op_type == "QLinearAdd" else core.Mul
    y = call.step(make(real(call, 0, 1, 2), real(call, 3, 4, 5)))
    return requantised(call, y, 6, 7, call.element(0))


_ACTIVATIONS: dict[str, Callable[[Call, Value], Any]] = {
    "QLinearSigmoid": lambda call, x: nn.Sigmoid(x),
    "QLinearLeakyRelu": lambda call, x: nn.LeakyRelu(x, alpha=call.number_attribute("alpha", 0.01)),
    "QLinearSoftmax": lambda call, x: nn.Softmax(x, axis=call.axis(-1, x.shaped.rank)),
}


@lowers(*_ACTIVATIONS, domain=DOMAIN)
def quantised_activation(call: Call) -> Value:
    y = call.step(_ACTIVATIONS[call.op_type](call, real(call, 0, 1, 2)))
    return requantised(call, y, 3, 4, call.element(0))


@lowers("QLinearGlobalAveragePool", domain=DOMAIN)
def quantised_global_average(call: Call) -> Value:
    if call.integer("channels_last", 0):
        raise call.unsupported(f"{call.op_type} with channels last")
    x = real(call, 0, 1, 2)
    axes = tuple(range(2, x.shaped.rank))
    return requantised(call, call.step(core.Mean(x, axes=axes, keepdims=True)), 3, 4, call.element(0))


@lowers("QLinearAveragePool", domain=DOMAIN)
def quantised_average(call: Call) -> Value:
    if call.integer("channels_last", 0):
        raise call.unsupported(f"{call.op_type} with channels last")
    element, given = call.element(0), real(call, 0, 1, 2)
    call.inputs[0] = Operand.of(given)
    return requantised(call, average_pool(call), 3, 4, element)


@lowers("QLinearConcat", domain=DOMAIN)
def quantised_concat(call: Call) -> Value:
    """Inputs: scale and zero point of the result, then each part with its own."""
    parts = tuple(real(call, i, i + 1, i + 2) for i in range(2, len(call.inputs), 3))
    axis = call.axis(0, parts[0].shaped.rank)
    return requantised(call, call.step(core.Concat(parts, axis=axis)), 0, 1, call.element(2))
