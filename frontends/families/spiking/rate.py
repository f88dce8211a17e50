"""Rate codes and layers: neurons that fire more than once, told by cumulative spike counts.

A rate wave is uint8 [B, T, C, H, W]: the number of spikes of each neuron up to
and including each step, so it never falls and its last step is the rate.  The
code and the layers are those of Spyker (Shirsavar and Dehaqani, 2023), there
used for inference with weights learned on rank-order codes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from plait.frontends.families.spiking.coding import latency_times, rank_times


def interval_distribution(steps: int) -> Tensor:
    """Cumulative distribution of inter-spike intervals, float64 [steps, steps - 1].

    Row t is that of a neuron whose rank-order time is t: an interval of k steps,
    k >= 1, has the zero-truncated Poisson probability
    lambda^k / (k! (e^lambda - 1)) with lambda = t + 1.  Column k - 1 holds
    P(interval <= k); longer intervals never end within `steps`.
    """
    rate = torch.arange(1, steps + 1, dtype=torch.float64).unsqueeze(1)
    length = torch.arange(1, steps, dtype=torch.float64).unsqueeze(0)
    # e^lambda overflows for many steps, so the ratio is taken of logarithms.
    normaliser = rate + torch.log1p(-torch.exp(-rate))
    probability = torch.exp(length * torch.log(rate) - torch.lgamma(length + 1) - normaliser)
    return probability.cumsum(dim=1).clamp(max=1.0)


def spike_trains(times: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    """Rate wave uint8 [B, steps, ...] of rank-order times int64 [B, ...]: the earlier, the faster.

    Each neuron counts the spikes of a renewal process with the intervals of
    `interval_distribution`; the first interval starts at step 0, so no neuron
    fires in it.  A neuron of time `steps` is silent.  (Spyker 0.1.0 gives those
    neurons arbitrary trains.)  The state of the generator determines the trains.
    Raises ValueError for more than 256 steps, whose counts do not fit in uint8.
    """
    if steps > 256:
        raise ValueError(f"rate code: counts in {steps} steps do not fit in uint8; take 256 steps at most")
    flat = times.flatten()
    silent = flat >= steps
    row = torch.where(silent, 0, flat)
    # One sorted table of row + P(interval <= k) finds the interval of every row in one search.
    rows = torch.arange(steps, dtype=torch.float64).unsqueeze(1)
    table = (rows + interval_distribution(steps)).flatten().to(times.device)
    clock = torch.zeros_like(flat)
    new = torch.zeros(steps, len(flat), dtype=torch.uint8, device=times.device)
    for _ in range(steps - 1):
        draw = torch.rand(len(flat), generator=generator, dtype=torch.float64, device=times.device)
        position = torch.searchsorted(table, row + draw, right=True)
        clock = clock + (position - row * (steps - 1)).clamp(0, steps - 1) + 1
        spikes = (clock < steps) & ~silent
        if not spikes.any():
            break
        at = clock.clamp(max=steps - 1).unsqueeze(0)
        new.scatter_add_(0, at, spikes.to(torch.uint8).unsqueeze(0))
    counts = new.cumsum(dim=0, dtype=torch.uint8)
    return counts.reshape(steps, *times.shape).transpose(0, 1).contiguous()


def rate_code(image: Tensor, steps: int, *, generator: torch.Generator, sort: bool = True) -> Tensor:
    """Rate wave uint8 [B, steps, C, H, W] of an image [B, C, H, W]: strong values fire often.

    The values become times by rank (sort) or by latency, see
    coding.rank_order_code, and the times become trains, see spike_trains.
    """
    times = rank_times(image, steps) if sort else latency_times(image, steps)
    return spike_trains(times, steps, generator)


def rate_fire(potential: Tensor, threshold: float) -> Tensor:
    """Rate wave uint8 of potentials [B, T, ...]: a spike each time one has risen by the threshold.

    A neuron holds the level of its last spike, 0 at first.  Where its potential
    exceeds level + threshold it fires once, whatever the rise, and the
    potential becomes the level.  Potentials may fall; counts never do.
    Raises ValueError for a negative threshold or more than 255 steps.
    """
    steps = potential.shape[1]
    if threshold < 0:
        raise ValueError(f"rate_fire: the threshold is 0 or above, got {threshold}")
    if steps > 255:
        raise ValueError(f"rate_fire: counts in {steps} steps do not fit in uint8; take 255 steps at most")
    level = torch.zeros_like(potential[:, 0])
    count = torch.zeros_like(level, dtype=torch.uint8)
    counts = []
    for now in potential.unbind(1):
        spikes = now > level + threshold
        level = torch.where(spikes, now, level)
        count = count + spikes.to(torch.uint8)
        counts.append(count)
    return torch.stack(counts, dim=1)


def gather_counts(wave: Tensor) -> Tensor:
    """Spikes of each neuron, [B, ...] in the type of the wave: the last step of a rate wave [B, T, ...]."""
    return wave[:, -1].clone()


def rate_pool(
    wave: Tensor, rates: Tensor, kernel: int, *, stride: int | None = None, padding: int = 0
) -> Tensor:
    """Pool a rate wave [B, T, C, H, W] by rates [B, C, H, W]: each window passes on one whole train.

    It is the train of the largest rate, the first in row order of equal ones.
    The padding, at most kernel // 2, is never chosen.  `gather_counts(wave)`
    serves as rates; last potentials do too, and are seldom equal.
    Raises ValueError if the rates are not of the wave's shape.
    """
    batch, steps, channels, height, width = wave.shape
    if rates.shape != (batch, channels, height, width):
        raise ValueError(
            f"rate_pool: rates are {tuple(rates.shape)}, the wave needs {(batch, channels, height, width)}; "
            "pass one rate a neuron"
        )
    level = rates if rates.is_floating_point() else rates.to(torch.float32)
    _, chosen = F.max_pool2d(level, kernel, stride=stride, padding=padding, return_indices=True)
    index = chosen.flatten(2).unsqueeze(1).expand(batch, steps, channels, -1)
    return wave.flatten(3).gather(3, index).unflatten(3, chosen.shape[2:])
