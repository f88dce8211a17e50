"""The message family: message passing on graph-typed topologies.

Node tensors are [N, ...], edge tensors [E, ...], in the order of the edge list.  In a
bipartite graph source tensors are [M, ...] and destination tensors [N, ...].  A batch
of graphs is read out through a graph of memberships: one edge from each node to the
graph that holds it (`message.from_segments`).
"""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Literal

from plait.ir.op import Op, op
from plait.ir.ops.common import broadcast, dense, floating, integral, same_dtype
from plait.ir.types import GraphType, TensorType, Type, f32
from plait.ir.value import Value


def topology(op: Op, value: Value) -> GraphType:
    """The graph type of an operand.  Raises VerifyError for a tensor."""
    if not isinstance(value.type, GraphType):
        raise op.error(f"{value} is {value.type}", why="a graph is wanted")
    return value.type


def on_nodes(op: Op, graph: Value, x: Value, side: str) -> TensorType:
    """The type of a tensor of the `src` or `dst` nodes.  Raises VerifyError when its rows are not these."""
    kind, nodes = dense(op, x, "x"), topology(op, graph).ends(side)
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
    """The row of each edge's source or destination node: [M, ...] or [N, ...] -> [E, ...]."""

    graph: Value
    x: Value
    _: KW_ONLY
    side: Literal["src", "dst"]

    def infer(self) -> tuple[Type, ...]:
        kind = on_nodes(self, self.graph, self.x, self.side)
        return (kind.with_shape((topology(self, self.graph).edges, *kind.shape[1:])),)


@op("message.sddmm")
class Sddmm(Op):
    """Two tensors combined on each edge (sampled dense-dense matrix product), [E, ...].

    Each operand is read at the edge's source, at its destination or on the edge
    itself.  Dims behind the first broadcast.  `dot` multiplies and sums over the last
    dim, which becomes 1.
    """

    graph: Value
    left: Value
    right: Value
    _: KW_ONLY
    left_side: Literal["src", "dst", "edge"]
    right_side: Literal["src", "dst", "edge"]
    combine: Literal["add", "sub", "mul", "div", "dot"]

    def infer(self) -> tuple[Type, ...]:
        kinds = []
        for value, side in ((self.left, self.left_side), (self.right, self.right_side)):
            floating(self, value, "left" if value is self.left else "right")
            on = on_edges(self, self.graph, value) if side == "edge" else None
            kinds.append(on or on_nodes(self, self.graph, value, side))
        left, right = kinds
        same_dtype(self, self.left, self.right)
        if left.rank != right.rank:
            raise self.error(f"{self.left} has rank {left.rank} but {self.right} rank {right.rank}")
        tails = (left.with_shape(left.shape[1:]), right.with_shape(right.shape[1:]))
        tail = broadcast(self, *tails, (self.left, self.right))
        if self.combine == "dot":
            if not tail or left.shape[-1] != right.shape[-1]:
                raise self.error(
                    f"{self.left} : {left} and {self.right} : {right}", why="dot wants equal last dims"
                )
            tail = (*tail[:-1], 1)
        return (left.with_shape((topology(self, self.graph).edges, *tail)),)


@op("message.aggregate")
class Aggregate(Op):
    """Reduction at each destination of its sources' rows, weighted per edge: [M, ...] -> [N, ...].

    `weight` [E, ...] broadcasts over trailing dims of x.  A node without incoming
    edges gets zero.
    """

    graph: Value
    x: Value
    weight: Value | None = None
    _: KW_ONLY
    reduce: Literal["sum", "mean", "max", "min"]

    def infer(self) -> tuple[Type, ...]:
        kind = on_nodes(self, self.graph, self.x, "src")
        floating(self, self.x, "x")
        if self.weight is not None:
            weight = on_edges(self, self.graph, self.weight)
            same_dtype(self, self.x, self.weight)
            if weight.shape[1:] != kind.shape[1 : weight.rank]:
                raise self.error(f"{self.weight} : {weight} does not weight {self.x} : {kind}")
        return (kind.with_shape((topology(self, self.graph).nodes, *kind.shape[1:])),)


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
    """Number of incoming edges of each destination or outgoing ones of each source, as f32: [N] or [M]."""

    graph: Value
    _: KW_ONLY
    side: Literal["src", "dst"]

    def infer(self) -> tuple[Type, ...]:
        return (TensorType(f32, (topology(self, self.graph).ends(self.side),)),)


@op("message.reverse")
class Reverse(Op):
    """The coo graph with every edge turned round; edges keep their numbers."""

    graph: Value

    def infer(self) -> tuple[Type, ...]:
        kind = topology(self, self.graph)
        sources = None if kind.sources is None else kind.nodes
        return (GraphType(kind.ends("src"), kind.edges, "coo", kind.index, sources),)


@op("message.self_loops")
class SelfLoops(Op):
    """The coo graph with an edge from each node to itself behind its E edges: E + N edges."""

    graph: Value

    def infer(self) -> tuple[Type, ...]:
        kind = topology(self, self.graph)
        if kind.sources is not None:
            raise self.error(f"{self.graph} is {kind}", why="a bipartite graph has no loops")
        return (GraphType(kind.nodes, kind.edges + kind.nodes, "coo", kind.index),)


@op("message.from_segments")
class FromSegments(Op):
    """Memberships of rows that lie segment after segment: lengths [G] of sum N -> graph<G, N, src=N>.

    Edge i goes from row i to the segment that holds it, so that `segment_reduce`
    reduces and `edge_softmax` normalises within segments, and `gather` hands each row
    the value of its segment.
    """

    lengths: Value
    _: KW_ONLY
    out: GraphType

    def infer(self) -> tuple[Type, ...]:
        kind = integral(self, self.lengths, "lengths")
        if not isinstance(self.out, GraphType) or self.out.format != "coo":
            raise self.error(f"result is declared {self.out}", why="memberships are a coo graph")
        if kind.shape != (self.out.nodes,) or kind.dtype != self.out.index:
            raise self.error(f"{self.lengths} is {kind} but the graph is {self.out}", why="it is [G]")
        if self.out.sources != self.out.edges:
            raise self.error(f"result is declared {self.out}", why="each row is one source and one edge")
        return (self.out,)
