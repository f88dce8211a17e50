"""Networks on first-spike times alone: the form that a compiler makes event-driven.

A neuron of a rank-order network fires at most once, so that its wave [B, T, C, H, W] holds no more
than one number.  The operators here take and give these numbers as bytes; they are operators of
torch (`torch.ops.plait`), so that torch.export keeps them whole and plait lowers each to one op of its
IR, `spike.rank_order_code`, `spike.first_spike_conv2d` and so on.  Run by torch they compute the waves.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from plait.frontends.families.spiking import coding, layers, stdp
from plait.frontends.families.spiking.filters import suppress
from plait.frontends.families.spiking.networks import LayerConfig, RankOrderNetwork


@torch.library.custom_op("plait::rank_order_times", mutates_args=())
def rank_order_times(image: Tensor, steps: int) -> Tensor:
    """First-spike times of the rank-order code, see `coding.rank_times`: [B, ...] -> uint8 [B, ...]."""
    return coding.rank_times(image, steps).to(torch.uint8)


@rank_order_times.register_fake
def _(image: Tensor, steps: int) -> Tensor:
    return image.new_empty(image.shape, dtype=torch.uint8)


def _potentials(
    times: Tensor, weight: Tensor, steps: int, threshold: float, padding: int, inhibit: bool
) -> Tensor:
    """Potentials [B, steps, O, H', W'] of a layer, after inhibition where it is wanted."""
    potential = layers.convolve(coding.wave_of(times, steps), weight, padding=padding)
    return layers.inhibit(potential, threshold) if inhibit else potential


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
    potential = _potentials(times, weight, steps, threshold, padding, inhibit)
    return coding.first_spike_times(potential, threshold).to(torch.uint8)


@first_spike_conv2d.register_fake
def _(times: Tensor, weight: Tensor, steps: int, threshold: float, padding: int, inhibit: bool) -> Tensor:
    rows, columns = (
        size + 2 * padding - kernel + 1
        for size, kernel in zip(times.shape[2:], weight.shape[2:], strict=True)
    )
    return times.new_empty((times.shape[0], weight.shape[0], rows, columns))


@torch.library.custom_op("plait::first_spike_potentials", mutates_args=())
def first_spike_potentials(
    times: Tensor, weight: Tensor, steps: int, threshold: float, padding: int, inhibit: bool
) -> tuple[Tensor, Tensor]:
    """What `first_spike_conv2d` gives, and the potential of each neuron at its spike, 0 where silent.

    -> uint8 [B, O, H', W'], float32 [B, O, H', W'].
    """
    potential = _potentials(times, weight, steps, threshold, padding, inhibit)
    found = coding.first_spike_times(potential, threshold)
    level = potential.gather(1, found.clamp(max=steps - 1).unsqueeze(1)).squeeze(1)
    return found.to(torch.uint8), torch.where(found < steps, level, 0.0)


@first_spike_potentials.register_fake
def _(
    times: Tensor, weight: Tensor, steps: int, threshold: float, padding: int, inhibit: bool
) -> tuple[Tensor, Tensor]:
    found = first_spike_conv2d(times, weight, steps, threshold, padding, inhibit)
    return found, found.new_empty(found.shape, dtype=torch.float32)


@torch.library.custom_op("plait::first_spike_winners", mutates_args=())
def first_spike_winners(times: Tensor, potential: Tensor, steps: int, radius: int, count: int) -> Tensor:
    """Winner-take-all on first-spike times uint8 [B, C, H, W] and the potentials at them.

    -> int32 [B, count, 5] of (rule, time, channel, row, column): rule 0, or -1 where nobody is left to win.
    The order is that of `layers.convolution_winners`.
    """
    return layers.winners_of(times.to(torch.int64), potential, steps, radius, count).table(steps)


@first_spike_winners.register_fake
def _(times: Tensor, potential: Tensor, steps: int, radius: int, count: int) -> Tensor:
    return times.new_empty((times.shape[0], count, 5), dtype=torch.int32)


@torch.library.custom_op("plait::first_spike_stdp", mutates_args=())
def first_spike_stdp(
    weight: Tensor,
    times: Tensor,
    winners: Tensor,
    rates: Tensor,
    steps: int,
    padding: int,
    stabilize: bool,
    lower: float,
    upper: float,
) -> Tensor:
    """New weights [O, C, kh, kw] after the winners int32 [B, K, 5] of a batch, see `stdp.update`.

    times uint8 [B, C, H, W] of the inputs; rates float32 [rules, 2] of (positive, negative).
    """
    rules = [stdp.STDPConfig(up, down, stabilize, lower, upper) for up, down in rates.tolist()]
    chosen = layers.Winners.of_table(winners)
    return stdp.update(weight, times.to(torch.int64), chosen, rules, padding=padding, steps=steps)


@first_spike_stdp.register_fake
def _(
    weight: Tensor,
    times: Tensor,
    winners: Tensor,
    rates: Tensor,
    steps: int,
    padding: int,
    stabilize: bool,
    lower: float,
    upper: float,
) -> Tensor:
    return torch.empty_like(weight)


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
        return run(self.network, encode(self.network, image), len(self.network.configs)).to(torch.int64)


def encode(network: RankOrderNetwork, image: Tensor) -> Tensor:
    """First-spike times uint8 [B, maps, H, W] of an image [B, 1, H, W]."""
    return rank_order_times(suppress(network.filters(image), network.filter_threshold), network.steps)


def run(network: RankOrderNetwork, times: Tensor, count: int) -> Tensor:
    """First-spike times after the first `count` layers, for those of an encoded image."""
    for layer in range(count):
        times = layer_times(network, times, layer)
    return times


def layer_times(network: RankOrderNetwork, times: Tensor, layer: int) -> Tensor:
    """First-spike times after a layer and its pooling: uint8 [B, C, H, W] -> uint8 [B, O, H', W']."""
    config, weight = network.configs[layer], network.weights[layer]
    times, threshold = level(times, config, network.steps)
    times = first_spike_conv2d(times, weight, network.steps, threshold, config.padding, False)
    if config.pool:
        window, pads = [config.pool, config.pool], [config.pool_padding, config.pool_padding]
        times = first_spike_pool2d(times, network.steps, window, window, pads)
    return times


class Stage(nn.Module):
    """One stage of a network, so that a layer can be learned on what the layers below give, computed once.

    Stage 0 encodes an image [B, 1, H, W]; stage k is layer k - 1, from times to times uint8.
    """

    def __init__(self, network: RankOrderNetwork, stage: int) -> None:
        super().__init__()
        if not 0 <= stage <= len(network.configs):
            raise ValueError(f"Stage: stage {stage} of a network of {len(network.configs)} layers and a code")
        self.network, self.stage = network, stage

    def forward(self, given: Tensor) -> Tensor:
        """Times after the stage."""
        if self.stage == 0:
            return encode(self.network, given)
        return layer_times(self.network, given, self.stage - 1)


def level(times: Tensor, config: LayerConfig, steps: int) -> tuple[Tensor, float]:
    """The inputs of a layer and its threshold as a number.

    With an infinite threshold only the last potential counts, which is that of inputs that all fire at the
    last step, over 0.
    """
    if config.threshold is not None:
        return times, config.threshold
    return torch.where(times < steps, steps - 1, steps).to(torch.uint8), 0.0


__all__ = [
    "FirstSpikes",
    "Stage",
    "encode",
    "first_spike_conv2d",
    "first_spike_pool2d",
    "first_spike_potentials",
    "first_spike_stdp",
    "first_spike_winners",
    "layer_times",
    "level",
    "rank_order_times",
    "run",
]
