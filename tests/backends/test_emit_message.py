"""Message passing against the interpreter, for both graph formats."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from plait.backends import compile_graph
from plait.ir import Dim, Graph, GraphType
from plait.ir.interpret import interpret
from plait.ir.ops import message
from plait.ir.types import TensorType, f32, i32

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
