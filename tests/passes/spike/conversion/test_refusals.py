"""What cannot be converted is told, all at once; wrong options and data are told too."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from plait.api import lower, optimize
from plait.ir import Graph, InputError, parse
from plait.ir.interpret import interpret
from plait.passes.spike.conversion.pipeline import to_spiking

nn = torch.nn


def lowered(*layers: nn.Module) -> Graph:
    """Layers on f32 [B,6] as a graph."""
    return lower(nn.Sequential(*layers).eval(), (torch.rand(2, 6),), dynamic={"input": {0: "B"}})


def data() -> list[np.ndarray]:
    return [np.random.default_rng(0).uniform(0, 1, (4, 6)).astype(np.float32)]


@cache
def small() -> Graph:
    return lowered(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.Sigmoid(), ("nn.sigmoid", "only rectified activations", "ReLU")),
        (nn.Tanh(), ("nn.tanh", "only rectified activations", "ReLU")),
        (nn.LeakyReLU(), ("nn.leaky_relu", "only rectified activations", "ReLU")),
        (nn.Softmax(1), ("nn.softmax", "rates are not normalised", "end of the model")),
        (nn.LayerNorm(6), ("nn.layer_norm", "statistics", "batch normalisation")),
    ],
)
def test_an_op_without_a_rate_is_refused(layer: nn.Module, words: tuple[str, ...]) -> None:
    graph = lowered(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), layer, nn.Linear(6, 6))
    with pytest.raises(InputError) as caught:
        to_spiking(graph, data(), steps=4)
    for word in ("1 op cannot", "x 1", "(3", *words):  # 3 is the module path
        assert word in str(caught.value)


def test_all_of_them_are_told_at_once() -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            gated = torch.relu(self.a(x)) * torch.sigmoid(self.b(x))
            found: torch.Tensor = self.c(torch.matmul(gated, gated.T) @ gated)
            return found

    graph = lower(Gate(), (torch.rand(4, 6),))
    with pytest.raises(InputError) as caught:
        to_spiking(graph, data(), steps=4)
    told = str(caught.value)
    for word in (
        "4 ops cannot",
        "nn.sigmoid",
        "core.mul",
        "rates are not multiplied",
        "linalg.matmul",
        "nn.linear x 1: weights or bias are no dense constant",
    ):
        assert word in told
    assert "test_refusals.py" in told


def test_a_fused_activation_is_refused_and_a_fused_rectifier_is_not() -> None:
    fused = optimize(lowered(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.SiLU(), nn.Linear(6, 6)))
    with pytest.raises(InputError, match="it applies silu"):
        to_spiking(fused, data(), steps=4)
    plain = small()
    rectified = optimize(plain)
    assert len(rectified) < len(plain)
    (x,) = data()
    outputs = [interpret(to_spiking(graph, [x], steps=8).graph, [x])[0] for graph in (plain, rectified)]
    torch.testing.assert_close(*outputs)


def test_a_graph_without_neurons_is_refused() -> None:
    for graph in (lowered(nn.Linear(6, 6)), lowered(nn.Linear(6, 6), nn.ReLU()), lowered(nn.ReLU())):
        with pytest.raises(InputError, match="has no neurons"):
            to_spiking(graph, data(), steps=4)


def test_double_precision_and_lost_weights_are_refused() -> None:
    net = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)).double()
    graph = lower(net, (torch.rand(2, 6, dtype=torch.float64),))
    with pytest.raises(InputError, match="neurons compute in f32"):
        to_spiking(graph, [np.zeros((2, 6))], steps=4)
    with pytest.raises(InputError, match="no dense constant with data"):
        to_spiking(parse(str(small())), data(), steps=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"steps": 2.5}, "steps is 2.5"),
        ({"percentile": 0.0}, "percentile is 0.0"),
        ({"percentile": 101.0}, "percentile is 101.0"),
        ({"coding": "bernouli"}, "did you mean 'bernoulli'"),
        ({"pooling": "spike"}, "did you mean 'spikes'"),
        ({"initial": 1.0}, "initial is 1.0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        to_spiking(small(), data(), **{"steps": 4, **options})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (list, "calibration data is empty"),
        (lambda: data()[0], "calibration data is one ndarray"),
        (lambda: [data()[0].astype(np.float64)], "its element type is float64"),
        (lambda: [np.full((2, 6), np.nan, np.float32)], "NaN or infinite"),
        (lambda: [np.zeros((2, 5), np.float32)], "batch 0 of the calibration data"),
    ],
)
def test_bad_data_is_refused(given: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        to_spiking(small(), given(), steps=4)


def test_negative_data_has_no_bernoulli_code() -> None:
    with pytest.raises(InputError, match="input input is -1 somewhere"):
        to_spiking(small(), [-np.ones((2, 6), np.float32)], steps=4, coding="bernoulli")
