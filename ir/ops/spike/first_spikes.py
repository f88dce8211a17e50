"""spike: neurons that fire at most once, on first-spike times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY
from typing import Any

from plait.ir import types as t
from plait.ir.dims import IntLike
from plait.ir.op import Op, op
from plait.ir.ops.common import conv_output, floating, pads_of
from plait.ir.ops.nn.pool import pooled
from plait.ir.ops.spike.common import check_steps, first_spikes
from plait.ir.types import TensorType, Type
from plait.ir.value import Value


@op("spike.rank_order_code")
class RankOrderCode(Op):
    """First-spike times by rank: the strongest values of a sample fire first, in bins of equal population.

    x f32 [N, ...] -> u8 of the same shape.  Of the n values of a sample above its minimum, the one at
    position i of the descending order fires at floor(i * steps / n); equal values are ordered by index.
    Values at the minimum are silent (time = steps); in a sample of one value all fire at step 0.
    Thorpe and Gautrais 1998; the bins are those of Shirsavar and Dehaqani, arXiv 2301.13659.
    """

    x: Value
    _: KW_ONLY
    steps: int

    def infer(self) -> tuple[Type, ...]:
        kind = floating(self, self.x, "x")
        check_steps(self, self.steps)
        if kind.dtype is not t.f32 or kind.rank < 2:
            raise self.error(f"{self.x} is {kind}", why="values f32[N, ...] are wanted")
        return (TensorType(t.u8, kind.shape),)


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

    With `pool`, (rows, columns) of a window that moves by its own size, padded by silent `pool_pad`, the
    results are those of max pooling: the earliest spike of a window and the largest potential among its
    earliest spikes.  With `earliest`, only the spikes at the earliest step of a sample are kept: a decision
    by the first spike needs no more.  `density` is the share of the inputs that fire, an estimate.
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
    pool: tuple[int, int] = (1, 1)
    pool_pad: tuple[int, int] = (0, 0)
    earliest: bool = False
    density: float | None = None

    def infer(self) -> tuple[Type, ...]:
        x, w = first_spikes(self, self.x, "x"), floating(self, self.w, "w")
        check_steps(self, self.steps)
        if w.dtype is not t.f32 or w.rank != 4 or w.shape[1] != x.shape[1]:
            raise self.error(f"{self.x} is {x} but {self.w} is {w}", why="weights f32[O,C,kh,kw] are wanted")
        if self.density is not None and not 0 <= self.density <= 1:
            raise self.error(f"density is {self.density}", why="it is a share, in 0..1")
        neurons = TensorType(t.u8, (x.shape[0], w.shape[0], *self.places(x.shape)))
        times = pooled(self, neurons, self.pool, self.pool, self.pool_pad, (1, 1), False)
        return (times, TensorType(t.f32, times.shape)) if self.potential else (times,)

    def places(self, shape: Sequence[IntLike]) -> tuple[Any, ...]:
        """Rows and columns of neurons, before pooling, for inputs of this shape."""
        sides = pads_of(self, self.pad, 2)
        return tuple(
            conv_output(self, size, kernel, stride, pads, 1)
            for size, kernel, stride, pads in zip(
                shape[2:], self.w.shaped.shape[2:], self.stride, sides, strict=True
            )
        )


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
