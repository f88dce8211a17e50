"""Emissions of message passing on edge lists.

Reductions run in parallel over the nodes, and along the edges of a node in their order,
so that they are exact and the same in every run.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from tvm import te, tirx
from tvm.ir import Expr

from plait.backends.tvm.emit.expressions import number
from plait.backends.tvm.emit.incidence import Incidence, edge_ends, edge_starts, incidence
from plait.backends.tvm.emit.index import combined
from plait.backends.tvm.emit.loops import View, item_loops, local, part, product, serial, when, whole
from plait.backends.tvm.emit.table import Arguments, Emitter, Kind, emit
from plait.backends.tvm.gpu.segments import WARP_TYPES, reduce_rows
from plait.ir import GraphType
from plait.ir.ops import message

_COMBINE: dict[str, Callable[[Expr, Expr], Expr]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
}


@emit(message.FromEdges, kind=Kind.VIEW)
def _from_edges(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    """A coo graph is held as its [2, E] array, so nothing runs."""
    raise AssertionError("views are built without kernels")


@emit(message.Gather, kind=Kind.ALONE)
def _gather(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    end = edge_ends(emitter, op.graph, args.graph, op.side)
    shape = emitter.shape(op.result.type.shape)
    return te.compute(shape, lambda *i: args.x(end(i[0]), *i[1:]), name="gather")


@emit(message.Sddmm, kind=Kind.ALONE)
def _sddmm(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    sides = {op.left_side, op.right_side} - {"edge"}
    at = {side: edge_ends(emitter, op.graph, args.graph, side) for side in sorted(sides)}
    at["edge"] = lambda e: e
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


#: What an edge sends: an element of its row, by buffers, position among the sorted edges, number and place.
Row = Callable[[Sequence[Any], Expr, Expr, tuple[Expr, ...]], Expr]


@contextmanager
def _each(axes: Sequence[Expr]) -> Iterator[tuple[Expr, ...]]:
    """Loops over axes of these extents, with the place on them."""
    with ExitStack() as scope:
        yield tuple(scope.enter_context(serial(0, extent)) for extent in axes)


def _reduced(
    emitter: Emitter, edges: Incidence, tensors: Sequence[te.Tensor], row: Row, kind: Any, reduce: str
) -> te.Tensor:
    """Rows of the edges at each node reduced to `kind`, [N, ...]; a node without edges gets zero.

    A warp of a GPU takes a node, a task of a CPU as well.
    """
    dtype, shape = emitter.dtype(kind), emitter.shape(kind.shape)
    if not emitter.is_cpu and dtype in WARP_TYPES:
        return reduce_rows(emitter, edges.tensors, tensors, row, shape, dtype, reduce)
    axes = shape[1:] if emitter.is_cpu else []

    def body(item: Expr, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        starts, numbers, *buffers = inputs
        y = part(outputs[0], item, shape[:1] if emitter.is_cpu else shape)
        node, *feature = y.lead
        start, stop = (tirx.Cast("int64", starts[place]) for place in (node, node + 1))
        with _each(axes) as i:
            y[i] = number(0, dtype)
        with serial(start, stop) as position, _each(axes) as i:
            edge = tirx.Cast("int64", numbers[position])
            x = row(buffers, position, edge, (*feature, *i))
            if reduce in ("sum", "mean"):
                y[i] = y[i] + x
            else:
                y[i] = tirx.Select(position == start, x, combined(reduce, y[i], x))
        if reduce == "mean":
            count = tirx.Cast(dtype, te.max(stop - start, whole(1)))
            with _each(axes) as i:
                y[i] = y[i] / count

    items = shape[0] if emitter.is_cpu else product(shape)
    inputs = [*edges.tensors, *tensors]
    return item_loops(emitter, items, body, inputs, [(shape, dtype)], f"reduce_{reduce}")[0]


@emit(message.Aggregate, kind=Kind.ALONE)
def _aggregate(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    coo = op.graph.graph_type.format == "coo"
    edges = incidence(emitter, op.graph, args.graph, "dst")
    given = [args.graph if coo else args.graph[1], args.x]
    # A kernel takes each tensor once, and the weight may be the operand itself.
    weighted = op.weight is not None and op.weight is not op.x
    given += [args.weight] if weighted else []

    def row(buffers: Sequence[Any], position: Expr, edge: Expr, place: tuple[Expr, ...]) -> Expr:
        sources, x = buffers[:2]
        source = tirx.Cast("int64", sources[whole(0), edge] if coo else sources[position])
        found = View(x, (source,))[place]
        if op.weight is None:
            return found
        weights = View(buffers[2] if weighted else x, (edge,))
        return found * weights[place[: op.weight.type.rank - 1]]

    return _reduced(emitter, edges, given, row, op.result.type, op.reduce)


@emit(message.SegmentReduce, kind=Kind.ALONE)
def _segment_reduce(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    edges = incidence(emitter, op.graph, args.graph, "dst")

    def row(buffers: Sequence[Any], position: Expr, edge: Expr, place: tuple[Expr, ...]) -> Expr:
        return View(buffers[0], (edge,))[place]

    return _reduced(emitter, edges, [args.x], row, op.result.type, op.reduce)


@emit(message.EdgeSoftmax, kind=Kind.ALONE)
def _edge_softmax(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    """The features of each node are independent; the largest score is taken out first."""
    kind = op.score.type
    dtype, shape = emitter.dtype(kind), emitter.shape(kind.shape)
    edges = incidence(emitter, op.graph, args.graph, op.group)
    items = emitter.shape((op.graph.graph_type.ends(op.group), *kind.shape[1:]))

    def body(item: Expr, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        starts, numbers, scores = inputs
        node, *feature = part(scores, item, items).lead
        start, stop = (tirx.Cast("int64", starts[place]) for place in (node, node + 1))
        x, y = View(scores, ()), View(outputs[0], ())
        largest, total = local(dtype), local(dtype)

        def place(position: Expr) -> tuple[Expr, ...]:
            return (tirx.Cast("int64", numbers[position]), *feature)

        with serial(start, stop) as k:
            score = x[place(k)]
            largest[0] = tirx.Select(k == start, score, combined("max", largest[0], score))
        total[0] = number(0, dtype)
        with serial(start, stop) as k:
            y[place(k)] = tirx.exp(x[place(k)] - largest[0])
            total[0] = total[0] + y[place(k)]
        with serial(start, stop) as k:
            y[place(k)] = y[place(k)] / total[0]

    inputs = [*edges.tensors, args.score]
    return item_loops(emitter, product(items), body, inputs, [(shape, dtype)], "edge_softmax")[0]


@emit(message.Degree, kind=Kind.ALONE)
def _degree(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    starts = edge_starts(emitter, op.graph, args.graph, op.side)
    return te.compute(
        emitter.shape(op.result.type.shape),
        lambda node: tirx.Cast("float32", starts(node + 1) - starts(node)),
        name="degree",
    )


# -- topologies -----------------------------------------------------------------
def _coo(op: Any, emitter: Emitter, edge: Callable[[Expr, Expr], Expr], name: str) -> te.Tensor:
    """A coo graph [2, E] whose entry in a row (0 of sources, 1 of destinations) at an edge is `edge`."""
    kind: GraphType = op.result.graph_type
    index = emitter.dtype(kind)
    shape = [emitter.dim(2), emitter.dim(kind.edges)]
    return te.compute(shape, lambda row, e: tirx.Cast(index, edge(row, e)), name=name)


@emit(message.Reverse, kind=Kind.ALONE)
def _reverse(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    source, destination = (edge_ends(emitter, op.graph, args.graph, side) for side in ("src", "dst"))
    return _coo(
        op, emitter, lambda row, e: tirx.Select(row == 0, destination(e), source(e)), "reversed_edges"
    )


@emit(message.SelfLoops, kind=Kind.ALONE)
def _self_loops(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    source, destination = (edge_ends(emitter, op.graph, args.graph, side) for side in ("src", "dst"))
    edges = emitter.read_dim(op.graph.graph_type.edges)

    def edge(row: Expr, e: Expr) -> Expr:
        given = tirx.if_then_else(row == 0, source(e), destination(e))
        return tirx.if_then_else(e < edges, given, e - edges)

    return _coo(op, emitter, edge, "edges_and_loops")


@emit(message.FromSegments, kind=Kind.ALONE)
def _from_segments(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    kind = op.out
    segments, rows = emitter.dim(kind.nodes), emitter.dim(kind.edges)

    def add_up(item: Expr, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        ends = View(outputs[0], ())
        with serial(0, segments) as k:
            ends[k] = tirx.Cast("int64", inputs[0][k])
            with when(k > 0):
                ends[k] = ends[k] + ends[k - 1]

    found = item_loops(emitter, whole(1), add_up, [args.lengths], [([segments], "int64")], "segment_ends")
    ends = emitter.stage("ends", *found)

    def hold(segment: Expr, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        # Lengths that do not add up to the rows must not write outside, nor leave a row without segment.
        before = tirx.if_then_else(segment > 0, te.max(inputs[0][segment - 1], whole(0)), whole(0))
        stop = tirx.Select(segment == segments - 1, rows, te.min(inputs[0][segment], rows))
        with serial(before, stop) as row:
            View(outputs[0], ())[row] = segment

    held = item_loops(emitter, segments, hold, [ends], [([rows], "int64")], "holders")
    holders = emitter.stage("holders", *held)
    return _coo(op, emitter, lambda row, e: tirx.Select(row == 0, e, holders(e)), "memberships")
