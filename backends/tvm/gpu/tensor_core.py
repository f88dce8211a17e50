"""The tensor core kernel: one product, its operands gathered by asynchronous copies, its epilogue fused.

A block computes a tile of the result.  Chunks of the depth pass through STAGES buffers in shared
memory: while one is multiplied, the next are on their way.  Chunks of 16 bytes are stored
at places permuted by row, so that the eight rows that `ldmatrix` reads at a time lie in
different banks.  Sums stay in registers until the depth is through.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import te, tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from plait.backends.tvm.emit.table import CHANNELS_LAST, Stage
from plait.backends.tvm.gpu import instructions
from plait.backends.tvm.gpu.inline import Readers, element_of
from plait.backends.tvm.gpu.instructions import CHUNK, ceil_div
from plait.backends.tvm.gpu.kernel import (
    Buffers,
    integer,
    kernel_function,
    launch,
    loads,
    local_array,
    named,
    pointer,
    register,
    shared_bytes,
)
from plait.backends.tvm.gpu.product import Operand, Product, extent, narrow
from plait.backends.tvm.gpu.tiles import STAGES, Tile

_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "int8": 1}
#: Bytes of depth that one mma.sync takes of a row, whatever the elements are.
_STEP_BYTES = 32


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
    """The copies by which the threads of a block bring one operand into shared memory."""

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
        self.depth_step = tile.depth_bytes // element_bytes
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
        self.present = [register("present", outer < narrow(self.outer_count)) for outer in outers]

    def start(self, stage: Expr, number: Expr) -> None:
        """Start the copies of depth step `number` into a stage."""
        for k in range(self.rounds):
            line = self.line + k * self.lines_at_once
            along = self.operand.along_depth
            place = number * self.depth_step + (self.within if along else line)
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

    def _copy(self, to: Expr, source: Expr, inside: Expr) -> None:
        size, fill = self.copy_bytes, self.operand.fill
        if size < 4:
            instructions.copy_element(to, source, size, inside, fill)
        elif fill:
            instructions.copy_or_fill(to, source, size, inside, fill)
        else:
            instructions.copy_async(to, source, size, inside)


class LeftFragments:
    """What a lane names to `ldmatrix` for 16 rows over one step of the depth.

    The four matrices are (rows 0-7, first half of the depth), (8-15, first), (0-7, second),
    (8-15, second), which is the order of the registers of mma.sync.
    """

    def __init__(self, copies: OperandCopies, warp_row: Expr, lane: Expr) -> None:
        self.shared = copies.shared
        line, chunk = warp_row + tirx.truncmod(lane, 16), tirx.truncdiv(lane, 16)
        self.base = register("left_place", self.shared.place(line, chunk))

    def load(self, registers: Any, stage: Expr, tile: Expr, step: Expr) -> None:
        """Load row tile `tile` at depth step `step`; `stage` is where the stage begins."""
        place = tirx.bitwise_xor(self.base, step * _STEP_BYTES) + tile * (16 * self.shared.line_bytes)
        source = tirx.address_of(self.shared.memory[stage + place])
        instructions.load_matrices(pointer(registers, tile * 4, 4), source)


class RightFragments:
    """What a lane names to `ldmatrix` for 16 columns over one step of the depth.

    The four matrices are (columns 0-7, first half of the depth), (0-7, second), (8-15, first),
    (8-15, second): two registers for eight columns each.  Where lines run along the columns,
    `ldmatrix` transposes.
    """

    def __init__(self, copies: OperandCopies, warp_column: Expr, lane: Expr) -> None:
        self.shared = copies.shared
        self.along_depth = copies.operand.along_depth
        if self.along_depth:
            line = warp_column + tirx.truncmod(lane, 8) + tirx.truncdiv(lane, 16) * 8
            chunk = tirx.truncmod(tirx.truncdiv(lane, 8), 2)
        else:
            line = tirx.truncmod(lane, 16)
            chunk = tirx.truncdiv(warp_column, 8) + tirx.truncdiv(lane, 16)
        self.base = register("right_place", self.shared.place(line, chunk))

    def load(self, registers: Any, stage: Expr, tile: Expr, step: Expr) -> None:
        """Load the pair of column tiles `tile` at depth step `step`."""
        across, down = (step, tile) if self.along_depth else (tile, step)
        place = tirx.bitwise_xor(self.base, across * (2 * CHUNK)) + down * (16 * self.shared.line_bytes)
        source = tirx.address_of(self.shared.memory[stage + place])
        instructions.load_matrices(pointer(registers, tile * 4, 4), source, transposed=not self.along_depth)


class RightWords:
    """The same for elements of four bytes along the columns, which `ldmatrix` cannot transpose.

    A lane reads its words one by one: those at depths t and t + 4, with t = lane % 4, of column lane / 4.
    """

    def __init__(self, copies: OperandCopies, warp_column: Expr, lane: Expr) -> None:
        self.shared = copies.shared
        column = warp_column + tirx.truncdiv(lane, 4)
        chunk, within = tirx.truncdiv(column, 4), tirx.truncmod(column, 4) * 4
        self.bases = [
            register("right_place", self.shared.place(tirx.truncmod(lane, 4) + ahead, chunk) + within)
            for ahead in (0, 4)
        ]

    def load(self, registers: Any, stage: Expr, tile: Expr, step: Expr) -> None:
        """Load the pair of column tiles `tile` at depth step `step`."""
        for side in (0, 1):
            for half, base in enumerate(self.bases):
                place = tirx.bitwise_xor(base, (tile * 2 + side) * (2 * CHUNK))
                place = place + step * (8 * self.shared.line_bytes)
                source = tirx.address_of(self.shared.memory[stage + place])
                instructions.load_word(pointer(registers, tile * 4 + (side * 2 + half), 1), source)


def tensor_core_function(stage: Stage, product: Product, tile: Tile) -> tirx.PrimFunc:
    """The kernel of a stage whose one reduction is `product`.

    Raises NotInlined when something else in the stage is no element-by-element map.
    """

    def write(buffers: Buffers, results: Sequence[Any]) -> None:
        down, across = ceil_div(product.rows, tile.rows), ceil_div(product.columns, tile.columns)
        with launch(_product(product.batch, down, across), tile.threads) as (block, thread):
            memory = shared_bytes(STAGES * tile.stage_bytes)
            strip = named("strip", tirx.truncdiv(block, narrow(across)))
            threads = Threads(
                thread,
                named("batch", tirx.truncdiv(strip, narrow(down))),
                named("block_row", tirx.truncmod(strip, narrow(down)) * tile.rows),
                named("block_column", tirx.truncmod(block, narrow(across)) * tile.columns),
            )
            sums = _accumulate(product, tile, _copies(product, tile, memory, buffers, threads), threads)
            _finish(stage, product, tile, threads, sums, buffers, results[0])

    return kernel_function(stage, write)


def _copies(
    product: Product, tile: Tile, memory: Any, buffers: Buffers, threads: Threads
) -> list[OperandCopies]:
    """How the left and the right operand come into shared memory, prepared for this block."""
    bytes_of = _BYTES[product.element]
    found: list[OperandCopies] = []
    offset = 0
    for operand, lines, count, first in (
        (product.left, tile.rows, product.rows, threads.row),
        (product.right, tile.columns, product.columns, threads.column),
    ):
        shape = (lines, tile.depth_bytes)
        if not operand.along_depth:
            shape = (tile.depth_bytes // bytes_of, lines * bytes_of)
        shared = SharedTile(memory, offset, *shape)
        offset += lines * tile.depth_bytes
        copy = OperandCopies(
            operand, buffers[operand.tensor.op], shared, tile, bytes_of, count, product.depth
        )
        copy.prepare(threads, first)
        found.append(copy)
    return found


def _product(*values: Expr) -> Expr:
    found = values[0]
    for value in values[1:]:
        found = found * value
    return found


def _accumulate(product: Product, tile: Tile, copies: list[OperandCopies], threads: Threads) -> Any:
    """All steps of the depth; the sums, [16-row tile][8-column tile][4] of this thread."""
    row_tiles, column_tiles = tile.warp_rows // 16, tile.warp_columns // 8
    accumulator = "int32" if product.element == "int8" else "float32"
    sums = local_array("sums", row_tiles * column_tiles * 4, accumulator)
    left = local_array("left", row_tiles * 4, "uint32")
    right = local_array("right", column_tiles * 2, "uint32")
    with T.unroll(0, row_tiles * column_tiles * 4) as k:
        T.buffer_store(sums, tirx.const(0, accumulator), [k])
    steps = named("steps", narrow(ceil_div(product.depth, copies[0].depth_step)))

    def start(stage: Expr, number: Expr) -> None:
        with T.If(number < steps), T.Then():
            for copy in copies:
                copy.start(stage, number)
        # A group for each step, empty behind the last, so that waiting counts steps.
        instructions.commit_copies()

    for number in range(STAGES - 1):
        start(integer(number), integer(number))
    warp_row, warp_column, lane = warp_place(tile, threads.number)
    transposes = product.right.along_depth or _BYTES[product.element] == 2
    right_kind = RightFragments if transposes else RightWords
    fragments = (
        LeftFragments(copies[0], warp_row, lane),
        right_kind(copies[1], warp_column, lane),
    )
    with T.serial(0, steps) as number:
        instructions.wait_copies(STAGES - 2)
        # Also: no thread still reads the stage that is filled next.
        instructions.barrier()
        start(tirx.truncmod(number + (STAGES - 1), STAGES), number + (STAGES - 1))
        stage = register("stage", tirx.truncmod(number, STAGES) * tile.stage_bytes)
        with T.unroll(0, tile.depth_bytes // _STEP_BYTES) as step:
            for fragment, registers, count in (
                (fragments[0], left, row_tiles),
                (fragments[1], right, column_tiles // 2),
            ):
                with T.unroll(0, count) as i:
                    fragment.load(registers, stage, i, step)
            if product.element == "float32":
                for registers, count in ((left, row_tiles * 4), (right, column_tiles * 2)):
                    with T.unroll(0, count) as k:
                        instructions.round_to_tf32(pointer(registers, k, 1))
            with T.unroll(0, row_tiles) as i, T.unroll(0, column_tiles) as j:
                instructions.multiply(
                    product.element,
                    pointer(sums, (i * column_tiles + j) * 4, 4),
                    pointer(left, i * 4, 4),
                    pointer(right, j * 2, 2),
                )
    return sums


def warp_place(tile: Tile, thread: Expr) -> tuple[Expr, Expr, Expr]:
    """First row and column of a thread's warp within the tile, and its lane."""
    warps_across = tile.columns // tile.warp_columns
    warp = named("warp", tirx.truncdiv(thread, 32))
    row = named("warp_row", tirx.truncdiv(warp, warps_across) * tile.warp_rows)
    column = named("warp_column", tirx.truncmod(warp, warps_across) * tile.warp_columns)
    return row, column, named("lane", tirx.truncmod(thread, 32))


def _finish(
    stage: Stage,
    product: Product,
    tile: Tile,
    threads: Threads,
    sums: Any,
    buffers: Buffers,
    result: Any,
) -> None:
    """Each thread computes the results that its sums stand for, and writes those that exist."""
    row_tiles, column_tiles = tile.warp_rows // 16, tile.warp_columns // 8
    warp_row, warp_column, lane = warp_place(tile, threads.number)
    first_row = named("first_row", threads.row + warp_row + tirx.truncdiv(lane, 4))
    first_column = named("first_column", threads.column + warp_column + tirx.truncmod(lane, 4) * 2)
    (output,) = stage.outputs
    with T.unroll(0, row_tiles) as i, T.unroll(0, 2) as half:
        row = named("row", first_row + i * 16 + half * 8)
        inside = T.If(row < narrow(product.rows))
        with inside, T.Then(), T.unroll(0, column_tiles) as j, T.unroll(0, 2) as side:
            column = named("column", first_column + j * 8 + side)
            with T.If(column < narrow(product.columns)), T.Then():
                total = sums[(i * column_tiles + j) * 4 + half * 2 + side]
                _store(output, product, (threads.batch, row, column), total, buffers, result)


def _store(
    output: te.Tensor,
    product: Product,
    place: tuple[Expr, Expr, Expr],
    total: Expr,
    buffers: Buffers,
    result: Any,
) -> None:
    readers: Readers = {**loads(buffers), product.sums.op: lambda indices: total}
    where = list(product.place(*place))
    if CHANNELS_LAST in output.op.attrs:
        where.append(where.pop(1))
    T.buffer_store(result, element_of(output, where, readers), where)


__all__ = ["tensor_core_function"]
