"""Cost of message passing: rows are read once for each edge that picks them."""

from __future__ import annotations

import math

from plait.ir.cost_rules.table import SOFTMAX_FLOPS, Cost, Sizes, cost_rule
from plait.ir.ops import message
from plait.ir.value import Value


def index_bytes(graph: Value, edges: int) -> int:
    """Bytes of one end of each edge."""
    return edges * graph.graph_type.index.bits // 8


def row_bytes(x: Value, sizes: Sizes) -> float:
    """Bytes of one row of a node or edge tensor."""
    return math.prod(sizes.shape(x)[1:]) * x.shaped.element_bits / 8


@cost_rule(message.Gather)
def gather(op: message.Gather, sizes: Sizes) -> Cost:
    """One row and one index for each edge."""
    edges = sizes.dim(op.graph.graph_type.edges)
    written = sizes.written(op)
    return Cost(bytes_read=written + index_bytes(op.graph, edges), bytes_written=written)


@cost_rule(message.Sddmm)
def sddmm(op: message.Sddmm, sizes: Sizes) -> Cost:
    """Both rows of each edge combined; a dot product multiplies and adds."""
    edges = sizes.dim(op.graph.graph_type.edges)
    dot = op.combine == "dot"
    elements = sizes.count(op.result) * (sizes.shape(op.left)[-1] if dot else 1)
    read = sum(int(edges * row_bytes(x, sizes)) for x in (op.left, op.right))
    ends = sum(side != "edge" for side in (op.left_side, op.right_side))
    read += ends * index_bytes(op.graph, edges)
    return Cost(elements if dot else 0, elements * (1 + dot), read, sizes.written(op))


@cost_rule(message.Aggregate)
def aggregate(op: message.Aggregate, sizes: Sizes) -> Cost:
    """A row for each edge, multiplied by its weight and reduced; means are divided per node."""
    edges = sizes.dim(op.graph.graph_type.edges)
    width = math.prod(sizes.shape(op.x)[1:])
    summed = op.reduce in ("sum", "mean")
    weighted = op.weight is not None
    flops = edges * width * (1 + weighted) + (sizes.count(op.result) if op.reduce == "mean" else 0)
    read = int(edges * row_bytes(op.x, sizes)) + sizes.bytes(op.graph)
    read += 0 if op.weight is None else sizes.bytes(op.weight)
    return Cost(edges * width if weighted and summed else 0, flops, read, sizes.written(op))


@cost_rule(message.SegmentReduce)
def segment_reduce(op: message.SegmentReduce, sizes: Sizes) -> Cost:
    """A row for each edge reduced; means are divided per node."""
    edges = sizes.dim(op.graph.graph_type.edges)
    flops = sizes.count(op.x) + (sizes.count(op.result) if op.reduce == "mean" else 0)
    read = sizes.bytes(op.x) + index_bytes(op.graph, edges)
    return Cost(0, flops, read, sizes.written(op))


@cost_rule(message.EdgeSoftmax)
def edge_softmax(op: message.EdgeSoftmax, sizes: Sizes) -> Cost:
    """A softmax over all edges."""
    edges = sizes.dim(op.graph.graph_type.edges)
    read = sizes.bytes(op.score) + index_bytes(op.graph, edges)
    return Cost(0, SOFTMAX_FLOPS * sizes.count(op.score), read, sizes.written(op))


@cost_rule(message.Reverse, message.SelfLoops, message.FromSegments)
def topology(op: message.Reverse | message.SelfLoops | message.FromSegments, sizes: Sizes) -> Cost:
    """The operand is read once and edges are written."""
    return Cost(bytes_read=sizes.read(op), bytes_written=sizes.written(op))


@cost_rule(message.Degree)
def degree(op: message.Degree, sizes: Sizes) -> Cost:
    """One increment for each edge."""
    edges = sizes.dim(op.graph.graph_type.edges)
    return Cost(0, edges, index_bytes(op.graph, edges), sizes.written(op))
