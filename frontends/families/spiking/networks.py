"""Rank-order networks with the published configurations: Kheradpisheh (2018) and Rezghi (2022).

Every network is encode -> (convolve -> fire -> pool) per layer, in 15 steps.
`forward` gives the first-spike times of the last layer and has no
data-dependent control flow, so torch.export takes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from plait.frontends.families.spiking import coding, layers, stdp
from plait.frontends.families.spiking.filters import (
    DifferenceOfGaussians,
    FilterBank,
    LaplacianOfGaussian,
    suppress,
)


@dataclass(frozen=True)
class LayerConfig:
    """One convolutional layer: its shape, threshold, competition (radius, count) and pooling (0: none).

    A threshold of None is infinite: no neuron fires before the last step, and at that one all whose
    potential is above 0 do, so that the largest potential decides.
    """

    maps: int
    kernel: int
    padding: int
    threshold: float | None
    radius: int
    winners: int
    pool: int
    pool_padding: int = 0


class RankOrderNetwork(nn.Module):
    """A stack of integrate-and-fire layers learned by STDP, layer by layer; image [B, 1, H, W].

    `seed` alone determines the initial weights, normal(mean, deviation).
    """

    def __init__(
        self,
        filters: FilterBank,
        in_maps: int,
        filter_threshold: float,
        configs: Sequence[LayerConfig],
        rule: stdp.STDPConfig,
        *,
        mean: float,
        deviation: float,
        seed: int,
        steps: int = 15,
    ) -> None:
        super().__init__()
        self.filters = filters
        self.filter_threshold = filter_threshold
        self.configs = tuple(configs)
        self.rules = [rule for _ in configs]
        self.steps = steps
        generator = torch.Generator().manual_seed(seed)
        self.weights = nn.ParameterList()
        for config in self.configs:
            shape = (config.maps, in_maps, config.kernel, config.kernel)
            initial = torch.randn(shape, generator=generator) * deviation + mean
            self.weights.append(nn.Parameter(initial, requires_grad=False))
            in_maps = config.maps

    def encode(self, image: Tensor) -> Tensor:
        """Filter, suppress and rank-code: [B, 1, H, W] -> wave [B, T, maps, H, W]."""
        return coding.rank_order_code(suppress(self.filters(image), self.filter_threshold), self.steps)

    def potential(self, wave: Tensor, layer: int) -> Tensor:
        """Potentials [B, T, O, H', W'] of a layer for its input wave."""
        return layers.convolve(wave, self.weights[layer], padding=self.configs[layer].padding)

    def run(self, wave: Tensor, count: int) -> Tensor:
        """The wave after the first `count` layers, for an encoded wave."""
        for layer, config in enumerate(self.configs[:count]):
            wave = layers.fire(*self._level(wave, layer))
            if config.pool:
                wave = layers.pool(wave, config.pool, padding=config.pool_padding)
        return wave

    def _level(self, wave: Tensor, layer: int) -> tuple[Tensor, float]:
        """Potentials of a layer and the threshold that they are compared with."""
        potential, threshold = self.potential(wave, layer), self.configs[layer].threshold
        return (layers.infinite_threshold(potential), 0.0) if threshold is None else (potential, threshold)

    def compete(self, wave: Tensor, layer: int) -> layers.Winners:
        """Winners of a layer for its input wave: inhibition, then winner-take-all."""
        config = self.configs[layer]
        potential, threshold = self._level(wave, layer)
        potential = layers.inhibit(potential, threshold)
        return layers.convolution_winners(potential, config.radius, config.winners, threshold)

    @torch.no_grad()
    def train_layer(self, image: Tensor, layer: int) -> layers.Winners:
        """One STDP update of a layer on an image batch; returns the winners."""
        wave = self.run(self.encode(image), layer)
        winners = self.compete(wave, layer)
        self._learn(wave, winners, layer, [self.rules[layer]])
        return winners

    def _learn(
        self, wave: Tensor, winners: layers.Winners, layer: int, rules: Sequence[stdp.STDPConfig]
    ) -> None:
        times = coding.first_spike_times(wave)
        padding = self.configs[layer].padding
        new = stdp.update(self.weights[layer], times, winners, rules, padding=padding, steps=self.steps)
        self.weights[layer].copy_(new)

    def raise_rates(self, layer: int, maximum: float, factor: float = 2.0) -> None:
        """Move a layer's learning rates one step along the schedule."""
        self.rules[layer] = stdp.raise_rates(self.rules[layer], maximum, factor)

    def forward(self, image: Tensor) -> Tensor:
        """First-spike times of the last layer, int64 [B, O, H', W'], T for silent."""
        return coding.first_spike_times(self.run(self.encode(image), len(self.configs)))

    def features(self, image: Tensor) -> Tensor:
        """First-spike times flattened for a read-out, float32 [B, features]."""
        return self.forward(image).flatten(1).to(torch.float32)


class Kheradpisheh(RankOrderNetwork):
    """Kheradpisheh et al., Neural Networks 99, 2018: 32 and 150 maps; features are "fired at all"."""

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__(
            DifferenceOfGaussians(3, [(1, 2), (2, 1)], padding=3),
            2,
            0.01,
            [LayerConfig(32, 5, 2, 10.0, 2, 5, 2, 1), LayerConfig(150, 2, 1, 1.0, 1, 8, 2, 1)],
            stdp.STDPConfig(0.004, -0.003),
            mean=0.8,
            deviation=0.05,
            seed=seed,
        )

    def features(self, image: Tensor) -> Tensor:
        """1 for each neuron that fired, float32 [B, features]."""
        return (self.forward(image) < self.steps).flatten(1).to(torch.float32)


class Rezghi(RankOrderNetwork):
    """Rezghi Shirsavar and Dehaqani, arXiv 2210.17442: LoG, 100 and 200 maps, timed outputs."""

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__(
            LaplacianOfGaussian(3, [0.4714, 1.0999, 2.0428], padding=3),
            6,
            0.01,
            [LayerConfig(100, 5, 2, 16.0, 3, 5, 2), LayerConfig(200, 3, 1, 5.0, 1, 8, 3)],
            stdp.STDPConfig(0.0004, -0.0003),
            mean=0.5,
            deviation=0.02,
            seed=seed,
        )
