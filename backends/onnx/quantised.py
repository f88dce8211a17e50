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

from plait.backends.onnx.activations import activate, rectified
from plait.backends.onnx.elements import tensor_of
from plait.backends.onnx.table import Inexpressible, exports
from plait.backends.onnx.writer import Operand, Writer
from plait.ir import Constant, DType, QuantType, ShapedType, TensorType, Value
from plait.ir import types as t
from plait.ir.ops import quant
from plait.ir.ops.common import pads_of

Product = Callable[[Operand, Operand, Operand], str]
#: The same on stored integers and their zero points, summed up in i32.
IntegerProduct = Callable[[Operand, Operand, str, str], str]


def is_quantised(value: Value) -> bool:
    return isinstance(value.type, QuantType)


def parameters(
    writer: Writer,
    kind: QuantType,
    element: DType | None = None,
    *,
    transposed: bool = False,
    shared: bool = True,
) -> tuple[str, str, dict[str, int]]:
    """Scale, zero point and attributes of QuantizeLinear and DequantizeLinear for a type.

    Args:
        element: that of the stored integers; by default one byte.
        transposed: for the transpose of a matrix of this type.
        shared: whether equal zero points may be one initialiser.  Those of weights may not:
            onnxruntime's `session.x64quantprecision` writes each anew and fails on the second.
    """
    element = element or kind.dtype

    def array(given: float | int | str) -> np.ndarray:
        return writer.graph.constants[given].data if isinstance(given, str) else np.asarray(given)

    scale = array(kind.scale).astype(np.float32)
    zero = np.broadcast_to(array(kind.zero_point), scale.shape).astype(element.numpy)
    attributes: dict[str, int] = {}
    if kind.axis is None:
        scale, zero = scale.reshape(()), zero.reshape(())
    else:
        attributes["axis"] = 1 - kind.axis if transposed else kind.axis
        if kind.group is not None:
            attributes["block_size"] = kind.group
        if transposed:
            scale, zero = scale.T, zero.T
    scale, zero = (np.ascontiguousarray(array).reshape(array.shape) for array in (scale, zero))
    if shared:
        return writer.array(scale), writer.array(zero, element), attributes
    own = writer.fresh(f"{writer.hint}.zero_point")
    writer.initializers[own] = tensor_of(own, zero, TensorType(element, zero.shape))
    return writer.array(scale), own, attributes


def dequantised(writer: Writer, x: Operand, kind: QuantType, *, transposed: bool = False) -> str:
    """The real numbers of stored integers, in f32; constants of 4 bits are stored as such.

    `transposed` gives the transpose of a constant matrix.
    """
    element = kind.dtype
    weight = isinstance(x, Constant)
    if isinstance(x, Constant) and (kind.bits == 4 or transposed):
        if kind.bits == 4:
            element = t.DTYPES[f"{'i' if kind.signed else 'u'}4"]
        x = writer.array(np.ascontiguousarray(x.data.T) if transposed else x.data, element)
    scale, zero, attributes = parameters(writer, kind, element, transposed=transposed, shared=not weight)
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
    *,
    transposed: bool = False,
) -> str:
    """A convolution or matrix product with bias and activation, dense or quantised.

    Quantised weights of a dense operand are read through DequantizeLinear.

    Args:
        transposed: whether `product` wants quantised weights, a constant matrix, transposed.
    """
    x, w, b = operands
    if not isinstance(x.type, QuantType) or not isinstance(w.type, QuantType):
        weight: Operand = w
        if isinstance(w.type, QuantType):
            weight = dequantised(writer, w, w.type, transposed=transposed)
            weight = weight if x.shaped.dtype == t.f32 else writer.cast(weight, x.shaped.dtype)
        return activate(writer, product(x, weight, b), op, x.shaped.dtype)
    kind: ShapedType = op.result.type
    if not isinstance(kind, QuantType):
        if op.act not in ("none", "relu"):
            raise Inexpressible(f"an i32 accumulator has no scale for {op.act}")
        total = integer_product(x, w, _zero_point(writer, x.type), _zero_point(writer, w.type))
        if b is not None:
            total = writer.node("Add", total, _along_channels(writer, b, getattr(op, "spatial", 0)))
        return total if op.act == "none" else writer.node("Max", total, writer.number(0, t.i32))
    left = dequantised(writer, x, x.type)
    right = dequantised(writer, w, w.type, transposed=transposed)
    bias = None if b is None else _bias(writer, b, x.type, w.type)
    real = activate(writer, product(left, right, bias), op, t.f32)
    return requantised(writer, real, kind)


def _along_channels(writer: Writer, b: Value, spatial: int) -> Operand:
    """A bias that broadcasts against a result with `spatial` axes behind the channels."""
    return writer.node("Reshape", b, writer.ints([-1, *(1,) * spatial])) if spatial else b


def _zero_point(writer: Writer, kind: QuantType) -> str:
    """The zero point of a type as a scalar of the stored integers."""
    if isinstance(kind.zero_point, str):
        raise Inexpressible("an i32 accumulator of operands with several zero points")
    return writer.number(kind.zero_point, kind.dtype)


def unsigned(writer: Writer, x: Value) -> tuple[Operand, str]:
    """Stored integers as unsigned ones, and their zero point: onnxruntime's ConvInteger takes no others."""
    kind = x.type
    assert isinstance(kind, QuantType)
    if not kind.signed:
        return x, _zero_point(writer, kind)
    if isinstance(kind.zero_point, str):
        raise Inexpressible("an i32 accumulator of operands with several zero points")
    moved = writer.node("Add", writer.cast(x, t.i32), writer.number(128, t.i32))
    return writer.cast(moved, t.u8), writer.number(kind.zero_point + 128, t.u8)


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
        real = dequantised(writer, op.x, op.x.type)
    else:
        wide = writer.node("Mul", writer.cast(op.x, t.f64), writer.number(op.scale, t.f64))
        real = writer.cast(wide, t.f32)
    return requantised(writer, rectified(writer, real, op.act), op.out)


@exports(quant.Add)
def _add(op: Any, writer: Writer) -> str:
    left, right = dequantised(writer, op.x, op.x.type), dequantised(writer, op.y, op.y.type)
    return requantised(writer, rectified(writer, writer.node("Add", left, right), op.act), op.out)


@exports(quant.Mean)
def _mean(op: Any, writer: Writer) -> str:
    real = dequantised(writer, op.x, op.x.type)
    if op.axes:
        real = writer.node("ReduceMean", real, writer.ints(op.axes), keepdims=int(op.keepdims))
    return requantised(writer, real, op.out)


@exports(quant.AvgPool2d)
def _avg_pool(op: Any, writer: Writer) -> str:
    real = writer.node(
        "AveragePool",
        dequantised(writer, op.x, op.x.type),
        kernel_shape=list(op.kernel),
        strides=list(op.stride),
        pads=[side[k] for k in (0, 1) for side in pads_of(op, op.pad, 2)],
        count_include_pad=1,
    )
    return requantised(writer, real, op.out)


@exports(quant.FakeQuant)
def _fake_quant(op: Any, writer: Writer) -> str:
    kind = QuantType(op.bits, op.signed, op.scale, op.x.shaped.shape, op.zero_point)
    grid = dequantised(writer, requantised(writer, writer.cast(op.x, t.f32), kind), kind)
    return grid if op.x.shaped.dtype == t.f32 else writer.cast(grid, op.x.shaped.dtype)
