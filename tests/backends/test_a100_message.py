"""Message passing kernels of the GPU: sorting by all threads, and a warp for each node."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from plait.backends import compile_graph
from plait.ir import Graph, GraphType
from plait.ir.interpret import interpret
from plait.ir.ops import message
from plait.ir.types import TensorType, f32, i32

from .emission import compare


def aggregation(layout: Any, features: tuple[int, ...]) -> Graph:
    """Weighted and plain reductions over the edges that end, and that start, at each node."""
    g = Graph("aggregation")
    nodes, edges = g.declare_dim("N", 1), g.declare_dim("E", 0)
    graph = g.add_input("graph", GraphType(nodes, edges, layout, i32))
    x = g.add_input("x", TensorType(f32, (nodes, *features)))
    w = g.add_input("w", TensorType(f32, (edges,)))
    turned = g.emit(message.Reverse(graph))
    g.set_outputs(
        [
            g.emit(message.Aggregate(graph, x, w, reduce="sum")),
            g.emit(message.Aggregate(graph, x, reduce="max")),
            g.emit(message.Aggregate(turned, x, reduce="mean")),
        ]
    )
    return g


def arguments(nodes: int, edges: int, features: tuple[int, ...]) -> dict[str, Any]:
    """A graph where half of all edges end at node 0 and none at the last."""
    rng = np.random.default_rng(edges)
    src, dst = (rng.integers(0, max(1, nodes - 1), edges).astype(np.int32) for _ in range(2))
    dst[::2] = 0
    return {
        "graph": (src, dst),
        "x": rng.standard_normal((nodes, *features)).astype(np.float32),
        "w": rng.uniform(0.1, 1, edges).astype(np.float32),
    }


@pytest.mark.parametrize(
    ("layout", "features"), [("coo", (3,)), ("csr", (8,)), ("coo", (2, 20)), ("csr", ())], ids=str
)
def test_reductions_over_edges(layout: str, features: tuple[int, ...]) -> None:
    graph = aggregation(layout, features)
    executable = compile_graph(graph, "a100")
    for (nodes, edges), order in zip(((7, 300), (400, 90), (3, 0)), ("forward", "reversed", 4), strict=True):
        given = arguments(nodes, edges, features)
        results = executable.emulate(**given, lane_order=order)
        for got, want in zip(results, interpret(graph, given), strict=True):
            compare(got, want, 1e-4)
    for kernel in executable.kernels:
        assert not kernel.spills
        assert kernel.grid is not None
        one_thread = kernel.grid == (1, 1, 1) and kernel.block == (1, 1, 1)
        assert not one_thread, "no step of the sort is left to one thread"
    reductions = [kernel for kernel in executable.kernels if "reduce" in kernel.name]
    assert reductions
    if features == (8,):
        assert all("float4" in kernel.source.partition("__global__")[2] for kernel in reductions)


def test_the_order_of_threads_does_not_show() -> None:
    """Which thread takes a place first changes nothing: sums are the same to the last bit."""
    graph = aggregation("coo", (3,))
    executable = compile_graph(graph, "a100")
    given = arguments(9, 200, (3,))
    runs = [executable.emulate(**given, lane_order=order) for order in ("forward", "reversed", 11)]
    for run in runs[1:]:
        for got, want in zip(run, runs[0], strict=True):
            np.testing.assert_array_equal(np.asarray(got), np.asarray(want))
