"""spike: weighted sums of binary events."""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Literal

from plait.ir.op import Op, op
from plait.ir.ops.common import conv_output, floating, pads_of
from plait.ir.ops.spike.common import spikes
from plait.ir.types import Type
from plait.ir.value import Value

#: How a sum of spikes is computed: `auto` leaves it to the target; `dense` multiplies all inputs;
#: `gather_rows` adds the weights of those that fire; `popcount` counts bits, for weights of two levels.
Method = Literal["auto", "dense", "gather_rows", "popcount"]


@op("spike.linear")
class SpikeLinear(Op):
    """Sum of the weight columns of the inputs that spike, plus bias.

    spikes [..., in] x [out, in] -> [..., out].  With `skip_silent`, the dense kernel looks first whether
    a row has a spike at all.
    """

    x: Value
    w: Value
    b: Value | None = None
    _: KW_ONLY
    kernel: Method = "auto"
    skip_silent: bool = False

    def infer(self) -> tuple[Type, ...]:
        x, w = spikes(self, self.x, "x"), floating(self, self.w, "w")
        if w.rank != 2 or not x.rank or x.shape[-1] != w.shape[1]:
            raise self.error(f"{self.x} is {x} but {self.w} is {w}", why="[..., in] and [out, in] are wanted")
        if self.b is not None and floating(self, self.b, "b").shape != (w.shape[0],):
            raise self.error(f"bias {self.b} is {self.b.type}", why=f"it holds {w.shape[0]} numbers")
        return (w.with_shape((*x.shape[:-1], w.shape[0])),)


@op("spike.conv2d")
class SpikeConv2d(Op):
    """A convolution of binary events: sums of the weights of the inputs in the window that spike, plus bias.

    spikes [N,C,H,W], weights [O,C,kh,kw], bias [O] -> [N,O,H',W'] of the type of the weights.  With
    `skip_silent`, the dense kernel looks first whether an image has a spike at all.
    """

    x: Value
    w: Value
    b: Value | None = None
    _: KW_ONLY
    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, ...] = (0, 0)
    kernel: Method = "auto"
    skip_silent: bool = False

    def infer(self) -> tuple[Type, ...]:
        x, w = spikes(self, self.x, "x"), floating(self, self.w, "w")
        if x.rank != 4 or w.rank != 4 or x.shape[1] != w.shape[1]:
            raise self.error(
                f"{self.x} is {x} but {self.w} is {w}", why="[N,C,H,W] and [O,C,kh,kw] are wanted"
            )
        if self.b is not None and floating(self, self.b, "b").shape != (w.shape[0],):
            raise self.error(f"bias {self.b} is {self.b.type}", why=f"it holds {w.shape[0]} numbers")
        sizes = tuple(
            conv_output(self, size, kernel, stride, sides, 1)
            for size, kernel, stride, sides in zip(
                x.shape[2:], w.shape[2:], self.stride, pads_of(self, self.pad, 2), strict=True
            )
        )
        return (w.with_shape((x.shape[0], w.shape[0], *sizes)),)
