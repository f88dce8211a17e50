"""Layers on cumulative waves: integrate-and-fire, pooling, lateral inhibition, winner-take-all.

Neurons do not leak and do not reset: the potential at a step is the weighted
sum of the cumulative input at that step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from plait.frontends.families.spiking.coding import first_spike_times


def convolve(wave: Tensor, weights: Tensor, *, stride: int = 1, padding: int = 0) -> Tensor:
    """Potentials of a convolution: [B, T, C, H, W], weights [O, C, kh, kw] -> [B, T, O, H', W']."""
    batch, steps = wave.shape[:2]
    flat = wave.flatten(0, 1).to(weights.dtype)
    return F.conv2d(flat, weights, stride=stride, padding=padding).unflatten(0, (batch, steps))


def connect(wave: Tensor, weights: Tensor) -> Tensor:
    """Potentials of a fully connected layer: wave [B, T, I], weights [O, I] -> [B, T, O]."""
    return F.linear(wave.to(weights.dtype), weights)


def fire(potential: Tensor, threshold: float = 0.0) -> Tensor:
    """Wave uint8 of potentials [B, T, ...]: 1 where the potential exceeds the threshold.

    It is cumulative when the potential never falls, as with weights that are not negative.
    """
    return (potential > threshold).to(torch.uint8)


def infinite_threshold(potential: Tensor) -> Tensor:
    """Zero all steps but the last: with an infinite threshold only the final potential counts."""
    last = torch.zeros_like(potential)
    last[:, -1] = potential[:, -1]
    return last


def pad(wave: Tensor, padding: int, value: float = 0.0) -> Tensor:
    """Pad height and width of [B, T, C, H, W] on each side."""
    return F.pad(wave, (padding, padding, padding, padding), value=value)


def pool(wave: Tensor, kernel: int, *, stride: int | None = None, padding: int = 0) -> Tensor:
    """The earliest spike of each window: the maximum of the cumulative wave [B, T, C, H, W]."""
    batch, steps = wave.shape[:2]
    flat = wave.flatten(0, 1).to(torch.float32)
    pooled = F.max_pool2d(flat, kernel, stride=stride, padding=padding)
    return pooled.to(wave.dtype).unflatten(0, (batch, steps))


def inhibit(potential: Tensor, threshold: float = 0.0) -> Tensor:
    """Lateral inhibition: at each place only the channel firing first keeps its potentials.

    potential [B, T, C, H, W] (or a wave) -> the same shape, other channels
    zeroed; where none fires, that of the largest last potential stays.  Ties go
    to the largest potential at that step, then to the lowest channel.  It is
    Spyker's for potentials that never fall, as weights that are not negative
    give them; for others, whose spikes do not stay, the two differ.  (Spyker's
    sparse form takes the first event of a tie in the order of its lists.)
    """
    times = first_spike_times(potential, threshold)
    earliest = times.amin(dim=1, keepdim=True)
    step = earliest.clamp(max=potential.shape[1] - 1).unsqueeze(1).expand_as(potential[:, :1])
    level = potential.gather(1, step).squeeze(1)
    channel = level.argmax(dim=1, keepdim=True)
    channels = torch.arange(potential.shape[2], device=potential.device).reshape(1, -1, 1, 1)
    keep = channels == channel
    return torch.where(keep.unsqueeze(1), potential, torch.zeros_like(potential))


@dataclass(frozen=True)
class Winners:
    """Winners of a batch, each field [B, K]: K slots a sample, in the order they won.

    `valid` tells the slots that hold a winner.  `config` is the index of the
    STDPConfig that applies to it; a negative index skips the winner.
    """

    valid: Tensor
    config: Tensor
    time: Tensor
    channel: Tensor
    y: Tensor
    x: Tensor

    def rows(self) -> Tensor:
        """int64 [winners, 4] of (sample, channel, y, x), by sample and in order of winning."""
        sample = torch.arange(self.valid.shape[0], device=self.valid.device).unsqueeze(1)
        table = torch.stack([sample.expand_as(self.channel), self.channel, self.y, self.x], dim=2)
        return table[self.valid]

    def table(self, steps: int) -> Tensor:
        """int32 [B, K, 5] of (config, time, channel, y, x); config -1, time `steps` where nobody won."""
        fields = [self.config, self.time, self.channel, self.y, self.x]
        nobody = [-1, steps, 0, 0, 0]
        told = [torch.where(self.valid, field, empty) for field, empty in zip(fields, nobody)]
        return torch.stack(told, dim=2).to(torch.int32)

    @classmethod
    def of_table(cls, table: Tensor) -> Winners:
        """Winners of a table [B, K, 5] as `table` gives it; a config below 0 means that nobody won."""
        config, time, channel, y, x = table.to(torch.int64).unbind(2)
        return cls(config >= 0, config, time, channel, y, x)


def convolution_winners(potential: Tensor, radius: int, count: int, threshold: float = 0.0) -> Winners:
    """Winner-take-all over [B, T, C, H, W]: earliest spike, then largest potential at it, then lowest index.

    Each winner removes its channel and, in all channels, the square window of
    side 2 * radius + 1 around it.  Up to `count` winners a sample.
    """
    steps = potential.shape[1]
    times = first_spike_times(potential, threshold)
    level = potential.gather(1, times.clamp(max=steps - 1).unsqueeze(1)).squeeze(1).to(torch.float32)
    return winners_of(times, level, steps, radius, count)


def winners_of(times: Tensor, level: Tensor, steps: int, radius: int, count: int) -> Winners:
    """Winner-take-all over first-spike times int64 [B, C, H, W] and the potentials at them."""
    batch, channels, height, width = times.shape
    alive = times < steps
    device = times.device
    channel_of = torch.arange(channels, device=device).reshape(1, channels, 1, 1)
    row_of = torch.arange(height, device=device).reshape(1, 1, height, 1)
    column_of = torch.arange(width, device=device).reshape(1, 1, 1, width)
    slots: list[tuple[Tensor, ...]] = []
    for _ in range(count):
        pending = torch.where(alive, times, steps)
        earliest = pending.flatten(1).amin(dim=1)
        tied = alive & (pending == earliest.reshape(batch, 1, 1, 1))
        best = torch.where(tied, level, -torch.inf).flatten(1).argmax(dim=1)
        channel = best // (height * width)
        y = best // width % height
        x = best % width
        slots.append((earliest < steps, earliest, channel, y, x))
        near = ((row_of - y.reshape(-1, 1, 1, 1)).abs() <= radius) & (
            (column_of - x.reshape(-1, 1, 1, 1)).abs() <= radius
        )
        alive = alive & ~near & (channel_of != channel.reshape(-1, 1, 1, 1))
    valid, time, channel, y, x = (torch.stack(field, dim=1) for field in zip(*slots))
    return Winners(valid, torch.zeros_like(time), time, channel, y, x)
