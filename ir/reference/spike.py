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


@reference(spike.SpikeConv2d)
def spike_conv2d(op: spike.SpikeConv2d, args: Args, ctx: Context) -> torch.Tensor:
    """A convolution of zeros and ones."""
    x, w, b = args
    return F.conv2d(pad_axes(x.to(w.dtype), *split_pads(op.pad, 2)), w, b, op.stride)


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
