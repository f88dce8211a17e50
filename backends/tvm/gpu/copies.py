"""How the operands of the tensor core kernel come into shared memory.

Chunks of 16 bytes are stored at places permuted by row, so that the eight rows that `ldmatrix`
reads at a time lie in different banks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from plait.backends.tvm.gpu import instructions
from plait.backends.tvm.gpu.instructions import CHUNK
from plait.backends.tvm.gpu.kernel import named, pointer, register
from plait.backends.tvm.gpu.product import Operand, extent, narrow
from plait.backends.tvm.gpu.tiles import Tile


@dataclass(frozen=True)
class Threads:
    """Where a thread stands: its number in the block, and what of the product its block computes."""

    number: Expr
    batch: Expr
    row: Expr
    column: Expr


class SharedTile:
    """One operand's part of a stage: lines of 16-byte chunks at permuted places.

    A line is a row or column of the product over the depth of a stage; for an operand whose
    runs go the other way, one depth over the rows or columns of the tile.
    """

    def __init__(self, memory: Any, offset: int, lines: int, line_bytes: int) -> None:
        self.memory = memory
        self.offset = offset
        self.lines = lines
        self.line_bytes = line_bytes

    def place(self, line: Expr, chunk: Expr) -> Expr:
        """Offset of a chunk of a line in its stage.

        The order of a line's chunks has a period of eight lines, and changing one bit of `chunk`
        changes that bit of the place: so other lines and chunks are reached from a place
        by adding multiples of eight lines and by exclusive or.
        """
        chunks = self.line_bytes // CHUNK
        if chunks >= 8:
            turn = tirx.bitwise_and(line, 7)
        else:
            turn = tirx.bitwise_and(tirx.truncdiv(line, 8 // chunks), chunks - 1)
        return line * self.line_bytes + tirx.bitwise_xor(chunk, turn) * CHUNK + self.offset


class OperandCopies:
    """The copies by which the threads of a block bring one operand into shared memory.

    Where lines of bytes run along rows or columns, the depths of sixteen lines are permuted: what
    `ldmatrix`, which transposes pairs of bytes, puts side by side are then four depths in a row.
    """

    def __init__(
        self,
        operand: Operand,
        buffer: Any,
        shared: SharedTile,
        tile: Tile,
        element_bytes: int,
        outer_count: Expr,
        depth: Expr,
    ) -> None:
        self.operand = operand
        self.buffer = buffer
        self.shared = shared
        self.element_bytes = element_bytes
        self.outer_count = outer_count
        self.depth = depth
        self.stage_bytes = tile.stage_bytes
        along_depth = operand.along_depth
        self.depth_step = shared.line_bytes // element_bytes if along_depth else shared.lines
        self.permuted = not along_depth and element_bytes == 1
        self.copy_bytes = operand.run * element_bytes
        per_line = shared.line_bytes // self.copy_bytes
        self.lines_at_once = tile.threads // per_line
        self.per_line = per_line
        self.rounds = max(1, shared.lines // self.lines_at_once)
        self.whole = shared.lines % self.lines_at_once == 0

    def prepare(self, threads: Threads, first_outer: Expr) -> None:
        """Compute what does not depend on the depth, into registers."""
        self.line = named("line", tirx.truncdiv(threads.number, self.per_line))
        self.within = named("within", tirx.truncmod(threads.number, self.per_line) * self.operand.run)
        outers = (
            [first_outer + (self.line + k * self.lines_at_once) for k in range(self.rounds)]
            if self.operand.along_depth
            else [first_outer + self.within]
        )
        chunk, within_chunk = (
            operation(self.within * self.element_bytes, CHUNK) for operation in (tirx.truncdiv, tirx.truncmod)
        )
        # The lines of a round repeat the order of their chunks after eight lines.
        self.period = max(1, 8 // self.lines_at_once)
        self.places = [
            register("place", self.shared.place(self.line + k * self.lines_at_once, chunk) + within_chunk)
            for k in range(min(self.period, self.rounds))
        ]
        self.states = [
            tuple(register("anchor", value) for value in self.operand.anchor(threads.batch, outer))
            for outer in outers
        ]
        known = extent(self.outer_count)
        tiled = (
            self.shared.lines if self.operand.along_depth else self.shared.line_bytes // self.element_bytes
        )
        self.present = (
            [tirx.const(True, "bool") for _ in outers]
            if known is not None and known % tiled == 0
            else [register("present", outer < narrow(self.outer_count)) for outer in outers]
        )

    def start(self, stage: Expr, number: Expr) -> None:
        """Start the copies of depth step `number` into a stage."""
        for k in range(self.rounds):
            line = self.line + k * self.lines_at_once
            along = self.operand.along_depth
            place = number * self.depth_step + (self.within if along else self._depth_of(line))
            offset, inside = self.operand.locate(self.states[k if along else 0], place)
            wanted = [self.present[k if along else 0]]
            known = extent(self.depth)
            if known is None or known % self.depth_step:
                wanted.append(place < narrow(self.depth))
            if inside is not None:
                wanted.append(inside)
            ahead = k // self.period * self.period * self.lines_at_once * self.shared.line_bytes
            to = self.shared.memory[stage * self.stage_bytes + self.places[k % self.period] + ahead]
            source = pointer(self.buffer, offset, self.operand.run)
            if self.whole:
                self._copy(tirx.address_of(to), source, tirx.all(*wanted))
                continue
            with T.If(line < self.shared.lines), T.Then():
                self._copy(tirx.address_of(to), source, tirx.all(*wanted))

    def _depth_of(self, line: Expr) -> Expr:
        """The depth whose elements a line along rows or columns holds."""
        if not self.permuted:
            return line
        upper = tirx.bitwise_and(line, 8)
        # Of the lowest four bits of a depth, the second goes behind the two above it.
        return line - tirx.bitwise_and(line, 14) + tirx.bitwise_and(line, 6) * 2 + tirx.truncdiv(upper, 4)

    def _copy(self, to: Expr, source: Expr, inside: Expr) -> None:
        size, fill = self.copy_bytes, self.operand.fill
        if size < 4:
            instructions.copy_element(to, source, size, inside, fill)
        elif fill:
            instructions.copy_or_fill(to, source, size, inside, fill)
        else:
            instructions.copy_async(to, source, size, inside)


__all__ = ["OperandCopies", "SharedTile", "Threads"]
