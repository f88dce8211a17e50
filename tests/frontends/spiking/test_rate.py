"""Rate code, rate firing and rate pooling against plain loops, exact probabilities and the Spyker package."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from plait.frontends.families.spiking import coding, layers
from plait.frontends.families.spiking.rate import (
    gather_counts,
    interval_distribution,
    rate_code,
    rate_fire,
    rate_pool,
    spike_trains,
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def truncated_poisson(rate: int, length: int) -> float:
    return math.exp(-rate) * rate**length / math.factorial(length) / (1 - math.exp(-rate))


def counts_at_last_step(rate: int, steps: int) -> np.ndarray:
    """Exact distribution of the number of renewals up to steps - 1, by dynamic programming."""
    position = np.zeros(steps)
    position[0] = 1.0
    distribution = np.zeros(steps)
    for count in range(steps):
        following = np.zeros(steps)
        ended = 0.0
        for start in range(steps):
            stays = 1.0
            for length in range(1, steps - start):
                probability = truncated_poisson(rate, length)
                following[start + length] += position[start] * probability
                stays -= probability
            ended += position[start] * stays
        distribution[count] = ended
        position = following
    return distribution


def test_interval_distribution_against_its_formula() -> None:
    table = interval_distribution(9)
    assert table.shape == (9, 8)
    for row in range(9):
        expected = np.cumsum([truncated_poisson(row + 1, k) for k in range(1, 9)])
        np.testing.assert_allclose(table[row].numpy(), expected, rtol=1e-12)
    assert bool(torch.isfinite(interval_distribution(256)).all())


@pytest.mark.parametrize("time", [0, 2, 7])
def test_trains_have_the_counts_of_the_renewal_process(time: int) -> None:
    steps, neurons = 12, 40_000
    wave = spike_trains(torch.full((1, neurons), time), steps, seeded(3))
    counts = gather_counts(wave).flatten().numpy()
    found = np.bincount(counts, minlength=steps) / neurons
    expected = counts_at_last_step(time + 1, steps)
    # Five standard deviations of each proportion.
    tolerance = 5 * np.sqrt(expected * (1 - expected) / neurons) + 1e-4
    assert bool((np.abs(found - expected) <= tolerance).all())
    first = coding.first_spike_times(wave).flatten().numpy()
    share = np.array([truncated_poisson(time + 1, k) for k in range(1, steps)])
    found = np.bincount(first, minlength=steps + 1)[1:steps] / neurons
    assert bool((np.abs(found - share) <= 5 * np.sqrt(share * (1 - share) / neurons) + 1e-4).all())


def test_code_reproduces_and_orders_rates() -> None:
    image = torch.rand(2, 3, 8, 8, generator=seeded(0))
    wave = rate_code(image, 15, generator=seeded(1))
    assert wave.dtype == torch.uint8
    assert wave.shape == (2, 15, 3, 8, 8)
    assert torch.equal(wave, rate_code(image, 15, generator=seeded(1)))
    assert not torch.equal(wave, rate_code(image, 15, generator=seeded(2)))
    steps = wave[:, 1:].int() - wave[:, :-1].int()
    assert set(steps.unique().tolist()) == {0, 1}
    assert int(wave[:, 0].sum()) == 0
    rates = gather_counts(wave).float()
    strong = image > 0.8
    assert float(rates[strong].mean()) > 3 * float(rates[image < 0.2].mean())


def test_silent_values_stay_silent() -> None:
    image = torch.zeros(1, 1, 4, 4)
    image[..., 0, :] = 1.0
    for sort in (True, False):
        wave = rate_code(image, 10, generator=seeded(4), sort=sort)
        assert int(wave[..., 1:, :].sum()) == 0
        assert int(wave[0, -1, 0, 0, 0]) > 0
    assert int(spike_trains(torch.zeros(1, 3, dtype=torch.int64), 1, seeded(0)).sum()) == 0


def test_a_neuron_fires_on_each_rise_by_the_threshold() -> None:
    levels = [1.0, 1.5, 2.4, 2.6, 9.0, 9.5, 3.0, 10.5]
    counts = rate_fire(torch.tensor(levels).reshape(1, -1, 1), 1.0)
    # 1.5 is the first above 1; then 2.6 > 1.5 + 1, and a rise by 6.4 is one spike.
    assert counts.flatten().tolist() == [0, 1, 1, 2, 3, 3, 3, 4]


def test_firing_against_a_plain_loop() -> None:
    potential = torch.randn(2, 20, 3, 4, generator=seeded(5)).cumsum(1)
    counts = rate_fire(potential, 1.3)
    for sample, row, column in np.ndindex(2, 3, 4):
        level, count = 0.0, 0
        for step in range(20):
            now = float(potential[sample, step, row, column])
            if now > level + 1.3:
                level, count = now, count + 1
            assert int(counts[sample, step, row, column]) == count


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, None, 0), (3, 2, 1), (3, 1, 0)])
def test_pooling_against_a_plain_loop(kernel: int, stride: int | None, padding: int) -> None:
    wave = torch.randint(0, 2, (2, 5, 3, 7, 8), generator=seeded(6)).cumsum(1).to(torch.uint8)
    rates = gather_counts(wave)
    pooled = rate_pool(wave, rates, kernel, stride=stride, padding=padding)
    jump = stride or kernel
    for sample, channel, y, x in np.ndindex(2, 3, *pooled.shape[3:]):
        best: tuple[int, int, int] | None = None
        for row in range(y * jump - padding, y * jump - padding + kernel):
            for column in range(x * jump - padding, x * jump - padding + kernel):
                if 0 <= row < 7 and 0 <= column < 8:
                    rate = int(rates[sample, channel, row, column])
                    if best is None or rate > best[0]:
                        best = (rate, row, column)
        assert best is not None
        assert torch.equal(pooled[sample, :, channel, y, x], wave[sample, :, channel, best[1], best[2]])


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="256 steps"):
        rate_code(torch.rand(1, 1, 2, 2), 257, generator=seeded(0))
    with pytest.raises(ValueError, match="255 steps"):
        rate_fire(torch.zeros(1, 256, 1), 1.0)
    with pytest.raises(ValueError, match="threshold"):
        rate_fire(torch.zeros(1, 2, 1), -1.0)
    with pytest.raises(ValueError, match="one rate a neuron"):
        rate_pool(torch.zeros(1, 2, 1, 4, 4), torch.zeros(1, 1, 4, 3), 2)


def test_code_against_spyker() -> None:
    spyker: Any = pytest.importorskip("spyker")
    steps, copies = 10, 3000
    # Ten levels above the minimum; Spyker's trains of the minimum are not defined, so they are left out.
    image = (torch.arange(steps + 1, dtype=torch.float32) / steps).repeat(copies).unsqueeze(0)
    times = coding.latency_times(image, steps)[0]
    spyker.random_seed(0)
    theirs = spyker.code(image, steps, False, code="rate")[0].double()
    mine = rate_code(image, steps, generator=seeded(7), sort=False)[0].double()
    for time in range(steps):
        group = times == time
        assert int(group.sum()) > 1000
        a, b = theirs[:, group], mine[:, group]
        # Mean counts at every step, to five standard errors of the difference.
        error = torch.sqrt((a.var(dim=1) + b.var(dim=1)) / int(group.sum()))
        assert bool(((a.mean(dim=1) - b.mean(dim=1)).abs() <= 5 * error + 2e-3).all())
        torch.testing.assert_close(a.std(dim=1), b.std(dim=1), atol=0.06, rtol=0)


def test_firing_and_gathering_against_spyker() -> None:
    spyker: Any = pytest.importorskip("spyker")
    potential = torch.randn(2, 20, 3, 4, 5, generator=seeded(8)).cumsum(1)
    for threshold in (0.0, 0.5, 1.3):
        wave = rate_fire(potential, threshold)
        assert torch.equal(wave, spyker.fire(potential, threshold, code="rate"))
        assert torch.equal(gather_counts(wave), spyker.gather(wave, code="rate"))


def test_pooling_against_spyker() -> None:
    spyker: Any = pytest.importorskip("spyker")
    weights = torch.rand(4, 2, 3, 3, generator=seeded(9))
    wave = rate_code(torch.rand(2, 2, 9, 10, generator=seeded(10)), 12, generator=seeded(11))
    fired = rate_fire(layers.convolve(wave, weights), 2.0)
    rates = gather_counts(fired)
    for kernel, stride in ((2, 2), (3, 3), (3, 1)):
        expected = spyker.pool(fired, kernel, stride, rates=rates)
        assert torch.equal(rate_pool(fired, rates, kernel, stride=stride), expected)
