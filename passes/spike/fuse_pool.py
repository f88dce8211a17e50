"""fuse-first-spike-pool: pooling happens where the spikes are computed.

The earliest spike of a window is known as soon as it comes: the kernel of the layer writes a spike to the
windows that hold it, and the times before pooling never reach memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from plait.ir.ops import spike
from plait.ir.ops.common import pads_of
from plait.passes.base import register
from plait.passes.rewriter import Replace, Rewriter, Skip, rule
from plait.passes.spike.remarks import RemarkingPass


@register
@dataclass(frozen=True)
class FuseFirstSpikePool(RemarkingPass):
    """Pool first-spike times in the layer, with or without lateral inhibition, that alone feeds the pool.

    Given:
        @w : f32[4,3,3,3]
        %x : u8[B,3,8,8]
        %t = spike.first_spike_conv2d(%x, @w) {steps=15, v_th=2.0, inhibit=true} : u8[B,4,6,6]
        %p = spike.first_spike_pool2d(%t) {kernel=[2,2], stride=[2,2], steps=15} : u8[B,4,3,3]
        return %p
    Result:
        %p = spike.first_spike_conv2d(%x, @w) {steps=15, v_th=2.0, inhibit=true, pool=[2,2]} : u8[B,4,3,3]
        return %p
    """

    name: ClassVar[str] = "fuse-first-spike-pool"


@rule(FuseFirstSpikePool, "pool(first_spikes(x)) => first_spikes(x, pool)")
def fuse_pool(op: spike.FirstSpikePool2d, rw: Rewriter) -> Replace | Skip:
    """Windows that do not overlap, into the layer in front.

    Given:
        @w : f32[4,3,2,2]
        %x : u8[B,3,8,8]
        %t = spike.first_spike_conv2d(%x, @w) {steps=15, v_th=2.0, pad=[1,1]} : u8[B,4,9,9]
        %p = spike.first_spike_pool2d(%t) {kernel=[2,3], stride=[2,3], steps=15, pad=[1,0]} : u8[B,4,5,3]
        return %p
    Result:
        %p = spike.first_spike_conv2d(%x, @w) {steps=15, v_th=2.0, pad=[1,1], pool=[2,3], pool_pad=[1,0]} : u8[B,4,5,3]
        return %p
    """  # noqa: E501
    layer = rw.sole_producer(op.x, op, (spike.FirstSpikeConv2d,))
    if isinstance(layer, Skip):
        return layer
    if op.stride != op.kernel:
        return Skip(f"windows of {list(op.kernel)} move by {list(op.stride)}: they overlap or leave gaps")
    pads = pads_of(op, op.pad, 2)
    if any(before != after for before, after in pads):
        return Skip(f"pads {list(op.pad)} differ between the two sides")
    if any(before >= window for (before, _), window in zip(pads, op.kernel)):
        return Skip(f"a window of {list(op.kernel)} would hold padding alone")
    if layer.pool != (1, 1):
        return Skip(f"{op.x} is pooled already")
    if layer.earliest:
        return Skip(f"{op.x} holds the spikes of the earliest step alone")
    if layer.potential:
        return Skip(f"the potentials of {op.x} are wanted before pooling")
    if layer.steps != op.steps:
        return Skip(f"{op.x} counts {layer.steps} steps and the pool {op.steps}")
    side = (pads[0][0], pads[1][0])
    return rw.replace(op, with_=layer.evolve(pool=op.kernel, pool_pad=side))


__all__ = ["FuseFirstSpikePool"]
