"""Rank-order coding, layers and STDP against small cases worked by hand and their defining properties."""

from __future__ import annotations

import pytest
import torch

from plait.frontends.families import spiking
from plait.frontends.families.spiking import coding, layers, stdp


def random_image(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_rank_times_by_hand() -> None:
    image = torch.tensor([[0.0, 0.9, 0.1, 0.5, 0.0, 0.3]])
    assert coding.rank_times(image, 2).tolist() == [[2, 0, 1, 0, 2, 1]]


def test_latency_times_by_hand() -> None:
    assert coding.latency_times(torch.tensor([[0.0, 1.0, 0.5, 0.3]]), 4).tolist() == [[4, 0, 2, 2]]


def test_waves_are_cumulative_and_events_hold_each_spike_once() -> None:
    wave = spiking.rank_order_code(random_image(1, 2, 3, 4, 5), 7)
    assert bool((wave[:, 1:] >= wave[:, :-1]).all())
    events = spiking.SpikeEvents.from_wave(wave)
    assert len(events.index[:, [0, 2, 3, 4]].unique(dim=0)) == len(events.index) == int(wave[:, -1].sum())
    assert torch.equal(events.to_wave(), wave)
    assert torch.equal(spiking.scatter(spiking.gather(wave).long(), 7), wave)


def test_gather_refuses_times_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="256 steps"):
        spiking.gather(torch.zeros(1, 256, 1, 1, 1))


def test_winners_differ_in_channel_and_window() -> None:
    potential = random_image(2, 3, 5, 8, 9, 9).cumsum(1)
    rows = layers.convolution_winners(potential, 2, 5, 1.5).rows()
    for sample in range(3):
        mine = rows[rows[:, 0] == sample]
        assert len(mine) >= 2
        assert len(mine[:, 1].unique()) == len(mine)
        for i in range(len(mine)):
            for j in range(i):
                assert int((mine[i, 2:] - mine[j, 2:]).abs().max()) > 2


def test_inhibition_by_hand() -> None:
    # Two channels at one place: the second fires first; at the next place the
    # two fire together and the first is larger.
    first = torch.tensor([[0.0, 3.0], [2.0, 4.0]])
    second = torch.tensor([[1.5, 2.0], [1.7, 9.0]])
    potential = torch.stack([first, second], dim=1).reshape(1, 2, 2, 1, 2)
    kept = layers.inhibit(potential, 1.0)
    assert kept[0, :, 0, 0].tolist() == [[0.0, 3.0], [0.0, 4.0]]
    assert kept[0, :, 1, 0].tolist() == [[1.5, 0.0], [torch.tensor(1.7).item(), 0.0]]


def test_stdp_by_hand_and_bounds() -> None:
    weights = torch.tensor([0.5, 0.5, 0.9, 0.1]).reshape(1, 1, 2, 2)
    times = torch.tensor([0, 2, 1, 5]).reshape(1, 1, 2, 2)
    one = torch.tensor([[1]])
    zero = torch.zeros_like(one)
    winners = layers.Winners(one.bool(), zero, one, zero, zero, zero)
    rule = stdp.STDPConfig(0.4, -0.2)
    new = stdp.update(weights, times, winners, [rule], steps=5).flatten()
    torch.testing.assert_close(new, torch.tensor([0.6, 0.45, 0.936, 0.082]))
    bold = stdp.STDPConfig(0.4, -0.2, stabilize=False, lower=0.2, upper=0.8)
    clipped = stdp.update(weights, times, winners, [bold], steps=5).flatten()
    torch.testing.assert_close(clipped, torch.tensor([0.8, 0.3, 0.8, 0.2]))


def test_reward_picks_the_config() -> None:
    slots = torch.zeros(2, 1, dtype=torch.int64)
    winners = layers.Winners(slots == 0, slots, slots, slots, slots, slots)
    judged = stdp.reward(winners, torch.tensor([3, 1]), torch.tensor([3, 2]))
    assert judged.config.tolist() == [[0], [1]]
    weights = torch.ones(1, 1, 1, 1)
    with pytest.raises(ValueError, match="config 1"):
        stdp.update(weights, torch.zeros(2, 1, 1, 1), judged, [stdp.STDPConfig(0.1, -0.1)], steps=2)


def test_schedule_keeps_the_ratio_and_stops_at_the_maximum() -> None:
    rule = stdp.raise_rates(stdp.STDPConfig(0.1, -0.075), 0.15)
    assert (rule.positive, rule.negative) == pytest.approx((0.15, -0.1125))


def test_seeds_reproduce_and_training_changes_one_layer() -> None:
    image = random_image(4, 2, 1, 28, 28)
    one, two = spiking.Kheradpisheh(seed=3), spiking.Kheradpisheh(seed=3)
    before = [weight.clone() for weight in one.weights]
    one.train_layer(image, 0)
    two.train_layer(image, 0)
    assert torch.equal(one.weights[0], two.weights[0])
    assert not torch.equal(one.weights[0], before[0])
    assert torch.equal(one.weights[1], before[1])


@pytest.mark.slow
def test_inference_exports() -> None:
    network = spiking.Kheradpisheh(seed=1).eval()
    image = random_image(5, 1, 1, 28, 28)
    program = torch.export.export(network, (image,))
    assert torch.equal(program.module()(image), network(image))


def test_weights_on_a_grid_sum_exactly() -> None:
    weights = torch.rand(64, 100, generator=torch.Generator().manual_seed(0))
    snapped = stdp.on_grid(weights)
    assert float((snapped - weights).abs().max()) <= 2.0**-11
    assert torch.equal(snapped * 1024, (snapped * 1024).round())
    order = torch.randperm(100, generator=torch.Generator().manual_seed(1))
    assert torch.equal(snapped.sum(1), snapped[:, order].sum(1))
    assert torch.equal(snapped.sum(1).double(), snapped.double().sum(1))
