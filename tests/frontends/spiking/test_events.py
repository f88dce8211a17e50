"""Rank-order networks on first-spike times: as operators of torch, in the IR, and compiled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import plait
from plait.frontends.families.spiking import Kheradpisheh, RankOrderNetwork, Rezghi, coding, layers
from plait.frontends.families.spiking.events import FirstSpikes, first_spike_conv2d, first_spike_pool2d
from plait.ir.interpret import interpret


def images(count: int) -> torch.Tensor:
    """Bright strokes on black, with noise so that no two values are equal."""
    generator = torch.Generator().manual_seed(3)
    found = torch.zeros(count, 1, 28, 28)
    for k in range(count):
        found[k, 0, 6 + k : 22, 12 : 15 + k] = 0.7
    return (found + 0.2 * torch.rand(found.shape, generator=generator)) * (found > 0)


def test_the_operators_agree_with_waves() -> None:
    generator = torch.Generator().manual_seed(0)
    times = torch.randint(0, 9, (2, 3, 6, 7), generator=generator).to(torch.uint8)
    weight = torch.randint(0, 5, (4, 3, 2, 2), generator=generator) / 4.0
    wave = coding.wave_of(times, 5)
    fired = layers.fire(layers.convolve(wave, weight, padding=1), 2.0)
    found = first_spike_conv2d(times, weight, 5, 2.0, 1, False)
    assert found.dtype == torch.uint8
    assert torch.equal(found.long(), coding.first_spike_times(fired))
    pooled = first_spike_pool2d(times, 5, [2, 2], [2, 2], [1, 1])
    assert torch.equal(pooled.long(), coding.first_spike_times(layers.pool(wave, 2, padding=1)))
    torch.library.opcheck(first_spike_conv2d, (times, weight, 5, 2.0, 1, True), test_utils="test_faketensor")
    torch.library.opcheck(
        first_spike_pool2d, (times, 5, [2, 2], [2, 2], [1, 1]), test_utils="test_faketensor"
    )


@pytest.mark.parametrize("kind", [Kheradpisheh, Rezghi])
def test_a_network_on_times_equals_the_network_on_waves(kind: type[RankOrderNetwork]) -> None:
    network = kind(seed=1)
    with torch.no_grad():
        expected, found = network(images(2)), FirstSpikes(network)(images(2))
    assert torch.equal(found, expected)
    assert 0 < (found < network.steps).float().mean() < 1


@pytest.fixture(scope="module")
def lowered() -> tuple[plait.Graph, torch.Tensor]:
    network = Kheradpisheh(seed=1)
    # Multiples of 1/64: sums are exact in whatever order events come.
    with torch.no_grad():
        for weight in network.weights:
            weight.copy_((weight * 64).round() / 64)
        expected = network(images(3))
    graph = plait.lower(FirstSpikes(network), (images(2),), dynamic={"image": {0: "B"}})
    return graph, expected


def test_a_network_lowers_to_ops_on_times(lowered: tuple[plait.Graph, torch.Tensor]) -> None:
    graph, expected = lowered
    kinds = [op.opname for op in graph.body]
    assert kinds.count("spike.first_spike_conv2d") == 2
    assert kinds.count("spike.first_spike_pool2d") == 2
    arrays = {name: constant.data for name, constant in graph.constants.items()}
    assert plait.parse(str(graph), constants=arrays) == graph
    (found,) = interpret(graph, [images(3)])
    assert torch.equal(found, expected)


def test_a_compiled_network_gives_the_same_times(
    lowered: tuple[plait.Graph, torch.Tensor], tmp_path: Path
) -> None:
    graph, expected = lowered
    executable = plait.compile(graph, target="cpu")
    np.testing.assert_array_equal(executable(images(3).numpy()), expected.numpy())
    assert sum(kernel.name.endswith("_events") for kernel in executable.kernels) == 2
    executable.save(tmp_path / "network.plait")
    again = plait.load(tmp_path / "network.plait")
    np.testing.assert_array_equal(again(images(3).numpy()), expected.numpy())


@pytest.mark.slow
def test_the_kernels_for_a_gpu_give_the_same_times(lowered: tuple[plait.Graph, torch.Tensor]) -> None:
    graph, expected = lowered
    executable = plait.compile(graph, target="a100")
    assert all(kernel.spills == 0 for kernel in executable.kernels)
    np.testing.assert_array_equal(executable.emulate(images(1).numpy()), expected[:1].numpy())
