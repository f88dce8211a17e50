"""Spike codes: images to cumulative waves, and the conversions between waves, times and events.

A wave is uint8 [B, T, C, H, W] and cumulative: once a neuron has fired, it
stays 1 up to the last step.  A neuron fires at most once, so a wave and its
first-spike times, int64 [B, C, H, W] with T for a silent neuron, hold the
same facts.  The codes are those of Spyker (Shirsavar and Dehaqani, 2023).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def rank_times(image: Tensor, steps: int) -> Tensor:
    """First-spike times of the rank-order code: the strongest values first, in bins of equal population.

    image [B, ...] -> int64 of the same shape.  With n values of a sample above
    its minimum, the value at position i of the descending order fires at
    floor(i * steps / n); values at the minimum stay silent (time = steps).
    In an image of one value, every neuron fires at step 0, as in Spyker.
    Equal values are ordered by index.  Spyker's order of equal values is not
    defined, so times there may differ by one bin at a bin's edge.
    """
    flat = image.flatten(1)
    values, order = torch.sort(flat, dim=1, descending=True, stable=True)
    above = (values > values[:, -1:]).sum(dim=1, keepdim=True)
    positions = torch.arange(flat.shape[1], device=image.device).unsqueeze(0)
    times = ((positions * steps) // above.clamp(min=1)).clamp(max=steps)
    times = torch.where(above == 0, torch.zeros_like(times), times)
    return torch.zeros_like(order).scatter(1, order, times).reshape(image.shape)


def latency_times(image: Tensor, steps: int) -> Tensor:
    """First-spike times of the latency code, linear between a sample's maximum (0) and minimum (silent).

    image [B, ...] -> int64 of the same shape:
    floor(steps - steps * (x - min) / (max - min)), all 0 in an image of one value.
    """
    flat = image.flatten(1)
    low = flat.amin(dim=1, keepdim=True)
    span = flat.amax(dim=1, keepdim=True) - low
    # An image of one value counts as its own maximum.
    relative = torch.where(span > 0, (flat - low) / torch.where(span > 0, span, 1.0), 1.0)
    times = torch.floor(steps - steps * relative).to(torch.int64).clamp(0, steps)
    return times.reshape(image.shape)


def wave_of(times: Tensor, steps: int) -> Tensor:
    """Cumulative wave uint8 [B, steps, ...] of first-spike times [B, ...]: 1 from the spike on."""
    clock = torch.arange(steps, device=times.device).reshape(1, steps, *([1] * (times.dim() - 1)))
    return (times.unsqueeze(1) <= clock).to(torch.uint8)


def first_spike_times(wave: Tensor, threshold: float = 0.0) -> Tensor:
    """First step at which [B, T, ...] exceeds the threshold, T if never; int64 [B, ...]."""
    steps = wave.shape[1]
    clock = torch.arange(steps, device=wave.device).reshape(1, steps, *([1] * (wave.dim() - 2)))
    return torch.where(wave > threshold, clock, steps).amin(dim=1)


def rank_order_code(image: Tensor, steps: int, *, sort: bool = True) -> Tensor:
    """Encode an image [B, C, H, W] as a wave [B, steps, C, H, W] by rank (sort) or by latency."""
    return wave_of(rank_times(image, steps) if sort else latency_times(image, steps), steps)


def gather(wave: Tensor, threshold: float = 0.0) -> Tensor:
    """First-spike times as uint8 [B, ...], for read-outs; needs at most 255 steps."""
    if wave.shape[1] > 255:
        raise ValueError(
            f"gather: {wave.shape[1]} steps do not fit in uint8; use first_spike_times, which returns int64"
        )
    return first_spike_times(wave, threshold).to(torch.uint8)


def scatter(times: Tensor, steps: int) -> Tensor:
    """Inverse of gather: times [B, ...] to the wave uint8 [B, steps, ...]."""
    return wave_of(times, steps)


@dataclass(frozen=True)
class SpikeEvents:
    """The sparse form of a wave: a row (sample, step, channel, y, x) for each spike, in that order."""

    index: Tensor
    shape: tuple[int, int, int, int, int]

    @classmethod
    def from_wave(cls, wave: Tensor) -> SpikeEvents:
        """Events of a cumulative wave [B, T, C, H, W]; int64 [spikes, 5]."""
        new = wave.clone()
        new[:, 1:] = (wave[:, 1:] > wave[:, :-1]).to(wave.dtype)
        batch, steps, channels, height, width = wave.shape
        return cls(new.nonzero(), (batch, steps, channels, height, width))

    def to_wave(self) -> Tensor:
        """The cumulative wave uint8 [B, T, C, H, W]."""
        batch, steps, channels, height, width = self.shape
        times = torch.full((batch, channels, height, width), steps, device=self.index.device)
        sample, step, channel, y, x = self.index.unbind(1)
        times[sample, channel, y, x] = step
        return wave_of(times, steps)

    @property
    def density(self) -> float:
        """Spikes a neuron, in 0..1."""
        batch, _, channels, height, width = self.shape
        return self.index.shape[0] / (batch * channels * height * width)
