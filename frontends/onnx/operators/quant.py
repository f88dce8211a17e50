"""QuantizeLinear and DequantizeLinear.

Where scale and zero point are known, the stored integers have a quantised type;
where they are computed at run time, the formulas are written out.
"""

from __future__ import annotations

import numpy as np

from plait.frontends.onnx.call import Call
from plait.frontends.onnx.operand import Operand
from plait.frontends.onnx.operators.elementwise import shortest
from plait.frontends.onnx.registry import lowers
from plait.ir import DType, IntLike, QuantType, TensorType, Value
from plait.ir import types as t
from plait.ir.ops import core, quant
from plait.ir.types import Shape

#: Element types that a quantised type can store: width in bits, and whether signed.
WIDTHS = {
    "i8": (8, True),
    "u8": (8, False),
    "i4": (4, True),
    "u4": (4, False),
    "i2": (2, True),
    "u2": (2, False),
}


def quantised_type(
    call: Call, element: DType, shape: Shape, scale: int, zero: int, axis: int | None = None
) -> QuantType | None:
    """The quantised type that inputs `scale` and `zero` describe.

    `axis` is that of a scale per slice or block; by default the attribute.  None where
    the element type is none of 2, 4 and 8 bits, or a parameter is computed at run time.
    """
    scales = call.operand(scale).array
    zeros = call.operand(zero).array if call.has(zero) else np.zeros(1, np.int32)
    if element.name not in WIDTHS or scales is None or zeros is None:
        return None
    bits, signed = WIDTHS[element.name]
    scales = scales.astype(np.float32)
    if not np.all(np.isfinite(scales) & (scales > 0)):
        return None
    first = int(zeros.reshape(-1)[0])
    if scales.size == 1:
        return QuantType(bits, signed, shortest(scales), shape, first)
    axis = call.axis(1, len(shape)) if axis is None else axis
    block = call.integer("block_size", 0)
    if scales.ndim > 1 and (not block or shape[axis] != scales.shape[axis] * block):
        return None
    if scales.ndim == 1 and shape[axis] != scales.size:
        return None
    point: int | str = first
    if np.any(zeros != zeros.reshape(-1)[0]):
        point = call.constant(np.ascontiguousarray(zeros.astype(np.int32)), "zero_point").name
    name = call.constant(np.ascontiguousarray(scales), "scale").name
    return QuantType(bits, signed, name, shape, point, axis, block if scales.ndim > 1 else None)


def stored(call: Call, operand: Operand, kind: QuantType) -> Value:
    """The constant of stored integers under a quantised type."""
    assert operand.array is not None
    builder = call.builder
    name = builder.reserved.get(operand.name)
    if name is None or name in builder.graph.constants:
        name = builder.unique(operand.name or f"{call.name}.stored")
    return builder.constant(np.ascontiguousarray(operand.array), name, kind)


def spread(call: Call, parameter: Value, shape: Shape, axis: int | None = None) -> Value:
    """A scale or zero point shaped so that it broadcasts against a tensor of `shape`.

    It is one number, one for each slice along `axis` (by default the attribute), or one
    for each block of `block_size` elements.
    """
    own = parameter.shaped.shape
    if not own or own == (1,):
        return call.reshape(parameter, ())
    axis = call.axis(1, len(shape)) if axis is None else axis
    if len(own) == 1:
        return call.reshape(parameter, tuple(own[0] if i == axis else 1 for i in range(len(shape))))
    block = call.integer("block_size", 0)
    if not block or len(own) != len(shape):
        return parameter
    apart: list[IntLike] = [*own[: axis + 1], 1, *own[axis + 1 :]]
    wide: list[IntLike] = [*own[: axis + 1], block, *own[axis + 1 :]]
    whole = [*own[:axis], own[axis] * block, *own[axis + 1 :]]
    repeated = call.reshape(call.broadcast(call.reshape(parameter, apart), wide), whole)
    if whole[axis] == shape[axis]:
        return repeated
    return call.step(core.Slice(repeated, axes=(axis,), starts=(0,), stops=(shape[axis],)))


def quantised(
    call: Call,
    real: Value,
    scale: Value,
    zero: Value | None,
    element: DType,
    saturate: bool = True,
    axis: int | None = None,
) -> Value:
    """saturate(round(real / scale) + zero) as a plain tensor, halves to even; minifloats by a cast."""
    shape = real.shaped.shape
    wide = real.shaped.dtype if real.shaped.dtype == scale.shaped.dtype else t.f32
    divisor = spread(call, call.cast(scale, wide), shape, axis)
    ratio = call.step(core.Div(call.cast(real, wide), divisor))
    if element.is_minifloat:
        if element.bits < 8 and zero is not None:
            ratio = call.step(core.Add(ratio, spread(call, call.cast(zero, wide), shape, axis)))
        out = TensorType(element, ratio.shaped.shape)
        return call.emit(core.Cast(ratio, saturate=saturate, out=out))
    return saturated(call, call.step(core.Round(ratio)), zero, element, axis)


def saturated(call: Call, whole: Value, zero: Value | None, element: DType, axis: int | None = None) -> Value:
    """Whole numbers in floating point plus a zero point, limited to the range of an integer type."""
    if whole.shaped.dtype.bits < 32:
        whole = call.cast(whole, t.f32)
    if zero is not None:
        offset = spread(call, call.cast(zero, whole.shaped.dtype), whole.shaped.shape, axis)
        whole = call.step(core.Add(whole, offset))
    low = -(1 << (element.bits - 1)) if element.kind == "int" else 0
    limited = call.step(core.Clamp(whole, low=float(low), high=float(low + (1 << element.bits) - 1)))
    return call.emit(core.Cast(limited, out=TensorType(element, limited.shaped.shape)))


@lowers("QuantizeLinear", since=10)
def quantize(call: Call) -> Value:
    """With an axis of scales, blocks of scales, or one scale; integers of 2 to 16 bits or minifloats."""
    element = call.element(2) if call.has(2) else t.u8
    if call.integer("output_dtype", 0):
        element = call.element_of(call.integer("output_dtype", 0))
    x = call.value(0)
    kind = quantised_type(call, element, call.shape(0), 1, 2)
    precision = call.integer("precision", 0)
    if kind is not None and not precision:
        return call.emit(quant.Quantize(x, out=kind))
    scale = call.value(1)
    if precision:
        x, scale = (call.cast(value, call.element_of(precision)) for value in (x, scale))
    return quantised(call, x, scale, call.optional(2), element, bool(call.integer("saturate", 1)))


@lowers("DequantizeLinear", since=10)
def dequantize(call: Call) -> Value:
    """Stored integers of a constant become a quantised constant; a plain tensor is scaled elementwise."""
    operand, element = call.operand(0), call.element(1)
    if call.integer("output_dtype", 0):
        element = call.element_of(call.integer("output_dtype", 0))
    if operand.value is not None and isinstance(operand.value.type, QuantType):
        y = quant.Dequantize(operand.value)
        return call.emit(y) if element == t.f32 else call.cast(call.step(y), element)
    kind = quantised_type(call, operand.element, operand.shape, 1, 2) if operand.array is not None else None
    if kind is not None and element == t.f32:
        return call.emit(quant.Dequantize(stored(call, operand, kind)))
    return call.cast(dequantised(call, call.value(0), call.value(1), call.optional(2)), element)


def dequantised(call: Call, x: Value, scale: Value, zero: Value | None, axis: int | None = None) -> Value:
    """(x - zero) * scale in f32."""
    shape = x.shaped.shape
    x = call.cast(x, t.f32)
    if zero is not None:
        x = call.step(core.Sub(x, spread(call, call.cast(zero, t.f32), shape, axis)))
    return call.step(core.Mul(x, spread(call, call.cast(scale, t.f32), shape, axis)))
