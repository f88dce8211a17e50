"""Reference semantics of the spike family; spikes are bool tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from plait.ir.ops import spike
from plait.ir.reference.nn_conv import pad_axes, split_pads
from plait.ir.reference.table import Args, Context, reference


def fire(v: torch.Tensor, v_th: float, reset: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Spikes where the potential reaches the threshold, and the potential after reset."""
    spikes = v >= v_th
    rest = v - v_th if reset == "subtract" else torch.zeros_like(v)
    return spikes, torch.where(spikes, rest, v)


@reference(spike.Threshold)
def threshold(op: spike.Threshold, args: Args, ctx: Context) -> torch.Tensor:
    """x >= level."""
    return args[0] >= op.level


@reference(spike.SpikeLinear)
def spike_linear(op: spike.SpikeLinear, args: Args, ctx: Context) -> torch.Tensor:
    """A dense layer on zeros and ones."""
    x, w, b = args
    return F.linear(x.to(w.dtype), w, b)


@reference(spike.IntegrateAndFire)
def integrate_and_fire(
    op: spike.IntegrateAndFire, args: Args, ctx: Context
) -> tuple[torch.Tensor, torch.Tensor]:
    """One step without leak."""
    current, v = args
    return fire(v + current, op.v_th, op.reset)


@reference(spike.Lif)
def lif(op: spike.Lif, args: Args, ctx: Context) -> tuple[torch.Tensor, torch.Tensor]:
    """One Euler step with leak."""
    current, v = args
    return fire(v + (op.dt / op.tau) * (current - v), op.v_th, op.reset)


@reference(spike.FirstSpikeConv2d)
def first_spike_conv2d(
    op: spike.FirstSpikeConv2d, args: Args, ctx: Context
) -> tuple[torch.Tensor, ...] | torch.Tensor:
    """Convolution of the whole wave at each step, and the first step above the threshold."""
    x, w = args
    padded = pad_axes(x.to(torch.int32), *split_pads(op.pad, 2), value=op.steps)
    at_spike = torch.zeros_like(F.conv2d(padded.to(w.dtype), w, None, op.stride))
    times = torch.full_like(at_spike, op.steps, dtype=torch.int32)
    for step in range(op.steps):
        potential = F.conv2d((padded <= step).to(w.dtype), w, None, op.stride)
        fires = (times == op.steps) & (potential > op.v_th)
        times, at_spike = torch.where(fires, step, times), torch.where(fires, potential, at_spike)
    if op.inhibit:
        earliest = times == times.amin(1, keepdim=True)
        largest = torch.where(earliest, at_spike, -torch.inf)
        wins = torch.zeros_like(earliest).scatter_(1, largest.argmax(1, keepdim=True), True)
        times, at_spike = torch.where(wins, times, op.steps), torch.where(wins, at_spike, 0.0)
    found = times.to(torch.uint8)
    return (found, at_spike) if op.potential else found


@reference(spike.FirstSpikePool2d)
def first_spike_pool2d(op: spike.FirstSpikePool2d, args: Args, ctx: Context) -> torch.Tensor:
    """The smallest time of each window."""
    padded = pad_axes(args[0].to(torch.int32), *split_pads(op.pad, 2), value=op.steps)
    later = -F.max_pool2d(-padded.to(torch.float32), op.kernel, op.stride)
    return later.clamp(max=op.steps).to(torch.uint8)
