"""Message passing against the interpreter, for both graph formats."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from plait.backends import compile_graph
from plait.ir import Dim, Graph, GraphType, InputError
from plait.ir.interpret import interpret
from plait.ir.ops import core, message
from plait.ir.types import TensorType, f32, i32, i64

from .emission import compare


def topology_graph(layout: Any) -> Graph:
    g = Graph("message")
    nodes, edges = g.declare_dim("N", 1, 100), g.declare_dim("E", 0, 1000)
    graph = g.add_input("graph", GraphType(nodes, edges, layout, i32))
    x = g.add_input("x", TensorType(f32, (nodes, 3)))
    e = g.add_input("e", TensorType(f32, (edges, 2)))
    w = g.add_input("w", TensorType(f32, (edges,)))
    assert isinstance(nodes, Dim)
    outputs = [g.emit(message.Gather(graph, x, side=side)) for side in ("src", "dst")]
    outputs += [g.emit(message.Aggregate(graph, x, w, reduce=r)) for r in ("sum", "mean", "max", "min")]
    outputs.append(g.emit(message.Aggregate(graph, x, reduce="sum")))
    outputs += [g.emit(message.SegmentReduce(graph, e, reduce=r)) for r in ("sum", "max")]
    outputs += [g.emit(message.EdgeSoftmax(graph, e, group=s)) for s in ("dst", "src")]
    outputs += [g.emit(message.Degree(graph, side=s)) for s in ("src", "dst")]
    for left, right, combine in (("src", "dst", "dot"), ("dst", "src", "sub"), ("src", "src", "div")):
        pair = message.Sddmm(graph, x, x, left_side=left, right_side=right, combine=combine)  # type: ignore[arg-type]
        outputs.append(g.emit(pair))
    narrow = g.emit(core.Reshape(w, out=TensorType(f32, (edges, 1))))
    scaled = message.Sddmm(graph, narrow, e, left_side="edge", right_side="edge", combine="mul")
    outputs.append(g.emit(scaled))
    turned, looped = g.emit(message.Reverse(graph)), g.emit(message.SelfLoops(graph))
    outputs += [g.emit(message.Aggregate(other, x, reduce="sum")) for other in (turned, looped)]
    g.set_outputs(outputs)
    return g


@pytest.mark.parametrize("layout", ["coo", "csr"])
def test_message_passing(layout: str) -> None:
    graph = topology_graph(layout)
    executable = compile_graph(graph, "cpu")
    rng = np.random.default_rng(0)
    for nodes, edges in ((6, 20), (9, 7)):
        # The last node has no edge.
        src, dst = (rng.integers(0, nodes - 1, edges).astype(np.int32) for _ in range(2))
        x, e = rng.standard_normal((nodes, 3)), rng.standard_normal((edges, 2))
        given = {
            "graph": (src, dst),
            "x": x.astype(np.float32),
            "e": e.astype(np.float32),
            "w": rng.uniform(0.1, 1, edges).astype(np.float32),
        }
        for got, want in zip(executable(**given), interpret(graph, given), strict=True):
            compare(got, want, 1e-5)


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
    outputs += [g.emit(message.EdgeSoftmax(graph, both, group=s)) for s in ("src", "dst")]
    outputs.append(g.emit(message.Aggregate(graph, x, reduce="mean")))
    outputs.append(g.emit(message.Aggregate(turned, y, reduce="max")))
    outputs += [g.emit(message.SegmentReduce(members, y, reduce=r)) for r in ("sum", "mean", "max")]
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
