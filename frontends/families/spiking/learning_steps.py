"""Learning steps to compile: inference, competition and the update of one layer, with its weights as state.

Layers below keep the weights that they have when a step is lowered.  Rates are an input, so that a schedule
needs no compilation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from plait.frontends.families.spiking import events
from plait.frontends.families.spiking.mozafari import RewardNetwork
from plait.frontends.families.spiking.networks import RankOrderNetwork
from plait.frontends.families.spiking.stdp import STDPConfig


class _Step(nn.Module):
    """A layer of a network, and whether its inputs come as images or as first-spike times."""

    def __init__(self, network: RankOrderNetwork, layer: int, from_times: bool) -> None:
        super().__init__()
        if not 0 <= layer < len(network.configs):
            raise ValueError(
                f"{type(self).__name__}: layer {layer} of a network of {len(network.configs)} layers"
            )
        self.network, self.layer, self.from_times = network, layer, from_times

    def fire(self, given: Tensor, weight: Tensor, inhibit: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Times of the inputs, and times and potentials of the neurons."""
        network, config = self.network, self.network.configs[self.layer]
        times = given if self.from_times else events.run(network, events.encode(network, given), self.layer)
        times, threshold = events.level(times, config, network.steps)
        fired, potential = events.first_spike_potentials(
            times, weight, network.steps, threshold, config.padding, inhibit
        )
        return times, fired, potential

    def update(
        self, weight: Tensor, times: Tensor, winners: Tensor, rates: Tensor, rule: STDPConfig
    ) -> Tensor:
        """The weight after the winners."""
        network = self.network
        return events.first_spike_stdp(
            weight,
            times,
            winners,
            rates,
            network.steps,
            network.configs[self.layer].padding,
            rule.stabilize,
            rule.lower,
            rule.upper,
        )


class LearningStep(_Step):
    """One step of STDP on a layer, as `RankOrderNetwork.train_layer` does it.

    Args:
        from_times: the first input is the times of the layer's inputs, uint8 [B, C, H, W], instead of an
            image [B, 1, H, W]: for layers above layers that rest.
    """

    def __init__(self, network: RankOrderNetwork, layer: int, *, from_times: bool = False) -> None:
        super().__init__(network, layer, from_times)

    def rates(self) -> Tensor:
        """The rates that the network's rule has now, float32 [1, 2] of (positive, negative)."""
        rule = self.network.rules[self.layer]
        return torch.tensor([[rule.positive, rule.negative]])

    def forward(self, image: Tensor, weight: Tensor, rates: Tensor) -> tuple[Tensor, Tensor]:
        """The new weight [O, C, kh, kw], and the winners int32 [B, K, 5] (`events.first_spike_winners`)."""
        network, config = self.network, self.network.configs[self.layer]
        times, fired, potential = self.fire(image, weight, True)
        winners = events.first_spike_winners(fired, potential, network.steps, config.radius, config.winners)
        return self.update(weight, times, winners, rates, network.rules[self.layer]), winners


class RewardStep(_Step):
    """One step of R-STDP on the last layer, as `RewardNetwork.learn_wave` does it."""

    network: RewardNetwork

    def __init__(self, network: RewardNetwork, *, from_times: bool = False) -> None:
        super().__init__(network, network.last, from_times)

    def rates(self) -> Tensor:
        """The rates in force, float32 [2, 2] of (positive, negative) for reward and for punishment."""
        return torch.tensor([[rule.positive, rule.negative] for rule in self.network.current.by_index()])

    def forward(
        self, image: Tensor, weight: Tensor, rates: Tensor, labels: Tensor, kept: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The new weight and the decisions int64 [B], -1 for silence.

        labels int64 [B]; kept bool [B, O] tells the maps that take part, see `reward.drop_maps`.
        """
        network, config = self.network, self.network.configs[self.layer]
        times, fired, potential = self.fire(image, weight, False)
        fired = torch.where(kept[:, :, None, None], fired, network.steps).to(torch.uint8)
        winners = events.first_spike_winners(fired, potential, network.steps, config.radius, config.winners)
        decisions = winners[:, 0, 2] // (config.maps // network.classes)
        decisions = torch.where(winners[:, 0, 0] >= 0, decisions, -1).to(torch.int64)
        wrong = (decisions != labels).to(torch.int32)[:, None, None]
        rule = torch.where(winners[:, :, :1] >= 0, wrong, -1)
        told = torch.cat([rule, winners[:, :, 1:]], dim=2).to(torch.int32)
        return self.update(weight, times, told, rates, network.rewards.reward), decisions


__all__ = ["LearningStep", "RewardStep"]
