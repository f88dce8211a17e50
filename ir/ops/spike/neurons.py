"""spike: neurons with explicit state."""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Literal

from plait.ir.op import Op, op
from plait.ir.ops.common import floating
from plait.ir.types import SpikeType, TensorType, Type
from plait.ir.value import Value

Reset = Literal["subtract", "zero"]


def membrane(op: Op, current: Value, state: Value) -> TensorType:
    """The common type of an input current and a membrane potential."""
    a, b = floating(op, current, "current"), floating(op, state, "v")
    if a != b:
        raise op.error(f"{current} is {a} but {state} is {b}", why="current and potential have one type")
    return a


@op("spike.threshold")
class Threshold(Op):
    """Spikes where x >= level."""

    x: Value
    _: KW_ONLY
    level: float

    def infer(self) -> tuple[Type, ...]:
        return (SpikeType(floating(self, self.x, "x").shape),)


@op("spike.integrate_and_fire")
class IntegrateAndFire(Op):
    """One step of the integrate-and-fire neuron: v' = v + current; a spike where v' >= v_th, then reset.

    Results: spikes and the potential after reset (v' - v_th, or 0).
    """

    current: Value
    v: Value
    _: KW_ONLY
    v_th: float
    reset: Reset

    def infer(self) -> tuple[Type, ...]:
        kind = membrane(self, self.current, self.v)
        if self.v_th <= 0:
            raise self.error(f"need v_th > 0, got v_th={self.v_th}")
        return SpikeType(kind.shape), kind


@op("spike.lif")
class Lif(Op):
    """One Euler step of the leaky integrate-and-fire neuron: v' = v + dt/tau * (current - v).

    A spike where v' >= v_th, then reset.  tau and dt in seconds.  Results: spikes
    and the potential after reset (v' - v_th, or 0).
    """

    current: Value
    v: Value
    _: KW_ONLY
    tau: float
    dt: float
    v_th: float
    reset: Reset

    def infer(self) -> tuple[Type, ...]:
        kind = membrane(self, self.current, self.v)
        if not 0 < self.dt <= self.tau:
            raise self.error(f"need 0 < dt <= tau, got dt={self.dt} tau={self.tau}")
        if self.v_th <= 0:
            raise self.error(f"need v_th > 0, got v_th={self.v_th}")
        return SpikeType(kind.shape), kind
