"""Exports of quantisation, and how products of quantised operands are written.

A quantised value is the tensor of its stored integers.  A product reads its operands
through DequantizeLinear and writes through QuantizeLinear, which differs from exact integer
arithmetic by the rounding of f32 alone: one quantum at most.  (Processors without dot products
of bytes make onnxruntime sum pairs of u8 x i8 products in 16 bits, which saturates; its session
option `session.x64quantprecision=1` sums exactly.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from plait.backends.onnx.activations import activate
from plait.backends.onnx.table import Inexpressible, exports
from plait.backends.onnx.writer import Operand, Writer
from plait.ir import QuantType, ShapedType, Value
from plait.ir import types as t
from plait.ir.ops import quant

Product = Callable[[Operand, Operand, Operand], str]
#: The same on stored integers and their zero points, summed up in i32.
IntegerProduct = Callable[[Operand, Operand, str, str], str]


def is_quantised(value: Value) -> bool:
    return isinstance(value.type, QuantType)


def parameters(writer: Writer, kind: QuantType) -> tuple[str, str, dict[str, int]]:
    """Scale, zero point and attributes of QuantizeLinear and DequantizeLinear for a type."""

    def array(given: float | int | str) -> np.ndarray:
        return writer.graph.constants[given].data if isinstance(given, str) else np.asarray(given)

    scale = array(kind.scale).astype(np.float32)
    zero = np.broadcast_to(array(kind.zero_point), scale.shape).astype(kind.dtype.numpy)
    attributes: dict[str, int] = {}
    if kind.axis is None:
        scale, zero = scale.reshape(()), zero.reshape(())
    else:
        attributes["axis"] = kind.axis
        if kind.group is not None:
            attributes["block_size"] = kind.group
    return writer.array(scale), writer.array(np.ascontiguousarray(zero), kind.dtype), attributes


def dequantised(writer: Writer, x: Operand, kind: QuantType) -> str:
    """The real numbers of stored integers, in f32."""
    scale, zero, attributes = parameters(writer, kind)
    return writer.node("DequantizeLinear", x, scale, zero, **attributes)


def requantised(writer: Writer, real: Operand, kind: QuantType) -> str:
    """Real numbers in f32 as stored integers."""
    scale, zero, attributes = parameters(writer, kind)
    stored = writer.node("QuantizeLinear", real, scale, zero, **attributes)
    if kind.bits == 8:
        return stored
    low, high = (writer.number(bound, kind.dtype) for bound in kind.range)
    return writer.node("Clip", stored, low, high)


def contraction(
    writer: Writer,
    op: Any,
    operands: tuple[Value, Value, Value | None],
    product: Product,
    integer_product: IntegerProduct,
) -> str:
    """A convolution or matrix product with bias and activation, dense or quantised."""
    x, w, b = operands
    if not isinstance(x.type, QuantType) or not isinstance(w.type, QuantType):
        return activate(writer, product(x, w, b), op, x.shaped.dtype)
    kind: ShapedType = op.result.type
    if not isinstance(kind, QuantType):
        total = integer_product(x, w, _zero_point(writer, x.type), _zero_point(writer, w.type))
        if b is not None:
            total = writer.node("Add", total, b)
        return total if op.act == "none" else writer.node("Max", total, writer.number(0, t.i32))
    left, right = dequantised(writer, x, x.type), dequantised(writer, w, w.type)
    bias = None if b is None else _bias(writer, b, x.type, w.type)
    real = activate(writer, product(left, right, bias), op, t.f32)
    return requantised(writer, real, kind)


def _zero_point(writer: Writer, kind: QuantType) -> str:
    """The zero point of a type as a scalar of the stored integers."""
    if isinstance(kind.zero_point, str):
        raise Inexpressible("an i32 accumulator of operands with several zero points")
    return writer.number(kind.zero_point, kind.dtype)


def _bias(writer: Writer, b: Value, x: QuantType, w: QuantType) -> str:
    """An i32 bias as real numbers: its scale is the product of those of the operands."""
    scales = []
    for kind in (x, w):
        given = kind.scale
        array = writer.graph.constants[given].data if isinstance(given, str) else np.asarray(given)
        scales.append(array.astype(np.float64).reshape(-1) if array.size > 1 else array.reshape(()))
    scale = np.asarray(scales[0] * scales[1], np.float32)
    return writer.node("DequantizeLinear", b, writer.array(scale), "", axis=0 if scale.ndim else None)


@exports(quant.Quantize)
def _quantize(op: Any, writer: Writer) -> str:
    return requantised(writer, writer.cast(op.x, t.f32), op.out)


@exports(quant.Dequantize)
def _dequantize(op: Any, writer: Writer) -> str:
    return dequantised(writer, op.x, op.x.type)


@exports(quant.Requantize)
def _requantize(op: Any, writer: Writer) -> str:
    if isinstance(op.x.type, QuantType):
        return requantised(writer, dequantised(writer, op.x, op.x.type), op.out)
    real = writer.node("Mul", writer.cast(op.x, t.f64), writer.number(op.scale, t.f64))
    return requantised(writer, writer.cast(real, t.f32), op.out)


@exports(quant.FakeQuant)
def _fake_quant(op: Any, writer: Writer) -> str:
    kind = QuantType(op.bits, op.signed, op.scale, op.x.shaped.shape, op.zero_point)
    grid = dequantised(writer, requantised(writer, writer.cast(op.x, t.f32), kind), kind)
    return grid if op.x.shaped.dtype == t.f32 else writer.cast(grid, op.x.shaped.dtype)
