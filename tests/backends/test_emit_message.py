"""Message passing against the interpreter, for both graph formats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from plait.backends import compile_graph
from plait.ir import Graph, GraphType, InputError, Op, Value
from plait.ir.interpret import interpret
from plait.ir.ops import core, message
from plait.ir.types import TensorType, f32, i32, i64

from .emission import compare

Build = Callable[[Graph, Value, Value, Value, Value], list[Op]]


def edgewise(g: Graph, graph: Value, x: Value, e: Value, w: Value) -> list[Op]:
    """Results on the edges."""
    narrow = g.emit(core.Reshape(w, out=TensorType(f32, (*w.shaped.shape, 1))))
    return [
        message.Gather(graph, x, side="src"),
        message.Gather(graph, x, side="dst"),
        message.Sddmm(graph, x, x, left_side="src", right_side="dst", combine="dot"),
        message.Sddmm(graph, x, x, left_side="src", right_side="src", combine="div"),
        message.Sddmm(graph, narrow, e, left_side="edge", right_side="edge", combine="mul"),
        message.EdgeSoftmax(graph, e, group="dst"),
        message.EdgeSoftmax(graph, e, group="src"),
    ]


def nodewise(g: Graph, graph: Value, x: Value, e: Value, w: Value) -> list[Op]:
    """Results at the nodes."""
    return [
        *(message.Aggregate(graph, x, w, reduce=r) for r in ("sum", "mean", "max", "min")),  # type: ignore[arg-type]
        message.Aggregate(graph, x, reduce="sum"),
        message.SegmentReduce(graph, e, reduce="max"),
        message.Degree(graph, side="src"),
        message.Degree(graph, side="dst"),
    ]


def changed(g: Graph, graph: Value, x: Value, e: Value, w: Value) -> list[Op]:
    """Reductions on graphs made of the given one."""
    turned, looped = g.emit(message.Reverse(graph)), g.emit(message.SelfLoops(graph))
    return [message.Aggregate(other, x, reduce="sum") for other in (turned, looped)]


def topology_graph(layout: Any, build: Build) -> Graph:
    g = Graph("message")
    nodes, edges = g.declare_dim("N", 1), g.declare_dim("E", 0)
    graph = g.add_input("graph", GraphType(nodes, edges, layout, i32))
    x = g.add_input("x", TensorType(f32, (nodes, 3)))
    e = g.add_input("e", TensorType(f32, (edges, 2)))
    w = g.add_input("w", TensorType(f32, (edges,)))
    g.set_outputs([g.emit(op) for op in build(g, graph, x, e, w)])
    return g


def topology_arguments(nodes: int, edges: int) -> dict[str, Any]:
    """A random graph whose last node has no edge, and features."""
    rng = np.random.default_rng(edges)
    src, dst = (rng.integers(0, nodes - 1, edges).astype(np.int32) for _ in range(2))
    return {
        "graph": (src, dst),
        "x": rng.standard_normal((nodes, 3)).astype(np.float32),
        "e": rng.standard_normal((edges, 2)).astype(np.float32),
        "w": rng.uniform(0.1, 1, edges).astype(np.float32),
    }


@pytest.mark.parametrize("layout", ["coo", "csr"])
@pytest.mark.parametrize("build", [changed, edgewise, nodewise])
def test_message_passing(layout: str, build: Build) -> None:
    graph = topology_graph(layout, build)
    executable = compile_graph(graph, "cpu")
    for nodes, edges in ((6, 20), (9, 7), (4, 0)):
        given = topology_arguments(nodes, edges)
        for got, want in zip(executable(**given), interpret(graph, given), strict=True):
            compare(got, want, 1e-5)


def test_steps_grow_with_the_edges_only() -> None:
    """With a step for each pair of edges, or of an edge and a node, this would be 1e10 steps and more."""
    graph = topology_graph("csr", lambda g, graph, x, e, w: [
        message.Gather(graph, x, side="src"),
        message.Gather(graph, x, side="dst"),
        message.EdgeSoftmax(graph, e, group="src"),
        message.Aggregate(graph, x, w, reduce="mean"),
    ])  # fmt: skip
    given = topology_arguments(200_000, 400_000)
    results = compile_graph(graph, "cpu")(**given)
    for got, want in zip(results, interpret(graph, given), strict=True):
        compare(got, want, 1e-5)


def test_largest_of_infinities_and_of_nan() -> None:
    """They come through as they are; only a node without edges gets zero."""
    g = Graph("largest")
    edges = g.declare_dim("E", 0)
    graph = g.add_input("graph", GraphType(4, edges, "coo", i32))
    e = g.add_input("e", TensorType(f32, (edges,)))
    g.set_outputs([g.emit(message.SegmentReduce(graph, e, reduce=r)) for r in ("max", "min")])
    values = np.array([-np.inf, np.inf, np.nan, 1.0], np.float32)
    given = {"graph": (np.zeros(4, np.int32), np.array([0, 1, 2, 2], np.int32)), "e": values}
    for got, want in zip(compile_graph(g, "cpu")(**given), interpret(g, given), strict=True):
        compare(got, want, 0.0)
        np.testing.assert_array_equal(want.numpy()[[0, 1, 3]], [-np.inf, np.inf, 0.0])


def test_rows_weighted_by_themselves() -> None:
    """The operand and the weight of an aggregation may be one value."""
    g = Graph("squares")
    nodes, groups = g.declare_dim("N", 1), g.declare_dim("G", 1)
    lengths = g.add_input("lengths", TensorType(i64, (groups,)))
    x = g.add_input("x", TensorType(f32, (nodes,)))
    members = g.emit(message.FromSegments(lengths, out=GraphType(groups, nodes, "coo", i64, nodes)))
    g.set_outputs([g.emit(message.Aggregate(members, x, x, reduce="sum"))])
    given = [torch.tensor([2, 0, 1]), torch.tensor([1.0, 2.0, 3.0])]
    result = compile_graph(g, "cpu")(*given)
    compare(result, torch.tensor([5.0, 0.0, 9.0]), 0.0)


def test_graph_from_edge_index() -> None:
    g = Graph("edges")
    nodes, edges = g.declare_dim("N", 1, 100), g.declare_dim("E", 0, 1000)
    index = g.add_input("edge_index", TensorType(i32, (2, edges)))
    x = g.add_input("x", TensorType(f32, (nodes, 4)))
    graph = g.emit(message.FromEdges(index, out=GraphType(nodes, edges, "coo", i32)))
    g.set_outputs([g.emit(message.Aggregate(graph, x, reduce="sum"))])
    given = [torch.tensor([[0, 1, 2, 2], [1, 1, 0, 2]], dtype=torch.int32), torch.randn(4, 4)]
    result = compile_graph(g, "cpu")(*given)
    assert isinstance(result, torch.Tensor)
    compare(result, interpret(g, given)[0], 1e-6)


def bipartite_graph() -> Graph:
    """Edges from M sources to N destinations, and rows that lie segment after segment."""
    g = Graph("bipartite")
    nodes, edges, sources = g.declare_dim("N", 1), g.declare_dim("E", 0), g.declare_dim("M", 1)
    graph = g.add_input("graph", GraphType(nodes, edges, "coo", i64, sources))
    x, y = g.add_input("x", TensorType(f32, (sources, 3))), g.add_input("y", TensorType(f32, (nodes, 3)))
    lengths = g.add_input("lengths", TensorType(i64, (g.declare_dim("G", 1),)))
    count = lengths.shaped.shape[0]
    both = g.emit(message.Sddmm(graph, x, y, left_side="src", right_side="dst", combine="add"))
    members = g.emit(message.FromSegments(lengths, out=GraphType(count, nodes, "coo", i64, nodes)))
    turned = g.emit(message.Reverse(graph))
    outputs = [both, *(g.emit(message.Degree(graph, side=s)) for s in ("src", "dst"))]
    outputs.append(g.emit(message.EdgeSoftmax(graph, both, group="src")))
    outputs.append(g.emit(message.Aggregate(graph, x, reduce="mean")))
    outputs.append(g.emit(message.Aggregate(turned, y, reduce="max")))
    outputs.append(g.emit(message.SegmentReduce(members, y, reduce="mean")))
    outputs.append(g.emit(message.EdgeSoftmax(members, y, group="dst")))
    outputs.append(g.emit(message.Gather(members, outputs[-2], side="dst")))
    g.set_outputs(outputs)
    g.verify()
    return g


def bipartite_arguments(lengths: list[int], sources: int, edges: int) -> dict[str, Any]:
    rng = np.random.default_rng(len(lengths))
    nodes = sum(lengths)
    return {
        "graph": (rng.integers(0, sources, edges), rng.integers(0, nodes, edges)),
        "x": rng.standard_normal((sources, 3)).astype(np.float32),
        "y": rng.standard_normal((nodes, 3)).astype(np.float32),
        "lengths": np.array(lengths, np.int64),
    }


@pytest.mark.parametrize("target", ["cpu", pytest.param("a100", marks=pytest.mark.slow)])
def test_bipartite_graphs_and_segments(target: str) -> None:
    graph = bipartite_graph()
    executable = compile_graph(graph, target)
    run = executable if target == "cpu" else executable.emulate
    for lengths, sources, edges in (([3, 0, 4], 5, 12), ([2, 6], 11, 30)):
        given = bipartite_arguments(lengths, sources, edges)
        for got, want in zip(run(**given), interpret(graph, given), strict=True):
            compare(got, want, 1e-5)


def test_segments_must_cover_the_rows() -> None:
    given = bipartite_arguments([3, 4], 5, 12)
    given["lengths"][0] = 2
    with pytest.raises(InputError, match="hold 6 rows"):
        interpret(bipartite_graph(), given)
