"""Dense waves become first-spike times: the networks of the spiking family, and near misses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import plait
from plait.frontends.families.spiking import Kheradpisheh, Mozafari, RankOrderNetwork, Rezghi, coding, layers
from plait.frontends.families.spiking.events import FirstSpikes
from plait.ir.interpret import interpret
from plait.ir.ops import core, spike
from plait.passes import optimize
from plait.passes.spike import SPIKE


def images(size: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    found = torch.zeros(3, 1, size, size)
    found[:, :, 3:12, 5:10] = 0.8
    return found * torch.rand(found.shape, generator=generator)


def coarse(network: RankOrderNetwork) -> RankOrderNetwork:
    """Sums are exact in whatever order."""
    with torch.no_grad():
        for weight in network.weights:
            weight.copy_((weight * 64).round() / 64)
    return network.eval()


@pytest.mark.parametrize(
    "network",
    [Kheradpisheh(seed=0), Rezghi(seed=0), Mozafari(maps=(6, 8, 10), seed=0)],
    ids=["kheradpisheh", "rezghi", "mozafari"],
)
def test_networks_on_waves_become_networks_on_times(network: RankOrderNetwork) -> None:
    """But for an infinite threshold, which is no threshold of a wave."""
    network = coarse(network)
    given = images()
    graph = plait.lower(network, (given,))
    after, _ = optimize(graph, f"canonicalize,fold-constants,{SPIKE},common-subexpression,dead-code")
    names = [op.opname for op in after.walk()]
    finite = sum(config.threshold is not None for config in network.configs)
    whole = finite == len(network.configs)
    assert names.count("spike.rank_order_code") == 1
    assert names.count("spike.first_spike_conv2d") == (finite if whole else 0)
    assert ("nn.conv2d" in names[1:]) == (not whole)
    before, found = (interpret(g, [given])[0] for g in (graph, after))
    assert torch.equal(before, found)
    assert (found < network.steps).float().mean() > 0
    if whole:
        assert "nn.max_pool2d" not in names
        assert "spike.first_spike_pool2d" not in names
        reference = optimize(plait.lower(FirstSpikes(network), (given,)))[0]
        events = [op for op in reference.walk() if op.opname.startswith("spike.")]
        made = [op for op in after.walk() if op.opname.startswith("spike.")]
        assert [type(op) for op in made] == [type(op) for op in events]
        assert [op.attributes() for op in made] == [op.attributes() for op in events]


def test_compiled_times_are_equal() -> None:
    network, given = coarse(Kheradpisheh(seed=1)), images()
    graph = plait.lower(network, (given,))
    after = plait.optimize(graph, f"canonicalize,fold-constants,{SPIKE},common-subexpression,dead-code")
    found = np.asarray(plait.compile(after)(given))
    with torch.no_grad():
        np.testing.assert_array_equal(found, network(given).numpy())


class Layer(nn.Module):
    """One layer on the wave of given times, read off as times or as potentials."""

    def __init__(self, weight: torch.Tensor, threshold: float | None, *, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(torch.ones(len(weight)), requires_grad=False) if bias else None
        self.threshold = threshold

    def forward(self, times: torch.Tensor) -> torch.Tensor:
        wave = coding.wave_of(times, 5)
        flat = wave.flatten(0, 1).to(torch.float32)
        potential = nn.functional.conv2d(flat, self.weight, self.bias, padding=1).unflatten(0, (-1, 5))
        if self.threshold is None:
            return potential
        return coding.first_spike_times(layers.fire(potential, self.threshold))


def lowered(layer: Layer) -> tuple[plait.Graph, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    times = torch.randint(-1, 8, (2, 3, 6, 5), generator=generator)
    graph = optimize(plait.lower(layer, (times,)), "canonicalize,fold-constants")[0]
    return graph, times


def weights(low: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return (torch.rand(4, 3, 3, 3, generator=generator) * (1 - low) + low) * 64 // 1 / 64


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (Layer(weights(0.0), 3.0), ""),
        (Layer(weights(-1.0), 0.5), "are negative: the potential may fall"),
        (Layer(weights(0.0), 3.0, bias=True), "has a bias"),
        (Layer(weights(0.0), None), ""),
    ],
    ids=["plain", "negative", "bias", "potentials"],
)
def test_waves_of_one_layer(layer: Layer, reason: str) -> None:
    graph, times = lowered(layer)
    after, report = optimize(graph, "waves-to-first-spikes")
    applied = any(isinstance(op, spike.FirstSpikeConv2d) for op in after.walk())
    assert applied == (not reason and layer.threshold is not None)
    if reason:
        assert any(reason in remark for remark in report.rows[0].remarks), report.rows[0].remarks
    assert torch.equal(interpret(after, [times])[0], interpret(graph, [times])[0])


@pytest.mark.parametrize("low", [0.0, -1.0])
@pytest.mark.parametrize("bias", [False, True])
def test_incremental_potentials(low: float, bias: bool) -> None:
    graph, times = lowered(Layer(weights(low), None, bias=bias))
    after, _ = optimize(graph, "incremental-potentials")
    kinds = {type(op) for op in after.walk()}
    assert {spike.SpikeConv2d, core.CumSum} <= kinds
    torch.testing.assert_close(interpret(after, [times])[0], interpret(graph, [times])[0], rtol=0, atol=1e-5)
    found: Any = plait.compile(after)(times)
    np.testing.assert_allclose(np.asarray(found), interpret(graph, [times])[0].numpy(), rtol=0, atol=1e-5)


def test_other_convolutions_are_left() -> None:
    class Plain(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.conv2d(x, torch.ones(2, 3, 3, 3))

    graph = plait.lower(Plain(), (torch.rand(1, 3, 5, 5),))
    after, report = optimize(graph, "waves-to-first-spikes,incremental-potentials")
    assert after == graph
    assert "is no wave" in report.rows[1].remarks[0]


def test_a_wave_that_is_spread_over_more_places_is_left() -> None:
    """The rule must not add ops before it knows that it applies."""

    class Spread(nn.Module):
        def forward(self, times: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
            clock = torch.arange(5).reshape(1, 5, 1, 1, 1)
            wave = times.unsqueeze(1) <= clock
            return torch.where(wave, clock, torch.full_like(other, 5)).amin(dim=1)

    times, other = torch.randint(0, 7, (2, 3, 1, 4)), torch.zeros(2, 5, 3, 6, 4, dtype=torch.int64)
    graph = optimize(plait.lower(Spread(), (times, other)), "canonicalize,fold-constants")[0]
    after, report = optimize(graph, "waves-to-first-spikes")
    assert after == graph
    assert report.rows[0].status == "unchanged"
