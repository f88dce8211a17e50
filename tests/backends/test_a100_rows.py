"""Row kernels of the GPU: softmax, norms and reductions along the last axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from plait.backends import compile_graph
from plait.ir import Graph, Op, TensorType, Value
from plait.ir import types as t
from plait.ir.interpret import interpret
from plait.ir.ops import core, nn

from .emission import B, Case, compare


def rows(kind: Any, rows: int, length: int) -> Case:
    """What models do to rows of a length, each in a kernel of its own."""

    def build(g: Graph, v: dict[str, Value]) -> Sequence[Op]:
        x = v["x"]
        shifted = core.Add(x, x)
        g.add(shifted)
        return [
            nn.Softmax(x, axis=-1),
            nn.LayerNorm(x, v["scale"], v["bias"], axes=1, epsilon=1e-5),
            nn.LogSoftmax(x, axis=-1),
            core.Mean(shifted.result, axes=(-1,)),
            core.Max(x, axes=(1, 2)),
            core.Sum(x, axes=(-1,), keepdims=True),
        ]

    rng = np.random.default_rng(2)
    constants = {name: rng.uniform(0.5, 1, length).astype(kind.numpy) for name in ("scale", "bias")}
    tolerance = 2e-2 if kind is t.f16 else 2e-5
    return Case("rows", {"x": TensorType(kind, (B, rows, length))}, build, constants, tolerance=tolerance)


@pytest.mark.parametrize(
    ("kind", "count", "length"),
    [(t.f32, 3, 197), (t.f16, 5, 256), pytest.param(t.f32, 2, 3000, marks=pytest.mark.slow)],
    ids=str,
)
def test_reductions_along_rows(kind: Any, count: int, length: int) -> None:
    case = rows(kind, count, length)
    graph = case.graph()
    executable = compile_graph(graph, "a100")
    for batch, order in ((2, "forward"), (3, 8)):
        given = case.arguments(batch, batch)
        results = executable.emulate(**given, lane_order=order)
        for got, want in zip(results, interpret(graph, given), strict=True):
            compare(got, want, case.tolerance)
    for kernel in executable.kernels:
        text = kernel.source[kernel.source.index("__global__") :]
        assert "plait_shuffle_xor" in text, kernel.name
        assert not kernel.spills
        if kernel.name.startswith("softmax") and length == 256:
            assert "uint4" in text, "rows of whole vectors are read as such"
