"""Emissions of spiking neurons, in dense form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import te, tirx
from tvm.ir import Expr

from plait.backends.tvm.emit.expressions import number
from plait.backends.tvm.emit.table import Arguments, Emitter, Kind, emit
from plait.ir.ops import spike


@emit(spike.Threshold, kind=Kind.ELEMENTWISE)
def _threshold(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    kind = op.x.type
    level = number(op.level, emitter.dtype(kind))
    return te.compute(emitter.shape(kind.shape), lambda *i: args.x(*i) >= level, name="threshold")


def _fire(op: Any, emitter: Emitter, potential: Callable[..., Expr]) -> tuple[te.Tensor, te.Tensor]:
    """Spikes where the potential reaches the threshold, and the potential after reset."""
    kind = op.current.type
    shape, dtype = emitter.shape(kind.shape), emitter.dtype(kind)
    level = number(op.v_th, dtype)

    def rest(*i: Expr) -> Expr:
        v = potential(*i)
        return tirx.Select(v >= level, v - level if op.reset == "subtract" else number(0, dtype), v)

    spikes = te.compute(shape, lambda *i: potential(*i) >= level, name="spikes")
    return spikes, te.compute(shape, rest, name="potential")


@emit(spike.IntegrateAndFire, kind=Kind.ALONE)
def _integrate_and_fire(op: Any, args: Arguments, emitter: Emitter) -> tuple[te.Tensor, te.Tensor]:
    return _fire(op, emitter, lambda *i: args.v(*i) + args.current(*i))


@emit(spike.Lif, kind=Kind.ALONE)
def _lif(op: Any, args: Arguments, emitter: Emitter) -> tuple[te.Tensor, te.Tensor]:
    rate = number(op.dt / op.tau, emitter.dtype(op.v.type))
    return _fire(op, emitter, lambda *i: args.v(*i) + rate * (args.current(*i) - args.v(*i)))
