"""nn: windows over any number of spatial axes."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY

from plait.ir.dims import IntLike, product
from plait.ir.op import Op, op
from plait.ir.ops.common import conv_output, numeric, pads_of
from plait.ir.ops.nn.pool import pooled
from plait.ir.types import TensorType, Type, i64
from plait.ir.value import Value


@op("nn.max_pool_indices")
class MaxPoolIndices(Op):
    """Place of the largest element of each window, [N, C, *spatial] -> i64 [N, C, *windows].

    A place counts the elements of one channel in row-major order; of equals it is the
    first.  There is a window for each number of `kernel`, over as many trailing axes.
    """

    x: Value
    _: KW_ONLY
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil: bool = False

    def infer(self) -> tuple[Type, ...]:
        kind = numeric(self, self.x, "x")
        if not len(self.kernel) == len(self.stride) == len(self.dilation):
            raise self.error("kernel, stride and dilation differ in length")
        found = pooled(self, kind, self.kernel, self.stride, self.pad, self.dilation, self.ceil)
        return (TensorType(i64, found.shape),)


@op("nn.fold")
class Fold(Op):
    """Sum of overlapping windows, [N, C * window, blocks] -> [N, C, *size] (col2im).

    Element (c, k) of a block is added where the kernel element k of a convolution
    with these attributes would read channel c; what falls on pads is dropped.  Blocks
    are in row-major order.
    """

    x: Value
    _: KW_ONLY
    size: tuple[IntLike, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[int, ...]
    dilation: tuple[int, ...]

    def blocks(self) -> tuple[IntLike, ...]:
        """Number of windows along each spatial axis."""
        pads = pads_of(self, self.pad, len(self.kernel))
        return tuple(
            conv_output(self, size, k, s, p, d)
            for size, k, s, p, d in zip(self.size, self.kernel, self.stride, pads, self.dilation, strict=True)
        )

    def infer(self) -> tuple[Type, ...]:
        kind = numeric(self, self.x, "x")
        if not len(self.size) == len(self.kernel) == len(self.stride) == len(self.dilation) > 0:
            raise self.error("size, kernel, stride and dilation differ in length")
        if kind.rank != 3:
            raise self.error(f"{self.x} is {kind}", why="[N, C * window, blocks] is wanted")
        batch, channels, count = kind.shape
        window = math.prod(self.kernel)
        if isinstance(channels, int) and channels % window:
            raise self.error(f"{channels} channels of {self.x} are no multiple of the window's {window}")
        if product(self.blocks()) != count:
            raise self.error(
                f"{self.x} has {count} blocks", why=f"the attributes give {product(self.blocks())}"
            )
        return (kind.with_shape((batch, channels // window, *self.size)),)
