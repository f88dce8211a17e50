"""Filters, codes, layers, STDP and whole networks against the Spyker package."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from plait.frontends.families import spiking
from plait.frontends.families.spiking import coding, layers, stdp

spyker: Any = pytest.importorskip("spyker")


def random_image(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_filters() -> None:
    image = random_image(1, 2, 1, 14, 15)
    pairs = [(1.0, 2.0), (2.0, 1.0)]
    theirs = spyker.DoG(3, [spyker.DoGFilter(*pair) for pair in pairs], pad=3)(image)
    torch.testing.assert_close(
        spiking.DifferenceOfGaussians(3, pairs, padding=3)(image), theirs, atol=1e-6, rtol=0
    )
    theirs = spyker.LoG(3, [0.4714, 1.0999], pad=3)(image)
    torch.testing.assert_close(
        spiking.LaplacianOfGaussian(3, [0.4714, 1.0999], padding=3)(image), theirs, atol=1e-6, rtol=0
    )
    parameters = (1.5, 40.0, 0.5, 4.0, 0.3)
    theirs = spyker.Gabor(2, [spyker.GaborFilter(*parameters)], pad=2)(image)
    torch.testing.assert_close(spiking.Gabor(2, [parameters], padding=2)(image), theirs, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("sort", [True, False])
def test_codes(sort: bool) -> None:
    image = spiking.suppress(random_image(2, 3, 2, 6, 7), 0.3)
    assert torch.equal(spiking.rank_order_code(image, 15, sort=sort), spyker.code(image, 15, sort))
    flat = torch.ones(1, 1, 3, 3)
    assert torch.equal(spiking.rank_order_code(flat, 4, sort=sort), spyker.code(flat, 4, sort))


def test_gather_scatter_pool_inhibit_quantize() -> None:
    potential = random_image(3, 2, 6, 4, 8, 8).cumsum(1)
    wave = layers.fire(potential, 2.0)
    assert torch.equal(wave, spyker.fire(potential, 2.0))
    times = spiking.gather(wave)
    assert torch.equal(times, spyker.gather(wave))
    assert torch.equal(spiking.scatter(times, 6), spyker.scatter(times, 6))
    assert torch.equal(layers.pool(wave, 2, padding=1), spyker.pool(wave, 2, pad=1))
    thresholded = torch.where(potential > 2.0, potential, 0.0)
    assert torch.equal(layers.inhibit(thresholded), spyker.inhibit(thresholded.clone()))
    assert torch.equal(
        stdp.quantize(potential, 0.0, 2.0, 1.0), spyker.quantize(potential.clone(), 0.0, 2.0, 1.0)
    )


def test_fully_connected() -> None:
    wave, weights = spiking.rank_order_code(random_image(5, 2, 9), 4), random_image(6, 5, 9)
    torch.testing.assert_close(
        layers.connect(wave, weights), spyker.fc(wave.float(), weights), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("rewarded", [False, True])
def test_winners_and_stdp(rewarded: bool) -> None:
    torch.manual_seed(0)
    wave = spiking.rank_order_code(spiking.suppress(random_image(7, 3, 2, 10, 10), 0.4), 15)
    module = spyker.Conv(2, 8, 5, pad=2)
    kernel = torch.from_numpy(spyker.to_numpy(module.kernel).copy())
    rules = [
        stdp.STDPConfig(0.04, -0.03, not rewarded, 0.2, 0.8),
        stdp.STDPConfig(-0.04, 0.005, False, 0.2, 0.8),
    ]
    module.stdpconfig = [
        spyker.STDPConfig(rule.positive, rule.negative, rule.stabilize, rule.lower, rule.upper)
        for rule in rules
    ]
    potential = spyker.threshold(module(wave), 8.0)
    theirs = spyker.convwta(potential, 1, 4)
    mine = layers.convolution_winners(potential, 1, 4)
    rows = [[s, w.z, w.y, w.x] for s, sample in enumerate(theirs) for w in sample]
    assert mine.rows().tolist() == rows
    if rewarded:
        mine = stdp.reward(mine, torch.tensor([1, 2, 3]), torch.tensor([1, 0, 3]))
        for winner in theirs[1]:
            winner.c = 1
    module.stdp(wave, theirs, spyker.fire(potential))
    expected = torch.from_numpy(spyker.to_numpy(module.kernel).copy())
    assert not torch.equal(expected, kernel)
    new = stdp.update(kernel, coding.first_spike_times(wave), mine, rules, padding=2, steps=15)
    torch.testing.assert_close(new, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["kheradpisheh", "rezghi"])
def test_whole_network(name: str) -> None:
    network = spiking.Kheradpisheh(seed=2) if name == "kheradpisheh" else spiking.Rezghi(seed=2)
    encoded = network.encode(random_image(8, 2, 1, 28, 28))
    wave = encoded
    for weights, config in zip(network.weights, network.configs):
        potential = spyker.conv(wave.float(), weights.detach().clone(), pad=config.padding)
        wave = spyker.pool(spyker.fire(potential, config.threshold), config.pool, pad=config.pool_padding)
    mine = coding.first_spike_times(network.run(encoded, 2))
    assert torch.equal(mine.to(torch.uint8), spyker.gather(wave))
