"""Layers as matrix products: the columns of every kind of convolution."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from plait.ir import Graph, Op, TensorType
from plait.ir import types as t
from plait.ir.interpret import interpret
from plait.ir.ops import linalg, nn
from plait.passes.quantize.layers import Layer, elementwise
from plait.passes.quantize.scheme import Scheme, grid_of_weight

CASES = [
    ("linear", (5, 6), (4, 6), {}),
    ("linear", (2, 3, 6), (4, 6), {}),
    ("matmul", (2, 3, 6), (6, 4), {}),
    ("conv1d", (2, 4, 9), (6, 4, 3), {"stride": (2,), "pad": (1, 2)}),
    ("conv2d", (2, 4, 7, 8), (6, 4, 3, 2), {"stride": (2, 1), "pad": (1, 0, 2, 1), "dilation": (1, 2)}),
    ("conv2d", (2, 4, 7, 8), (6, 2, 3, 3), {"groups": 2, "pad": (1, 1)}),
    ("conv2d", (2, 4, 5, 5), (8, 1, 3, 3), {"groups": 4}),
    ("conv3d", (2, 2, 4, 5, 6), (3, 2, 2, 3, 2), {"stride": (1, 2, 2), "pad": (0, 1, 1)}),
]


def build(kind: str, x: tuple[int, ...], w: tuple[int, ...], options: dict[str, object]) -> tuple[Graph, Op]:
    random = np.random.default_rng(0)
    graph = Graph()
    left = graph.add_input("x", TensorType(t.f32, x))
    right = graph.add_constant("w", random.normal(size=w).astype(np.float32))
    makers = {"linear": nn.Linear, "matmul": linalg.Matmul}
    makers |= {"conv1d": nn.Conv1d, "conv2d": nn.Conv2d, "conv3d": nn.Conv3d}
    op = graph.add(makers[kind](left, right, **options))  # type: ignore[arg-type]
    graph.set_outputs(op.results)
    return graph, op


@pytest.mark.parametrize(("kind", "x", "w", "options"), CASES)
def test_a_layer_is_its_matrix_times_its_columns(
    kind: str, x: tuple[int, ...], w: tuple[int, ...], options: dict[str, object]
) -> None:
    graph, op = build(kind, x, w, options)
    data = torch.randn(x, generator=torch.Generator().manual_seed(1))
    (expected,) = interpret(graph, [data])
    layer = Layer(op)
    weight = torch.from_numpy(np.array(layer.w.data))  # type: ignore[attr-defined]
    matrix = layer.matrix(weight)
    torch.testing.assert_close(layer.weight(matrix), weight)
    product = matrix @ layer.columns(data)
    axis = 1 if kind.startswith("conv") else -1
    expected = expected.movedim(axis, 0).reshape(product.shape[0] * product.shape[1], -1)
    torch.testing.assert_close(product.reshape(expected.shape), expected, rtol=1e-4, atol=1e-4)
    whole = torch.cat([layer.columns(part) for part in layer.chunks(data)], -1)
    torch.testing.assert_close(whole, layer.columns(data))


@pytest.mark.parametrize(
    "scheme", [Scheme(4), Scheme(4, axis=0, symmetric=False), Scheme(4, axis=1), Scheme(4, group=3)]
)
def test_scales_by_element(scheme: Scheme) -> None:
    array = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    grid = grid_of_weight(scheme, array)
    scale, zero = elementwise(grid, array.shape)
    stored = grid.quantise(array)
    real = (stored.astype(np.float64) - zero.numpy()) * scale.numpy()
    np.testing.assert_allclose(real, grid.dequantise(stored), rtol=1e-6)
