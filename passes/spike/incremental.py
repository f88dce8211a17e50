"""incremental-potentials: a convolution of a cumulative wave becomes one of what is new, and a running sum.

Each input of a wave changes once in T steps, so that T dense convolutions add every weight up to T times.
The convolution is linear: the potential at a step is the sum of those of the spikes that are new up to then,
and these are sparse (density d / T a frame), so that they are added by events.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from plait.ir import TensorType
from plait.ir import types as t
from plait.ir.ops import core, nn, spike
from plait.passes.base import register
from plait.passes.constants import dense_data
from plait.passes.rewriter import Replace, Rewriter, Skip, rule
from plait.passes.spike.remarks import RemarkingPass
from plait.passes.spike.waves import layer_input


@register
@dataclass(frozen=True)
class IncrementalPotentials(RemarkingPass):
    """Sum what new spikes add to the potentials of a wave that times and a clock give.

    For layers whose potentials are wanted, or fall because weights are negative: others become layers on
    first-spike times before (`waves-to-first-spikes`).  Sums have another order, so that potentials differ
    by rounding.

    Given:
        @w : f32[3,2,2,2]
        %t : u8[4,1,2,3,3]
        %c = core.iota() : u8[5]
        %k = core.reshape(%c) : u8[1,5,1,1,1]
        %e = core.le(%t, %k) : bool[4,5,2,3,3]
        %f = core.cast(%e) : f32[4,5,2,3,3]
        %x = core.reshape(%f) : f32[20,2,3,3]
        %p = nn.conv2d(%x, @w) : f32[20,3,2,2]
        return %p
    Result:
        %c = core.iota() : u8[5]
        %k = core.reshape(%c) : u8[1,5,1,1,1]
        %p.new = core.eq(%t, %k) : bool[4,5,2,3,3]
        %p.number = core.cast(%p.new) : f32[4,5,2,3,3]
        %p.frames = core.reshape(%p.number) : f32[20,2,3,3]
        %p.spikes = spike.threshold(%p.frames) {level=0.5} : spike[20,2,3,3]
        %p.change = spike.conv2d(%p.spikes, @w) : f32[20,3,2,2]
        %p.steps = core.reshape(%p.change) : f32[4,5,3,2,2]
        %p.sum = core.cumsum(%p.steps) {axis=1} : f32[4,5,3,2,2]
        %p = core.reshape(%p.sum) : f32[20,3,2,2]
        return %p
    """

    name: ClassVar[str] = "incremental-potentials"
    follows: ClassVar[tuple[str, ...]] = ("waves-to-first-spikes",)


@rule(IncrementalPotentials, "conv(wave) => running sum of conv(new spikes)")
def sum_changes(op: nn.Conv2d, rw: Rewriter) -> Replace | Skip:
    """With a bias, which every step has once.

    Given:
        @w : f32[3,2,2,2]
        @b : f32[3]
        %t : u8[4,1,2,3,3]
        %c = core.iota() : u8[5]
        %k = core.reshape(%c) : u8[1,5,1,1,1]
        %e = core.le(%t, %k) : bool[4,5,2,3,3]
        %f = core.cast(%e) : f32[4,5,2,3,3]
        %x = core.reshape(%f) : f32[20,2,3,3]
        %p = nn.conv2d(%x, @w, @b) : f32[20,3,2,2]
        return %p
    Result:
        %c = core.iota() : u8[5]
        %k = core.reshape(%c) : u8[1,5,1,1,1]
        %p.new = core.eq(%t, %k) : bool[4,5,2,3,3]
        %p.number = core.cast(%p.new) : f32[4,5,2,3,3]
        %p.frames = core.reshape(%p.number) : f32[20,2,3,3]
        %p.spikes = spike.threshold(%p.frames) {level=0.5} : spike[20,2,3,3]
        %p.change = spike.conv2d(%p.spikes, @w) : f32[20,3,2,2]
        %p.steps = core.reshape(%p.change) : f32[4,5,3,2,2]
        %p.sum = core.cumsum(%p.steps) {axis=1} : f32[4,5,3,2,2]
        %p.total = core.reshape(%p.sum) : f32[20,3,2,2]
        %p.bias = core.reshape(@b) : f32[1,3,1,1]
        %p = core.add(%p.total, %p.bias) : f32[20,3,2,2]
        return %p
    """
    found = layer_input(op)
    if isinstance(found, Skip):
        return found
    if found.steps == 1:
        return Skip("a wave of one step has nothing to save")
    if dense_data(op.w) is None:
        return Skip(f"the weights {op.w} are not known, and are not added by events")
    if found.source is None:
        return Skip(f"{op.x} comes from a layer whose times are not in the graph")
    batch, (given, clock), name = op.x.shaped.shape[0], found.source, op.result.name
    lead = (given.shaped.shape[0], found.steps)
    if given.shaped.dtype is not t.u8:
        # Times below 0 have fired at step 0 as well.
        given = rw.insert(core.Clamp(given, low=0.0), before=op, name=f"{name}.times")
    new = rw.insert(core.Eq(given, clock), before=op, name=f"{name}.new")
    number = rw.insert(
        core.Cast(new, out=TensorType(t.f32, new.shaped.shape)), before=op, name=f"{name}.number"
    )
    frames = TensorType(t.f32, (batch, *new.shaped.shape[2:]))
    flat = rw.insert(core.Reshape(number, out=frames), before=op, name=f"{name}.frames")
    spikes = rw.insert(spike.Threshold(flat, level=0.5), before=op, name=f"{name}.spikes")
    product = spike.SpikeConv2d(spikes, op.w, stride=op.stride, pad=op.pad)
    change = rw.insert(product, before=op, name=f"{name}.change")
    kind = op.result.shaped
    split = TensorType(t.f32, (*lead, *kind.shape[1:]))
    steps = rw.insert(core.Reshape(change, out=split), before=op, name=f"{name}.steps")
    total = rw.insert(core.CumSum(steps, axis=1), before=op, name=f"{name}.sum")
    whole = core.Reshape(total, out=TensorType(t.f32, kind.shape))
    if op.b is None:
        return rw.replace(op, with_=whole)
    summed = rw.insert(whole, before=op, name=f"{name}.total")
    shape = TensorType(t.f32, (1, kind.shape[1], 1, 1))
    bias = rw.insert(core.Reshape(op.b, out=shape), before=op, name=f"{name}.bias")
    return rw.replace(op, with_=core.Add(summed, bias))


__all__ = ["IncrementalPotentials"]
