"""Products of 8-bit integers by dot products of four: `vpdpbusd` of AVX-512 VNNI and AVX-VNNI.

The instruction adds u0 w0 + u1 w1 + u2 w2 + u3 w3 of unsigned u and signed w to a 32-bit sum,
without saturation on the way.  With signed elements x and their zero point z,

    sum (x - z) w  =  sum (x + 128) w  -  (128 + z) sum w,

and x + 128 is x with its sign bit turned over.  The last term is a constant of each column.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tvm import te, tirx
from tvm.ir import Expr

from plait.backends.tvm.emit.cpu.reader import Place
from plait.backends.tvm.emit.expressions import number
from plait.backends.tvm.emit.table import Emitter, Packing
from plait.ir import Constant, QuantType, Value

#: Products that one lane of the instruction adds.
STEP = 4
_SIGN_BITS = np.array(0x80808080, np.uint32).view(np.int32).item()


@dataclass(frozen=True)
class DotOperands:
    """Both operands of a product as words of four elements.

    Attributes:
        flip: what turns words of the left operand into unsigned ones.
        offset: what stands for zero in the unsigned elements.
        sums: of each column of the right operand, times `offset`.
    """

    flip: int
    offset: int
    sums: te.Tensor

    def word(self, element: Callable[[int], Expr]) -> Expr:
        """Four elements of the left operand that lie together, as an unsigned word."""
        total: Expr | None = None
        for k in range(STEP):
            byte = tirx.Cast("int32", tirx.Cast("uint8", element(k)))
            byte = byte << number(8 * k, "int32") if k else byte
            total = byte if total is None else total | byte
        assert total is not None
        return total ^ number(self.flip, "int32") if self.flip else total

    def corrected(self, total: Expr, column: Expr) -> Expr:
        """The sum of a column without what the offset has added."""
        return total - self.sums(column) if self.offset else total


def dot_operands(emitter: Emitter, x: Value, w: Value, depth: int) -> DotOperands | None:
    """How to read the operands of a product, w [columns, ...] constant; None where it takes another way.

    Args:
        depth: elements of the left operand that lie together.
    """
    left, right = x.type, w.type
    if not emitter.is_cpu or not emitter.cpu.dot_products or depth % STEP or not isinstance(w, Constant):
        return None
    if not isinstance(left, QuantType) or not isinstance(right, QuantType):
        return None
    if emitter.dtype(left) not in ("int8", "uint8") or emitter.dtype(right) != "int8":
        return None
    if isinstance(left.zero_point, str) or right.zero_point != 0 or right.group is not None:
        return None
    signed = emitter.dtype(left) == "int8"
    offset = int(left.zero_point) + (128 if signed else 0)
    columns = int(w.shaped.shape[0])

    def column_sums(array: np.ndarray) -> np.ndarray:
        return offset * array.reshape(columns, -1).astype(np.int32).sum(axis=1, dtype=np.int32)

    sums = emitter.packed(w, (columns,), Packing(f"sums*{offset}", column_sums, "int32"))
    return DotOperands(_SIGN_BITS if signed else 0, offset, sums)


def words(array: np.ndarray) -> np.ndarray:
    """[..., depth] of int8 as [..., depth / 4] of int32, the first element in the lowest byte."""
    return np.ascontiguousarray(array, np.int8).view("<i4").astype(np.int32)


def add_dots(total: Expr, word: Expr, column: Expr, width: int) -> Expr:
    """A vector of sums with the dot products of one word and a vector of words added."""
    name = f"llvm.x86.avx512.vpdpbusd.{32 * width}"
    bytes_of = f"int8x{STEP * width}"
    left = tirx.reinterpret(bytes_of, tirx.Broadcast(word, width))
    return tirx.call_llvm_pure_intrin(f"int32x{width}", name, total, left, tirx.reinterpret(bytes_of, column))


def depth_in_words(depth: Sequence[int]) -> tuple[int, ...]:
    """The extents of a depth whose last axis is read in words."""
    return (*depth[:-1], depth[-1] // STEP)


def place_in_elements(depth: Place, k: int) -> Place:
    """The place of element k of a word."""
    return (*depth[:-1], depth[-1] * STEP + k)


__all__ = ["STEP", "DotOperands", "add_dots", "depth_in_words", "dot_operands", "place_in_elements", "words"]
