"""The tensor core kernel: one product, its operands gathered by asynchronous copies, its epilogue fused.

A block computes a tile of the result.  Chunks of the depth pass through STAGES buffers in shared
memory: while one is multiplied, the next are on their way.  Sums stay in registers until the
depth is through.

With zero points, sum (x - z)(w - y) = sum x w - z sum w - y sum x + n z y over n terms, and the sums of
one operand alone are products of tensor cores too, with a matrix of ones.
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
from plait.backends.tvm.gpu.copies import OperandCopies, SharedTile, Threads
from plait.backends.tvm.gpu.fragments import (
    STEP_BYTES,
    LeftFragments,
    RightBytes,
    RightFragments,
    RightUnpacked,
    RightWords,
)
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
from plait.backends.tvm.gpu.product import Product, narrow
from plait.backends.tvm.gpu.tiles import STAGES, Tile

_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "int8": 1}
#: A register of four ones.
_ONES = 0x01010101


@dataclass(frozen=True)
class Sums:
    """What a thread has summed.

    Attributes:
        products: [16-row tile][8-column tile][4].
        of_rows: of the left operand alone, [16-row tile][4], where the right one has a zero point.
        of_columns: of the right operand alone, [8-column tile][4], where the left one has one.
        terms: how many terms each sum has, absent ones among them.
    """

    product: Product
    column_tiles: int
    products: Any
    of_rows: Any
    of_columns: Any
    terms: Expr

    def total(self, i: Expr, j: Expr, half: Expr, side: Expr) -> Expr:
        """The sum of row 8 half + lane / 4 and column 2 (lane % 4) + side of a tile, zero points off."""
        found = self.products[(i * self.column_tiles + j) * 4 + half * 2 + side]
        left, right = self.product.zeros
        if left:
            found = found - self.of_columns[j * 4 + side] * left
        if right:
            found = found - self.of_rows[i * 4 + half * 2] * right
        return found + self.terms * (left * right) if left and right else found


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
            copies = _copies(product, tile, memory, buffers, threads)
            sums = _accumulate(product, tile, copies, threads, buffers)
            _finish(stage, product, tile, threads, sums, buffers, results[0])

    return kernel_function(stage, write)


def _copies(
    product: Product, tile: Tile, memory: Any, buffers: Buffers, threads: Threads
) -> list[OperandCopies]:
    """How the left and the right operand come into shared memory, prepared for this block."""
    found: list[OperandCopies] = []
    offset = 0
    for operand, lines, count, first in (
        (product.left, tile.rows, product.rows, threads.row),
        (product.right, tile.columns, product.columns, threads.column),
    ):
        bytes_of, depth = _BYTES[product.element], product.depth
        shape = (lines, tile.depth_bytes)
        if operand is product.right and product.unpacking is not None:
            shape = (lines, tile.depth_bytes // bytes_of * product.unpacking.bits // 8)
            bytes_of, depth = 1, operand.tensor.shape[-1]
        elif not operand.along_depth:
            shape = (tile.depth_bytes // bytes_of, lines * bytes_of)
        shared = SharedTile(memory, offset, *shape)
        offset += lines * tile.depth_bytes
        copy = OperandCopies(operand, buffers[operand.tensor.op], shared, tile, bytes_of, count, depth)
        copy.prepare(threads, first)
        found.append(copy)
    return found


def _product(*values: Expr) -> Expr:
    found = values[0]
    for value in values[1:]:
        found = found * value
    return found


def _right_fragments(product: Product, copies: OperandCopies, column: Expr, lane: Expr) -> Any:
    """How a lane reads the right operand from shared memory."""
    if product.unpacking is not None:
        return RightUnpacked(copies, column, lane, product.unpacking, product.element)
    if product.right.along_depth or _BYTES[product.element] == 2:
        return RightFragments(copies, column, lane)
    return (RightBytes if product.element == "int8" else RightWords)(copies, column, lane)


def _zeroed(name: str, size: int, dtype: str) -> Any:
    """An array of registers that are zero."""
    array = local_array(name, size, dtype)
    with T.unroll(0, size) as k:
        T.buffer_store(array, tirx.const(0, dtype), [k])
    return array


def _accumulate(
    product: Product, tile: Tile, copies: list[OperandCopies], threads: Threads, buffers: Buffers
) -> Sums:
    """All steps of the depth."""
    row_tiles, column_tiles = tile.warp_rows // 16, tile.warp_columns // 8
    accumulator = "int32" if product.element == "int8" else "float32"
    left = local_array("left", row_tiles * 4, "uint32")
    right = local_array("right", column_tiles * 2, "uint32")
    products = _zeroed("sums", row_tiles * column_tiles * 4, accumulator)
    of_rows = _zeroed("row_sums", row_tiles * 4, accumulator) if product.zeros[1] else None
    of_columns = _zeroed("column_sums", column_tiles * 4, accumulator) if product.zeros[0] else None
    steps = named("steps", narrow(ceil_div(product.depth, copies[0].depth_step)))

    grouped = None
    if product.unpacking is not None and product.unpacking.group is not None:
        grouped = _Grouped(product, tile, copies[1], threads, products, buffers)

    def start(stage: Expr, number: Expr) -> None:
        with T.If(number < steps), T.Then():
            for copy in copies:
                copy.start(stage, number)
            if grouped is not None:
                grouped.start(stage, number)
        # A group for each step, empty behind the last, so that waiting counts steps.
        instructions.commit_copies()

    for number in range(STAGES - 1):
        start(integer(number), integer(number))
    warp_row, warp_column, lane = warp_place(tile, threads.number)
    fragments = (
        LeftFragments(copies[0], warp_row, lane),
        _right_fragments(product, copies[1], warp_column, lane),
    )
    with T.serial(0, steps) as number:
        instructions.wait_copies(STAGES - 2)
        # Also: no thread still reads the stage that is filled next.
        instructions.barrier()
        start(tirx.truncmod(number + (STAGES - 1), STAGES), number + (STAGES - 1))
        stage = register("stage", tirx.truncmod(number, STAGES) * tile.stage_bytes)
        with T.unroll(0, tile.depth_bytes // STEP_BYTES) as step:
            for fragment, registers, count in (
                (fragments[0], left, row_tiles),
                (fragments[1], right, column_tiles // 2),
            ):
                with T.unroll(0, count) as i:
                    fragment.load(registers, stage, i, step)
            _converted(product, left, row_tiles * 4, right, column_tiles * 2)
            into = products if grouped is None else grouped.partial
            with T.unroll(0, row_tiles) as i, T.unroll(0, column_tiles) as j:
                instructions.multiply(
                    product.element,
                    pointer(into, (i * column_tiles + j) * 4, 4),
                    pointer(left, i * 4, 4),
                    pointer(right, j * 2, 2),
                )
            _sum_each(product, left, of_rows, row_tiles, right, of_columns, column_tiles)
        if grouped is not None:
            grouped.add(number, steps, stage)
    return Sums(product, column_tiles, products, of_rows, of_columns, steps * copies[0].depth_step)


def _converted(product: Product, left: Any, left_count: int, right: Any, right_count: int) -> None:
    """Make the registers of both operands what the instruction reads: TF32, signed bytes."""
    for registers, count, unsigned in (
        (left, left_count, product.unsigned[0]),
        (right, right_count, product.unsigned[1]),
    ):
        convert = instructions.round_to_tf32 if product.element == "float32" else instructions.flip_signs
        if product.element == "float32" or unsigned:
            with T.unroll(0, count) as k:
                convert(pointer(registers, k, 1))


def _sum_each(
    product: Product,
    left: Any,
    of_rows: Any,
    row_tiles: int,
    right: Any,
    of_columns: Any,
    column_tiles: int,
) -> None:
    """Add up one step of either operand alone, where the other has a zero point."""
    if of_rows is None and of_columns is None:
        return
    ones = local_array("ones", 4, "uint32")
    with T.unroll(0, 4) as k:
        T.buffer_store(ones, tirx.const(_ONES, "uint32"), [k])
    if of_rows is not None:
        with T.unroll(0, row_tiles) as i:
            instructions.multiply(
                product.element, pointer(of_rows, i * 4, 4), pointer(left, i * 4, 4), pointer(ones, 0, 2)
            )
    if of_columns is not None:
        with T.unroll(0, column_tiles) as j:
            instructions.multiply(
                product.element, pointer(of_columns, j * 4, 4), pointer(ones, 0, 4), pointer(right, j * 2, 2)
            )


class _Grouped:
    """Sums of one group of the depth, which are scaled before they are added to the others.

    The scales of a step come into shared memory with the operands, behind the packed weights, which do not
    fill their part of a stage.
    """

    def __init__(
        self,
        product: Product,
        tile: Tile,
        copies: OperandCopies,
        threads: Threads,
        sums: Any,
        buffers: Buffers,
    ) -> None:
        unpacking = product.unpacking
        assert unpacking is not None
        assert unpacking.group is not None
        assert unpacking.scale is not None
        self.tile, self.threads, self.sums, self.shared = tile, threads, sums, copies.shared
        self.steps = unpacking.group // (tile.depth_bytes // _BYTES[product.element])
        self.width = int(unpacking.scale.shape[1])
        self.table = buffers[unpacking.scale.op]
        self.partial = _zeroed("partial", int(sums.shape[0]), "float32")
        self.scales = local_array("scales", 2, "float32")
        _, warp_column, lane = warp_place(tile, threads.number)
        self.place = named("scale_place", self._offset + (warp_column + tirx.truncmod(lane, 4) * 2) * 4)

    @property
    def _offset(self) -> int:
        """Where the scales of a step begin in a stage."""
        return self.shared.offset + self.shared.lines * self.shared.line_bytes

    def start(self, stage: Expr, number: Expr) -> None:
        """Start the copy of the scales of a step."""
        with T.If(self.threads.number < self.tile.columns // 4), T.Then():
            first = self.threads.number * 4
            source = tirx.truncdiv(number, self.steps) * self.width + self.threads.column + first
            to = self.shared.memory[stage * self.tile.stage_bytes + self._offset + first * 4]
            instructions.copy_async(
                tirx.address_of(to), pointer(self.table, source, 4), CHUNK, tirx.const(True, "bool")
            )

    def add(self, number: Expr, steps: Expr, stage: Expr) -> None:
        """Behind the last step of a group, add its scaled sums and start anew."""
        column_tiles = self.tile.warp_columns // 8
        last = tirx.any(tirx.truncmod(number + 1, self.steps) == 0, number + 1 == steps)
        with T.If(last), T.Then(), T.unroll(0, column_tiles) as j:
            source = self.shared.memory[stage + self.place + j * 32]
            instructions.load_pair(pointer(self.scales, 0, 2), tirx.address_of(source))
            with T.unroll(0, self.tile.warp_rows // 16) as i, T.unroll(0, 4) as k:
                place = (i * column_tiles + j) * 4 + k
                scale = self.scales[tirx.truncmod(k, 2)]
                T.buffer_store(self.sums, self.sums[place] + self.partial[place] * scale, [place])
                T.buffer_store(self.partial, tirx.const(0, "float32"), [place])


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
    sums: Sums,
    buffers: Buffers,
    result: Any,
) -> None:
    """Each thread computes the results that its sums stand for, and writes those that exist."""
    row_tiles, column_tiles = tile.warp_rows // 16, tile.warp_columns // 8
    warp_row, warp_column, lane = warp_place(tile, threads.number)
    first_row = named("first_row", threads.row + warp_row + tirx.truncdiv(lane, 4))
    # Of bytes along the columns, a pair of column tiles holds the even and the odd ones of 16.
    interleaved = product.element == "int8" and not product.right.along_depth
    across = tirx.truncmod(lane, 4) * (4 if interleaved else 2)
    first_column = named("first_column", threads.column + warp_column + across)
    (output,) = stage.outputs

    def column_at(j: Expr, side: Expr) -> Expr:
        ahead = j * 8 + side
        if interleaved:
            ahead = tirx.truncdiv(j, 2) * 16 + tirx.truncmod(j, 2) + side * 2
        return named("column", first_column + ahead)

    def row_at(i: Expr, half: Expr) -> Expr:
        return named("row", first_row + i * 16 + half * 8)

    def write(i: Expr, half: Expr, row: Expr, j: Expr, side: Expr, column: Expr) -> None:
        total = sums.total(i, j, half, side)
        _store(output, product, (threads.batch, row, column), total, buffers, result)

    # The outer loop is over what has values of its own, live while the other is passed through:
    # a column its scale and bias, a row its sum where the right operand has a zero point.
    if product.element == "int8" and not product.zeros[1]:
        with T.unroll(0, column_tiles) as j, T.unroll(0, 2) as side:
            column = column_at(j, side)
            present = T.If(column < narrow(product.columns))
            with present, T.Then(), T.unroll(0, row_tiles) as i, T.unroll(0, 2) as half:
                row = row_at(i, half)
                with T.If(row < narrow(product.rows)), T.Then():
                    write(i, half, row, j, side, column)
    else:
        with T.unroll(0, row_tiles) as i, T.unroll(0, 2) as half:
            row = row_at(i, half)
            present = T.If(row < narrow(product.rows))
            with present, T.Then(), T.unroll(0, column_tiles) as j, T.unroll(0, 2) as side:
                column = column_at(j, side)
                with T.If(column < narrow(product.columns)), T.Then():
                    write(i, half, row, j, side, column)


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
