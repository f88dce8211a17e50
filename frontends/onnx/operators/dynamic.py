"""Operators whose output size depends on values: each declares a dim of its own for it."""

from __future__ import annotations

from plait.frontends.onnx.call import Call
from plait.frontends.onnx.registry import lowers
from plait.ir import Value
from plait.ir import types as t
from plait.ir.dims import minimum
from plait.ir.ops import core, nn


@lowers("NonZero", since=9)
def non_zero(call: Call) -> Value:
    """ONNX gives a row for each axis, the IR one for each element."""
    x = call.value(0)
    found = call.step(core.Nonzero(x, count=call.builder.declare_count(call.name)))
    return call.emit(core.Transpose(found, permutation=(1, 0)))


@lowers("Compress", since=9)
def compress(call: Call) -> Value:
    """The slices at the places where a vector of booleans, which may be shorter, is true."""
    x, condition = call.value(0), call.value(1)
    axis = 0
    if "axis" in call.attributes:
        axis = call.axis(0, call.rank(0))
    else:
        x = call.reshape(x, (x.shaped.count,))
    count = call.builder.declare_count(call.name)
    places = call.step(core.Nonzero(condition, count=count))
    return call.emit(core.Take(x, call.reshape(places, (count,)), axis=axis))


@lowers("Unique", since=11)
def unique(call: Call) -> list[Value | None]:
    """Without an axis ONNX gives the inverse of the flattened input."""
    x = call.value(0)
    axis = call.axis(0, call.rank(0)) if "axis" in call.attributes else None
    count = call.builder.declare_count(call.name)
    op = call.builder.add(
        core.Unique(x, count=count, axis=axis, sorted=bool(call.integer("sorted", 1))), call.name
    )
    values, first, inverse, counts = op.results
    inverse = call.reshape(inverse, (inverse.shaped.count,))
    return [v if call.wants(i) else None for i, v in enumerate((values, first, inverse, counts))]


@lowers("NonMaxSuppression", since=10)
def non_max_suppression(call: Call) -> Value:
    """The limits must be known; left out, no box is kept, any overlap drops and no score is too low."""
    boxes, scores = call.value(0), call.value(1)
    limit = int(call.number(2, "max_output_boxes_per_class")) if call.has(2) else 0
    images, classes, number = scores.shaped.shape
    highest = images * classes * minimum(number, limit)
    count = call.builder.declare_count(call.name, highest if isinstance(highest, int) else None)
    return call.emit(
        nn.NonMaxSuppression(
            call.cast(boxes, t.f32),
            call.cast(scores, t.f32),
            count=count,
            max_output_boxes_per_class=limit,
            iou_threshold=float(call.number(3, "iou_threshold")) if call.has(3) else 0.0,
            score_threshold=float(call.number(4, "score_threshold")) if call.has(4) else None,
            center_point_box=bool(call.integer("center_point_box", 0)),
        )
    )
