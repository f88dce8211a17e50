"""Products on a CPU: rows times packed columns, a register tile at a time, finished where it lies.

    for each block of columns, for each strip of rows (in parallel)
        sums = 0                                  rows * vectors registers
        for each step of the depth
            sums[r, :] += left[r] * right[:]      one broadcast element times a vector
        result[r, :] = epilogue(sums[r, :])       bias, activation, residual, ...

Matrix products, dense layers and convolutions are all of this form; they differ in how a
row and a step of the depth name an element of the left operand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from tvm import te, tirx
from tvm.ir import Expr
from tvm.ir.expr import TensorLoad
from tvm.script.ir_builder import tirx as T

from plait.backends.tvm.emit.cpu.dot import ONES, add_dots
from plait.backends.tvm.emit.cpu.reader import Place, Reader
from plait.backends.tvm.emit.cpu.tiles import Tile
from plait.backends.tvm.emit.cpu.writer import (
    local,
    parallel,
    places,
    scratch,
    store_map,
    store_vectors,
    vector,
)
from plait.backends.tvm.emit.expressions import number, size_of
from plait.backends.tvm.emit.loops import product, whole

#: Steps of the depth that weights are asked for ahead.
_AHEAD = 24


@dataclass(frozen=True)
class Sums:
    """What a tile has summed.

    Attributes:
        of_rows: sums of products [lanes], one array a row.
        of_columns: sums [lanes] of the right operand alone, or None.
        of_left: sums of the left operand alone, one array a row with the sum in every lane, or nothing.
    """

    of_rows: list[Any]
    of_columns: Any
    of_left: list[Any]


@dataclass
class Product:
    """A sum of products that a kernel written as loops computes.

    Attributes:
        sums: a tensor of the sums' shape that stands for them in the epilogue.
        tile: the register tile.
        batch, rows, depth: extents of the axes that both operands share, that only the left
            one has, and that are summed.
        columns: the extent of the axis that only the right operand has.
        left: the element at (batch, row, block of columns, depth).
        right: the element at (batch, block of columns, depth, lane).
        place: where the sum of (batch, row, column) stands in `sums`.
        stored: maps that are computed before the sums, into arrays of their own.
        dots: whether elements are words of four 8-bit integers, see `emit.cpu.dot`.
        left_tail: of words, the element at a step behind the depth, which holds what is left of a row.
        zeros: of words, what stands for zero in the left and the right elements; the kernel adds up
            either operand alone, and takes it off.
        terms: how many terms each sum has then.
        streams: whether weights are asked for some steps ahead, since they come from memory.
        fetched: what is asked for, at (batch, block, depth, lane); None: the element itself.
        rows_first: whether the strips of rows are the outer loop and the blocks of columns the inner one.
    """

    sums: te.Tensor
    tile: Tile
    batch: list[Expr]
    rows: list[Expr]
    columns: Expr
    depth: list[Expr]
    left: Callable[[Place, Place, Expr, Place], Expr]
    right: Callable[[Place, Expr, Place, Expr], Expr]
    place: Callable[[Place, Place, Expr], Sequence[Expr]]
    stored: list[te.Tensor] = field(default_factory=list)
    rows_first: bool = False
    dots: bool = False
    streams: bool = False
    left_tail: Callable[[Place, Place, Expr, Place], Expr] | None = None
    zeros: tuple[int, int] = (0, 0)
    terms: int = 0
    fetched: Callable[[Place, Expr, Place, Expr], Expr] | None = None

    @property
    def method(self) -> str:
        """How it is computed."""
        kind = "product by dots of 4" if self.dots else "product"
        return f"{kind} {self.tile}{', rows first' if self.rows_first else ''}"

    def write(self, read: Reader, result: te.Tensor, axes: Sequence[int], buffer: Any) -> None:
        """Write the loops.

        Args:
            result: the epilogue, a map over the sums.
            axes: for each axis of `result`, the axis of `sums` that it runs along.
            buffer: where the result goes.
        """
        for tensor in self.stored:
            array = scratch(str(tensor.dtype), tensor.shape)
            store_map(tensor, array, read, self.tile.width)
            read.bind(tensor, array)
        with self._tiles(read) as (batch, block, rows, sums):
            self._finish(read, result, axes, buffer, batch, block, rows, sums)

    def write_sums(self, read: Reader, buffer: Any) -> None:
        """Write loops that store the sums themselves in the places that `place` gives."""
        tile = self.tile
        with self._tiles(read) as (batch, block, rows, sums):
            for r, row in enumerate(rows):
                for v in range(tile.vectors):
                    start = block * tile.lanes + v * tile.width
                    with vector(tile.width) as lane:
                        place = self.place(batch, row, start + lane)
                        T.buffer_store(buffer, sums.of_rows[r][v * tile.width + lane], list(place))

    @contextmanager
    def _tiles(self, read: Reader) -> Iterator[tuple[Place, Expr, list[Place], Sums]]:
        """Loops over all tiles; inside, the place of one and its sums."""
        tile, rows = self.tile, product(self.rows)
        blocks = tirx.floordiv(self.columns + (tile.lanes - 1), whole(tile.lanes))
        strips = tirx.floordiv(rows + (tile.rows - 1), whole(tile.rows))
        inner = [strips, blocks] if self.rows_first else [blocks, strips]
        grid = [*self.batch, *inner]
        with parallel(product(grid)) as index:
            *lead, block, strip = places(index, grid)
            if self.rows_first:
                block, strip = strip, block
            numbers = [strip * tile.rows + r for r in range(tile.rows)]
            if not _divides(tile.rows, rows):
                # Rows past the end repeat the last one.
                numbers = [tirx.min(n, rows - 1) for n in numbers]
            at = [places(n, self.rows) for n in numbers]
            yield tuple(lead), block, at, self._accumulate(read, tuple(lead), block, at)

    def _accumulate(self, read: Reader, batch: Place, block: Expr, rows: Sequence[Place]) -> Sums:
        """Sum a tile."""
        tile, dtype = self.tile, str(self.sums.dtype)
        sums = Sums(
            [self._zeroed(dtype, tile.lanes) for _ in rows],
            self._zeroed(dtype, tile.lanes) if self.zeros[0] else None,
            [self._zeroed(dtype, tile.width) for _ in rows] if self.zeros[1] else [],
        )

        def add(depth: Place, left: Callable[[Place, Place, Expr, Place], Expr] = self.left) -> None:
            if self.streams:
                self._prefetch(read, batch, block, depth)
            elements = [read(left(batch, row, block, depth)) for row in rows]
            if self.dots:
                self._add_dots(read, batch, block, depth, elements, sums)
                return
            for array, element in zip(sums.of_rows, elements, strict=True):
                for start in range(0, tile.lanes, tile.width):
                    with vector(tile.width) as lane:
                        column = read(self.right(batch, block, depth, start + lane))
                        T.buffer_store(array, array[start + lane] + element * column, [start + lane])

        *outer, last = self.depth
        with ExitStack() as stack:
            lead = [stack.enter_context(T.serial(whole(0), extent)) for extent in outer]
            size = size_of(last)
            if size is not None and size % 2 == 0 and size > 2:
                half = stack.enter_context(T.serial(whole(0), whole(size // 2)))
                add((*lead, half * 2))
                add((*lead, half * 2 + 1))
            else:
                add((*lead, stack.enter_context(T.serial(whole(0), last))))
        if self.left_tail is not None:
            add((last,), self.left_tail)
        return sums

    def _zeroed(self, dtype: str, size: int) -> Any:
        """An array of zeros, as vectors."""
        array = local(dtype, size)
        for start in range(0, size, self.tile.width):
            with vector(self.tile.width) as lane:
                T.buffer_store(array, number(0, dtype), [start + lane])
        return array

    def _add_dots(
        self, read: Reader, batch: Place, block: Expr, depth: Place, elements: list[Expr], sums: Sums
    ) -> None:
        """Add one step of words; for zero points, dot products of either operand with ones too."""
        width, ones = self.tile.width, number(ONES, "int32")
        for start in range(0, self.tile.lanes, width):
            lanes = tirx.Ramp(whole(start), whole(1), width)
            words = read(self.right(batch, block, depth, lanes))
            for array, element in zip(sums.of_rows, elements, strict=True):
                T.buffer_store(array, add_dots(array[lanes], element, words, width), [lanes])
            if (alone := sums.of_columns) is not None:
                T.buffer_store(alone, add_dots(alone[lanes], ones, words, width), [lanes])
        if not sums.of_left:
            return
        lanes = tirx.Ramp(whole(0), whole(1), width)
        for array, element in zip(sums.of_left, elements, strict=True):
            T.buffer_store(
                array, add_dots(array[lanes], element, tirx.Broadcast(ones, width), width), [lanes]
            )

    def _prefetch(self, read: Reader, batch: Place, block: Expr, depth: Place) -> None:
        """Ask for the weights of a later step."""
        last = self.depth[-1] - 1
        later = (*depth[:-1], tirx.min(depth[-1] + _AHEAD, last))
        for start in range(0, self.tile.lanes, self.tile.width):
            element = read((self.fetched or self.right)(batch, block, later, whole(start)))
            while isinstance(element, tirx.Cast):
                element = element.value
            if not isinstance(element, TensorLoad):
                return
            address = tirx.call_intrin("handle", "tirx.address_of", element)
            T.evaluate(tirx.call_intrin("void", "tirx.prefetch", address, 0, 3, 1))

    def _finish(
        self,
        read: Reader,
        result: te.Tensor,
        axes: Sequence[int],
        buffer: Any,
        batch: Place,
        block: Expr,
        rows: Sequence[Place],
        sums: Sums,
    ) -> None:
        """Store the epilogue of a tile."""
        tile = self.tile
        limit = None if _divides(tile.lanes, self.columns) else self.columns
        for r, row in enumerate(rows):
            for v in range(tile.vectors):
                start = block * tile.lanes + v * tile.width

                def place(lane: Expr, row: Place = row, start: Expr = start) -> list[Expr]:
                    where = self.place(batch, row, start + lane)
                    return [where[axis] for axis in axes]

                def value(lane: Expr, place: Any = place, r: int = r, first: int = v * tile.width) -> Expr:
                    read.bind_function(self.sums, lambda _: self._total(sums, r, first, lane))
                    return read.element(result, place(lane))

                store_vectors(buffer, place, value, start, tile.width, limit)

    def _total(self, sums: Sums, r: int, first: int, lane: Expr) -> Expr:
        """The sum of a row and column of a tile, with zero points taken off."""
        found: Expr = sums.of_rows[r][first + lane]
        left, right = self.zeros
        if left:
            found = found - sums.of_columns[first + lane] * number(left, "int32")
        if right:
            found = found - sums.of_left[r][lane] * number(right, "int32")
        return found + number(left * right * self.terms, "int32") if left and right else found


def _divides(divisor: int, extent: Expr) -> bool:
    size = size_of(extent)
    return size is not None and size % divisor == 0


__all__ = ["Product"]
