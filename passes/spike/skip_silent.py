"""skip-silent-rows: products of spikes that are computed densely leave out what has no spike at all.

Kernels that work by events do so by nature.  With the density d and n inputs that fire independently, a row
is silent with probability (1 - d)^n; inputs that fire together are silent together more often, so that a
share that was measured (`annotate_density` reports it) may be given instead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from plait.ir.ops import spike
from plait.ir.types import SpikeType
from plait.passes.base import register
from plait.passes.rewriter import Replace, Rewriter, Skip, rule
from plait.passes.spike.remarks import RemarkingPass


@register
@dataclass(frozen=True)
class SkipSilentRows(RemarkingPass):
    """Look for a spike before a dense product where enough rows are expected to have none.

    Options:
        least: the share of silent rows from which on looking pays.
        measured: the share that was measured; below 0, it is estimated from the density.

    Given:
        @w : f32[4,16]
        %x : spike<0.01>[B,16]
        %y = spike.linear(%x, @w) {kernel="dense"} : f32[B,4]
        return %y
    Result:
        %y = spike.linear(%x, @w) {kernel="dense", skip_silent=true} : f32[B,4]
        return %y
    """

    name: ClassVar[str] = "skip-silent-rows"
    follows: ClassVar[tuple[str, ...]] = ("choose-spike-kernels",)
    least: float = 0.1
    measured: float = -1.0


@rule(SkipSilentRows, "dense product of spikes => the same without silent rows")
def skip_silent(
    op: spike.SpikeLinear | spike.SpikeConv2d, rw: Rewriter, options: SkipSilentRows
) -> Replace | Skip:
    """A row of a linear layer, an image of a convolution.

    Given:
        @w : f32[4,1,3,3]
        %x : spike<0.01>[B,1,5,5]
        %y = spike.conv2d(%x, @w) {kernel="dense"} : f32[B,4,3,3]
        return %y
    Result:
        %y = spike.conv2d(%x, @w) {kernel="dense", skip_silent=true} : f32[B,4,3,3]
        return %y
    """
    if op.skip_silent:
        return Skip("it looks for silent rows already")
    if op.kernel in ("gather_rows", "popcount"):
        return Skip(f"the kernel {op.kernel} costs nothing that a silent row could save")
    kind = op.x.type
    assert isinstance(kind, SpikeType)
    share = options.measured
    if share < 0:
        inputs = kind.shape[1:] if isinstance(op, spike.SpikeConv2d) else kind.shape[-1:]
        if kind.density is None:
            return Skip(f"{op.x} has no density: run annotate_density on calibration data")
        if not all(isinstance(size, int) for size in inputs):
            return Skip(f"{op.x} has {list(map(str, inputs))} inputs a row, a number that is not known")
        share = (1.0 - kind.density) ** math.prod(int(size) for size in inputs if isinstance(size, int))
    if share < options.least:
        return Skip(f"{share:.2%} of the rows are silent, less than {options.least:.0%}")
    return rw.replace(op, with_=op.evolve(skip_silent=True))


__all__ = ["SkipSilentRows"]
