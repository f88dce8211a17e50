"""Emissions of message passing on edge lists.

A reduction at the nodes scatters edge rows one after another, so that it is exact
whatever the order of the edges.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from tvm import te, tirx
from tvm.ir import Expr

from plait.backends.tvm.emit.expressions import number
from plait.backends.tvm.emit.index import scatter_rows
from plait.backends.tvm.emit.table import Arguments, Emitter, Kind, emit
from plait.ir import GraphType, Value
from plait.ir.dims import IntLike
from plait.ir.ops import message

_COMBINE: dict[str, Callable[[Expr, Expr], Expr]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
}


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


@emit(message.Sddmm, kind=Kind.ALONE)
def _sddmm(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    source, destination = _both_ends(op, args, emitter)
    at = {"src": source, "dst": destination, "edge": lambda e: e}
    shape = emitter.shape(op.result.type.shape)

    def read(x: te.Tensor, kind: Any, side: str, places: tuple[Expr, ...]) -> Expr:
        zero = tirx.IntImm("int64", 0)
        behind = [
            zero if size == 1 else place for size, place in zip(kind.shape[1:], places[1:], strict=True)
        ]
        return x(at[side](places[0]), *behind)

    def both(*places: Expr) -> tuple[Expr, Expr]:
        return (
            read(args.left, op.left.type, op.left_side, places),
            read(args.right, op.right.type, op.right_side, places),
        )

    if op.combine == "dot":
        over = emitter.axis(op.left.type.shape[-1], "feature")

        def dot(*places: Expr) -> Expr:
            left, right = both(*places[:-1], over)
            return te.sum(left * right, axis=over)

        return te.compute(shape, dot, name="sddmm_dot")
    combine = _COMBINE[op.combine]
    return te.compute(shape, lambda *places: combine(*both(*places)), name=f"sddmm_{op.combine}")


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
    """Number of edges that end at each node: a one of each edge, summed there."""
    ones = te.compute(ends.shape, lambda e: number(1, dtype), name="ones")
    return _segments(emitter, ends, emitter.stage("ones", ones), (nodes,), dtype, "sum")


@emit(message.Aggregate, kind=Kind.ALONE)
def _aggregate(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    kind, graph = op.result.type, op.graph.graph_type
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
    kind, nodes = op.score.type, op.graph.graph_type.ends(op.group)
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
    return _members(emitter, ends, op.graph.graph_type.ends(op.side), "float32")


# -- topologies -----------------------------------------------------------------
def _coo(op: Any, emitter: Emitter, edge: Callable[[Expr, Expr], Expr], name: str) -> te.Tensor:
    """A coo graph [2, E] whose entry in a row (0 of sources, 1 of destinations) at an edge is `edge`."""
    kind: GraphType = op.result.graph_type
    index = emitter.dtype(kind)
    shape = [emitter.dim(2), emitter.dim(kind.edges)]
    return te.compute(shape, lambda row, e: tirx.Cast(index, edge(row, e)), name=name)


def _both_ends(op: Any, args: Arguments, emitter: Emitter) -> tuple[Any, Any]:
    """Functions of an edge that give its source and its destination."""
    if op.graph.graph_type.format == "coo":
        return tuple(  # type: ignore[return-value]  # a pair
            lambda e, side=side: _end(op.graph, args.graph, e, side) for side in ("src", "dst")
        )
    return tuple(  # type: ignore[return-value]
        emitter.stage(side, edge_ends(emitter, op.graph, args.graph, side)) for side in ("src", "dst")
    )


@emit(message.Reverse, kind=Kind.ALONE)
def _reverse(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    source, destination = _both_ends(op, args, emitter)
    return _coo(
        op, emitter, lambda row, e: tirx.Select(row == 0, destination(e), source(e)), "reversed_edges"
    )


@emit(message.SelfLoops, kind=Kind.ALONE)
def _self_loops(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    source, destination = _both_ends(op, args, emitter)
    edges = emitter.read_dim(op.graph.graph_type.edges)

    def edge(row: Expr, e: Expr) -> Expr:
        given = tirx.if_then_else(row == 0, source(e), destination(e))
        return tirx.if_then_else(e < edges, given, e - edges)

    return _coo(op, emitter, edge, "edges_and_loops")


@emit(message.FromSegments, kind=Kind.ALONE)
def _from_segments(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    """A row's segment is the number of segments that end at it or in front of it."""
    kind = op.out
    other = emitter.axis(kind.nodes, "other")

    def end(segment: Expr) -> Expr:
        length = tirx.Cast("int64", args.lengths(other))
        return te.sum(tirx.Select(other <= segment, length, number(0, "int64")), axis=other)

    ends = emitter.stage("ends", te.compute([emitter.dim(kind.nodes)], end, name="segment_ends"))
    over = emitter.axis(kind.nodes, "segment")

    def holder(row: Expr) -> Expr:
        passed = tirx.Select(ends(over) <= row, number(1, "int64"), number(0, "int64"))
        return te.sum(passed, axis=over)

    holders = emitter.stage("holders", te.compute([emitter.dim(kind.edges)], holder, name="holders"))
    return _coo(op, emitter, lambda row, e: tirx.Select(row == 0, e, holders(e)), "memberships")
