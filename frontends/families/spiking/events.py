"""Networks on first-spike times alone: the form that a compiler makes event-driven.

A neuron of a rank-order network fires at most once, so that its wave [B, T, C, H, W] holds no more
than one number.  The two operators here take and give these numbers as bytes; they are operators of
torch (`torch.ops.plait`), so that torch.export keeps them whole and plait lowers each to one op of its
IR, `spike.first_spike_conv2d` and `spike.first_spike_pool2d`.  Run by torch they compute the waves.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from plait.frontends.families.spiking import coding, layers
from plait.frontends.families.spiking.filters import suppress
from plait.frontends.families.spiking.networks import RankOrderNetwork


@torch.library.custom_op("plait::first_spike_conv2d", mutates_args=())
def first_spike_conv2d(
    times: Tensor, weight: Tensor, steps: int, threshold: float, padding: int, inhibit: bool
) -> Tensor:
    """First-spike times of a convolutional layer of integrate-and-fire neurons without leak.

    times uint8 [B, C, H, W], weight float32 [O, C, kh, kw] -> uint8 [B, O, H', W'];
    `steps` or more means silent.  A neuron fires at the first step at which its potential exceeds the
    threshold.  With `inhibit`, at each place only the channel that fires first keeps its spike, see
    `layers.inhibit`.
    """
    potential = layers.convolve(coding.wave_of(times, steps), weight, padding=padding)
    if inhibit:
        potential = layers.inhibit(potential, threshold)
    return coding.first_spike_times(potential, threshold).to(torch.uint8)


@first_spike_conv2d.register_fake
def _(times: Tensor, weight: Tensor, steps: int, threshold: float, padding: int, inhibit: bool) -> Tensor:
    rows, columns = (
        size + 2 * padding - kernel + 1
        for size, kernel in zip(times.shape[2:], weight.shape[2:], strict=True)
    )
    return times.new_empty((times.shape[0], weight.shape[0], rows, columns))


@torch.library.custom_op("plait::first_spike_pool2d", mutates_args=())
def first_spike_pool2d(
    times: Tensor, steps: int, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    """The earliest time of each window: uint8 [B, C, H, W] -> uint8 [B, C, H', W']; pads are silent."""
    later = steps - times.clamp(max=steps).to(torch.float32)
    found = nn.functional.max_pool2d(later, list(kernel), list(stride), list(padding))
    return (steps - found).to(torch.uint8)


@first_spike_pool2d.register_fake
def _(
    times: Tensor, steps: int, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    rows, columns = (
        (size + 2 * pad - window) // step + 1
        for size, pad, window, step in zip(times.shape[2:], padding, kernel, stride, strict=True)
    )
    return times.new_empty((*times.shape[:2], rows, columns))


class FirstSpikes(nn.Module):
    """A trained network on first-spike times: image [B, 1, H, W] -> int64 [B, O, H', W'], T for silent.

    It computes what `RankOrderNetwork.forward` does, and is what to hand to `plait.lower`.
    """

    def __init__(self, network: RankOrderNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """First-spike times of the last layer."""
        network = self.network
        strong = suppress(network.filters(image), network.filter_threshold)
        times = coding.rank_times(strong, network.steps).to(torch.uint8)
        for config, weight in zip(network.configs, network.weights, strict=True):
            times = first_spike_conv2d(times, weight, network.steps, config.threshold, config.padding, False)
            if config.pool:
                window, pads = [config.pool, config.pool], [config.pool_padding, config.pool_padding]
                times = first_spike_pool2d(times, network.steps, window, window, pads)
        return times.to(torch.int64)


__all__ = ["FirstSpikes", "first_spike_conv2d", "first_spike_pool2d"]
