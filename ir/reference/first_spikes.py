"""Reference semantics of layers on first-spike times."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from plait.ir.ops import spike
from plait.ir.reference.nn_conv import pad_axes, split_pads
from plait.ir.reference.table import Args, Context, reference


@reference(spike.RankOrderCode)
def rank_order_code(op: spike.RankOrderCode, args: Args, ctx: Context) -> torch.Tensor:
    """A stable sort, and the bin of each position."""
    (x,) = args
    flat = x.flatten(1)
    values, order = torch.sort(flat, dim=1, descending=True, stable=True)
    above = (values > values[:, -1:]).sum(dim=1, keepdim=True)
    position = torch.arange(flat.shape[1], device=x.device).expand_as(order)
    times = (position * op.steps // above.clamp(min=1)).clamp(max=op.steps)
    times = torch.where(above == 0, 0, times).to(torch.uint8)
    return torch.zeros_like(times).scatter_(1, order, times).reshape(x.shape)


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
    if op.pool != (1, 1):
        times, at_spike = pool_spikes(times, at_spike, op)
    if op.earliest:
        kept = times == times.flatten(1).amin(1).reshape(-1, 1, 1, 1)
        times, at_spike = torch.where(kept, times, op.steps), torch.where(kept, at_spike, 0.0)
    found = times.to(torch.uint8)
    return (found, at_spike) if op.potential else found


def pool_spikes(
    times: torch.Tensor, potential: torch.Tensor, op: spike.FirstSpikeConv2d
) -> tuple[torch.Tensor, torch.Tensor]:
    """The earliest time of each window, and the largest potential among its spikes of that time."""

    def windows(x: torch.Tensor, silent: float) -> torch.Tensor:
        padded = pad_axes(x, op.pool_pad, op.pool_pad, value=silent)
        rows, columns = op.pool
        return padded.unfold(2, rows, rows).unfold(3, columns, columns).flatten(4)

    at = windows(times, op.steps)
    earliest = at.amin(-1)
    first = at == earliest.unsqueeze(-1)
    level = torch.where(first, windows(potential, 0.0), -torch.inf).amax(-1)
    return earliest, torch.where(earliest < op.steps, level, 0.0)


@reference(spike.FirstSpikePool2d)
def first_spike_pool2d(op: spike.FirstSpikePool2d, args: Args, ctx: Context) -> torch.Tensor:
    """The smallest time of each window."""
    padded = pad_axes(args[0].to(torch.int32), *split_pads(op.pad, 2), value=op.steps)
    later = -F.max_pool2d(-padded.to(torch.float32), op.kernel, op.stride)
    return later.clamp(max=op.steps).to(torch.uint8)
