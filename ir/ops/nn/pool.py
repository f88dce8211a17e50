"""nn: pooling and resampling."""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Literal

from plait.ir.dims import IntLike
from plait.ir.op import Op, op, shaped
from plait.ir.ops.common import conv_output, floating, pads_of
from plait.ir.types import ShapedType, Type
from plait.ir.value import Value


def pooled(
    op: Op,
    kind: ShapedType,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    pad: tuple[int, ...],
    dilation: tuple[int, ...],
    ceil: bool,
) -> ShapedType:
    """Type after pooling over the trailing axes with a window each.

    Raises VerifyError where a pad exceeds half of its window, which would let a
    window lie outside the input.
    """
    spatial = len(kernel)
    if kind.rank != spatial + 2:
        raise op.error(f"the input is {kind}", why=f"rank {spatial + 2} is wanted")
    pads = pads_of(op, pad, spatial)
    for window, d, sides in zip(kernel, dilation, pads, strict=True):
        if max(sides) > (d * (window - 1) + 1) // 2 and max(sides) >= window:
            raise op.error(f"pad {list(pad)} exceeds the window {list(kernel)}")
    sizes = tuple(
        conv_output(op, size, k, s, p, d, ceil)
        for size, k, s, p, d in zip(kind.shape[2:], kernel, stride, pads, dilation, strict=True)
    )
    return kind.with_shape((*kind.shape[:2], *sizes))


@op("nn.max_pool2d")
class MaxPool2d(Op):
    """Largest element of each window, NCHW; pads never win."""

    x: Value
    _: KW_ONLY
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, ...] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    ceil: bool = False

    def infer(self) -> tuple[Type, ...]:
        return (
            pooled(
                self, shaped(self, self.x, "x"), self.kernel, self.stride, self.pad, self.dilation, self.ceil
            ),
        )


@op("nn.avg_pool2d")
class AvgPool2d(Op):
    """Mean of each window, NCHW; `count_pad` divides by the whole window, else by the elements inside."""

    x: Value
    _: KW_ONLY
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, ...] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    ceil: bool = False
    count_pad: bool = False

    def infer(self) -> tuple[Type, ...]:
        return (
            pooled(
                self,
                floating(self, self.x, "x"),
                self.kernel,
                self.stride,
                self.pad,
                self.dilation,
                self.ceil,
            ),
        )


@op("nn.adaptive_avg_pool2d")
class AdaptiveAvgPool2d(Op):
    """Mean over a grid of `size` windows, window i of n covering [i*h//n, ceil((i+1)*h/n))."""

    x: Value
    _: KW_ONLY
    size: tuple[int, int]

    def infer(self) -> tuple[Type, ...]:
        kind = floating(self, self.x, "x")
        if kind.rank != 4 or min(self.size) < 1:
            raise self.error(
                f"{self.x} is {kind} and size {list(self.size)}", why="NCHW and a size of 1 or more"
            )
        return (kind.with_shape((*kind.shape[:2], *self.size)),)


@op("nn.resize2d")
class Resize2d(Op):
    """NCHW resampled to `size` rows and columns.

    `coordinates` maps a result index to the source: half_pixel (i + 0.5) * scale - 0.5,
    align_corners i * (h-1)/(h_out-1), asymmetric i * scale.
    """

    x: Value
    _: KW_ONLY
    size: tuple[IntLike, IntLike]
    mode: Literal["nearest", "linear", "cubic"] = "nearest"
    coordinates: Literal["half_pixel", "align_corners", "asymmetric"] = "half_pixel"

    def infer(self) -> tuple[Type, ...]:
        kind = floating(self, self.x, "x")
        if kind.rank != 4 or any(isinstance(s, int) and s < 1 for s in self.size):
            raise self.error(
                f"{self.x} is {kind} and size {list(map(str, self.size))}", why="NCHW and sizes above 0"
            )
        return (kind.with_shape((*kind.shape[:2], *self.size)),)
