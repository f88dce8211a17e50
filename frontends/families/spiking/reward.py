"""Reward-modulated STDP: decisions by the first layer of labelled maps, and rates that follow success.

The maps of the last layer are shared by the classes, as many for each.  The winner of a sample decides for
the class of its map; it learns by one rule where it is right and by another where it is wrong
(Mozafari, Ganjtabesh, Nowzari-Dalini, Thorpe and Masquelier, Pattern Recognition 94, 2019).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from plait.frontends.families.spiking.layers import Winners
from plait.frontends.families.spiking.stdp import STDPConfig

#: What `decide` gives for a sample in which nobody fires.
SILENT = -1


def decide(winners: Winners, maps: int, classes: int) -> Tensor:
    """The class of the first winner of each sample, int64 [B]; -1 where nobody won.

    Raises ValueError unless the maps can be shared equally.
    """
    if classes < 1 or maps % classes:
        raise ValueError(
            f"decide: {maps} maps cannot be shared by {classes} classes; give a multiple of them"
        )
    return torch.where(winners.valid[:, 0], winners.channel[:, 0] // (maps // classes), SILENT)


#: The published rules of the deep network.
_REWARD = STDPConfig(0.004, -0.003, stabilize=False, lower=0.2, upper=0.8)
_PUNISH = STDPConfig(-0.004, 0.0005, stabilize=False, lower=0.2, upper=0.8)


@dataclass(frozen=True)
class RewardRules:
    """The rule of winners that are right and that of winners that are wrong."""

    reward: STDPConfig = _REWARD
    punish: STDPConfig = _PUNISH

    def adapted(self, hits: float, misses: float, *, floor: float = 0.0) -> RewardRules:
        """Rules whose rates are scaled by success: reward by the share of misses, punishment by that of hits.

        A network that is nearly always right learns slowly from being right, and so against overfitting.

        Args:
            hits: share of right decisions, in 0..1; `misses` that of wrong ones.  Silence is neither.
            floor: the least factor; the rest of it is the share times 1 - floor (SpykeTorch's shallow
                network has 0.2).
        """
        factors = (floor + (1 - floor) * misses, floor + (1 - floor) * hits)
        scaled = [
            replace(rule, positive=rule.positive * factor, negative=rule.negative * factor)
            for rule, factor in zip((self.reward, self.punish), factors)
        ]
        return RewardRules(*scaled)

    def by_index(self) -> list[STDPConfig]:
        """The rules by the index that `stdp.reward` gives to winners: 0 where right, 1 where wrong."""
        return [self.reward, self.punish]


class Success:
    """Counts of right, wrong and silent decisions since the last reset."""

    def __init__(self) -> None:
        self.hits = self.misses = self.silent = 0

    def add(self, decisions: Tensor, labels: Tensor) -> None:
        """Count the decisions [B] for labels [B]."""
        hits = int((decisions == labels).sum())
        silent = int((decisions == SILENT).sum())
        self.hits += hits
        self.silent += silent
        self.misses += len(labels) - hits - silent

    @property
    def seen(self) -> int:
        """Decisions counted."""
        return self.hits + self.misses + self.silent

    def shares(self) -> tuple[float, float]:
        """Shares of hits and misses; (0, 0) where nothing was counted."""
        return (self.hits / self.seen, self.misses / self.seen) if self.seen else (0.0, 0.0)


def drop_maps(batch: int, maps: int, probability: float, generator: torch.Generator) -> Tensor:
    """Which maps take part in each sample, bool [B, maps]: each is dropped with this probability.

    Raises ValueError for a probability outside 0..1.
    """
    if not 0 <= probability < 1:
        raise ValueError(f"drop_maps: a probability is in 0..1 and below 1, got {probability}")
    return torch.rand(batch, maps, generator=generator) >= probability


__all__ = ["SILENT", "RewardRules", "Success", "decide", "drop_maps"]
