"""early-exit: a decision by the first spike needs no later step.

Where all that is asked of a layer is its earliest spike, a kernel need not go past the step of the earliest
spike that it has found in the sample: `earliest` of `spike.first_spike_conv2d`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from plait.ir import Op, Value
from plait.ir.ops import core, spike
from plait.passes.base import register
from plait.passes.rewriter import Replace, Rewriter, Skip, rule
from plait.passes.spike.remarks import RemarkingPass


@register
@dataclass(frozen=True)
class EarlyExit(RemarkingPass):
    """Compute no more than the earliest spikes of a sample where nothing else is read.

    That is so where the times are read by one winner a sample, or by the smallest time over all of its
    neurons, and the potentials by one winner alone.

    Given:
        @w : f32[4,3,3,3]
        %x : u8[B,3,8,8]
        %t, %p = spike.first_spike_conv2d(%x, @w) {steps=15, v_th=2.0, potential=true} : u8[B,4,6,6], f32[B,4,6,6]
        %d = spike.winners(%t, %p) {steps=15, radius=0, count=1} : i32[B,1,5]
        return %d
    Result:
        %t, %p = spike.first_spike_conv2d(%x, @w) {steps=15, v_th=2.0, potential=true, earliest=true} : u8[B,4,6,6], f32[B,4,6,6]
        %d = spike.winners(%t, %p) {steps=15, radius=0, count=1} : i32[B,1,5]
        return %d
    """  # noqa: E501

    name: ClassVar[str] = "early-exit"


@rule(EarlyExit, "first_spikes(x) read by its earliest alone => first_spikes(x, earliest)")
def exit_early(op: spike.FirstSpikeConv2d, rw: Rewriter) -> Replace | Skip:
    """A layer all of whose readers want the first spike.

    Given:
        @w : f32[4,3,3,3]
        %x : u8[B,3,8,8]
        %t = spike.first_spike_conv2d(%x, @w) {steps=15, v_th=2.0} : u8[B,4,6,6]
        %m = core.min(%t) {axes=[1,2,3]} : u8[B]
        return %m
    Result:
        %t = spike.first_spike_conv2d(%x, @w) {steps=15, v_th=2.0, earliest=true} : u8[B,4,6,6]
        %m = core.min(%t) {axes=[1,2,3]} : u8[B]
        return %m
    """
    if op.earliest:
        return Skip("it stops at the earliest spike already")
    if not any(result.users for result in op.results):
        return Skip("nothing reads it")
    for result in op.results:
        for user in result.users:
            if not isinstance(user, Op):
                return Skip(f"{result} leaves the graph with all its spikes")
            if not _wants_first(user, result, op.steps):
                return Skip(f"{user.results[0]} reads more of {result} than its earliest spike")
    return rw.replace(op, with_=op.evolve(earliest=True))


def _wants_first(user: Op, value: Value, steps: int) -> bool:
    if isinstance(user, spike.Winners):
        return user.count == 1 and user.steps == steps
    if isinstance(user, core.Min) and value.shaped.dtype.name == "u8":
        return set(user.axes) == {1, 2, 3}
    return False


__all__ = ["EarlyExit"]
