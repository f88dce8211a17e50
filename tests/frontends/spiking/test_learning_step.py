"""STDP as a compiled step: the module equals the network's own step, and so do its executables."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import plait
from plait.frontends.families.spiking import (
    DifferenceOfGaussians,
    Kheradpisheh,
    LayerConfig,
    RankOrderNetwork,
    STDPConfig,
)
from plait.frontends.families.spiking.events import (
    first_spike_potentials,
    first_spike_stdp,
    first_spike_winners,
    rank_order_times,
)
from plait.frontends.families.spiking.learning_steps import LearningStep, RewardStep
from plait.frontends.families.spiking.mozafari import Mozafari
from plait.frontends.families.spiking.reward import drop_maps
from plait.ir.interpret import interpret


def images(count: int, size: int = 28) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    found = torch.zeros(count, 1, size, size)
    for k in range(count):
        found[k, 0, size // 5 + k % 5 : size - 6, size // 3 : size // 2 + k % 7] = 0.7
    return (found + 0.2 * torch.rand(found.shape, generator=generator)) * (found > 0)


def coarse(network: RankOrderNetwork) -> RankOrderNetwork:
    """Weights in multiples of 1/64: sums are exact in whatever order events come."""
    with torch.no_grad():
        for weight in network.weights:
            weight.copy_((weight * 64).round() / 64)
    return network


def tiny() -> RankOrderNetwork:
    return coarse(
        RankOrderNetwork(
            DifferenceOfGaussians(2, [(1, 2), (2, 1)], padding=2),
            2,
            0.01,
            [LayerConfig(6, 3, 1, 4.0, 1, 2, 2), LayerConfig(10, 2, 0, 2.0, 1, 3, 0)],
            STDPConfig(0.04, -0.03),
            mean=0.8,
            deviation=0.05,
            seed=0,
            steps=8,
        )
    )


@pytest.mark.parametrize("layer", [0, 1])
def test_the_module_is_the_step_of_the_network(layer: int) -> None:
    network = coarse(Kheradpisheh(seed=2))
    step = LearningStep(network, layer)
    before = network.weights[layer].clone()
    new, table = step(images(3), before, step.rates())
    winners = network.train_layer(images(3), layer)
    assert torch.equal(new, network.weights[layer])
    assert not torch.equal(new, before)
    told = table[table[..., 0] >= 0]
    assert torch.equal(told[:, 2:].long(), winners.rows()[:, 1:])


def test_operators_have_fake_kernels() -> None:
    times = torch.randint(0, 9, (2, 3, 6, 7)).to(torch.uint8)
    weight, rates = torch.rand(4, 3, 2, 2), torch.tensor([[0.1, -0.1]])
    fired, potential = first_spike_potentials(times, weight, 8, 1.0, 1, True)
    winners = first_spike_winners(fired, potential, 8, 1, 2)
    for operator, arguments in (
        (rank_order_times, (torch.rand(2, 3, 4, 4), 8)),
        (first_spike_potentials, (times, weight, 8, 1.0, 1, True)),
        (first_spike_winners, (fired, potential, 8, 1, 2)),
        (first_spike_stdp, (weight, times, winners, rates, 8, 1, True, 0.0, 1.0)),
    ):
        torch.library.opcheck(operator, arguments, test_utils="test_faketensor")


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("target", ["interpreter", "cpu", "a100"])
def test_a_compiled_step_learns_the_same(layer: int, target: str) -> None:
    network = tiny()
    step = LearningStep(network, layer)
    given = (images(4, 14), network.weights[layer].detach().clone(), step.rates())
    expected, table = step(*given)
    graph = plait.lower(step, given)
    assert {"spike.winners", "spike.stdp"} <= {op.opname for op in graph.walk()}
    assert [value.name for value in graph.inputs] == ["image", "weight", "rates"]
    if target == "interpreter":
        found = interpret(graph, given)
    else:
        exe = plait.compile(graph, target=target)
        found = exe(*given) if target == "cpu" else exe.emulate(*given, check=True)
    np.testing.assert_allclose(np.asarray(found[0]), expected.numpy(), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(found[1]), table.numpy())
    assert (table[..., 0] >= 0).any()


def test_learning_goes_on_from_the_state_that_came_out() -> None:
    """Five steps on weights that are handed on, with rates that a schedule raises, compiled once."""
    network = coarse(Kheradpisheh(seed=4))
    step = LearningStep(network, 0)
    batch = images(4)
    weight = network.weights[0].detach().clone()
    exe = plait.compile(step, (batch, weight, step.rates()))
    for _ in range(5):
        weight = torch.from_numpy(np.asarray(exe(batch, weight, step.rates())[0]).copy())
        network.train_layer(batch, 0)
        torch.testing.assert_close(weight, network.weights[0].detach(), rtol=0, atol=5e-6)
        network.raise_rates(0, 0.15)


def test_a_layer_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="layer 2 of a network of 2 layers"):
        LearningStep(Kheradpisheh(), 2)


@pytest.mark.parametrize("target", ["torch", "interpreter", "cpu"])
def test_a_step_of_reward_is_that_of_the_network(target: str) -> None:
    network = Mozafari(maps=(6, 12, 20), drop=0.5, seed=3)
    coarse(network)
    step = RewardStep(network)
    labels = torch.tensor([0, 3, 5, 7])
    kept = drop_maps(4, 20, 0.5, torch.Generator().manual_seed(1))
    given = (images(4), network.weights[2].detach().clone(), step.rates(), labels, kept)
    if target == "torch":
        new, decisions = step(*given)
    else:
        graph = plait.lower(step, given)
        new, decisions = interpret(graph, given) if target == "interpreter" else plait.compile(graph)(*given)
    expected = network.train_reward(images(4), labels, torch.Generator().manual_seed(1))
    np.testing.assert_array_equal(np.asarray(decisions), expected.numpy())
    np.testing.assert_allclose(np.asarray(new), network.weights[2].detach().numpy(), rtol=0, atol=1e-6)
    assert not torch.equal(given[1], network.weights[2])
