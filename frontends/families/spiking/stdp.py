"""Spike-timing-dependent plasticity for shared kernels, reward-modulated and plain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from plait.frontends.families.spiking.layers import Winners


@dataclass(frozen=True)
class STDPConfig:
    """Rates and bounds of one rule.

    A synapse whose input fired no later than its neuron changes by
    `positive`, any other by `negative`; with `stabilize` the change is
    multiplied by (w - lower)(upper - w).
    """

    positive: float
    negative: float
    stabilize: bool = True
    lower: float = 0.0
    upper: float = 1.0


def update(
    weights: Tensor,
    input_times: Tensor,
    winners: Winners,
    configs: Sequence[STDPConfig],
    *,
    padding: int = 0,
    stride: int = 1,
    steps: int,
) -> Tensor:
    """New weights [O, C, kh, kw] after the winners of a batch, one sample after the other.

    input_times [B, C, H, W] are first-spike times, `steps` for silent.  Silent
    inputs and the padding depress.  Winners of one sample have different
    channels, so they update together; samples follow in order because the
    stabilised change depends on the weight.
    Raises ValueError if a winner names a config that is not given.
    """
    used = winners.config[winners.valid]
    if used.numel() and int(used.max()) >= len(configs):
        raise ValueError(
            f"stdp.update: a winner uses config {int(used.max())} but {len(configs)} are given; "
            "pass one STDPConfig for each index"
        )
    height, width = weights.shape[2:]
    padded = F.pad(input_times, (padding, padding, padding, padding), value=steps)
    new = weights.detach().clone()
    rows = torch.arange(height, device=weights.device).reshape(1, 1, height, 1)
    columns = torch.arange(width, device=weights.device).reshape(1, 1, 1, width)
    planes = torch.arange(weights.shape[1], device=weights.device).reshape(1, -1, 1, 1)
    for sample in range(input_times.shape[0]):
        for number, config in enumerate(configs):
            chosen = winners.valid[sample] & (winners.config[sample] == number)
            channel = winners.channel[sample][chosen]
            y = winners.y[sample][chosen].reshape(-1, 1, 1, 1) * stride
            x = winners.x[sample][chosen].reshape(-1, 1, 1, 1) * stride
            post = winners.time[sample][chosen].reshape(-1, 1, 1, 1)
            before = padded[sample][planes, y + rows, x + columns] <= post
            old = new[channel]
            change = torch.where(before, config.positive, config.negative).to(old.dtype)
            if config.stabilize:
                change = change * (old - config.lower) * (config.upper - old)
            new[channel] = (old + change).clamp(config.lower, config.upper)
    return new


def reward(winners: Winners, decisions: Tensor, labels: Tensor) -> Winners:
    """Config 0 (reward) for winners of samples whose decision [B] is the label [B], else 1."""
    wrong = (decisions != labels).to(torch.int64).unsqueeze(1)
    return replace(winners, config=wrong.expand_as(winners.config))


def raise_rates(config: STDPConfig, maximum: float, factor: float = 2.0) -> STDPConfig:
    """The positive rate times `factor`, up to `maximum`; the ratio of the rates is kept."""
    positive = min(config.positive * factor, maximum)
    return replace(config, positive=positive, negative=config.negative * positive / config.positive)


def quantize(weights: Tensor, low: float, middle: float, high: float) -> Tensor:
    """Two-level weights: `low` below `middle`, else `high`."""
    return torch.where(weights < middle, low, high).to(weights.dtype)


def on_grid(weights: Tensor, step: float = 2.0**-10) -> Tensor:
    """Weights rounded to multiples of `step`, a power of two: sums are then exact in whatever order.

    A potential in float32 is exact as long as it is below 2**24 steps, and every backend gives the same
    spike times.  Weights that STDP has driven to 0 and 1 would else sum to a threshold but for rounding.
    """
    return torch.round(weights / step) * step


def convergence(weights: Tensor) -> float:
    """Mean of w (1 - w): 0.25 at most, 0 when every weight is 0 or 1."""
    return float((weights * (1 - weights)).mean())
