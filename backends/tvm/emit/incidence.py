"""The edges at each node, which lie together so that reductions over them run node by node.

A csr graph holds the edges that end at a node so; those that start there, and both of
a coo graph, are sorted by counting.  Everything here takes O(N + E) steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import te, tirx
from tvm.ir import Expr

from plait.backends.tvm.emit.loops import View, item_loops, serial, whole
from plait.backends.tvm.emit.table import Emitter
from plait.backends.tvm.gpu.segments import edges_by_node, starts_by_node
from plait.ir import GraphType, Value


def _wide(index: Expr) -> Expr:
    """A number of a node or an edge in 64 bits."""
    return tirx.Cast("int64", index)


def edge_ends(emitter: Emitter, graph: Value, tensors: Any, side: str) -> Callable[[Expr], Expr]:
    """The node at one end of an edge, as a function of the edge's number."""
    kind: GraphType = graph.graph_type
    if kind.format == "coo":
        return lambda edge: _wide(tensors(whole(0 if side == "src" else 1), edge))
    rows, sources, numbers = tensors

    def from_source(position: Expr, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        View(outputs[0], ())[_wide(inputs[0][position])] = _wide(inputs[1][position])

    def from_destination(node: Expr, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        ends = View(outputs[0], ())
        with serial(_wide(inputs[1][node]), _wide(inputs[1][node + 1])) as position:
            ends[_wide(inputs[0][position])] = node

    edges = emitter.dim(kind.edges)
    # Each edge has one position, so that no two items write one place.
    items, body, beside = (
        (edges, from_source, sources) if side == "src" else (emitter.dim(kind.nodes), from_destination, rows)
    )
    found = item_loops(emitter, items, body, [numbers, beside], [([edges], "int64")], side)
    ends: te.Tensor = emitter.stage(side, *found)
    return lambda edge: ends(edge)


@dataclass(frozen=True)
class _Listing:
    """The edges in some order: their ends on one side, and their numbers where these are not the places."""

    ends: te.Tensor
    row: Expr | None
    numbers: te.Tensor | None

    @property
    def tensors(self) -> list[te.Tensor]:
        return [self.ends] if self.numbers is None else [self.ends, self.numbers]

    def end(self, buffers: Sequence[Any], position: Expr) -> Expr:
        """The node at a position, where `buffers` are those of the tensors."""
        return _wide(buffers[0][position] if self.row is None else buffers[0][self.row, position])

    def number(self, buffers: Sequence[Any], position: Expr) -> Expr:
        """The number of the edge at a position."""
        return position if self.numbers is None else _wide(buffers[1][position])


def _listing(graph: Value, tensors: Any, side: str) -> _Listing:
    if graph.graph_type.format == "coo":
        return _Listing(tensors, whole(0 if side == "src" else 1), None)
    _, sources, numbers = tensors
    return _Listing(sources, None, numbers)


def edge_starts(emitter: Emitter, graph: Value, tensors: Any, side: str) -> te.Tensor:
    """Where the edges of each node begin when edges are sorted by their node on one side: [nodes + 1]."""
    kind: GraphType = graph.graph_type
    if kind.format == "csr" and side == "dst":
        rows: te.Tensor = tensors[0]
        return rows
    listing = _listing(graph, tensors, side)
    nodes, edges = emitter.dim(kind.ends(side)), emitter.dim(kind.edges)
    if not emitter.is_cpu:
        return starts_by_node(emitter, listing.tensors, listing.end, nodes, edges)

    def body(item: Expr, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        starts = View(outputs[0], ())
        with serial(0, nodes + 1) as node:
            starts[node] = whole(0)
        with serial(0, edges) as position:
            behind = listing.end(inputs, position) + 1
            starts[behind] = starts[behind] + 1
        with serial(0, nodes) as node:
            starts[node + 1] = starts[node + 1] + starts[node]

    found = item_loops(emitter, whole(1), body, listing.tensors, [([nodes + 1], "int64")], "starts")
    cut: te.Tensor = emitter.stage("starts", *found)
    return cut


@dataclass(frozen=True)
class Incidence:
    """Edges sorted by node: `numbers[starts[n]:starts[n + 1]]` are those of node n."""

    starts: te.Tensor
    numbers: te.Tensor

    @property
    def tensors(self) -> list[te.Tensor]:
        return [self.starts, self.numbers]


def incidence(emitter: Emitter, graph: Value, tensors: Any, side: str) -> Incidence:
    """The edges at the nodes of one side; those of a coo graph in the order of the edge list."""
    kind: GraphType = graph.graph_type
    starts = edge_starts(emitter, graph, tensors, side)
    if kind.format == "csr" and side == "dst":
        return Incidence(starts, tensors[2])
    listing = _listing(graph, tensors, side)
    nodes, edges = emitter.dim(kind.ends(side)), emitter.dim(kind.edges)
    if not emitter.is_cpu:
        numbers = edges_by_node(emitter, starts, listing.tensors, listing.end, listing.number, nodes, edges)
        return Incidence(starts, numbers)

    def body(item: Expr, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        first, *listed = inputs
        numbers, free = (View(buffer, ()) for buffer in outputs)
        with serial(0, nodes) as node:
            free[node] = first[node]
        with serial(0, edges) as position:
            node = listing.end(listed, position)
            numbers[free[node]] = listing.number(listed, position)
            free[node] = free[node] + 1

    results = [([edges], "int64"), ([nodes], "int64")]
    numbers, _ = item_loops(emitter, whole(1), body, [starts, *listing.tensors], results, "sorted_edges")
    return Incidence(starts, numbers)


__all__ = ["Incidence", "edge_ends", "edge_starts", "incidence"]
