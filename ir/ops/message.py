"""The message family: message passing on graph-typed topologies.

Node tensors are [N, ...], edge tensors [E, ...], in the order of the edge list.
"""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Literal

from plait.ir.op import Op, op
from plait.ir.ops.common import dense, floating, integral, same_dtype
from plait.ir.types import GraphType, TensorType, Type, f32
from plait.ir.value import Value


def topology(op: Op, value: Value) -> GraphType:
    """The graph type of an operand.  Raises VerifyError for a tensor."""
    if not isinstance(value.type, GraphType):
        raise op.error(f"{value} is {value.type}", why="a graph is wanted")
    return value.type


def on_nodes(op: Op, graph: Value, x: Value) -> TensorType:
    """The type of a node tensor.  Raises VerifyError when its rows are not the nodes."""
    kind, nodes = dense(op, x, "x"), topology(op, graph).nodes
    if not kind.rank or kind.shape[0] != nodes:
        rows = kind.shape[0] if kind.rank else "no"
        raise op.error(f"{x} has {rows} rows but {graph} has {nodes} nodes")
    return kind


def on_edges(op: Op, graph: Value, x: Value) -> TensorType:
    """The type of an edge tensor.  Raises VerifyError when its rows are not the edges."""
    kind, edges = dense(op, x, "x"), topology(op, graph).edges
    if not kind.rank or kind.shape[0] != edges:
        rows = kind.shape[0] if kind.rank else "no"
        raise op.error(f"{x} has {rows} rows but {graph} has {edges} edges")
    return kind


@op("message.from_edges")
class FromEdges(Op):
    """A coo graph from edge_index [2, E] (row 0 sources, row 1 destinations) of i32 or i64."""

    edge_index: Value
    _: KW_ONLY
    out: GraphType

    def infer(self) -> tuple[Type, ...]:
        kind = integral(self, self.edge_index, "edge_index")
        if not isinstance(self.out, GraphType) or self.out.format != "coo":
            raise self.error(f"result is declared {self.out}", why="edge lists make coo graphs")
        if kind.shape != (2, self.out.edges) or kind.dtype != self.out.index:
            raise self.error(f"{self.edge_index} is {kind} but the graph is {self.out}", why="it is [2, E]")
        return (self.out,)


@op("message.gather")
class Gather(Op):
    """The row of each edge's source or destination node: [N, ...] -> [E, ...]."""

    graph: Value
    x: Value
    _: KW_ONLY
    side: Literal["src", "dst"]

    def infer(self) -> tuple[Type, ...]:
        kind = on_nodes(self, self.graph, self.x)
        return (kind.with_shape((topology(self, self.graph).edges, *kind.shape[1:])),)


@op("message.aggregate")
class Aggregate(Op):
    """Reduction at each destination of its sources' rows, weighted per edge: [N, ...] -> [N, ...].

    `weight` [E, ...] broadcasts over trailing dims of x.  A node without incoming
    edges gets zero.
    """

    graph: Value
    x: Value
    weight: Value | None = None
    _: KW_ONLY
    reduce: Literal["sum", "mean", "max", "min"]

    def infer(self) -> tuple[Type, ...]:
        kind = on_nodes(self, self.graph, self.x)
        floating(self, self.x, "x")
        if self.weight is not None:
            weight = on_edges(self, self.graph, self.weight)
            same_dtype(self, self.x, self.weight)
            if weight.shape[1:] != kind.shape[1 : weight.rank]:
                raise self.error(f"{self.weight} : {weight} does not weight {self.x} : {kind}")
        return (kind,)


@op("message.segment_reduce")
class SegmentReduce(Op):
    """Reduction of edge rows at their destination: [E, ...] -> [N, ...]; zero without incoming edges."""

    graph: Value
    x: Value
    _: KW_ONLY
    reduce: Literal["sum", "mean", "max", "min"]

    def infer(self) -> tuple[Type, ...]:
        kind = on_edges(self, self.graph, self.x)
        floating(self, self.x, "x")
        return (kind.with_shape((topology(self, self.graph).nodes, *kind.shape[1:])),)


@op("message.edge_softmax")
class EdgeSoftmax(Op):
    """Softmax of edge scores among the edges that share a destination (or source): [E, ...] -> [E, ...]."""

    graph: Value
    score: Value
    _: KW_ONLY
    group: Literal["dst", "src"]

    def infer(self) -> tuple[Type, ...]:
        floating(self, self.score, "score")
        return (on_edges(self, self.graph, self.score),)


@op("message.degree")
class Degree(Op):
    """Number of incoming (dst) or outgoing (src) edges of each node as f32: [N]."""

    graph: Value
    _: KW_ONLY
    side: Literal["src", "dst"]

    def infer(self) -> tuple[Type, ...]:
        return (TensorType(f32, (topology(self, self.graph).nodes,)),)
