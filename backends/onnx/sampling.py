"""Exports of ops that pick, sample and count by the values of their operands, and of transforms."""

from __future__ import annotations

from typing import Any

from plait.backends.onnx.layers import window
from plait.backends.onnx.movement import reshaped, sliced
from plait.backends.onnx.table import Inexpressible, exports
from plait.backends.onnx.writer import Writer
from plait.ir import types as t
from plait.ir.dims import product
from plait.ir.ops import core, nn


@exports(nn.GridSample)
def _grid_sample(op: Any, writer: Writer) -> str:
    if op.coordinates == "pixels":
        raise Inexpressible("GridSample takes no positions in pixels")
    return writer.node(
        "GridSample",
        op.x,
        op.grid,
        mode=op.mode,
        padding_mode=op.padding,
        align_corners=int(op.coordinates == "align_corners"),
    )


@exports(nn.MaxPoolIndices)
def _max_pool_indices(op: Any, writer: Writer) -> str:
    """MaxPool counts the elements of the whole tensor; less whole channels that is the place in one."""
    _, places = writer.nodes(
        "MaxPool",
        op.x,
        count=2,
        kernel_shape=list(op.kernel),
        strides=list(op.stride),
        pads=window(op, op.pad, len(op.kernel)),
        dilations=list(op.dilation),
        ceil_mode=int(op.ceil),
    )
    return writer.node("Mod", places, writer.dim(product(op.x.shaped.shape[2:])))


@exports(nn.Fold)
def _fold(op: Any, writer: Writer) -> str:
    return writer.node(
        "Col2Im",
        op.x,
        writer.vector(op.size),
        writer.ints(op.kernel),
        strides=list(op.stride),
        pads=window(op, op.pad, len(op.kernel)),
        dilations=list(op.dilation),
    )


@exports(nn.NonMaxSuppression)
def _non_max_suppression(op: Any, writer: Writer) -> str:
    threshold = None if op.score_threshold is None else writer.number(op.score_threshold, t.f32, (1,))
    return writer.node(
        "NonMaxSuppression",
        writer.cast(op.boxes, t.f32),
        writer.cast(op.scores, t.f32),
        writer.ints([op.max_output_boxes_per_class]),
        writer.number(op.iou_threshold, t.f32, (1,)),
        threshold,
        center_point_box=int(op.center_point_box),
    )


@exports(core.Nonzero)
def _nonzero(op: Any, writer: Writer) -> str:
    if not op.x.shaped.shape:
        raise Inexpressible("NonZero of a scalar means one index")
    return writer.node("Transpose", writer.node("NonZero", op.x), perm=[1, 0])


@exports(core.Unique)
def _unique(op: Any, writer: Writer) -> tuple[str, ...]:
    if op.consecutive:
        raise Inexpressible("Unique merges more than neighbours")
    values, first, inverse, counts = writer.nodes(
        "Unique", op.x, count=4, axis=op.axis, sorted=int(op.sorted)
    )
    if op.axis is None:
        inverse = reshaped(writer, inverse, (product(op.x.shaped.shape),), op.x.shaped.shape)
    return values, first, inverse, counts


@exports(core.Dft)
def _dft(op: Any, writer: Writer) -> tuple[str, ...]:
    """DFT takes and gives real and imaginary parts along a last axis; its inverse divides by the length."""
    kind = op.real.shaped
    axis = op.axis % kind.rank
    last = writer.ints([-1])
    parts = [writer.node("Unsqueeze", part, last) for part in (op.real, op.imag) if part is not None]
    joined = parts[0] if len(parts) == 1 else writer.node("Concat", *parts, axis=-1)
    found = writer.node("DFT", joined, "", writer.number(axis, t.i64), inverse=int(op.inverse))
    if op.inverse:
        size = writer.cast(writer.scalar(kind.shape[axis]), kind.dtype)
        found = writer.node("Mul", found, size)
    if op.onesided:
        found = sliced(writer, found, [axis], [0], [kind.shape[axis] // 2 + 1])
    return tuple(writer.node("Gather", found, writer.number(place, t.i64), axis=-1) for place in (0, 1))
