"""Networks that decide by themselves and learn from reward."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from plait.frontends.families.spiking import coding, layers, stdp
from plait.frontends.families.spiking.events import FirstSpikes
from plait.frontends.families.spiking.learning_steps import LearningStep
from plait.frontends.families.spiking.mozafari import Mozafari, MozafariShallow
from plait.frontends.families.spiking.reward import SILENT, RewardRules, Success, decide, drop_maps


def images(count: int, size: int = 28) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    found = torch.zeros(count, 1, size, size)
    for k in range(count):
        found[k, 0, 4 + k : size - 5, 6 : 9 + k] = 0.8
    return (found + 0.1 * torch.rand(found.shape, generator=generator)) * (found > 0)


def small(seed: int = 0, drop: float = 0.0) -> Mozafari:
    return Mozafari(maps=(6, 12, 20), drop=drop, seed=seed)


def test_an_infinite_threshold_leaves_the_last_potential() -> None:
    network = small()
    wave = network.run(network.encode(images(3)), 2)
    last = network.potential(wave, 2)[:, -1]
    times = coding.first_spike_times(network.run(network.encode(images(3)), 3))
    assert torch.equal(times, torch.where(last > 0, 14, 15))
    decisions = network.decide(images(3))
    assert torch.equal(decisions, last.flatten(1).argmax(1) // (2 * 4 * 4))


def test_the_form_on_times_decides_alike() -> None:
    network = small(seed=1)
    with torch.no_grad():
        assert torch.equal(FirstSpikes(network)(images(3)), network(images(3)))
        step = LearningStep(network, 2)
        weight = network.weights[2].detach().clone()
        _, table = step(images(3), weight, step.rates())
    assert torch.equal(table[:, 0, 2].long() // 2, network.decide(images(3)))


def test_silence_is_no_decision() -> None:
    network = small()
    assert (network.decide(torch.zeros(2, 1, 28, 28)) != SILENT).all(), (
        "in an image of one value every neuron fires at step 0, as in Spyker"
    )
    with torch.no_grad():
        network.weights[2].zero_()
    assert network.decide(images(2)).tolist() == [SILENT, SILENT]
    before = network.weights[2].clone()
    network.train_reward(images(2), torch.tensor([1, 2]), torch.Generator().manual_seed(0))
    assert torch.equal(network.weights[2], before)
    assert network.success.silent == 2


def test_reward_moves_the_winner_towards_what_it_saw_and_punishment_away() -> None:
    network = small(seed=2)
    with torch.no_grad():
        network.weights[2].clamp_(0.3, 0.7)  # away from the bounds
    decision = int(network.decide(images(1))[0])
    wave = network.run(network.encode(images(1)), 2)
    generator = torch.Generator().manual_seed(0)
    fired = (coding.first_spike_times(wave) < 15).any()
    assert bool(fired)
    changes = {}
    for label in (decision, (decision + 1) % 10):
        fresh = small(seed=2)
        with torch.no_grad():
            fresh.weights[2].copy_(network.weights[2])
            before = fresh.weights[2].clone()
        fresh.learn_wave(wave, torch.tensor([label]), generator)
        changed = fresh.weights[2] - before
        assert len(changed.abs().flatten(1).amax(1).nonzero()) == 1, "one map learns"
        changes[label] = changed.flatten()
    right, wrong = changes.values()
    assert right.max() == pytest.approx(0.004, abs=1e-6)
    assert right.min() == pytest.approx(-0.003, abs=1e-6)
    assert wrong.max() == pytest.approx(0.0005, abs=1e-6)
    assert wrong.min() == pytest.approx(-0.004, abs=1e-6)


def test_rates_follow_success() -> None:
    network = small(drop=0.5)
    network.success.add(torch.tensor([1, 2, 3, SILENT]), torch.tensor([1, 2, 0, 0]))
    assert network.adapt() == (0.5, 0.25)
    assert network.current.reward.positive == pytest.approx(0.25 * 0.004)
    assert network.current.punish.positive == pytest.approx(0.5 * -0.004)
    assert network.success.seen == 0
    assert network.adapt() == (0.0, 0.0)
    assert network.current.reward.positive == pytest.approx(0.25 * 0.004), "nothing seen, nothing changed"
    shallow = RewardRules().adapted(0.5, 0.25, floor=0.2)
    assert shallow.reward.negative == pytest.approx(-0.003 * 0.4)
    assert Success().shares() == (0.0, 0.0)


def test_dropped_maps_do_not_win() -> None:
    kept = drop_maps(64, 20, 0.5, torch.Generator().manual_seed(3))
    assert 0.4 < kept.float().mean() < 0.6
    network = small(drop=0.9)
    wave = network.run(network.encode(images(3)), 2)
    network.learn_wave(wave, torch.zeros(3, dtype=torch.int64), torch.Generator().manual_seed(3))
    again = drop_maps(3, 20, 0.9, torch.Generator().manual_seed(3))
    potential = network.potential(wave, 2)[:, -1].amax((2, 3)) * again
    assert network.success.silent == int((potential.amax(1) <= 0).sum())
    with pytest.raises(ValueError, match="probability"):
        drop_maps(1, 2, 1.0, torch.Generator())
    with pytest.raises(ValueError, match="20 maps cannot be shared by 3 classes"):
        decide(layers.convolution_winners(torch.ones(1, 2, 20, 1, 1), 0, 1), 20, 3)


def test_the_seed_determines_everything() -> None:
    def learned() -> torch.Tensor:
        network = small(seed=5, drop=0.5)
        generator = torch.Generator().manual_seed(9)
        for _ in range(3):
            network.train_reward(images(4), torch.tensor([0, 1, 2, 3]), generator)
            network.adapt()
        return network.weights[2].detach()

    assert torch.equal(learned(), learned())


@pytest.mark.parametrize("kind", ["caltech", "eth80", "norb"])
def test_shallow_networks_decide_and_learn(kind: str) -> None:
    network: MozafariShallow = getattr(MozafariShallow, kind)(seed=0)
    kernel = network.weights[0].shape[-1]
    size = 6 * (kernel + 2) + 7
    generator = torch.Generator().manual_seed(0)
    picture = torch.rand(2, 1, size, size, generator=generator)
    wave = network.encode(picture)
    assert wave.shape[2] == 4
    decisions = network.decide(picture)
    assert decisions.shape == (2,)
    assert set(decisions.tolist()) <= set(range(-1, network.classes))
    before = network.weights[0].clone()
    made = network.train_reward(picture, torch.zeros(2, dtype=torch.int64), generator)
    assert (made == SILENT).all() == torch.equal(network.weights[0], before)


def test_against_spyker() -> None:
    """The last layer: infinite threshold, one winner, and an update by two rules."""
    spyker: Any = pytest.importorskip("spyker")
    network = small(seed=3)
    wave = network.run(network.encode(images(4)), 2)
    module = spyker.Conv(12, 20, 5, pad=2)
    spyker.copy_array(network.weights[2].detach().numpy(), module.kernel)
    rules = network.rewards.by_index()
    module.stdpconfig = [
        spyker.STDPConfig(rule.positive, rule.negative, rule.stabilize, rule.lower, rule.upper)
        for rule in rules
    ]
    potential = spyker.infinite(module(wave))
    theirs = spyker.convwta(potential, 0, 1)
    labels = torch.tensor([0, 3, 5, 7])
    decisions = network.decide_wave(wave)
    assert [sample[0].z // 2 for sample in theirs] == decisions.tolist()
    for sample, right in zip(theirs, decisions == labels):
        sample[0].c = 0 if right else 1
    module.stdp(wave, theirs, spyker.fire(potential))
    network.learn_wave(wave, labels, torch.Generator())
    expected = torch.from_numpy(spyker.to_numpy(module.kernel).copy())
    torch.testing.assert_close(network.weights[2].detach(), expected, atol=1e-6, rtol=0)
    assert stdp.convergence(expected) != stdp.convergence(small(seed=3).weights[2])
