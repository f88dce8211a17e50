"""The spike family: binary events and neurons with explicit state."""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Literal

from plait.ir import types as t
from plait.ir.op import Op, op, shaped
from plait.ir.ops.common import conv_output, dense, floating, pads_of
from plait.ir.ops.nn.pool import pooled
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


#: Steps of a wave whose first-spike times fit into a byte beside the mark of silence.
MOST_STEPS = 254


def first_spikes(op: Op, value: Value, name: str) -> TensorType:
    """The type of an operand of first-spike times, NCHW.  Raises VerifyError for another."""
    kind = dense(op, value, name)
    if kind.dtype is not t.u8 or kind.rank != 4:
        raise op.error(f"operand {name} ({value}) is {kind}", why="first-spike times u8[N,C,H,W] are wanted")
    return kind


def check_steps(op: Op, steps: int) -> None:
    """Raise VerifyError for a number of steps that first-spike times cannot count."""
    if not 1 <= steps <= MOST_STEPS:
        raise op.error(f"need 1 <= steps <= {MOST_STEPS}, got steps={steps}")


@op("spike.first_spike_conv2d")
class FirstSpikeConv2d(Op):
    """A convolution of integrate-and-fire neurons that fire at most once, on first-spike times.

    x [N,C,H,W] holds the step at which each input first fires, any number >= steps if it is
    silent; w [O,C,kh,kw]; pads are silent.  The potential of a neuron at step t is the sum of the
    weights of inputs that have fired by t: there is no leak and no reset.  The result is the first
    step at which it is greater than v_th, or steps.  With `inhibit`, of the neurons at one place only
    that of the earliest spike keeps it, among equals that of the largest potential at that step,
    among these that of the lowest channel (lateral inhibition).  With `potential`, the potential at
    the spike, 0 where there is none, is a second result.
    Kheradpisheh et al. 2018 (doi 10.1016/j.neunet.2017.12.005).
    """

    x: Value
    w: Value
    _: KW_ONLY
    steps: int
    v_th: float
    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, ...] = (0, 0)
    inhibit: bool = False
    potential: bool = False

    def infer(self) -> tuple[Type, ...]:
        x, w = first_spikes(self, self.x, "x"), floating(self, self.w, "w")
        check_steps(self, self.steps)
        if w.dtype is not t.f32 or w.rank != 4 or w.shape[1] != x.shape[1]:
            raise self.error(f"{self.x} is {x} but {self.w} is {w}", why="weights f32[O,C,kh,kw] are wanted")
        pads = pads_of(self, self.pad, 2)
        sizes = tuple(
            conv_output(self, size, kernel, stride, sides, 1)
            for size, kernel, stride, sides in zip(x.shape[2:], w.shape[2:], self.stride, pads, strict=True)
        )
        times = TensorType(t.u8, (x.shape[0], w.shape[0], *sizes))
        return (times, TensorType(t.f32, times.shape)) if self.potential else (times,)


@op("spike.first_spike_pool2d")
class FirstSpikePool2d(Op):
    """The earliest first-spike time of each window, NCHW; pads are silent.

    It is max pooling of the wave of spikes that stay (Kheradpisheh et al. 2018).
    """

    x: Value
    _: KW_ONLY
    kernel: tuple[int, int]
    stride: tuple[int, int]
    steps: int
    pad: tuple[int, ...] = (0, 0)

    def infer(self) -> tuple[Type, ...]:
        kind = first_spikes(self, self.x, "x")
        check_steps(self, self.steps)
        return (pooled(self, kind, self.kernel, self.stride, self.pad, (1, 1), False),)
