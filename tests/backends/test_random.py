"""Random numbers are the same from the interpreter, the CPU target and the text for the GPU."""

import pytest
import torch

from plait.backends import compile_graph
from plait.ir import Dim, Graph, TensorType
from plait.ir import types as t
from plait.ir.interpret import interpret
from plait.ir.ops import core


def graph_of(distribution: str) -> Graph:
    graph = Graph("main")
    batch: Dim = graph.declare_dim("B", 1, 64)
    x = graph.add_input("x", TensorType(t.f32, (batch,)))
    drawn = [
        graph.emit(
            core.Random(distribution=distribution, seed=2**40 + 7, out=TensorType(dtype, (batch, 5, 3)))
        )  # type: ignore[arg-type]
        for dtype in (t.f32, t.f64, t.f16, t.bf16)
    ]
    graph.set_outputs([x, *drawn])
    return graph


@pytest.mark.parametrize("target", ["cpu", pytest.param("a100", marks=pytest.mark.slow)])
@pytest.mark.parametrize("distribution", ["uniform", "normal"])
def test_equal_numbers_everywhere(distribution: str, target: str) -> None:
    graph = graph_of(distribution)
    executable = compile_graph(graph, target)
    for batch in (1, 7):
        x = torch.zeros(batch)
        results = executable(x) if target == "cpu" else executable.emulate(x)
        for got, want in zip(results, interpret(graph, [x]), strict=True):
            assert got.shape == want.shape
            assert got.dtype == want.dtype
            if distribution == "uniform":
                assert torch.equal(got, want)
            else:
                coarse = {torch.float16: 2e-3, torch.bfloat16: 2e-2}
                assert torch.allclose(got.double(), want.double(), rtol=0, atol=coarse.get(want.dtype, 1e-6))
