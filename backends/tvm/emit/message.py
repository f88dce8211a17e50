"""Emissions of message passing on edge lists.

A reduction at the nodes scatters edge rows one after another, so that it is exact
whatever the order of the edges.
"""

from __future__ import annotations

from typing import Any

from tvm import te, tirx
from tvm.ir import Expr

from plait.backends.tvm.emit.expressions import number
from plait.backends.tvm.emit.index import scatter_rows
from plait.backends.tvm.emit.table import Arguments, Emitter, Kind, emit
from plait.ir import GraphType, Value
from plait.ir.dims import IntLike
from plait.ir.ops import message


def _end(graph: Value, tensors: Any, edge: Expr, side: str) -> Expr:
    """The node at one end of an edge, in the order of the edge list."""
    row = tirx.IntImm("int64", 0 if side == "src" else 1)
    return tirx.Cast("int64", tensors(row, edge))


def edge_ends(emitter: Emitter, graph: Value, tensors: Any, side: str) -> te.Tensor:
    """One end of every edge, [E], in the order of the edge list."""
    kind: GraphType = graph.graph_type
    if kind.format == "coo":
        return te.compute([emitter.dim(kind.edges)], lambda e: _end(graph, tensors, e, side), name=side)
    rows, sources, numbers = tensors
    over = emitter.axis(kind.edges, "position")
    if side == "src":
        # Position p of the csr order holds edge numbers[p].
        def source(e: Expr) -> Expr:
            found = tirx.Cast("int64", numbers(over)) == e
            return te.sum(
                tirx.Select(found, tirx.Cast("int64", sources(over)), number(0, "int64")), axis=over
            )

        return te.compute([emitter.dim(kind.edges)], source, name="src")
    place = emitter.stage(
        "places",
        te.compute(
            [emitter.dim(kind.edges)],
            lambda e: te.sum(
                tirx.Select(tirx.Cast("int64", numbers(over)) == e, over.var, number(0, "int64")), axis=over
            ),
            name="places",
        ),
    )
    node = emitter.axis(kind.nodes, "node")

    def destination(e: Expr) -> Expr:
        ended = tirx.Cast("int64", rows(node + 1)) <= place(e)
        return te.sum(tirx.Select(ended, number(1, "int64"), number(0, "int64")), axis=node)

    return te.compute([emitter.dim(kind.edges)], destination, name="dst")


@emit(message.FromEdges, kind=Kind.VIEW)
def _from_edges(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    """A coo graph is held as its [2, E] array, so nothing runs."""
    raise AssertionError("views are built without kernels")


@emit(message.Gather, kind=Kind.ALONE)
def _gather(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    kind = op.result.type
    if op.graph.graph_type.format == "coo":
        return te.compute(
            emitter.shape(kind.shape),
            lambda *i: args.x(_end(op.graph, args.graph, i[0], op.side), *i[1:]),
            name="gather",
        )
    ends = emitter.stage("ends", edge_ends(emitter, op.graph, args.graph, op.side))
    return te.compute(emitter.shape(kind.shape), lambda *i: args.x(ends(i[0]), *i[1:]), name="gather")


def _segments(
    emitter: Emitter, ends: te.Tensor, rows: te.Tensor, shape: tuple[IntLike, ...], dtype: str, reduce: str
) -> te.Tensor:
    """Rows [E, ...] reduced at their nodes, [N, ...]; a node without edges gets zero."""
    size = emitter.shape(shape)
    add = reduce in ("sum", "mean")
    start = number(0, dtype) if add else tirx.min_value(dtype) if reduce == "max" else tirx.max_value(dtype)
    blank = emitter.stage("start", te.compute(size, lambda *i: start, name="start"))
    index = emitter.stage(
        "index", te.compute([emitter.dim(1), ends.shape[0]], lambda _, e: ends(e), name="node_index")
    )
    total = emitter.stage("scatter", scatter_rows(emitter, blank, index, rows, "add" if add else reduce))
    if reduce == "sum":
        return te.compute(size, lambda *i: total(*i), name="segment_sum")
    if reduce != "mean":
        # A node without edges still holds the extreme it started from.
        return te.compute(
            size,
            lambda *i: tirx.Select(total(*i) == start, number(0, dtype), total(*i)),
            name=f"segment_{reduce}",
        )
    count = emitter.stage("count", _members(emitter, ends, shape[0], dtype))
    return te.compute(size, lambda *i: total(*i) / te.max(count(i[0]), number(1, dtype)), name="segment_mean")


def _members(emitter: Emitter, ends: te.Tensor, nodes: IntLike, dtype: str) -> te.Tensor:
    """Number of edges that end at each node."""
    edge = te.reduce_axis((tirx.IntImm("int64", 0), ends.shape[0]), name="edge")

    def at(node: Expr) -> Expr:
        return te.sum(tirx.Select(ends(edge) == node, number(1, dtype), number(0, dtype)), axis=edge)

    return te.compute([emitter.dim(nodes)], at, name="members")


@emit(message.Aggregate, kind=Kind.ALONE)
def _aggregate(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    kind, graph = op.x.type, op.graph.graph_type
    sources = emitter.stage("sources", edge_ends(emitter, op.graph, args.graph, "src"))
    ends = emitter.stage("ends", edge_ends(emitter, op.graph, args.graph, "dst"))

    def row(*i: Expr) -> Expr:
        x = args.x(sources(i[0]), *i[1:])
        return x if args.weight is None else x * args.weight(*i[: op.weight.type.rank])

    rows = emitter.stage(
        "rows", te.compute(emitter.shape((graph.edges, *kind.shape[1:])), row, name="edge_rows")
    )
    return _segments(emitter, ends, rows, kind.shape, emitter.dtype(kind), op.reduce)


@emit(message.SegmentReduce, kind=Kind.ALONE)
def _segment_reduce(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    kind = op.result.type
    ends = emitter.stage("ends", edge_ends(emitter, op.graph, args.graph, "dst"))
    return _segments(emitter, ends, args.x, kind.shape, emitter.dtype(kind), op.reduce)


@emit(message.EdgeSoftmax, kind=Kind.ALONE)
def _edge_softmax(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    kind, nodes = op.score.type, op.graph.graph_type.nodes
    dtype = emitter.dtype(kind)
    shape = (nodes, *kind.shape[1:])
    ends = emitter.stage("ends", edge_ends(emitter, op.graph, args.graph, op.group))
    largest = emitter.stage("largest", _segments(emitter, ends, args.score, shape, dtype, "max"))

    def power(*i: Expr) -> Expr:
        return tirx.exp(args.score(*i) - largest(ends(i[0]), *i[1:]))

    edges = emitter.shape(kind.shape)
    powers = emitter.stage("powers", te.compute(edges, power, name="powers"))
    total = emitter.stage("total", _segments(emitter, ends, powers, shape, dtype, "sum"))
    return te.compute(edges, lambda *i: powers(*i) / total(ends(i[0]), *i[1:]), name="edge_softmax")


@emit(message.Degree, kind=Kind.ALONE)
def _degree(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    ends = emitter.stage("ends", edge_ends(emitter, op.graph, args.graph, op.side))
    return _members(emitter, ends, op.graph.graph_type.nodes, "float32")
