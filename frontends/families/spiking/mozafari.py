"""Mozafari's networks, whose last layer is learned by reward and decides without a classifier.

The deep one: Mozafari, Ganjtabesh, Nowzari-Dalini, Thorpe and Masquelier, Pattern Recognition 94, 2019.
The shallow one: Mozafari, Kheradpisheh, Masquelier, Nowzari-Dalini and Ganjtabesh, IEEE Transactions on
Neural Networks and Learning Systems 29(12), 2018.  Parameters follow SpykeTorch's and Spyker's examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from plait.frontends.families.spiking import layers, stdp
from plait.frontends.families.spiking.filters import DifferenceOfGaussians, FilterBank, Gabor
from plait.frontends.families.spiking.networks import LayerConfig, RankOrderNetwork
from plait.frontends.families.spiking.reward import RewardRules, Success, decide, drop_maps

#: Deviations of the six differences of Gaussians of the deep network, in ninths of a pixel.
_DEVIATIONS = ((3, 6), (6, 3), (7, 14), (14, 7), (13, 26), (26, 13))


class RewardNetwork(RankOrderNetwork):
    """A network whose last layer learns from reward; the layers below learn by plain STDP.

    Attributes:
        rewards: rules of the last layer as published; those in force follow the success.
        classes: how many classes share the maps of the last layer.
        drop: probability with which a map of the last layer takes no part in a step of learning.
        floor: least factor of the rates, see `RewardRules.adapted`.
    """

    def __init__(
        self,
        filters: FilterBank,
        in_maps: int,
        filter_threshold: float,
        configs: Sequence[LayerConfig],
        rule: stdp.STDPConfig,
        *,
        rewards: RewardRules,
        classes: int,
        drop: float,
        floor: float,
        mean: float,
        deviation: float,
        seed: int,
        steps: int = 15,
    ) -> None:
        super().__init__(
            filters,
            in_maps,
            filter_threshold,
            configs,
            rule,
            mean=mean,
            deviation=deviation,
            seed=seed,
            steps=steps,
        )
        self.rewards = self.current = rewards
        self.classes, self.drop, self.floor = classes, drop, floor
        self.success = Success()

    @property
    def last(self) -> int:
        """Index of the layer that learns from reward."""
        return len(self.configs) - 1

    def decide(self, image: Tensor) -> Tensor:
        """The class of each image [B, 1, H, W] by its first spike, int64 [B]; -1 where nobody fires."""
        return self.decide_wave(self.run(self.encode(image), self.last))

    @torch.no_grad()
    def decide_wave(self, wave: Tensor) -> Tensor:
        """The same for waves of inputs of the last layer."""
        return decide(self.compete(wave, self.last), self.configs[self.last].maps, self.classes)

    def train_reward(self, image: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """One step of R-STDP on images [B, 1, H, W] with labels int64 [B]; the decisions."""
        return self.learn_wave(self.run(self.encode(image), self.last), labels, generator)

    @torch.no_grad()
    def learn_wave(self, wave: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """The same for waves of inputs of the last layer, which are the same as long as the others rest."""
        config = self.configs[self.last]
        potential, threshold = self._level(wave, self.last)
        if self.drop:
            kept = drop_maps(wave.shape[0], config.maps, self.drop, generator)
            potential = potential * kept.reshape(wave.shape[0], 1, config.maps, 1, 1)
        potential = layers.inhibit(potential, threshold)
        winners = layers.convolution_winners(potential, config.radius, config.winners, threshold)
        decisions = decide(winners, config.maps, self.classes)
        self.success.add(decisions, labels)
        self._learn(wave, stdp.reward(winners, decisions, labels), self.last, self.current.by_index())
        return decisions

    def adapt(self) -> tuple[float, float]:
        """Set the rates by the success since the last call, and forget it; the shares of hits and misses."""
        hits, misses = self.success.shares()
        if self.success.seen:
            self.current = self.rewards.adapted(hits, misses, floor=self.floor)
        self.success = Success()
        return hits, misses


class Mozafari(RewardNetwork):
    """The deep network, for digits: 30, 250 and 200 maps, 20 of these for each class.

    Args:
        maps: maps of the three layers; the last is a multiple of 10.
        drop: of the last layer.
        threshold: of the second layer: 5 in Spyker's example, 10 in SpykeTorch's.
    """

    def __init__(
        self,
        *,
        maps: tuple[int, int, int] = (30, 250, 200),
        drop: float = 0.5,
        threshold: float = 5.0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            DifferenceOfGaussians(3, [(a / 9, b / 9) for a, b in _DEVIATIONS], padding=3),
            6,
            0.02,
            [
                LayerConfig(maps[0], 5, 2, 15.0, 3, 5, 2),
                LayerConfig(maps[1], 3, 1, threshold, 1, 8, 3),
                LayerConfig(maps[2], 5, 2, None, 0, 1, 0),
            ],
            stdp.STDPConfig(0.004, -0.003),
            rewards=RewardRules(),
            classes=10,
            drop=drop,
            floor=0.0,
            mean=0.8,
            deviation=0.05,
            seed=seed,
        )


class RectifiedGabor(Gabor):
    """Magnitudes of Gabor responses, then the largest of each window: [B, C, H, W] -> [B, C maps, h, w]."""

    def __init__(
        self,
        radius: int,
        filters: Sequence[tuple[float, float, float, float, float]],
        *,
        pool: int,
        stride: int,
    ) -> None:
        super().__init__(radius, filters, padding=radius)
        self.pool, self.stride = pool, stride

    def forward(self, image: Tensor) -> Tensor:
        return nn.functional.max_pool2d(super().forward(image).abs(), self.pool, self.stride)


class MozafariShallow(RewardNetwork):
    """The shallow network, for objects: four orientations, and one layer of features learned by reward.

    A map fires where its potential first passes the threshold; the first spike of an image decides.  Use
    `caltech`, `eth80` or `norb` for the published parameters.

    Args:
        classes: how many there are, `features` maps for each.
        kernel: side of a feature, in pixels after pooling.
    """

    def __init__(
        self,
        classes: int,
        features: int,
        kernel: int,
        threshold: float,
        rewards: RewardRules,
        *,
        drop: float,
        seed: int = 0,
    ) -> None:
        angles = [22.5 + 45.0 * k for k in range(4)]
        super().__init__(
            RectifiedGabor(2, [(2.0, angle, 0.5, 2.5, 0.0) for angle in angles], pool=7, stride=6),
            4,
            0.0,
            [LayerConfig(classes * features, kernel, 0, threshold, 0, 1, 0)],
            rewards.reward,
            rewards=rewards,
            classes=classes,
            drop=drop,
            floor=0.2,
            mean=0.8,
            deviation=0.05,
            seed=seed,
        )

    @classmethod
    def caltech(cls, *, seed: int = 0) -> MozafariShallow:
        """Faces against motorbikes: two classes of 10 features of 17x17."""
        return cls(2, 10, 17, 42.0, _rewards(0.005, -0.0025, -0.005, 0.0005), drop=0.5, seed=seed)

    @classmethod
    def eth80(cls, *, seed: int = 0) -> MozafariShallow:
        """ETH-80: eight classes of 10 features of 31x31."""
        return cls(8, 10, 31, 160.0, _rewards(0.01, -0.0035, -0.01, 0.0006), drop=0.4, seed=seed)

    @classmethod
    def norb(cls, *, seed: int = 0) -> MozafariShallow:
        """NORB: five classes of 10 features of 23x23."""
        return cls(5, 10, 23, 150.0, _rewards(0.05, -0.003, -0.05, 0.0005), drop=0.5, seed=seed)


def _rewards(up: float, down: float, wrong_up: float, wrong_down: float) -> RewardRules:
    """Rules with the stabilised change and weights in 0..1."""
    reward = stdp.STDPConfig(up, down)
    return RewardRules(reward, replace(reward, positive=wrong_up, negative=wrong_down))


__all__ = ["Mozafari", "MozafariShallow", "RectifiedGabor", "RewardNetwork"]
