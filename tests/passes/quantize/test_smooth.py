"""SmoothQuant: outliers move from activations into weights, and the function stays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from plait.api import lower, optimize
from plait.ir import Graph, InputError
from plait.ir.interpret import interpret
from plait.passes.quantize.calibrate import channel_maxima
from plait.passes.quantize.scheme import OpScheme, Scheme
from plait.passes.quantize.smooth import sites_of, smooth, smooth_by_data

from .trained import everything, rounded, sequences, weights_only

EIGHT = OpScheme(Scheme(8, symmetric=False), Scheme(8, axis=0))


def test_outliers_cost_less_and_the_function_stays() -> None:
    task = sequences()
    graph = task.graph.clone()
    schemes = everything(graph, EIGHT)
    assert smooth_by_data(graph, task.calibration, schemes) == 1
    graph.verify()
    torch.testing.assert_close(task.outputs(graph), task.outputs(task.graph), rtol=1e-4, atol=1e-4)
    assert [op.name for op in graph.ops] == [op.name for op in task.graph.ops]
    before = task.error(rounded(task, schemes))
    after = task.error(rounded(task, schemes, graph=graph))
    assert after < 0.1 * before
    assert {op.opname for op in graph.ops if "smooth" in op.loc.passes} == {"nn.layer_norm", "nn.linear"}


def test_the_factor_is_that_of_the_paper() -> None:
    task = sequences()
    maxima = channel_maxima(task.graph, task.calibration, ["norm"])
    for alpha in (0.0, 0.25, 0.5, 1.0):
        graph = task.graph.clone()
        assert smooth(graph, maxima, alpha) == 1
        readers = [op for op in task.graph.ops if task.graph.value("norm") in op.operands]
        assert len(readers) == 1
        weight = readers[0].w.data  # type: ignore[attr-defined]
        factor = maxima["norm"] ** alpha / np.abs(weight).max(0) ** (1 - alpha)
        after = channel_maxima(graph, task.calibration, ["norm"])["norm"]
        np.testing.assert_allclose(after, maxima["norm"] / factor, rtol=1e-4)
        changed = graph.value(readers[0].name).producer.w.data  # type: ignore[union-attr]
        np.testing.assert_allclose(changed, weight * factor, rtol=1e-5)


class Attend(nn.Module):
    """Three dense layers behind one normalisation."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        return torch.softmax(self.q(y) @ self.k(y).transpose(-1, -2), -1) @ self.v(y)


@pytest.mark.parametrize(
    "norm",
    [nn.LayerNorm(8), nn.LayerNorm(8, elementwise_affine=False), nn.LayerNorm(8, bias=False), nn.RMSNorm(8)],
    ids=["affine", "plain", "no bias", "rms"],
)
def test_layers_that_share_an_input_share_the_factor(norm: nn.Module) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 8) * torch.tensor([1.0, 1, 1, 30, 1, 1, 1, 1])
    graph = optimize(lower(Attend(norm).eval(), (x,)))
    (name,) = sites_of(graph)
    before = interpret(graph, [x])[0]
    assert smooth(graph, channel_maxima(graph, [x], [name])) == 1
    graph.verify()
    torch.testing.assert_close(interpret(graph, [x])[0], before, rtol=1e-4, atol=1e-5)
    readers = [op for op in graph.ops if graph.value(name) in op.operands]
    assert len(readers) == 3
    # With alpha = 0.5 both sides end with equal maxima: sqrt(max|X_j| * max|W_j|).
    heaviest = np.max([np.abs(op.w.data).max(0) for op in readers], axis=0)  # type: ignore[attr-defined]
    np.testing.assert_allclose(channel_maxima(graph, [x], [name])[name], heaviest, rtol=1e-4)


class Residual(nn.Module):
    """A normalisation that a sum reads too, and a dense layer behind GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.first, self.second = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        found: torch.Tensor = self.second(nn.functional.gelu(self.first(y))) + y
        return found


def test_others_are_left_alone() -> None:
    graph = optimize(lower(Residual().eval(), (torch.randn(2, 8),)))
    assert sites_of(graph) == {}
    text = str(graph)
    assert smooth(graph, {"norm": np.ones(8)}) == 0
    assert str(graph) == text


def test_weight_only_layers_are_left_alone() -> None:
    task = sequences()
    graph = task.graph.clone()
    assert smooth_by_data(graph, task.calibration, weights_only(graph, Scheme(8, axis=0))) == 0
    assert graph == task.graph


def test_dead_channels_keep_their_weights() -> None:
    task = sequences()
    graph: Graph = task.graph.clone()
    maxima = channel_maxima(graph, task.calibration, ["norm"])
    maxima["norm"][5] = 0.0
    smooth(graph, maxima)
    (reader,) = (op for op in graph.ops if graph.value("norm") in op.operands)
    (old,) = (op for op in task.graph.ops if task.graph.value("norm") in op.operands)
    np.testing.assert_array_equal(reader.w.data[:, 5], old.w.data[:, 5])  # type: ignore[attr-defined]


class Stack(nn.Module):
    """Three dense layers, one of them with an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.third(self.second(torch.relu(self.first(x))))
        return found


def test_dense_layers_in_a_row() -> None:
    torch.manual_seed(0)
    x = torch.randn(16, 8)
    graph = optimize(lower(Stack().eval(), (x,)))
    before = interpret(graph, [x])[0]
    names = list(sites_of(graph))
    assert len(names) == 2
    assert smooth(graph, channel_maxima(graph, [x], names)) == 2
    torch.testing.assert_close(interpret(graph, [x])[0], before, rtol=1e-4, atol=1e-5)
    graph.verify()


def test_bad_input() -> None:
    graph = sequences().graph.clone()
    for alpha in (-0.1, 1.5):
        with pytest.raises(InputError, match="alpha"):
            smooth(graph, {}, alpha)
    with pytest.raises(InputError, match="did you mean 'norm'"):
        smooth(graph, {"nrm": np.ones(16)})
    for maxima in (np.ones(3), np.full(16, np.nan), -np.ones(16)):
        with pytest.raises(InputError, match="16 channels"):
            smooth(graph, {"norm": maxima})
