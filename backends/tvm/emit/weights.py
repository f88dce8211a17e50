"""Products in floating point with weights of integers: how kernels read these, and what scales the sums.

A weight of integers stands for scale * (stored - zero_point).  Where the scale is the same for
all terms of a sum, it multiplies the sum.  Up to 4 bits, two neighbours along the depth share a
byte in memory; wider integers have one each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import te, tirx
from tvm.ir import Expr

from plait.backends.tvm.emit.expressions import number
from plait.backends.tvm.emit.quant import parameter_at
from plait.backends.tvm.emit.table import Emitter, Packing
from plait.ir import Constant, QuantType, Value

#: The widest integers of which two share a byte.
NIBBLE = 4


def is_weight_only(x: Value, w: Value) -> bool:
    """Whether a product has a weight of integers under a floating-point operand."""
    return isinstance(w.type, QuantType) and not isinstance(x.type, QuantType)


@dataclass(frozen=True)
class RealWeight:
    """How a product in floating point reads a weight of integers.

    Attributes:
        kind: its type.
        output_axis: its axis of outputs.
        dtype: in which the product is summed.
    """

    emitter: Emitter
    kind: QuantType
    output_axis: int
    dtype: str

    @property
    def factored(self) -> bool:
        """Whether the scale is the same for all terms of a sum, and is left to it."""
        return self.kind.axis is None or (self.kind.group is None and self.kind.axis == self.output_axis)

    def element(self, stored: Expr, place: tuple[Expr, ...]) -> Expr:
        """stored - zero_point, times the scale where that is not left to the sums.

        Args:
            stored: the integer, 8 bits or wider.
            place: in the weight.
        """
        zero = self.kind.zero_point
        found = tirx.Cast(self.dtype, stored)
        if zero != 0:
            found = found - parameter_at(self.emitter, self.kind, "zero_point", place, self.dtype)
        return found if self.factored else found * self.scale(place)

    def scale(self, place: tuple[Expr, ...]) -> Expr:
        """The scale at a place in the weight."""
        return parameter_at(self.emitter, self.kind, "scale", place, self.dtype)

    def scaled(self, total: Expr, channel: Expr) -> Expr:
        """A sum times the scale, where that is left to it."""
        if not self.factored:
            return total
        zero = tirx.IntImm("int64", 0)
        return total * self.scale(
            tuple(channel if a == self.output_axis else zero for a in range(self.kind.rank))
        )


def real_weight(emitter: Emitter, w: Value, output_axis: int, x: Value) -> RealWeight:
    """How the product of `x` reads `w`; half precision is summed in f32."""
    assert isinstance(w.type, QuantType)
    dtype = emitter.dtype(x.type)
    return RealWeight(emitter, w.type, output_axis, "float32" if dtype in ("float16", "bfloat16") else dtype)


@dataclass(frozen=True)
class StoredMatrix:
    """A constant weight of a dense layer, in rows of packed bytes.

    Attributes:
        transposed: whether the weight is [depth, columns], as that of a matrix product.
    """

    emitter: Emitter
    value: Constant
    transposed: bool

    @property
    def kind(self) -> QuantType:
        kind = self.value.type
        assert isinstance(kind, QuantType)
        return kind

    @property
    def shape(self) -> tuple[int, int]:
        """Columns and depth."""
        first, second = (int(dim) for dim in self.kind.shape)
        return (second, first) if self.transposed else (first, second)

    @property
    def per_byte(self) -> int:
        """Elements in a byte."""
        return 2 if self.kind.bits <= NIBBLE else 1

    @property
    def bias(self) -> int:
        """What packing adds to elements that share a byte, so that none is negative."""
        return -self.kind.range[0] if self.per_byte == 2 else 0

    def matrix(self, array: np.ndarray) -> np.ndarray:
        """[columns, depth]."""
        return array.transpose() if self.transposed else array

    def packed_depth(self, array: np.ndarray) -> np.ndarray:
        """[columns, depth] with pairs of neighbours in bytes, the first in the lower half."""
        matrix = self.matrix(array)
        if self.per_byte == 1:
            return np.ascontiguousarray(matrix)
        biased = (matrix.astype(np.int16) + self.bias).astype(np.uint8)
        padded = np.pad(biased, [(0, 0), (0, biased.shape[1] % 2)])
        found: np.ndarray = padded[:, 0::2] | (padded[:, 1::2] << NIBBLE)
        return found

    @property
    def dtype(self) -> str:
        """TVM's element type in memory."""
        return "uint8" if self.per_byte == 2 else self.emitter.dtype(self.kind)

    def rows(self) -> te.Tensor:
        """The packed bytes, [columns, depth / elements in a byte]."""
        columns, depth = self.shape
        key = f"packed rows,transposed={self.transposed}"
        shape = (columns, -(-depth // self.per_byte))
        return self.emitter.packed(self.value, shape, Packing(key, self.packed_depth, self.dtype))

    def unpacked(self, byte: Expr, depth: Expr) -> Expr:
        """The stored integer at a depth, out of its byte, in 32 bits."""
        if self.per_byte == 1:
            return tirx.Cast("int32", byte)
        shift = tirx.Cast("int32", tirx.floormod(depth, 2) * NIBBLE)
        found = (tirx.Cast("int32", byte) >> shift) & number(15, "int32")
        return found - number(self.bias, "int32") if self.bias else found

    def place(self, column: Expr, depth: Expr) -> tuple[Expr, Expr]:
        """The place in the weight."""
        return (depth, column) if self.transposed else (column, depth)


__all__ = ["NIBBLE", "RealWeight", "StoredMatrix", "is_weight_only", "real_weight"]
