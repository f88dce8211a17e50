"""Reference semantics of competition and plasticity among spiking neurons."""

from __future__ import annotations

import torch

from plait.ir.ops import spike
from plait.ir.reference.nn_conv import pad_axes, split_pads
from plait.ir.reference.table import Args, Context, reference


@reference(spike.Winners)
def winners(op: spike.Winners, args: Args, ctx: Context) -> torch.Tensor:
    """One winner after the other, in all samples at once."""
    times, level = args
    channels, height, width = times.shape[1:]
    channel_of, row_of, column_of = torch.meshgrid(
        *(torch.arange(size, device=times.device) for size in (channels, height, width)), indexing="ij"
    )
    pending = times.to(torch.int64).clamp(max=op.steps)
    found = []
    for _ in range(op.count):
        earliest = pending.flatten(1).amin(1)
        tied = pending == earliest.reshape(-1, 1, 1, 1)
        best = torch.where(tied, level, -torch.inf).flatten(1).argmax(1)
        place = [axis.flatten()[best] for axis in (channel_of, row_of, column_of)]
        wins = earliest < op.steps
        found.append(torch.stack([torch.where(wins, 0, -1), earliest, *place], dim=1))
        channel, row, column = (axis.reshape(-1, 1, 1, 1) for axis in place)
        near = ((row_of - row).abs() <= op.radius) & ((column_of - column).abs() <= op.radius)
        pending = torch.where(near | (channel_of == channel), op.steps, pending)
    table = torch.stack(found, dim=1)
    # Of a slot without a winner nothing but that is told.
    nobody = torch.tensor([-1, op.steps, 0, 0, 0], device=times.device)
    return torch.where(table[..., :1] < 0, nobody, table).to(torch.int32)


@reference(spike.Stdp)
def stdp(op: spike.Stdp, args: Args, ctx: Context) -> torch.Tensor:
    """Sample after sample; the winners of a sample have different channels."""
    w, times, table, rates = args
    padded = pad_axes(times.to(torch.int64), *split_pads(op.pad, 2), value=op.steps)
    rows, columns = w.shape[2:]
    new = w.clone()
    for sample, slots in enumerate(table.tolist()):
        for rule, time, channel, row, column in slots:
            if rule < 0:
                continue
            top, left = row * op.stride[0], column * op.stride[1]
            before = padded[sample, :, top : top + rows, left : left + columns] <= time
            change = torch.where(before, rates[rule, 0], rates[rule, 1])
            old = new[channel]
            if op.stabilize:
                change = change * (old - op.lower) * (op.upper - old)
            new[channel] = (old + change).clamp(op.lower, op.upper)
    return new
