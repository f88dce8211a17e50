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
from plait.backends.tvm.emit.expressions import number, size_of
from plait.backends.tvm.emit.table import Emitter, Packing
from plait.ir import Dim, IntLike
from plait.ir.dims import product

Index = tuple[Expr, ...]


@dataclass(frozen=True)
class Tile:
    """Register tile: `rows` accumulators of `lanes` columns each."""

    rows: int
    lanes: int


def choose_tile(target: CpuTarget, rows: IntLike, columns: int) -> Tile:
    """The tile with the most multiply-adds per load among those that waste little.

    A tile of r rows and v vectors loads r + v times for r*v multiply-adds and needs
    r*v accumulators beside a few registers for the operands.
    """
    # A dim that is only known at run time is mostly a batch, often of one sample.
    count = rows if isinstance(rows, int) else _constant_factor(rows)
    best, best_score = Tile(1, target.lanes), 0.0
    for vectors in (1, 2, 3, 4):
        lanes = vectors * target.lanes
        if vectors > 1 and lanes >= 2 * columns:
            break
        padded = -(-columns // lanes) * lanes
        for height in range(1, min(count, 14) + 1):
            if height * vectors > target.registers - 4:
                break
            used = columns / padded * count / (-(-count // height) * height)
            # Ten independent sums keep two pipelines of latency five busy.
            busy = min(1.0, height * vectors / 10)
            score = used * busy * (height * vectors) / (height + vectors)
            if score > best_score * 1.001:
                best, best_score = Tile(height, lanes), score
    return best


def _constant_factor(dim: Dim) -> int:
    """The largest constant known to divide a dim; 1 for a bare symbol."""
    coefficients = [abs(c) for c in dim.terms.values()]
    return int(np.gcd.reduce(coefficients))


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


def unflatten(index: Expr, dims: Sequence[Expr]) -> list[Expr]:
    """Coordinates of a flat row-major index."""
    found: list[Expr] = []
    for dim in reversed(dims[1:]):
        found.append(tirx.floormod(index, dim))
        index = tirx.floordiv(index, dim)
    return [index, *reversed(found)] if dims else []


def flatten(indices: Sequence[Expr], dims: Sequence[Expr]) -> Expr:
    """Flat row-major index of coordinates."""
    total: Expr = tirx.IntImm("int64", 0)
    for index, dim in zip(indices, dims, strict=True):
        total = total * dim + index
    return total


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
    accumulator: str,
    name: str,
) -> te.Tensor:
    """`finish(place, sum over r of left[batch, rows, r] * right[batch, r, column])`.

    Args:
        batch: leading dims that both operands share.
        rows: dims of the left operand that only it has; together they are the rows.
        left: its element by batch coordinates, row coordinates and depth.
        right: its element by batch coordinates, depth and column.
        packed: gives the right operand in the layout of a tile, and how to read an element of it.
        finish: the result from its coordinates [batch, rows, column] and the sum.
        accumulator: element type of the sum.

    Returns:
        A tensor [batch, rows, columns].
    """
    shape = emitter.shape((*batch, *rows, columns))
    over = emitter.axis(depth, "depth")
    if not isinstance(emitter.target, CpuTarget) or not isinstance(columns, int):
        lead, split = len(batch), len(batch) + len(rows)

        def term(*i: Expr) -> Expr:
            return left(i[:lead], i[lead:split], over.var) * right(i[:lead], over.var, i[split])

        plain = te.compute(shape, lambda *i: te.sum(term(*i), axis=over), name=name)
        return te.compute(shape, lambda *i: finish(i, plain(*i)), name=f"{name}_result")
    count = product(rows)
    tile = choose_tile(emitter.target, count, columns)
    blocks = -(-columns // tile.lanes)
    row_dims, batch_dims = emitter.shape(rows), emitter.shape(batch)
    row_count = emitter.dim(count)
    exact = isinstance(count, int) and count % tile.rows == 0
    height = count // tile.rows if exact else (count + tile.rows - 1) // tile.rows
    if packed is not None:
        weight, decode = packed(tile)

        def read_right(b: Index, block: Expr, r: Expr, lane: Expr) -> Expr:
            return decode(weight(block, r, lane))
    else:
        copied = _pack_in_kernel(emitter, batch_dims, blocks, depth, columns, tile, right)

        def read_right(b: Index, block: Expr, r: Expr, lane: Expr) -> Expr:
            return copied(*b, block, r, lane)

    def accumulate(*i: Expr) -> Expr:
        b, (block, outer, inner, lane) = i[: len(batch_dims)], i[len(batch_dims) :]
        row = outer * tile.rows + inner
        if not exact:
            # Rows past the end repeat the last one; no result reads them.
            row = te.min(row, row_count - 1)
        places = tuple(unflatten(row, row_dims))
        return te.sum(left(b, places, over.var) * read_right(b, block, over.var, lane), axis=over)

    sums = te.compute(
        [*batch_dims, emitter.dim(blocks), emitter.dim(height), emitter.dim(tile.rows), emitter.dim(tile.lanes)],
        accumulate,
        name="accumulate",
        attrs=tile_attributes(tile, list(range(len(batch), len(batch) + len(rows))), len(shape) - 1),
    )

    def at(*i: Expr) -> Expr:
        row = flatten(i[len(batch) : -1], row_dims)
        column = i[-1]
        found = sums(
            *i[: len(batch)],
            tirx.floordiv(column, tile.lanes),
            tirx.floordiv(row, tile.rows),
            tirx.floormod(row, tile.rows),
            tirx.floormod(column, tile.lanes),
        )
        return finish(i, found)

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


def tile_attributes(tile: Tile, row_axes: list[int], column_axis: int) -> dict[str, Any]:
    """What the CPU scheduler reads: the tile, and which axes of the result its rows and columns are."""
    return {
        "plait.tile_rows": tile.rows,
        "plait.tile_lanes": tile.lanes,
        "plait.row_axes": row_axes,
        "plait.column_axis": column_axis,
    }


__all__ = ["Tile", "choose_tile", "matrix_product", "packing", "size_of", "tile_attributes"]
