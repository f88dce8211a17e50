"""Ops whose result has a size that only the run shows."""

from __future__ import annotations

import numpy as np

from plait.frontends.tensorflow.call import Call
from plait.frontends.tensorflow.operand import Operand
from plait.frontends.tensorflow.registry import lowers
from plait.ir import Dim, TensorType, Value
from plait.ir import types as t
from plait.ir.ops import core, nn

#: A score threshold this low is none: TensorFlow's default is minus infinity.
LOWEST = -3e38


def counted_dim(call: Call, hint: str) -> Dim:
    """A dim of the graph that an op binds when it runs."""
    graph = call.builder.graph
    name, count = hint, 0
    while name in graph.dims:
        count += 1
        name = f"{hint}_{count}"
    return graph.declare_dim(name, 0)


@lowers("Where")
def where(call: Call) -> Value:
    """Indices of the elements that are true or not 0."""
    return call.emit(core.Nonzero(call.value(0), count=counted_dim(call, "K")))


@lowers("Unique", "UniqueWithCounts", "UniqueV2", "UniqueWithCountsV2")
def unique(call: Call) -> list[Operand]:
    """The distinct elements of a vector in the order of their first occurrence, where each is, and counts."""
    x = call.value(0)
    if x.shaped.rank != 1:
        raise call.unsupported("the distinct slices of a tensor of more than one axis")
    element = call.element_attribute("out_idx") if "out_idx" in call.attributes else t.i32
    op = call.builder.add(core.Unique(x, count=counted_dim(call, "K"), sorted=False), call.name)
    values, _, inverse, counts = op.results
    found = [values, call.cast(inverse, element), call.cast(counts, element)]
    return [Operand.of(value) for value in (found if "Counts" in call.op_type else found[:2])]


@lowers("NonMaxSuppressionV2", "NonMaxSuppressionV3")
def non_max_suppression(call: Call) -> Value:
    """The boxes that are kept, by falling score; a box takes part when its score exceeds the threshold."""
    limit = call.ints(2, "the number of boxes")[0]
    threshold = float(call.number(4, "the score threshold")) if len(call.inputs) > 4 else None
    boxes = call.reshape(call.value(0), (1, *call.shape(0)))
    scores = call.reshape(call.value(1), (1, 1, *call.shape(1)))
    found = call.step(
        nn.NonMaxSuppression(
            boxes,
            scores,
            count=counted_dim(call, "K"),
            max_output_boxes_per_class=limit,
            iou_threshold=float(call.number(3, "the overlap threshold")),
            score_threshold=None if threshold is None or threshold <= LOWEST else threshold,
        )
    )
    column = call.step(core.Slice(found, axes=(1,), starts=(2,), stops=(3,)))
    flat = call.reshape(column, found.shaped.shape[:1])
    return call.emit(core.Cast(flat, out=TensorType(t.i32, flat.shaped.shape)))


@lowers("Bucketize")
def bucketize(call: Call) -> Operand:
    """How many boundaries each element reaches."""
    x, _, wrap = call.held(0)
    boundaries = np.asarray(call.attributes["boundaries"], dtype=x.shaped.dtype.numpy)
    table = call.constant(boundaries, "boundaries")
    shape = x.shaped.shape
    reached = call.step(core.Ge(call.reshape(x, (*shape, 1)), table))
    count = call.step(core.Sum(call.cast(reached, t.i32), axes=(len(shape),)))
    return wrap(count)


@lowers("LowerBound", "UpperBound")
def sorted_search(call: Call) -> Operand:
    """How many elements of each sorted row are below (or at most) each value: [R, N] and [R, M] to [R, M]."""
    rows, values = call.value(0), call.value(1)
    batch, size = rows.shaped.shape
    count = values.shaped.shape[1]
    left = call.reshape(rows, (batch, 1, size))
    right = call.reshape(values, (batch, count, 1))
    below = core.Lt(left, right) if call.op_type == "LowerBound" else core.Le(left, right)
    element = call.element_attribute("out_type") if "out_type" in call.attributes else t.i32
    found = call.cast(call.step(below), element)
    return Operand.of(call.emit(core.Sum(found, axes=(2,))))
