"""The network of Diehl and Cook: its rule synapse by synapse, its two layers neuron by neuron, its votes by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from plait.frontends.families.spiking.diehl_cook import (
    DiehlCook,
    DiehlCookConfig,
    ExcitatoryLayer,
    NeuronLabels,
)
from plait.frontends.families.spiking.traces import PairRule, PairTraces


def small(**changes: Any) -> DiehlCookConfig:
    settings: dict[str, Any] = {
        "inputs": 64,
        "neurons": 12,
        "duration_ms": 100.0,
        "norm": 10.0,
        "theta_plus": 1.0,
    }
    return DiehlCookConfig(**{**settings, **changes})


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- the rule -------------------------------------------------------------------------------------
def test_the_rule_by_hand() -> None:
    # tau = dt / ln 2: a trace halves at each step.
    rule = PairRule(0.25, 0.5, tau_ms=1 / math.log(2), dt_ms=1.0, lower=0.0, upper=1.0)
    traces = PairTraces(rule, 2, 1)
    weights = np.array([[0.25], [0.5]], np.float32)
    none = np.zeros(0, np.int64)
    traces.step(weights, np.array([0]), none)  # input 0 fires: x = 1, 0
    assert weights[:, 0].tolist() == [0.25, 0.5]
    traces.step(weights, none, np.array([0]))  # the neuron fires: x = .5, 0
    assert weights[:, 0].tolist() == [0.5, 0.5]
    traces.step(weights, np.array([1]), none)  # input 1 fires late: y = .5
    assert weights[:, 0].tolist() == [0.5, 0.375]
    traces.step(weights, np.array([0]), np.array([0]))  # both: y = 1 depresses, then x = 1, .5 potentiate
    assert weights[:, 0].tolist() == [0.75, 0.625]


def test_the_rule_equals_a_loop_over_synapses() -> None:
    rule = PairRule(0.2, 0.11, tau_ms=5.0, dt_ms=0.5, lower=0.1, upper=0.9)
    inputs, neurons, steps = 7, 5, 80
    generator = np.random.default_rng(0)
    pre = generator.random((steps, inputs)) < 0.2
    post = generator.random((steps, neurons)) < 0.1
    weights = generator.uniform(0.1, 0.9, (inputs, neurons)).astype(np.float32)
    literal = weights.astype(np.float64)
    x, y, decay = [0.0] * inputs, [0.0] * neurons, math.exp(-0.5 / 5.0)
    traces = PairTraces(rule, inputs, neurons)
    reached = set()
    for t in range(steps):
        traces.step(weights, pre[t].nonzero()[0], post[t].nonzero()[0])
        x = [1.0 if pre[t, i] else decay * x[i] for i in range(inputs)]
        y = [1.0 if post[t, j] else decay * y[j] for j in range(neurons)]
        for i in range(inputs):
            for j in range(neurons):
                w = literal[i, j]
                if pre[t, i]:
                    w = max(w - 0.2 * y[j], 0.1)
                if post[t, j]:
                    w = min(w + 0.11 * x[i], 0.9)
                literal[i, j] = w
                reached |= {w} & {0.1, 0.9}
        np.testing.assert_allclose(weights, literal, rtol=0, atol=1e-5)
    assert reached == {0.1, 0.9}  # both bounds took part


def test_rules_without_meaning_are_refused() -> None:
    with pytest.raises(ValueError, match="rates are at least 0"):
        PairRule(-1.0, 1.0, 20.0, 1.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="times are above 0"):
        PairRule(1.0, 1.0, 20.0, 0.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="lower < upper"):
        PairRule(1.0, 1.0, 20.0, 1.0, 1.0, 1.0)


# -- the layers -----------------------------------------------------------------------------------
def two_layers(
    config: DiehlCookConfig, currents: np.ndarray, theta: list[float]
) -> tuple[list[list[bool]], list[list[float]]]:
    """Both layers neuron by neuron, with a step of delay on each connection; spikes and potentials."""
    count = len(theta)
    v, wait = [config.rest] * count, [0] * count
    v_inhibitory, wait_inhibitory = [-60.0] * count, [0] * count
    fired, fired_inhibitory = [False] * count, [False] * count
    spikes, potentials = [], []
    for current in currents:
        before, before_inhibitory = fired, fired_inhibitory
        excess = []
        for j in range(count):
            v[j] = config.rest + math.exp(-config.dt_ms / config.tau_ms) * (v[j] - config.rest)
            if wait[j] == 0:
                others = sum(before_inhibitory[k] for k in range(count) if k != j)
                v[j] += float(current[j]) - config.inhibition * others
            wait[j] = max(wait[j] - 1, 0)
            excess.append(v[j] - config.threshold - theta[j])
        best = excess.index(max(excess))
        fired = [j == best and excess[j] >= 0 for j in range(count)]
        for j in range(count):
            if excess[j] >= 0:
                v[j], wait[j] = config.reset, round(config.refractory_ms / config.dt_ms)
                theta[j] += config.theta_plus
        fired_inhibitory = []
        for j in range(
            count
        ):  # rest -60, threshold -40, reset -45 mV, tau 10 ms, refractory 2 ms, weight 22.5
            v_inhibitory[j] = -60 + math.exp(-config.dt_ms / 10) * (v_inhibitory[j] + 60)
            if wait_inhibitory[j] == 0:
                v_inhibitory[j] += 22.5 * before[j]
            wait_inhibitory[j] = max(wait_inhibitory[j] - 1, 0)
            fired_inhibitory.append(v_inhibitory[j] >= -40)
            if fired_inhibitory[j]:
                v_inhibitory[j], wait_inhibitory[j] = -45.0, 2
        spikes.append(list(fired))
        potentials.append(list(v))
    return spikes, potentials


@pytest.mark.parametrize("refractory_ms", [2.0, 5.0])
def test_the_folded_layer_equals_two_layers(refractory_ms: float) -> None:
    config = small(neurons=6, inhibition=4.0, theta_plus=0.25, refractory_ms=refractory_ms)
    currents = np.random.default_rng(1).uniform(0, 9, (300, 6)).astype(np.float32)
    theta = np.zeros(6, np.float32)
    layer = ExcitatoryLayer(config, theta, 1, adapt=True)
    literal_theta = [0.0] * 6
    expected, potentials = two_layers(config, currents, literal_theta)
    several = 0
    for t, current in enumerate(currents):
        fired = layer.step(current[None])
        assert ([False] * 6 if fired is None else fired[0].tolist()) == expected[t], f"step {t}"
        np.testing.assert_allclose(layer.above[0] + config.rest, potentials[t], atol=1e-3)
        several += int((layer.waiting[0] == round(refractory_ms)).sum() > 1)
    assert sum(map(sum, expected)) > 30
    assert several > 0  # neurons that reached the threshold together
    assert theta.tolist() == literal_theta


def test_images_side_by_side_equal_images_one_by_one() -> None:
    config = small(neurons=6, inhibition=4.0)
    currents = np.random.default_rng(2).uniform(0, 9, (80, 5, 6)).astype(np.float32)
    theta = np.linspace(0, 2, 6, dtype=np.float32)
    together = ExcitatoryLayer(config, theta, 5, adapt=False)
    alone = [ExcitatoryLayer(config, theta, 1, adapt=False) for _ in range(5)]
    for current in currents:
        together.step(current)
        for k, layer in enumerate(alone):
            layer.step(current[k : k + 1])
            assert np.array_equal(layer.above[0], together.above[k])
    assert np.array_equal(theta, np.linspace(0, 2, 6, dtype=np.float32))


# -- the network ----------------------------------------------------------------------------------
def test_learning_without_rates_is_responding() -> None:
    network = DiehlCook(small(depression=0.0, potentiation=0.0, theta_plus=0.0), seed=0)
    # Multiples of 1/64: sums are exact in any order.
    network.weights.copy_((network.weights * 64).round() / 64)
    image = torch.rand(8, 8, generator=seeded(1))
    responded = network.respond(image.unsqueeze(0), seeded(2))[0]
    assert int(responded.sum()) > 3
    assert torch.equal(network.learn(image, seeded(2)), responded)


def test_the_same_seeds_give_the_same_bits() -> None:
    images = torch.rand(4, 64, generator=seeded(1))

    def learned(seed: int) -> DiehlCook:
        network, generator = DiehlCook(small(), seed=seed), seeded(seed)
        for image in images:
            network.learn(image, generator)
        return network

    first, again, other = learned(5), learned(5), learned(6)
    assert torch.equal(first.weights, again.weights)
    assert torch.equal(first.theta, again.theta)
    assert not torch.equal(first.weights, other.weights)
    assert not torch.equal(first.weights, DiehlCook(small(), seed=5).weights)
    torch.testing.assert_close(first.weights.sum(dim=0), torch.full((12,), 10.0))
    assert 0 <= float(first.weights.min()) <= float(first.weights.max()) <= 1
    assert float(first.theta.sum()) > 0


def test_pixels_fire_at_their_rates() -> None:
    network = DiehlCook(small(inputs=4, norm=1.0, duration_ms=20_000.0, intensity_hz=100.0), seed=0)
    spikes = network.encode(torch.tensor([[0.0, 0.25, 0.5, 1.0]]), seeded(0))
    assert spikes.shape == (20_000, 1, 4)
    rates = spikes.float().mean(dim=0)[0] * 1000
    # Five standard deviations of 20,000 draws of probability .1 are 10.6 Hz.
    torch.testing.assert_close(rates, torch.tensor([0.0, 25.0, 50.0, 100.0]), rtol=0, atol=10.6)


def test_labels_and_votes_by_hand() -> None:
    counts = torch.tensor([[4, 0, 1, 0], [2, 1, 1, 0], [0, 5, 3, 0]])
    known = NeuronLabels.of(counts, torch.tensor([0, 0, 1]), 3)
    assert known.rates.tolist() == [[3, 0, 0], [0.5, 5, 0], [1, 3, 0], [0, 0, 0]]
    assert known.classes.tolist() == [0, 1, 1, -1]
    # Class 0: 3 / 1; class 1: (1 + 4) / 2, or (1 * 10/11 + 4 * 3/4) / 2 by proportion.
    assert known.vote(torch.tensor([[3, 1, 4, 9], [2, 1, 4, 0]])).tolist() == [0, 1]
    # 2 is below 2.5 but above 1.95.
    assert known.vote_by_proportion(torch.tensor([[3, 1, 4, 9], [2, 1, 4, 0]])).tolist() == [0, 0]


def bars(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of 8 x 8 with a bar of three pixels' width at one of two places, upright or lying: four classes."""
    generator = seeded(seed)
    labels = torch.randint(0, 4, (count,), generator=generator)
    images = torch.zeros(count, 8, 8)
    for image, label in zip(images, labels.tolist(), strict=True):
        place = slice(1, 4) if label % 2 else slice(5, 8)
        image[(place, slice(None)) if label < 2 else (slice(None), place)] = 0.9
    return (images + 0.1 * torch.rand(images.shape, generator=generator)), labels


def test_it_learns_bars_without_labels() -> None:
    network, generator = DiehlCook(small(), seed=0), seeded(0)
    images, labels = bars(60, 1)
    test, truth = bars(40, 2)
    for image in images:
        network.learn(image, generator)
    known = NeuronLabels.of(network.respond(images, generator), labels, 4)
    assert float((known.vote(network.respond(test, generator)) == truth).double().mean()) >= 0.9
    # The weights of most neurons became the bar of their class; some stand for two.
    means = torch.stack([images[labels == k].mean(dim=0).flatten() for k in range(4)])
    used = known.classes >= 0
    likeness = torch.corrcoef(torch.cat([means, network.weights.T[used]]))[4:, :4]
    assert float((likeness.argmax(dim=1) == known.classes[used]).double().mean()) >= 0.75
    assert set(known.classes[used].tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"neurons": 0}, "neurons is above 0"),
        ({"reset": -50.0}, "are below the threshold"),
        ({"intensity_hz": 2000.0}, "more than one spike"),
        ({"norm": 65.0}, "mean weight above 1"),
        ({"refractory_ms": 1.0}, "would then miss spikes"),
    ],
)
def test_constants_without_meaning_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**changes)


def test_images_that_do_not_fit_are_refused() -> None:
    network = DiehlCook(small(), seed=0)
    with pytest.raises(ValueError, match="49 pixels, but the network has 64"):
        network.learn(torch.zeros(7, 7), seeded(0))
    with pytest.raises(ValueError, match="divide bytes by 255"):
        network.respond(torch.full((1, 64), 255.0), seeded(0))
    assert network.respond(torch.zeros(0, 64), seeded(0)).shape == (0, 12)
