"""Matrix products in the two shapes that the schedules know: plain, and tiled for vector registers.

On a GPU a product is one reduction over plain operands, which the tiling rules of
the GPU scheduler recognise.  On a CPU the right operand is laid out in blocks of
`lanes` columns, [blocks, depth, lanes], by this machine's vector width: at compile
time where it is a constant, in a block of the kernel otherwise.  A block of
`tile` rows times `lanes` columns is then accumulated in registers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import te, tirx
from tvm.ir import Expr

from plait.backends.targets import CpuTarget
from plait.backends.tvm.emit.expressions import number
from plait.backends.tvm.emit.table import Emitter, Packing
from plait.ir import IntLike

Index = tuple[Expr, ...]


@dataclass(frozen=True)
class Tile:
    """Register tile: `rows` accumulators of `lanes` columns each."""

    rows: int
    lanes: int


@dataclass(frozen=True)
class Rows:
    """How the rows of a product, the last dim that only the left operand has, are tiled.

    Attributes:
        tile: the register tile.
        count: number of rows.
        exact: whether strips fill the rows, so that none repeats one.
    """

    tile: Tile
    count: IntLike
    exact: bool

    @property
    def strips(self) -> IntLike:
        """Number of strips of `tile.rows` rows."""
        if self.exact:
            return self.count // self.tile.rows
        return (self.count + self.tile.rows - 1) // self.tile.rows


def choose_rows(
    target: CpuTarget, count: IntLike, columns: int, *, many: bool = True, lanes_divide: bool = False
) -> Rows:
    """The tile with the most multiply-adds per load among those that waste little.

    A tile of r rows and v vectors loads r + v times for r*v multiply-adds and needs
    r*v accumulators beside a few registers for the operands.

    Args:
        count: rows; a strip that they do not fill repeats the last one.
        many: whether a count that is known at run time only is mostly large (a
            length rather than a batch).
        lanes_divide: whether only tiles whose lanes divide the columns will do.
    """
    candidates: list[tuple[float, Rows]] = []
    for vectors in (1, 2, 3, 4):
        lanes = vectors * target.lanes
        if (vectors > 1 and lanes >= 2 * columns) or (lanes_divide and columns % lanes):
            continue
        for height in range(1, 15):
            if height * vectors > target.registers - 4:
                break
            exact = _constant_factor(count) % height == 0
            if isinstance(count, int):
                used = 0.0 if height > count else count / (-(-count // height) * height)
            else:
                used = 1.0 if exact else 0.9 if many and height <= 4 else 0.0
            if used:
                tile = Tile(height, lanes)
                candidates.append((_score(target, tile, columns, used), Rows(tile, count, exact)))
    if not candidates:
        return Rows(Tile(1, target.lanes), count, True)
    return max(candidates, key=lambda candidate: candidate[0])[1]


def _score(target: CpuTarget, tile: Tile, columns: int, used: float) -> float:
    vectors = tile.lanes // target.lanes
    padded = -(-columns // tile.lanes) * tile.lanes
    # Ten independent sums keep two pipelines of latency five busy.
    busy = min(1.0, tile.rows * vectors / 10)
    return used * columns / padded * busy * (tile.rows * vectors) / (tile.rows + vectors)


def _constant_factor(dim: IntLike) -> int:
    """The largest constant known to divide a dim; 1 for a bare symbol."""
    if isinstance(dim, int):
        return dim
    return int(np.gcd.reduce([abs(c) for c in dim.terms.values()]))


def pack_columns(tile: Tile, matrix: np.ndarray) -> np.ndarray:
    """[columns, depth...] as [blocks, depth..., lanes], the last block filled up with zeros."""
    columns = matrix.shape[0]
    blocks = -(-columns // tile.lanes)
    filled = np.zeros((blocks * tile.lanes, *matrix.shape[1:]), matrix.dtype)
    filled[:columns] = matrix
    return np.ascontiguousarray(np.moveaxis(filled.reshape(blocks, tile.lanes, *matrix.shape[1:]), 1, -1))


def packing(tile: Tile, groups: int = 1, *, transposed: bool = False) -> Packing:
    """The layout of a constant right operand; `transposed` where it is stored as [depth, columns]."""

    def apply(array: np.ndarray) -> np.ndarray:
        matrix = np.swapaxes(array, 0, 1) if transposed else array
        parts = np.split(matrix, groups)
        return np.concatenate([pack_columns(tile, part) for part in parts])

    return Packing(f"lanes={tile.lanes},groups={groups},transposed={transposed}", apply)


def matrix_product(
    emitter: Emitter,
    *,
    batch: Sequence[IntLike],
    rows: Sequence[IntLike],
    columns: IntLike,
    depth: IntLike,
    left: Callable[[Index, Index, Expr], Expr],
    right: Callable[[Index, Expr, Expr], Expr],
    packed: Callable[[Tile], tuple[te.Tensor, Callable[[Expr], Expr]]] | None,
    finish: Callable[[Index, Expr], Expr],
    name: str,
) -> te.Tensor:
    """`finish(place, sum over r of left[batch, rows, r] * right[batch, r, column])`.

    Args:
        batch: leading dims that both operands share.
        rows: dims of the left operand that only it has; the last one is tiled.
        left: its element by batch coordinates, row coordinates and depth.
        right: its element by batch coordinates, depth and column.
        packed: gives the right operand in the layout of a tile, and how to read an element of it.
        finish: the result from its coordinates [batch, rows, column] and the sum.

    Returns:
        A tensor [batch, rows, columns].
    """
    shape = emitter.shape((*batch, *rows, columns))
    over = emitter.axis(depth, "depth")
    if not isinstance(emitter.target, CpuTarget) or not isinstance(columns, int) or not rows:
        lead, split = len(batch), len(batch) + len(rows)

        def term(*i: Expr) -> Expr:
            return left(i[:lead], i[lead:split], over.var) * right(i[:lead], over.var, i[split])

        plain = te.compute(shape, lambda *i: te.sum(term(*i), axis=over), name=name)
        return te.compute(shape, lambda *i: finish(i, plain(*i)), name=f"{name}_result")
    plan = choose_rows(emitter.target, rows[-1], columns, many=len(batch) + len(rows) > 1)
    tile, lead = plan.tile, len(shape) - 2
    blocks = -(-columns // tile.lanes)
    row_count = emitter.dim(plan.count)
    if packed is not None:
        weight, decode = packed(tile)

        def read_right(b: Index, block: Expr, r: Expr, lane: Expr) -> Expr:
            return decode(weight(block, r, lane))
    else:
        copied = _pack_in_kernel(emitter, emitter.shape(batch), blocks, depth, columns, tile, right)

        def read_right(b: Index, block: Expr, r: Expr, lane: Expr) -> Expr:
            return copied(*b[: len(batch)], block, r, lane)

    def accumulate(*i: Expr) -> Expr:
        b, (block, outer, inner, lane) = i[:lead], i[lead:]
        row = outer * tile.rows + inner
        if not plan.exact:
            # Rows past the end repeat the last one; no result reads them.
            row = te.min(row, row_count - 1)
        places = (*b[len(batch) :], row)
        return te.sum(
            left(b[: len(batch)], places, over.var) * read_right(b, block, over.var, lane), axis=over
        )

    sums = te.compute(
        [*shape[:lead], *emitter.shape((blocks, plan.strips, tile.rows, tile.lanes))],
        accumulate,
        name="accumulate",
        attrs=tile_attributes(tile, lead, lead + 1),
    )

    def at(*i: Expr) -> Expr:
        row, column = i[-2:]
        strip, inner = tirx.floordiv(row, tile.rows), tirx.floormod(row, tile.rows)
        block, lane = tirx.floordiv(column, tile.lanes), tirx.floormod(column, tile.lanes)
        return finish(i, sums(*i[:lead], block, strip, inner, lane))

    return te.compute(shape, at, name=f"{name}_result")


def _pack_in_kernel(
    emitter: Emitter,
    batch: list[Expr],
    blocks: int,
    depth: IntLike,
    columns: int,
    tile: Tile,
    right: Callable[[Index, Expr, Expr], Expr],
) -> te.Tensor:
    """The right operand as [batch, blocks, depth, lanes], computed by the kernel itself."""
    shape = [*batch, emitter.dim(blocks), emitter.dim(depth), emitter.dim(tile.lanes)]

    def at(*i: Expr) -> Expr:
        b, (block, r, lane) = i[: len(batch)], i[len(batch) :]
        column = block * tile.lanes + lane
        found = right(b, r, column)
        if columns % tile.lanes == 0:
            return found
        return tirx.if_then_else(column < columns, found, number(0, str(found.ty.dtype)))

    return te.compute(shape, at, name="pack")


def tile_attributes(tile: Tile, row_axis: int, column_axis: int) -> dict[str, Any]:
    """What the CPU scheduler reads: the tile, and which axes of the result its rows and columns are."""
    return {
        "plait.tile_rows": tile.rows,
        "plait.tile_lanes": tile.lanes,
        "plait.row_axis": row_axis,
        "plait.column_axis": column_axis,
    }
