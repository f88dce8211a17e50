"""Quantising and dequantising."""

from __future__ import annotations

import numpy as np

from plait.frontends.onnx.call import Call
from plait.frontends.onnx.operand import Operand
from plait.frontends.onnx.operators.elementwise import shortest
from plait.frontends.onnx.registry import lowers
from plait.ir import DType, QuantType, TensorType, Value
from plait.ir import types as t
from plait.ir.ops import core, linalg, quant
from plait.ir.types import Shape

_WIDTH = {"i8": (8, True), "u8": (8, False), "i4": (4, True), "u4": (4, False)}


def quantised_type(call: Call, element: DType, shape: Shape) -> QuantType:
    """The quantised type that scale (input 1) and zero point (input 2) describe.

    Raises:
        LoweringError: the element type is none of int4, uint4, int8, uint8, or the
            scale is computed at run time or per block.
    """
    if element.name not in _WIDTH:
        raise call.unsupported(f"{call.op_type} with {element}")
    if call.integer("block_size", 0):
        raise call.unsupported(f"{call.op_type} with blocks")
    bits, signed = _WIDTH[element.name]
    scale = call.array(1, "the scale")
    zero = call.array(2, "the zero point") if call.has(2) else np.zeros(1, np.int32)
    if scale.size == 1:
        return QuantType(bits, signed, shortest(scale), shape, int(zero.reshape(-1)[0]))
    axis = call.axis(1, len(shape))
    scales = call.constant(np.ascontiguousarray(scale.reshape(-1).astype(np.float32)), "scale").name
    point: int | str = int(zero.reshape(-1)[0])
    if np.any(zero != zero.reshape(-1)[0]):
        point = call.constant(np.ascontiguousarray(zero.reshape(-1).astype(np.int32)), "zero_point").name
    return QuantType(bits, signed, scales, shape, point, axis)


@lowers("QuantizeLinear", since=10)
def quantize(call: Call) -> Value:
    element = call.element(2) if call.has(2) else t.u8
    if call.integer("output_dtype", 0):
        element = call.element_of(call.integer("output_dtype", 0))
    return call.emit(quant.Quantize(call.value(0), out=quantised_type(call, element, call.shape(0))))


@lowers("DequantizeLinear", since=10)
def dequantize(call: Call) -> Value:
    """Stored integers of a constant become a quantised constant; a plain tensor is scaled elementwise."""
    operand, element = call.operand(0), call.element(1)
    if operand.value is not None and isinstance(operand.value.type, QuantType):
        y = quant.Dequantize(operand.value)
        return call.emit(y) if element == t.f32 else call.cast(call.step(y), element)
    if operand.array is not None and operand.element.name in _WIDTH and element == t.f32:
        kind = quantised_type(call, operand.element, operand.shape)
        return call.emit(quant.Dequantize(_stored(call, operand, kind)))
    x = call.cast(call.value(0), element)
    if call.integer("block_size", 0):
        raise call.unsupported("DequantizeLinear with blocks")
    if call.has(2):
        x = call.step(core.Sub(x, _along_axis(call, call.cast(call.value(2), element))))
    return call.emit(core.Mul(x, _along_axis(call, call.value(1))))


def _stored(call: Call, operand: Operand, kind: QuantType) -> Value:
    """The constant of stored integers under a quantised type."""
    assert operand.array is not None
    builder = call.builder
    name = builder.reserved.get(operand.name)
    if name is None or name in builder.graph.constants:
        name = builder.unique(operand.name or f"{call.name}.stored")
    return builder.constant(np.ascontiguousarray(operand.array), name, kind)


def _along_axis(call: Call, parameter: Value) -> Value:
    """A scale or zero point shaped so that it broadcasts along `axis`."""
    if parameter.shaped.rank == 0 or parameter.shaped.shape == (1,):
        return call.reshape(parameter, ())
    rank = call.rank(0)
    axis = call.axis(1, rank)
    return call.reshape(parameter, tuple(parameter.shaped.shape[0] if i == axis else 1 for i in range(rank)))


@lowers("MatMulInteger", since=10)
def integer_matmul(call: Call) -> Value:
    """(A - a_zero) @ (B - b_zero) in i32, computed exactly in f64."""
    sides = []
    for index in (0, 1):
        side = call.cast(call.value(index), t.f64)
        if call.has(index + 2):
            zero = call.cast(call.value(index + 2), t.f64)
            if zero.shaped.rank == 1 and index == 0 and zero.shaped.shape != (1,):
                zero = call.reshape(zero, (zero.shaped.shape[0], 1))
            side = call.step(core.Sub(side, zero))
        sides.append(side)
    y = call.step(linalg.Matmul(sides[0], sides[1]))
    return call.emit(core.Cast(y, out=TensorType(t.i32, y.shaped.shape)))
