"""nn: sampling at positions that are data."""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Literal

from plait.ir.op import Op, op
from plait.ir.ops.common import floating, same_dtype
from plait.ir.types import Type
from plait.ir.value import Value


@op("nn.grid_sample")
class GridSample(Op):
    """x [N, C, *spatial] read between its elements at `grid` [N, *out, axes] -> [N, C, *out].

    The last axis of `grid` holds a position along each of the 2 or 3 spatial axes,
    the last axis (columns) first.  `coordinates` says where g lies in the source:
    half_pixel ((g + 1) * size - 1) / 2, align_corners (g + 1) / 2 * (size - 1), pixels g.

    Elements outside are 0 (zeros), the nearest ones (border), or mirrored (reflection):
    at the outer edges of the border elements, at their centres with align_corners.
    `nearest` rounds halves to even; `cubic` is Keys' kernel with a = -0.75, in 2-D only.
    """

    x: Value
    grid: Value
    _: KW_ONLY
    mode: Literal["nearest", "linear", "cubic"] = "linear"
    padding: Literal["zeros", "border", "reflection"] = "zeros"
    coordinates: Literal["half_pixel", "align_corners", "pixels"] = "half_pixel"

    def infer(self) -> tuple[Type, ...]:
        x, grid = floating(self, self.x, "x"), floating(self, self.grid, "grid")
        same_dtype(self, self.x, self.grid)
        if x.rank not in (4, 5) or grid.rank != x.rank:
            raise self.error(
                f"{self.x} is {x} and {self.grid} is {grid}", why="rank 4 or 5 is wanted of both"
            )
        if grid.shape[0] != x.shape[0] or grid.shape[-1] != x.rank - 2:
            raise self.error(
                f"{self.x} is {x} and {self.grid} is {grid}",
                why=f"the grid is [{x.shape[0]}, ..., {x.rank - 2}]",
            )
        if self.mode == "cubic" and x.rank == 5:
            raise self.error("cubic sampling over three axes", remedy="sample by mode linear")
        return (x.with_shape((*x.shape[:2], *grid.shape[1:-1])),)
