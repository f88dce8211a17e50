"""What the lanes of a warp read of the operands in shared memory: the registers of mma.sync."""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.ir import Expr

from plait.backends.tvm.gpu import instructions
from plait.backends.tvm.gpu.copies import OperandCopies
from plait.backends.tvm.gpu.instructions import CHUNK
from plait.backends.tvm.gpu.kernel import pointer, register
from plait.backends.tvm.gpu.product import Unpacking

#: Bytes of depth that one mma.sync takes of a row, whatever the elements are.
STEP_BYTES = 32


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
        place = tirx.bitwise_xor(self.base, step * STEP_BYTES) + tile * (16 * self.shared.line_bytes)
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


class RightBytes:
    """The same for bytes along the columns, which `ldmatrix` can transpose in pairs only.

    The four matrices are depths (0, 1, 4, 5, ..), (2, 3, 6, 7, ..) and the same from 16 on, see
    `OperandCopies`.  Of the 16 columns, the first column tile gets the even, the second the odd.
    """

    def __init__(self, copies: OperandCopies, warp_column: Expr, lane: Expr) -> None:
        self.shared = copies.shared
        self.base = register("right_place", self.shared.place(lane, tirx.truncdiv(warp_column, CHUNK)))

    def load(self, registers: Any, stage: Expr, tile: Expr, step: Expr) -> None:
        """Load the pair of column tiles `tile` at depth step `step`."""
        place = tirx.bitwise_xor(self.base, tile * CHUNK) + step * (STEP_BYTES * self.shared.line_bytes)
        source = tirx.address_of(self.shared.memory[stage + place])
        words = pointer(registers, tile * 4, 4)
        instructions.load_matrices(words, source, transposed=True)
        instructions.gather_columns(words)


class RightUnpacked:
    """Weights of 4 or 8 bits in the order of their registers, see `gpu.weights.in_fragment_order`.

    A lane reads one word of a column for one step of the depth, or for both where elements have 4 bits.
    """

    def __init__(
        self, copies: OperandCopies, warp_column: Expr, lane: Expr, unpacking: Unpacking, element: str
    ) -> None:
        self.shared = copies.shared
        self.unpacking, self.element = unpacking, element
        line = warp_column + tirx.truncdiv(lane, 4)
        self.base = register(
            "right_place", self.shared.place(line, tirx.IntImm("int32", 0)) + tirx.truncmod(lane, 4) * 4
        )

    def load(self, registers: Any, stage: Expr, tile: Expr, step: Expr) -> None:
        """Load the pair of column tiles `tile` at depth step `step`."""
        bits = self.unpacking.bits
        place = self.base if bits == 4 else tirx.bitwise_xor(self.base, step * CHUNK)
        for side in (0, 1):
            down = (tile * 2 + side) * (8 * self.shared.line_bytes)
            source = tirx.address_of(self.shared.memory[stage + place + down])
            to = pointer(registers, tile * 4 + side * 2, 2)
            instructions.unpack(self.element, bits, to, source, step, self.unpacking.zero)


__all__ = [
    "STEP_BYTES",
    "LeftFragments",
    "RightBytes",
    "RightFragments",
    "RightUnpacked",
    "RightWords",
]
