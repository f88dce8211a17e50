"""Winner-take-all, inhibition and STDP of fully connected layers: by hand, by loops and against Spyker."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from plait.frontends.families import spiking
from plait.frontends.families.spiking import coding, layers, stdp
from plait.frontends.families.spiking.fully_connected import (
    inhibit_neurons,
    neuron_winners,
    update_neurons,
)


def random_potential(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)).cumsum(1)


def winners_by_loop(potential: torch.Tensor, radius: int, count: int, threshold: float) -> list[list[int]]:
    """Rows (sample, neuron, time) in order of winning."""
    rows = []
    for sample in range(potential.shape[0]):
        order = []
        for neuron in range(potential.shape[2]):
            for step in range(potential.shape[1]):
                level = float(potential[sample, step, neuron])
                if level > threshold:
                    order.append((step, -level, neuron))
                    break
        taken: list[int] = []
        for step, _, neuron in sorted(order):
            if len(taken) < count and all(abs(neuron - other) > radius for other in taken):
                taken.append(neuron)
                rows.append([sample, neuron, step])
    return rows


def rows_of(winners: layers.Winners) -> list[list[int]]:
    sample = torch.arange(winners.valid.shape[0]).unsqueeze(1).expand_as(winners.channel)
    return torch.stack([sample, winners.channel, winners.time], dim=2)[winners.valid].tolist()


@pytest.mark.parametrize("radius", [0, 1, 3, 20])
@pytest.mark.parametrize("count", [1, 4, 12])
def test_winners_against_a_plain_loop(radius: int, count: int) -> None:
    potential = random_potential(0, 5, 6, 10)
    potential[4] = 0.0
    winners = neuron_winners(potential, radius, count, 1.2)
    assert rows_of(winners) == winners_by_loop(potential, radius, count, 1.2)
    assert winners.valid.shape == (5, count)
    assert not winners.valid[4].any()


def test_ties_go_to_the_larger_potential_then_to_the_lower_index() -> None:
    potential = torch.tensor([[[0.0, 2.0, 1.5, 2.0, 0.0]], [[0.0, 0.0, 0.0, 0.0, 0.0]]])
    assert rows_of(neuron_winners(potential, 0, 5)) == [[0, 1, 0], [0, 3, 0], [0, 2, 0]]
    wave = layers.fire(potential)
    assert rows_of(neuron_winners(wave, 0, 5)) == [[0, 1, 0], [0, 2, 0], [0, 3, 0]]


def test_inhibition_keeps_the_first_neuron() -> None:
    potential = torch.tensor([[[0.0, 0.5, 0.0], [0.2, 1.5, 2.0], [3.0, 2.5, 2.1]]])
    kept = inhibit_neurons(potential, 1.0)
    assert kept.tolist() == [[[0.0, 0.0, 0.0], [0.0, 0.0, 2.0], [0.0, 0.0, potential[0, 2, 2].item()]]]


@pytest.mark.parametrize("stabilize", [True, False])
def test_update_against_a_plain_loop(stabilize: bool) -> None:
    steps = 8
    times = torch.randint(0, steps + 1, (6, 9), generator=torch.Generator().manual_seed(1))
    weights = torch.rand(5, 9, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    potential = layers.connect(coding.wave_of(times, steps), weights)
    winners = neuron_winners(potential, 1, 2, 1.0)
    rules = [
        stdp.STDPConfig(0.1, -0.07, stabilize, 0.2, 0.8),
        stdp.STDPConfig(-0.1, 0.05, stabilize, 0.1, 0.9),
    ]
    winners = stdp.reward(winners, torch.tensor([1, 2, 3, 4, 5, 6]), torch.tensor([1, 0, 3, 0, 5, 0]))
    new = update_neurons(weights, times, winners, rules, steps=steps)
    expected = weights.clone()
    for sample, neuron, time in rows_of(winners):
        rule = rules[sample % 2]
        for synapse in range(9):
            w = float(expected[neuron, synapse])
            change = rule.positive if int(times[sample, synapse]) <= time else rule.negative
            if stabilize:
                change *= (w - rule.lower) * (rule.upper - w)
            expected[neuron, synapse] = min(max(w + change, rule.lower), rule.upper)
    assert not torch.equal(expected, weights)
    torch.testing.assert_close(new, expected, atol=1e-7, rtol=0)
    assert torch.equal(new, update_neurons(weights, times, winners, rules, steps=steps))
    losers = [n for n in range(5) if n not in winners.channel[winners.valid].tolist()]
    assert torch.equal(new[losers], weights[losers])


def test_a_neuron_learns_the_pattern_that_makes_it_win() -> None:
    # Two patterns of disjoint inputs; each neuron starts with a slight preference.
    patterns = torch.tensor([[0, 0, 0, 0, 4, 4, 4, 4], [4, 4, 4, 4, 0, 0, 0, 0]])
    weights = torch.full((2, 8), 0.5)
    weights[0, :4] += 0.05
    weights[1, 4:] += 0.05
    for _ in range(400):
        potential = inhibit_neurons(layers.connect(coding.wave_of(patterns, 4), weights), 1.0)
        winners = neuron_winners(potential, 0, 1, 1.0)
        weights = update_neurons(weights, patterns, winners, [stdp.STDPConfig(0.05, -0.05)], steps=4)
    assert stdp.convergence(weights) < 0.02
    assert torch.equal((weights > 0.5).long(), (patterns < 4).long())


def test_wrong_input_is_refused() -> None:
    potential = random_potential(3, 1, 2, 3)
    with pytest.raises(ValueError, match="count 1 or above"):
        neuron_winners(potential, 0, 0)
    winners = neuron_winners(potential, 0, 1)
    wrong = replace(winners, config=winners.config + 1)
    with pytest.raises(ValueError, match="config 1"):
        update_neurons(
            torch.rand(3, 4), torch.zeros(1, 4).long(), wrong, [stdp.STDPConfig(0.1, -0.1)], steps=2
        )


@pytest.mark.parametrize("radius", [0, 1, 2, 30])
def test_winners_against_spyker(radius: int) -> None:
    spyker: Any = pytest.importorskip("spyker")
    potential = random_potential(4, 6, 7, 12)
    for count in (1, 3, 12):
        for threshold in (0.0, 1.1, 2.5):
            theirs = spyker.fcwta(potential.clone(), radius, count, threshold)
            mine = rows_of(neuron_winners(potential, radius, count, threshold))
            assert [row[:2] for row in mine] == [
                [sample, winner.x] for sample, group in enumerate(theirs) for winner in group
            ]
    wave = layers.fire(potential, 1.1)
    theirs = spyker.fcwta(wave, radius, 12)
    assert [row[:2] for row in rows_of(neuron_winners(wave, radius, 12))] == [
        [sample, winner.x] for sample, group in enumerate(theirs) for winner in group
    ]


def test_inhibition_against_spyker() -> None:
    spyker: Any = pytest.importorskip("spyker")
    potential = random_potential(5, 4, 7, 12)
    potential = torch.where(potential > 1.5, potential, 0.0)
    theirs = spyker.inhibit(potential.clone().reshape(4, 7, 12, 1, 1)).reshape(4, 7, 12)
    assert torch.equal(inhibit_neurons(potential), theirs)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("stabilize", [True, False])
def test_stdp_against_spyker(shared: bool, stabilize: bool) -> None:
    """Against a convolution of kernel 1 on an image of one pixel, and against FC."""
    spyker: Any = pytest.importorskip("spyker")
    image = spiking.suppress(torch.rand(5, 20, generator=torch.Generator().manual_seed(6)), 0.3)
    wave = spiking.rank_order_code(image, 10)
    spyker.random_seed(1)
    module = spyker.Conv(20, 6, 1, 1, 0, 0.5, 0.1) if shared else spyker.FC(20, 6, 0.5, 0.1)
    weights = torch.from_numpy(spyker.to_numpy(module.kernel).copy()).reshape(6, 20)
    rules = [
        stdp.STDPConfig(0.04, -0.03, stabilize, 0.2, 0.8),
        stdp.STDPConfig(-0.04, 0.005, stabilize, 0.2, 0.8),
    ]
    module.stdpconfig = [
        spyker.STDPConfig(rule.positive, rule.negative, rule.stabilize, rule.lower, rule.upper)
        for rule in rules
    ]
    wave_in = wave[..., None, None] if shared else wave
    potential = spyker.threshold(module(wave_in), 2.0)
    winners = neuron_winners(potential.reshape(5, 10, 6), 0, 1)
    winners = stdp.reward(winners, torch.tensor([1, 2, 3, 4, 5]), torch.tensor([1, 0, 3, 0, 5]))
    theirs = spyker.convwta(potential, 0, 1) if shared else spyker.fcwta(potential, 0, 1)
    for sample, group in enumerate(theirs):
        group[0].c = int(winners.config[sample, 0])
    if not shared:
        # FC.stdp of Spyker 0.1.0 takes every winner to fire at step 0, whatever its output says.
        winners = replace(winners, time=torch.zeros_like(winners.time))
    module.stdp(wave_in, theirs, spyker.fire(potential))
    expected = torch.from_numpy(spyker.to_numpy(module.kernel).copy()).reshape(6, 20)
    assert not torch.equal(expected, weights)
    new = update_neurons(weights, coding.first_spike_times(wave), winners, rules, steps=10)
    torch.testing.assert_close(new, expected, atol=1e-6, rtol=0)
