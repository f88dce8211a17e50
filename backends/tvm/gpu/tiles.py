"""Which part of a product a block and a warp of the tensor core kernel compute."""

from __future__ import annotations

from dataclasses import dataclass

from tvm.ir import Expr

from plait.backends.targets import GpuTarget
from plait.backends.tvm.gpu.product import Product, extent

#: Copies in flight: the tile that is multiplied and those on their way.
STAGES = 3
#: Multiply-adds a tensor core does in the time that one element of an operand takes to arrive.
_TRAFFIC = 24
#: What a dim that is known at run time only is taken for.
_UNKNOWN = 1024


@dataclass(frozen=True)
class Tile:
    """Shape of a block's part of the result, and of that of each of its warps.

    `depth_bytes` is how much of each row and column one copy stage holds.
    """

    rows: int
    columns: int
    warp_rows: int
    warp_columns: int
    depth_bytes: int = 64

    @property
    def warps(self) -> int:
        return (self.rows // self.warp_rows) * (self.columns // self.warp_columns)

    @property
    def threads(self) -> int:
        return 32 * self.warps

    @property
    def stage_bytes(self) -> int:
        """Shared memory of one stage; STAGES of the largest tile fill the 48 KiB that need no opt-in."""
        return (self.rows + self.columns) * self.depth_bytes


#: Largest first: the more a block holds, the less of the operands is read twice.
TILES = (
    Tile(128, 128, 64, 32),
    Tile(128, 64, 32, 32),
    Tile(64, 128, 32, 32),
    Tile(64, 64, 32, 32),
    Tile(64, 32, 32, 16),
    Tile(32, 64, 16, 32),
    Tile(32, 32, 16, 16),
    Tile(16, 64, 16, 16),
)


def choose_tile(product: Product, target: GpuTarget) -> Tile:
    """The tile with the least estimated time among all.

    A block takes time for its multiply-adds and for what it reads; multiprocessors take
    turns with the blocks, in whole rounds.
    """
    rows, columns, batch = (_size(value) for value in (product.rows, product.columns, product.batch))

    def time(tile: Tile) -> float:
        blocks = batch * -(-rows // tile.rows) * -(-columns // tile.columns)
        rounds = -(-blocks // target.multiprocessors)
        return rounds * (tile.rows * tile.columns + _TRAFFIC * (tile.rows + tile.columns))

    return min(TILES, key=time)


def _size(value: Expr) -> int:
    known = extent(value)
    return _UNKNOWN if known is None else known


__all__ = ["STAGES", "TILES", "Tile", "choose_tile"]
