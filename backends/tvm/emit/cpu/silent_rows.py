"""Dense products of spikes on a CPU that leave out the images without a spike.

images = those that spike, then those that do not
for each block of columns, for each strip of rows of these images (in parallel)
    sums = 0
    if one of its images spikes: sums += left * right, over the depth
    result[rows of the strip] = epilogue(sums)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

from tvm import te, tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from plait.backends.tvm.emit.cpu.product import Product, Sums
from plait.backends.tvm.emit.cpu.reader import Place, Reader
from plait.backends.tvm.emit.cpu.spike_events import address, stored_row
from plait.backends.tvm.emit.cpu.writer import local, parallel, places, scratch, vector
from plait.backends.tvm.emit.expressions import number
from plait.backends.tvm.emit.loops import product, when, whole
from plait.backends.tvm.emit.table import Emitter, operations_below
from plait.ir.ops import spike


@dataclass
class SilentRows(Product):
    """A dense product that leaves out the images, or rows of a dense layer, without a spike.

    Images that spike come first in a list; strips of rows behind them store the epilogue of zero.

    Attributes:
        images: extents of the axes that count images.
        spikes: bytes of all images in memory.
        threads: share the strips by turns, so that each gets as many of those that spike.
    """

    images: list[Expr] = field(default_factory=list)
    spikes: te.Tensor | None = None
    threads: int = 1
    _order: Any = None
    _count: Any = None

    @property
    def method(self) -> str:
        """How it is computed."""
        return f"{super().method}, nothing for silent images"

    def write(self, read: Reader, result: te.Tensor, axes: Sequence[int], buffer: Any) -> None:
        """Write the loops; see `Product.write`."""
        assert self.spikes is not None
        count, images = len(self.images), product(self.images)
        trail = self.spikes.shape[count:]
        fires, self._order = scratch("bool", [images]), scratch("int32", [images])
        self._count = local("int64", 2)
        with parallel(images) as image:
            start = (*places(image, self.images), *[whole(0)] * len(trail))
            first = address(read(self.spikes(*start)))
            spike_at = tirx.call_extern("handle", "memchr", first, number(1, "int32"), product(trail))
            T.buffer_store(fires, tirx.Not(tirx.isnullptr(spike_at)), [image])
        T.buffer_store(self._count, whole(0), [whole(0)])
        with T.serial(whole(0), images) as image, when(fires[image]):
            self._append(image, 0)
        T.buffer_store(self._count, self._count[whole(0)], [whole(1)])
        with T.serial(whole(0), images) as image, when(tirx.Not(fires[image])):
            self._append(image, 1)
        super().write(read, result, axes, buffer)

    def _append(self, image: Expr, counter: int) -> None:
        place = whole(counter)
        T.buffer_store(self._order, tirx.Cast("int32", image), [self._count[place]])
        T.buffer_store(self._count, self._count[place] + 1, [place])

    @contextmanager
    def _tiles(self, read: Reader) -> Iterator[tuple[Place, Expr, list[Place], Sums]]:
        """Loops over all tiles; inside, the place of one and its sums."""
        tile, rows = self.tile, product(self.rows)
        of_image = product(self.rows[len(self.images) :])
        blocks = tirx.floordiv(self.columns + (tile.lanes - 1), whole(tile.lanes))
        strips = tirx.floordiv(rows + (tile.rows - 1), whole(tile.rows))
        share = tirx.floordiv(strips + (self.threads - 1), whole(self.threads))
        turns = share * self.threads
        grid = [turns, blocks] if self.rows_first else [blocks, turns]
        with parallel(product(grid)) as index:
            turn, block = places(index, grid) if self.rows_first else reversed(places(index, grid))
            strip = tirx.floormod(turn, share) * self.threads + tirx.floordiv(turn, share)
            with when(strip < strips):
                at = []
                for r in range(tile.rows):
                    listed = tirx.min(strip * tile.rows + r, rows - 1)
                    image = tirx.Cast("int64", self._order[tirx.floordiv(listed, of_image)])
                    place = places(tirx.floormod(listed, of_image), self.rows[len(self.images) :])
                    at.append((*places(image, self.images), *place))
                spiking = strip * tile.rows < self._count[whole(0)] * of_image
                yield (), block, at, self._sums(read, block, at, spiking)

    def _sums(self, read: Reader, block: Expr, rows: Sequence[Place], spiking: Expr) -> Sums:
        """The sums of a tile, zero where none of its rows spikes."""
        tile, dtype = self.tile, str(self.sums.dtype)
        sums = Sums([self._zeroed(dtype, tile.lanes) for _ in rows], None, [])
        with when(spiking), ExitStack() as stack:
            depth = tuple(stack.enter_context(T.serial(whole(0), extent)) for extent in self.depth)
            elements = [read(self.left((), row, block, depth)) for row in rows]
            for array, element in zip(sums.of_rows, elements, strict=True):
                for start in range(0, tile.lanes, tile.width):
                    with vector(tile.width) as lane:
                        column = read(self.right((), block, depth, start + lane))
                        T.buffer_store(array, array[start + lane] + element * column, [start + lane])
        return sums


def skip_silent(op: Any, x: te.Tensor, emitter: Emitter) -> None:
    """Let the product of a dense layer leave out images without a spike."""
    for sums, loops in list(emitter.products.items()):
        if not isinstance(loops, Product):
            continue
        given = {item.name: getattr(loops, item.name) for item in fields(Product)}
        if not any(tensor.op.name == "pad" for tensor in loops.stored):
            numbers = [tensor for tensor in operations_below([loops.sums]) if tensor.op.name == "numbers"]
            given["stored"] = [*numbers, *loops.stored]
        is_image = isinstance(op, spike.SpikeConv2d)
        count = 1 if is_image else len(op.x.type.shape) - 1
        in_one_piece = is_image and emitter.layouts.get(op.x, (0,))[0] == 0
        emitter.products[sums] = SilentRows(
            **given,
            images=loops.rows[:count],
            spikes=emitter.stored(op.x)[0] if in_one_piece else stored_row(op, x, emitter),
            threads=emitter.cpu.threads,
        )


__all__ = ["SilentRows", "skip_silent"]
