"""Exports of convolutions, pooling, norms, products and attention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from plait.backends.onnx.activations import activated
from plait.backends.onnx.quantised import contraction, is_quantised, unsigned
from plait.backends.onnx.table import Inexpressible, exports
from plait.backends.onnx.writer import Operand, Writer
from plait.ir import Constant, Value
from plait.ir import types as t
from plait.ir.ops import linalg, nn
from plait.ir.ops.common import pads_of


def window(op: Any, pad: Sequence[int], spatial: int) -> list[int]:
    """ONNX's pads: all befores, then all afters."""
    sides = pads_of(op, pad, spatial)
    return [side[0] for side in sides] + [side[1] for side in sides]


@exports(nn.Conv1d, nn.Conv2d, nn.Conv3d)
def _conv(op: Any, writer: Writer) -> str:
    attributes = {
        "strides": list(op.stride),
        "pads": window(op, op.pad, op.spatial),
        "dilations": list(op.dilation),
        "group": op.groups,
    }

    def integer_product(x: Operand, w: Operand, x_zero: str, w_zero: str) -> str:
        stored, zero = unsigned(writer, op.x)
        return writer.node("ConvInteger", stored, w, zero, w_zero, **attributes)

    return contraction(
        writer,
        op,
        (op.x, op.w, op.b),
        lambda x, w, b: writer.node("Conv", x, w, b, **attributes),
        integer_product,
    )


@exports(nn.ConvTranspose2d, nn.ConvTranspose3d)
def _conv_transpose(op: Any, writer: Writer) -> str:
    y = writer.node(
        "ConvTranspose",
        op.x,
        op.w,
        op.b,
        strides=list(op.stride),
        pads=window(op, op.pad, op.spatial),
        output_padding=list(op.output_pad),
        dilations=list(op.dilation),
        group=op.groups,
    )
    return activated(writer, y, op, op.x)


def _transposed(writer: Writer, w: Operand) -> str:
    """The transpose of a matrix; of a constant once and for all."""
    if isinstance(w, Constant):
        return writer.array(np.ascontiguousarray(w.data.T), w.shaped.dtype)
    return writer.node("Transpose", w, perm=[1, 0])


@exports(nn.Linear)
def _linear(op: Any, writer: Writer) -> str:
    # onnxruntime takes integers through DequantizeLinear and MatMul, not through a Transpose between.
    turns = op.x.shaped.rank != 2 and isinstance(op.w, Constant) and is_quantised(op.w)

    def product(x: Operand, w: Operand, b: Operand) -> str:
        if op.x.shaped.rank == 2:
            return writer.node("Gemm", x, w, b, transB=1)
        y = writer.node("MatMul", x, w if turns else _transposed(writer, w))
        return y if b is None else writer.node("Add", y, b)

    def integer_product(x: Operand, w: Operand, x_zero: str, w_zero: str) -> str:
        return writer.node("MatMulInteger", x, _transposed(writer, w), x_zero, w_zero)

    return contraction(writer, op, (op.x, op.w, op.b), product, integer_product, transposed=turns)


@exports(linalg.Matmul)
def _matmul(op: Any, writer: Writer) -> str:
    return contraction(
        writer,
        op,
        (op.left, op.right, None),
        lambda x, w, b: writer.node("MatMul", x, w),
        lambda x, w, x_zero, w_zero: writer.node("MatMulInteger", x, w, x_zero, w_zero),
    )


@exports(nn.Attention)
def _attention(op: Any, writer: Writer) -> str:
    """softmax(q scale k^T + mask) v."""
    q, k = op.q.shaped, op.k.shaped
    element, width = q.dtype, q.shape[-1]
    if op.scale is None and not isinstance(width, int):
        raise Inexpressible(f"the scale of attention needs a known width, which is {width}")
    scale = op.scale if op.scale is not None else 1.0 / math.sqrt(int(width))
    order = [*range(k.rank - 2), k.rank - 1, k.rank - 2]
    scores = writer.node(
        "MatMul",
        writer.node("Mul", op.q, writer.number(scale, element)),
        writer.node("Transpose", op.k, perm=order),
    )
    lowest = writer.number(-math.inf, element)
    if op.causal:
        ones = writer.node(
            "Expand", writer.number(True, t.boolean, (1, 1)), writer.vector([q.shape[-2], k.shape[-2]])
        )
        seen = writer.cast(
            writer.node("Trilu", writer.cast(ones, t.i32), writer.number(0, t.i64), upper=0), t.boolean
        )
        scores = writer.node("Where", seen, scores, lowest)
    if op.mask is not None:
        if op.mask.shaped.dtype == t.boolean:
            scores = writer.node("Where", op.mask, scores, lowest)
        else:
            scores = writer.node("Add", scores, op.mask)
    return writer.node("MatMul", writer.node("Softmax", scores, axis=-1), op.v)


# -- pooling ----------------------------------------------------------------------------
@exports(nn.MaxPool2d)
def _max_pool(op: Any, writer: Writer) -> str:
    return writer.node(
        "MaxPool",
        op.x,
        kernel_shape=list(op.kernel),
        strides=list(op.stride),
        pads=window(op, op.pad, len(op.kernel)),
        dilations=list(op.dilation),
        ceil_mode=int(op.ceil),
    )


@exports(nn.AvgPool2d)
def _avg_pool(op: Any, writer: Writer) -> str:
    if op.ceil and op.count_pad and any(op.pad):
        raise Inexpressible("AveragePool disagrees on what a window beyond the pads counts")
    return writer.node(
        "AveragePool",
        op.x,
        kernel_shape=list(op.kernel),
        strides=list(op.stride),
        pads=window(op, op.pad, len(op.kernel)),
        dilations=list(op.dilation),
        ceil_mode=int(op.ceil),
        count_include_pad=int(op.count_pad),
    )


@exports(nn.AdaptiveAvgPool2d)
def _adaptive_avg_pool(op: Any, writer: Writer) -> str:
    """The mean of all for one window; else a product with the matrix of window weights along each axis."""
    if op.size == (1, 1):
        return writer.node("GlobalAveragePool", op.x)
    x, element = writer.name(op.x), op.x.shaped.dtype
    for axis, (size, count) in enumerate(zip(op.x.shaped.shape[2:], op.size, strict=True)):
        if not isinstance(size, int):
            if count != 1:
                raise Inexpressible(f"windows over a dim of {size} are not known")
            x = writer.node("ReduceMean", x, writer.ints([axis + 2]), keepdims=1)
            continue
        weights = np.zeros((count, size))
        for i in range(count):
            first, last = i * size // count, -(-(i + 1) * size // count)
            weights[i, first:last] = 1 / (last - first)
        matrix = writer.array((weights if axis == 0 else weights.T).astype(element.numpy), element)
        x = writer.node("MatMul", matrix, x) if axis == 0 else writer.node("MatMul", x, matrix)
    return x


@exports(nn.Resize2d)
def _resize(op: Any, writer: Writer) -> str:
    nearest = {"asymmetric": "floor"}.get(op.coordinates, "round_prefer_ceil")
    return writer.node(
        "Resize",
        op.x,
        "",
        "",
        writer.vector(op.result.type.shape),
        mode=op.mode,
        coordinate_transformation_mode=op.coordinates,
        nearest_mode=nearest if op.mode == "nearest" else None,
        cubic_coeff_a=-0.75 if op.mode == "cubic" else None,
    )


# -- norms ------------------------------------------------------------------------------
def _vector(writer: Writer, given: Value | None, number: float, x: Value, shape: Sequence[Any]) -> Operand:
    """A parameter of a norm, or as many copies of its neutral number."""
    if given is not None:
        return given
    if not all(isinstance(dim, int) for dim in shape):
        raise Inexpressible(f"a norm without parameters over {list(map(str, shape))}")
    return writer.number(number, x.shaped.dtype, tuple(shape))


@exports(nn.BatchNorm)
def _batch_norm(op: Any, writer: Writer) -> str:
    channels = op.x.shaped.shape[1:2]
    scale = _vector(writer, op.scale, 1, op.x, channels)
    bias = _vector(writer, op.bias, 0, op.x, channels)
    return writer.node("BatchNormalization", op.x, scale, bias, op.mean, op.variance, epsilon=op.epsilon)


@exports(nn.LayerNorm)
def _layer_norm(op: Any, writer: Writer) -> str:
    scale = _vector(writer, op.scale, 1, op.x, op.x.shaped.shape[-op.axes :])
    return writer.node("LayerNormalization", op.x, scale, op.bias, axis=-op.axes, epsilon=op.epsilon)


@exports(nn.RmsNorm)
def _rms_norm(op: Any, writer: Writer) -> str:
    square = writer.node("ReduceMean", writer.node("Mul", op.x, op.x), writer.ints([-1]), keepdims=1)
    raised = writer.node("Add", square, writer.number(op.epsilon, op.x.shaped.dtype))
    y = writer.node("Div", op.x, writer.node("Sqrt", raised))
    return y if op.scale is None else writer.node("Mul", y, op.scale)


@exports(nn.GroupNorm)
def _group_norm(op: Any, writer: Writer) -> str:
    channels = op.x.shaped.shape[1:2]
    return writer.node(
        "GroupNormalization",
        op.x,
        _vector(writer, op.scale, 1, op.x, channels),
        _vector(writer, op.bias, 0, op.x, channels),
        num_groups=op.groups,
        epsilon=op.epsilon,
    )


@exports(nn.InstanceNorm)
def _instance_norm(op: Any, writer: Writer) -> str:
    channels = op.x.shaped.shape[1:2]
    scale = _vector(writer, op.scale, 1, op.x, channels)
    bias = _vector(writer, op.bias, 0, op.x, channels)
    return writer.node("InstanceNormalization", op.x, scale, bias, epsilon=op.epsilon)


@exports(nn.LocalResponseNorm)
def _local_response_norm(op: Any, writer: Writer) -> str:
    if op.size % 2 == 0:
        raise Inexpressible("LRN places a window of even size one channel further")
    return writer.node("LRN", op.x, alpha=op.alpha, beta=op.beta, bias=op.k, size=op.size)
