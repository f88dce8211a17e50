"""Reference semantics of control flow: regions are run."""

from __future__ import annotations

from typing import Any

import torch

from plait.ir.ops import core
from plait.ir.reference.table import Context, MixedArgs, reference
from plait.ir.reference.tensors import torch_dtype
from plait.ir.region import Region


@reference(core.Cond)
def cond(op: core.Cond, args: MixedArgs, ctx: Context) -> tuple[Any, ...]:
    """One of two regions."""
    condition, inputs = args
    return ctx.run(op.then if bool(condition) else op.otherwise, inputs)


@reference(core.While)
def while_(op: core.While, args: MixedArgs, ctx: Context) -> tuple[Any, ...]:
    """A region as long as another one yields true."""
    (state,) = args
    yields = 0 if op.count is None else len(op.body.results) - len(op.inputs)
    collected: list[list[torch.Tensor]] = [[] for _ in range(yields)]
    rounds = 0
    while bool(ctx.run(op.condition, state)[0]):
        results = ctx.run(op.body, state)
        for slices, result in zip(collected, results, strict=False):
            slices.append(result)
        state = results[yields:]
        rounds += 1
    if op.count is not None:
        ctx.bind(op, rounds)
    return (*_stacked(collected, op.body, ctx), *state)


@reference(core.Scan)
def scan(op: core.Scan, args: MixedArgs, ctx: Context) -> tuple[Any, ...]:
    """A region on each slice of the sequences, with state."""
    (inputs,) = args
    split = len(inputs) - op.carries
    sequences, state = inputs[:split], tuple(inputs[split:])
    length = sequences[0].shape[0] if sequences else ctx.size(op.length or 0)
    yields = len(op.body.results) - op.carries
    collected: list[list[torch.Tensor]] = [[] for _ in range(yields)]
    for step in range(length):
        results = ctx.run(op.body, (*(sequence[step] for sequence in sequences), *state))
        for slices, result in zip(collected, results, strict=False):
            slices.append(result)
        state = results[yields:]
    return (*_stacked(collected, op.body, ctx), *state)


def _stacked(collected: list[list[torch.Tensor]], body: Region, ctx: Context) -> list[torch.Tensor]:
    """The slices of each sequence along a new first axis; a loop that never ran makes empty ones."""
    found = []
    for slices, value in zip(collected, body.results, strict=False):
        if slices:
            found.append(torch.stack(slices))
        else:
            kind = value.shaped
            found.append(torch.empty((0, *ctx.shape(kind)), dtype=torch_dtype(kind), device=ctx.device))
    return found
