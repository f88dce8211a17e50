"""Lowering rules of the operators of a traced DGL model, to ops of the message family."""

from __future__ import annotations

from typing import Any

from plait.frontends.dgl import operators as _operators  # noqa: F401  # defines the operators
from plait.frontends.pytorch.builder import Builder
from plait.frontends.pytorch.registry import register
from plait.ir.dims import IntLike
from plait.ir.ops import message
from plait.ir.types import GraphType
from plait.ir.value import Value


@register("plait.gather.default")
def gather(build: Builder, graph: Value, x: Value, side: Any) -> Value:
    return build.emit(message.Gather(graph, x, side=side))


@register("plait.segment_reduce.default")
def segment_reduce(build: Builder, graph: Value, nodes: IntLike, x: Value, reduce: Any) -> Value:
    return build.emit(message.SegmentReduce(graph, x, reduce=reduce))


@register("plait.aggregate.default")
def aggregate(
    build: Builder, graph: Value, nodes: IntLike, x: Value, weight: Value | None, reduce: Any
) -> Value:
    return build.emit(message.Aggregate(graph, x, weight, reduce=reduce))


@register("plait.sddmm.default")
def sddmm(
    build: Builder, graph: Value, left: Value, right: Value, left_side: Any, right_side: Any, combine: Any
) -> Value:
    return build.emit(
        message.Sddmm(graph, left, right, left_side=left_side, right_side=right_side, combine=combine)
    )


@register("plait.edge_softmax.default")
def edge_softmax(build: Builder, graph: Value, nodes: IntLike, score: Value, group: Any) -> Value:
    return build.emit(message.EdgeSoftmax(graph, score, group=group))


@register("plait.degree.default")
def degree(build: Builder, graph: Value, nodes: IntLike, side: Any) -> Value:
    return build.cast(build.emit(message.Degree(graph, side=side)), graph.graph_type.index)


@register("plait.edge_ends.default")
def edge_ends(build: Builder, graph: Value, nodes: IntLike, side: Any) -> Value:
    """The nodes' own numbers, gathered."""
    kind = graph.graph_type
    numbers = build.iota(kind.ends(side), kind.index)
    return build.emit(message.Gather(graph, numbers, side=side))


@register("plait.reverse.default")
def reverse(build: Builder, graph: Value) -> Value:
    return build.emit(message.Reverse(graph))


@register("plait.self_loops.default")
def self_loops(build: Builder, graph: Value, nodes: IntLike) -> Value:
    return build.emit(message.SelfLoops(graph))


@register("plait.from_segments.default")
def from_segments(build: Builder, lengths: Value, rows: IntLike) -> Value:
    kind = build.kind(lengths)
    (count,) = kind.shape
    return build.emit(message.FromSegments(lengths, out=GraphType(count, rows, "coo", kind.dtype, rows)))
