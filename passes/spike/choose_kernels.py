"""choose-spike-kernels: sums of spikes are computed in the way that is fastest at their density."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from plait.ir import Constant, Graph, Op, SpikeType
from plait.ir import spike_crossover as model
from plait.ir.ops import spike
from plait.passes.base import Pass, PassResult, register
from plait.passes.rewriter import Rewriter

_Summing = spike.SpikeLinear | spike.SpikeConv2d


@register
@dataclass(frozen=True)
class ChooseSpikeKernels(Pass):
    """Set `kernel` of spike.linear and spike.conv2d where it is "auto" and the spikes have a density.

    The choice is among dense, gather_rows (weights of the inputs that fire are added) and, on a CPU and for
    constant weights of two levels, popcount, by the times that `plait.ir.spike_crossover` estimates: for
    the CPU from measured constants, for the A100 from a roofline.  A remark tells them, and the
    density at which gather_rows and dense take equally long.

    Options:
        target: cpu or a100.

    Given:
        @w : f32[64,32,5,5]
        %x : f32[B,32,28,28]
        %s = spike.threshold(%x) {level=6.0} : spike<0.02>[B,32,28,28]
        %y = spike.conv2d(%s, @w) {pad=[2,2]} : f32[B,64,28,28]
        return %y
    Result:
        %s = spike.threshold(%x) {level=6.0} : spike<0.02>[B,32,28,28]
        %y = spike.conv2d(%s, @w) {pad=[2,2], kernel="gather_rows"} : f32[B,64,28,28]
        return %y
    """

    name: ClassVar[str] = "choose-spike-kernels"
    target: Literal["cpu", "a100"] = "cpu"

    def run(self, graph: Graph) -> PassResult:
        rewriter = Rewriter(graph, self.name)
        counts: dict[str, int] = {}
        remarks = []
        for op in list(graph.walk()):
            if not isinstance(op, _Summing):
                continue
            chosen, remark = self._choice(op)
            remarks.append(f"%{op.name} {remark}")
            if chosen is not None:
                rewriter.replace(op, with_=op.evolve(kernel=chosen))
                title = f"kernel={chosen}"
                counts[title] = counts.get(title, 0) + 1
        total = sum(counts.values())
        return PassResult(total > 0, total, counts, tuple(remarks))

    def explain(self, graph: Graph, op: Op) -> str:
        if not isinstance(op, _Summing):
            return f"%{op.name} is {op.opname}, no sum of spikes"
        return f"%{op.name} {self._choice(op)[1]}"

    def _choice(self, op: _Summing) -> tuple[model.Form | None, str]:
        """The form of an op, or None where it is left alone; and the rest of a sentence about it."""
        reason = _reason_to_leave(op)
        layer = model.layer_of(op)
        if reason is not None or layer is None:
            return None, f"is left: {reason or 'a size other than that of the batch is not known'}"
        assert isinstance(op.x.type, SpikeType)
        density = op.x.type.density
        assert density is not None
        forms: list[model.Form] = ["dense", "gather_rows"]
        if self.target == "cpu" and _has_two_levels(op):
            forms.append("popcount")
        times = {form: model.seconds(self.target, form, layer, density) for form in forms}
        best = min(forms, key=times.__getitem__)
        told = ", ".join(f"{form} {seconds * 1e6:.3g} us" for form, seconds in times.items())
        basis = "measured constants" if self.target == "cpu" else "modelled"
        equal = model.crossover(self.target, layer)
        where = f"equal at a density of {equal:.1%}" if equal < 1 else "events are faster at any density"
        batch = "" if isinstance(op.x.shaped.shape[0], int) else f", batch {model.IMAGES}"
        return best, (
            f"takes {best} at a density of {density:.2%} on {self.target}: {told} ({basis}{batch}); {where}"
        )


def _reason_to_leave(op: _Summing) -> str | None:
    if op.kernel != "auto":
        return f'kernel="{op.kernel}" is set already'
    if not isinstance(op.x.type, SpikeType) or op.x.type.density is None:
        return f"{op.x} has no density"
    if not isinstance(op.w, Constant):
        return f"its weights {op.w} are not constant"
    if op.w.shaped.dtype.name != "f32":
        return f"its weights are {op.w.shaped.dtype}, events are added in f32 only"
    return None


def _has_two_levels(op: _Summing) -> bool:
    """Whether the weights are known and have two distinct values."""
    return isinstance(op.w, Constant) and op.w.has_data and np.unique(op.w.data).size == 2


__all__ = ["ChooseSpikeKernels"]
