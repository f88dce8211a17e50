"""Windows over channels-last images: depthwise convolution and pooling, vectors along the channels.

    for each image and row of the result (in parallel)
        for each tile of pixels, for each vector of channels
            found = start
            for each place of the window: found[pixel, :] = combine(found, x[pixel + place, :])
            result[pixel, :] = epilogue(found)

No border is stored: rows of the window that lie outside are skipped, and tiles at the left
and right edge check each pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import te, tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from plait.backends.tvm.emit.cpu.reader import Reader
from plait.backends.tvm.emit.cpu.writer import local, parallel, places, vector
from plait.backends.tvm.emit.expressions import number
from plait.backends.tvm.emit.loops import product, whole
from plait.backends.tvm.emit.table import Arguments, Emitter, Packing
from plait.ir import Dim

#: Registers that a tile may fill beside those of operands.
_ACCUMULATORS = 12


@dataclass
class Window:
    """A reduction over the window of each pixel, channel by channel.

    Attributes:
        sums: stands for the result [n, c, y, x] in the epilogue.
        width: lanes of a vector; they divide the channels.
        size: height and width of the operand.
        kernel, stride, dilation, pad: of the window; `pad` is what lies above and left.
        start: the value of an empty window.
        read: the element of the operand at (n, c, y, x).
        combine: (found, element, c, (ky, kx)) -> found.
    """

    sums: te.Tensor
    width: int
    size: tuple[Expr, Expr]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    pad: tuple[int, int]
    start: Expr
    read: Callable[[Expr, Expr, Expr, Expr], Expr]
    combine: Callable[[Expr, Expr, Expr, tuple[Expr, Expr]], Expr]

    @property
    def method(self) -> str:
        """How it is computed."""
        return f"window of {self.width} channels"

    def write(self, read: Reader, result: te.Tensor, axes: Sequence[int], buffer: Any) -> None:
        """Write the loops; see `Product.write`."""
        n, channels, height, width = self.sums.shape
        vectors = 2 if int(channels) % (2 * self.width) == 0 else 1
        pixels = _pixels_of_tile(width, max(1, _ACCUMULATORS // vectors))
        tiles = tirx.floordiv(width + (pixels - 1), whole(pixels))
        with parallel(product([n, height])) as index:
            image, y = places(index, [n, height])
            with (
                T.serial(whole(0), tiles) as tile,
                T.serial(whole(0), whole(int(channels) // (vectors * self.width))) as block,
            ):
                row = _Tile(
                    n=image,
                    y=y,
                    pixels=[tirx.min(tile * pixels + p, width - 1) for p in range(pixels)],
                    first=block * (vectors * self.width),
                    vectors=vectors,
                )
                found = self._reduce(read, row)
                for p, x in enumerate(row.pixels):
                    for v in range(vectors):
                        self._store(read, result, axes, buffer, row, x, v, found[p])

    def _reduce(self, read: Reader, row: _Tile) -> list[Any]:
        dtype = str(self.sums.dtype)
        found = [local(dtype, row.vectors * self.width) for _ in row.pixels]
        for array in found:
            for start in range(0, row.vectors * self.width, self.width):
                with vector(self.width) as lane:
                    T.buffer_store(array, self.start, [start + lane])
        (sy, sx), (dy, dx), (py, px) = self.stride, self.dilation, self.pad
        ky, kx = self.kernel
        top = row.y * sy - py
        # Rows ky of the window with 0 <= top + ky * dy < height.
        low = tirx.max(tirx.floordiv(whole(dy - 1) - top, whole(dy)), whole(0))
        high = tirx.min(tirx.floordiv(self.size[0] - 1 - top, whole(dy)) + 1, whole(ky))
        left = row.pixels[0] * sx - px
        right = row.pixels[-1] * sx - px + (kx - 1) * dx
        with T.If(tirx.And(left >= 0, right < self.size[1])):
            with T.Then(), T.serial(low, high) as k:
                self._row(read, row, found, top + k * dy, k, checked=False)
            with T.Else(), T.serial(low, high) as k:
                self._row(read, row, found, top + k * dy, k, checked=True)
        return found

    def _row(self, read: Reader, row: _Tile, found: list[Any], y: Expr, k: Expr, *, checked: bool) -> None:
        """Take one row of the window into a tile."""
        for kx in range(self.kernel[1]):
            for p, pixel in enumerate(row.pixels):
                x = pixel * self.stride[1] - self.pad[1] + kx * self.dilation[1]
                with ExitStack() as stack:
                    if checked:
                        stack.enter_context(T.If(tirx.And(x >= 0, x < self.size[1])))
                        stack.enter_context(T.Then())
                    for v in range(row.vectors):
                        start = v * self.width
                        with vector(self.width) as lane:
                            channel = row.first + start + lane
                            element = self.read(row.n, channel, y, x)
                            value = self.combine(found[p][start + lane], element, channel, (k, whole(kx)))
                            T.buffer_store(found[p], read(value), [start + lane])

    def _store(
        self,
        read: Reader,
        result: te.Tensor,
        axes: Sequence[int],
        buffer: Any,
        row: _Tile,
        x: Expr,
        v: int,
        found: Any,
    ) -> None:
        with vector(self.width) as lane:
            where = (row.n, row.first + v * self.width + lane, row.y, x)
            place = [where[axis] for axis in axes]
            read.bind_function(self.sums, lambda _: found[v * self.width + lane])
            T.buffer_store(buffer, read.element(result, place), place)


def integer_window(
    op: Any,
    args: Arguments,
    emitter: Emitter,
    pads: Sequence[tuple[int, int]],
    centred: Callable[[Expr], Expr],
    element: Callable[[Expr, tuple[Expr, ...]], Expr],
) -> te.Tensor | None:
    """A 2-d convolution of each channel of bytes on its own, in vectors of channels.

    None where channels do not lie innermost in whole vectors, or the filters are no constant.

    Args:
        centred: an element of the image in 32 bits, its zero point off.
        element: one of the filters, likewise, from what is stored and its place.
    """
    kind = op.x.type
    if not emitter.packs(op.w) or kind.rank != 4 or emitter.layouts.get(op.x) != (0, 2, 3, 1):
        return None
    width, channels = emitter.cpu.lanes, kind.shape[1]
    if isinstance(channels, Dim) or channels % width:
        return None
    kernel = (int(op.w.type.shape[2]), int(op.w.type.shape[3]))
    layout = Packing("depthwise", lambda array: np.ascontiguousarray(np.moveaxis(array[:, 0], 0, -1)))
    filters = emitter.packed(op.w, (*kernel, int(channels)), layout)
    zero = whole(0)

    def filter_at(c: Expr, k: tuple[Expr, Expr]) -> Expr:
        return element(filters(*k, c), (c, zero, *k))

    def read(n: Expr, c: Expr, y: Expr, x: Expr) -> Expr:
        return centred(args.x(n, c, y, x))

    sums = te.compute(
        emitter.shape(op.result.type.shape),
        lambda n, c, y, x: read(n, c, zero, zero) * filter_at(c, (zero, zero)),
        name="window",
    )
    height, length = emitter.shape(kind.shape[2:])
    emitter.products[sums.op] = Window(
        sums=sums,
        width=width,
        size=(height, length),
        kernel=kernel,
        stride=tuple(op.stride),
        dilation=tuple(op.dilation),
        pad=(pads[0][0], pads[1][0]),
        start=number(0, "int32"),
        read=read,
        combine=lambda found, x, c, k: found + x * filter_at(c, k),
    )
    return sums


@dataclass(frozen=True)
class _Tile:
    """Some pixels of a row and vectors of channels."""

    n: Expr
    y: Expr
    pixels: list[Expr]
    first: Expr
    vectors: int


def _pixels_of_tile(width: Expr, most: int) -> int:
    """How many pixels a tile holds: as many as possible while little is computed twice."""
    size = getattr(width, "value", None)
    if size is None:
        return min(4, most)
    return min(range(1, most + 1), key=lambda p: (-(-int(size) // p) * p * (1 + 1 / p), -p))


__all__ = ["Window", "integer_window"]
