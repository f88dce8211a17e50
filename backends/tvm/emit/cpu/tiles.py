"""Register tiles of products: how many rows and vectors of columns one strip accumulates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from plait.backends.targets import CpuTarget
from plait.backends.tvm.emit.table import Packing
from plait.ir import IntLike

if TYPE_CHECKING:
    from plait.backends.tvm.emit.table import Emitter

#: Sums in flight that keep two pipelines of latency four to five busy.
_BUSY = 10
#: Bytes of weights that stay in the cache of a core while strips of rows pass by.
_SMALL_WEIGHTS = 256 << 10
#: Rows and weights of a product that memory holds up.
_FEW_ROWS, _MANY_WEIGHTS = 64, 1 << 20


@dataclass(frozen=True)
class Tile:
    """`rows` times `vectors` accumulators of `width` columns each."""

    rows: int
    vectors: int
    width: int

    def __str__(self) -> str:
        return f"{self.rows} x {self.lanes}"

    @property
    def lanes(self) -> int:
        """Columns of the tile."""
        return self.vectors * self.width


def choose_tile(
    target: CpuTarget, rows: IntLike, columns: int, *, bits: int = 32, divides: int | None = None
) -> Tile:
    """The tile with the least time per useful multiply-add.

    A step over the depth issues rows * vectors multiply-adds and rows + vectors loads, two of
    either in a cycle, and cannot be shorter than the latency of one multiply-add over the
    accumulators.  Rows and columns that a tile has too many are computed for nothing.

    Args:
        rows: how many rows there are; one that only a run shows counts as many.
        bits: of one accumulator.
        divides: columns that the tile's must divide, for grouped products.
    """
    width = target.vector_bits // bits
    best: tuple[float, Tile] | None = None
    for vectors in (1, 2, 3, 4):
        if vectors > 1 and (vectors - 1) * width >= columns:
            continue
        if divides is not None and divides % (vectors * width):
            continue
        for height in range(1, 15):
            # One register for the broadcast element beside those of the weights.
            if height * vectors + vectors + 1 > target.registers and height * vectors > 1:
                break
            tile = Tile(height, vectors, width)
            cost = tile_cost(tile, rows, columns)
            if best is None or cost < best[0]:
                best = (cost, tile)
    return best[1] if best is not None else Tile(1, 1, width)


def tile_cost(tile: Tile, rows: IntLike, columns: int) -> float:
    """Cycles per useful multiply-add of one vector, as far as they can be estimated."""
    sums = tile.rows * tile.vectors
    cycles = max(sums, tile.rows + tile.vectors, _BUSY) / 2
    # Loads that fill the other pipelines leave less room for waiting on memory.
    cycles *= 1 + 0.05 * (tile.rows + tile.vectors) / sums
    computed = -(-columns // tile.lanes) * tile.lanes / columns
    if isinstance(rows, int):
        strips = -(-rows // tile.rows)
        computed *= strips * tile.rows / rows
        # Weights pass by once for each strip; where there is one, they need no cache.
        computed *= 1 + 0.05 * (1 - 1 / strips)
    elif (factor := int(np.gcd.reduce([abs(c) for c in rows.terms.values()]))) % tile.rows:
        # Many images fill strips of any height; few sequences of one row each do not.
        computed *= 1.05 if factor >= 32 else tile.rows**0.5
    # Of tiles that take equally long, the one that computes less for nothing.
    return cycles / sums * computed**1.1


def chosen_tile(
    emitter: Emitter,
    rows: IntLike,
    columns: int,
    depth: IntLike,
    *,
    bits: int = 32,
    divides: int | None = None,
    kept: int = 0,
) -> tuple[Tile, bool]:
    """The register tile of a product, and whether its strips of rows are the outer loop.

    Where no measurement decides, `choose_tile` does (see there for the arguments), and weights that
    stay in the cache of a core are the inner loop.

    Args:
        kept: registers that something else fills.
    """
    target, choice = emitter.cpu, emitter.choice
    if choice is not None:
        tile = Tile(choice.rows, choice.vectors, target.vector_bits // bits)
        if choice.fits(target.registers) and (divides is None or divides % tile.lanes == 0):
            return tile, choice.rows_first
    small = isinstance(depth, int) and depth * columns * bits // 8 <= _SMALL_WEIGHTS
    left = replace(target, registers=target.registers - kept)
    return choose_tile(left, rows, columns, bits=bits, divides=divides), small


def streams_weights(rows: IntLike, columns: int, depth: IntLike) -> bool:
    """Whether the time goes into reading weights from memory: there are many, and few rows use each."""
    if not isinstance(rows, int) or not isinstance(depth, int):
        return False
    return rows <= _FEW_ROWS and columns * depth >= _MANY_WEIGHTS


def pack_columns(lanes: int, matrix: np.ndarray) -> np.ndarray:
    """[columns, depth...] as [blocks, depth..., lanes], the last block filled up with zeros."""
    columns = matrix.shape[0]
    blocks = -(-columns // lanes)
    filled = np.zeros((blocks * lanes, *matrix.shape[1:]), matrix.dtype)
    filled[:columns] = matrix
    return np.ascontiguousarray(np.moveaxis(filled.reshape(blocks, lanes, *matrix.shape[1:]), 1, -1))


def packing(
    lanes: int,
    key: str = "",
    *,
    groups: int = 1,
    arrange: Callable[[np.ndarray], np.ndarray] | None = None,
    dtype: str | None = None,
) -> Packing:
    """The layout [blocks, depth..., lanes] of a constant right operand.

    Args:
        key: names what `arrange` does.
        groups: how many parts of the columns are laid out each on its own.
        arrange: brings the stored array into the form [columns, depth...].
        dtype: element type where it is not that of the constant.
    """

    def apply(array: np.ndarray) -> np.ndarray:
        matrix = array if arrange is None else arrange(array)
        return np.concatenate([pack_columns(lanes, part) for part in np.split(matrix, groups)])

    return Packing(f"lanes={lanes},groups={groups}{',' if key else ''}{key}", apply, dtype)
