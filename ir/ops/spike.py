"""The spike family: binary events and neurons with explicit state."""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Literal

from plait.ir.op import Op, op, shaped
from plait.ir.ops.common import floating
from plait.ir.types import SpikeType, TensorType, Type
from plait.ir.value import Value

Reset = Literal["subtract", "zero"]


def spikes(op: Op, value: Value, name: str) -> SpikeType:
    """The spike type of an operand.  Raises VerifyError for other tensors."""
    kind = shaped(op, value, name)
    if not isinstance(kind, SpikeType):
        raise op.error(f"operand {name} ({value}) is {kind}", why="spikes are wanted")
    return kind


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


@op("spike.linear")
class SpikeLinear(Op):
    """Sum of the weight columns of the inputs that spike, plus bias.

    spikes [..., in] x [out, in] -> [..., out].
    """

    x: Value
    w: Value
    b: Value | None = None
    _: KW_ONLY
    kernel: Literal["auto", "dense", "gather_rows"] = "auto"

    def infer(self) -> tuple[Type, ...]:
        x, w = spikes(self, self.x, "x"), floating(self, self.w, "w")
        if w.rank != 2 or not x.rank or x.shape[-1] != w.shape[1]:
            raise self.error(f"{self.x} is {x} but {self.w} is {w}", why="[..., in] and [out, in] are wanted")
        if self.b is not None and floating(self, self.b, "b").shape != (w.shape[0],):
            raise self.error(f"bias {self.b} is {self.b.type}", why=f"it holds {w.shape[0]} numbers")
        return (w.with_shape((*x.shape[:-1], w.shape[0])),)


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
