"""Products of 8-bit integers by dot products of four: `vpdpbusd` of AVX-512 VNNI and AVX-VNNI.

The instruction adds u0 w0 + u1 w1 + u2 w2 + u3 w3 of unsigned u and signed w to a 32-bit sum,
without saturation on the way.  A signed left element x becomes unsigned as x + 128, which is x with
its sign bit turned over, an unsigned right one signed as w - 128.  With what then stands for zero
in them, z and y,

    sum (u - z)(w - y)  =  sum u w  -  z sum w  -  y sum u  +  n z y

over n terms.  Of a constant right operand sum w is known for each column; any other sum of one operand
alone is a dot product with ones.
"""

from __future__ import annotations

from collections.abc import Callable
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
#: A word of ones.
ONES = 0x01010101


@dataclass(frozen=True)
class DotOperands:
    """Both operands of a product as words of four elements.

    Attributes:
        flips: whether elements of the left and of the right operand change their sign bits.
        zeros: what stands for zero in them then.
        sums: what is taken off each column of a constant right operand; None where the kernel adds it up.
    """

    flips: tuple[bool, bool]
    zeros: tuple[int, int]
    sums: te.Tensor | None = None

    def left_word(self, element: Callable[[int], Expr], count: int = STEP) -> Expr:
        """`count` elements of the left operand that follow one another, as an unsigned word."""
        return _word(element, count, flip=self.flips[0])

    def right_word(self, element: Callable[[int], Expr], count: int = STEP) -> Expr:
        """`count` elements of the right operand that follow one another, as a signed word."""
        return _word(element, count, flip=self.flips[1])

    @property
    def summed(self) -> tuple[int, int]:
        """The zeros that the kernel takes off by sums of its own."""
        return self.zeros if self.sums is None else (0, self.zeros[1])

    @property
    def kept(self) -> int:
        """Registers for those sums, about."""
        left, right = self.summed
        return (3 if left else 0) + (8 if right else 0)

    def corrected(self, total: Expr, column: Expr) -> Expr:
        """A sum of a column without what is known of the zeros."""
        return total if self.sums is None or not self.zeros[0] else total - self.sums(column)


def _word(element: Callable[[int], Expr], count: int, *, flip: bool) -> Expr:
    total: Expr | None = None
    for k in range(count):
        byte = tirx.Cast("int32", tirx.Cast("uint8", element(k)))
        byte = byte << number(8 * k, "int32") if k else byte
        total = byte if total is None else total | byte
    assert total is not None
    return total ^ number(_sign_bits(count), "int32") if flip else total


def _sign_bits(count: int) -> int:
    """The sign bits of the lowest `count` bytes of a word."""
    mask = 0x80808080 & ((1 << (8 * count)) - 1)
    return np.array(mask, np.uint32).view(np.int32).item()


def dot_activations(emitter: Emitter, left: Value, right: Value) -> DotOperands | None:
    """How to read two operands that are both computed; None where they take another way."""
    if not emitter.is_cpu or not emitter.cpu.dot_products or not _takes(left) or not _takes(right):
        return None
    kinds = [value.type for value in (left, right)]
    assert isinstance(kinds[0], QuantType)
    assert isinstance(kinds[1], QuantType)
    flips = (kinds[0].signed, not kinds[1].signed)
    zeros = (_zero(kinds[0]) + (128 if flips[0] else 0), _zero(kinds[1]) - (128 if flips[1] else 0))
    return DotOperands(flips, zeros)


def dot_operands(
    emitter: Emitter, x: Value, w: Value, terms: int, *, transposed: bool = False
) -> DotOperands | None:
    """How to read the operands of a product with a constant w; None where it takes another way.

    Args:
        w: [columns, ...], or [depth, columns] where `transposed`.
        terms: how many terms each sum has.
    """
    found = dot_activations(emitter, x, w)
    if found is None or not isinstance(w, Constant):
        return None
    (offset, zero), flip = found.zeros, found.flips[1]
    columns = int(w.shaped.shape[-1 if transposed else 0])

    def column_sums(array: np.ndarray) -> np.ndarray:
        rows = array.transpose() if transposed else array
        signed = rows.reshape(columns, -1).astype(np.int32) - (128 if flip else 0)
        return offset * (signed.sum(axis=1, dtype=np.int32) - np.int32(terms * zero))

    key = f"sums*{offset}-{zero}*{terms}{',transposed' if transposed else ''}"
    sums = emitter.packed(w, (columns,), Packing(key, column_sums, "int32"))
    return DotOperands(found.flips, found.zeros, sums)


def _takes(value: Value) -> bool:
    kind = value.type
    return isinstance(kind, QuantType) and kind.group is None and isinstance(kind.zero_point, int)


def _zero(kind: QuantType) -> int:
    assert isinstance(kind.zero_point, int)  # `_takes` has asked
    return kind.zero_point


def words(array: np.ndarray) -> np.ndarray:
    """[..., depth] of bytes as [..., words] of int32, the first element in the lowest byte.

    Unsigned bytes become signed by 128 less; the last word is filled up with zeros.
    """
    signed = array if array.dtype != np.uint8 else (array ^ 0x80).view(np.int8)
    rest = -array.shape[-1] % STEP
    padded = np.pad(signed, [*[(0, 0)] * (array.ndim - 1), (0, rest)])
    return np.ascontiguousarray(padded, np.int8).view("<i4").astype(np.int32)


def add_dots(total: Expr, word: Expr, column: Expr, width: int) -> Expr:
    """A vector of sums with the dot products of one word and a vector of words added."""
    name = f"llvm.x86.avx512.vpdpbusd.{32 * width}"
    bytes_of = f"int8x{STEP * width}"
    left = tirx.reinterpret(bytes_of, tirx.Broadcast(word, width))
    return tirx.call_llvm_pure_intrin(f"int32x{width}", name, total, left, tirx.reinterpret(bytes_of, column))


def whole_words(depth: int) -> int:
    """Words that a depth fills, the last one perhaps in part."""
    return -(-depth // STEP)


def place_in_elements(depth: Place, k: int) -> Place:
    """The place of element k of a word."""
    return (*depth[:-1], depth[-1] * STEP + k)


__all__ = [
    "ONES",
    "STEP",
    "DotOperands",
    "add_dots",
    "dot_activations",
    "dot_operands",
    "place_in_elements",
    "whole_words",
    "words",
]
