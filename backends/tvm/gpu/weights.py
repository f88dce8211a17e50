"""Dense layers of half precision with weights of integers, which tensor cores take unpacked in registers.

The weights come through shared memory in 4 or 8 bits an element.  At compile time they are laid out so
that a lane finds its registers of two steps of the depth in one word (4 bits) or two (8 bits).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tvm import te, tirx
from tvm.ir import Expr

from plait.backends.targets import GpuTarget
from plait.backends.tvm.emit.expressions import number
from plait.backends.tvm.emit.table import Emitter, Packing
from plait.backends.tvm.emit.weights import NIBBLE, RealWeight, StoredMatrix
from plait.backends.tvm.gpu.contraction import matrix
from plait.backends.tvm.gpu.product import (
    Operand,
    Product,
    State,
    Unpacking,
    extent,
    total,
    unflatten,
)
from plait.backends.tvm.gpu.tiles import TILES
from plait.ir import Value

#: Elements of depth in a stage of half precision.
_STAGE = 32


def in_fragment_order(matrix: np.ndarray, bits: int) -> np.ndarray:
    """Weights [columns, depth] of 0 .. 2^bits - 1 as bytes [columns, bytes], 32 elements of depth at a time.

    mma.sync m16n8k16 takes of a column, in lane t of four, the depths 2t, 2t + 1 and 2t + 8, 2t + 9 of
    each 16.  With 8 bits these four are a word, with 4 bits those of both 16 are, the one of a pair
    16 bits above the other.
    """
    columns, depth = matrix.shape
    steps = -(-depth // _STAGE)
    padded = np.zeros((columns, steps * _STAGE), np.uint32)
    padded[:, :depth] = matrix
    # [columns, steps, 16 of the depth, pair, lane, element of the pair]
    parts = padded.reshape(columns, steps, 2, 2, 4, 2)
    if bits == 8:
        return parts.transpose(0, 1, 2, 4, 3, 5).reshape(columns, -1).astype(np.uint8)
    shifts = np.array(
        [NIBBLE * (2 * half + pair + 4 * q) for half in (0, 1) for pair in (0, 1) for q in (0, 1)]
    )
    lanes = parts.transpose(0, 1, 4, 2, 3, 5).reshape(columns, steps, 4, 8)
    word = np.bitwise_or.reduce(lanes << shifts.astype(np.uint32), axis=-1).astype("<u4")
    return np.ascontiguousarray(word).view(np.uint8).reshape(columns, -1)


def _byte_of(depth: Expr, bits: int) -> tuple[Expr, Expr]:
    """Byte of a row in fragment order that holds an element, and the bit at which it begins."""
    step, within = tirx.floordiv(depth, _STAGE), tirx.floormod(depth, _STAGE)
    half, pair = tirx.floordiv(within, 16), tirx.floormod(tirx.floordiv(within, 8), 2)
    lane, q = tirx.floordiv(tirx.floormod(within, 8), 2), tirx.floormod(within, 2)
    if bits == 8:
        return step * 32 + half * 16 + lane * 4 + pair * 2 + q, tirx.IntImm("int64", 0)
    nibble = half * 2 + pair + q * 4
    return step * 16 + lane * 4 + tirx.floordiv(nibble, 2), tirx.floormod(nibble, 2) * NIBBLE


def half_product(
    x: Value,
    x_tensor: te.Tensor,
    weight: StoredMatrix,
    real: RealWeight,
    emitter: Emitter,
    finish: Callable[[tuple[Expr, ...], Expr], Expr],
    name: str,
) -> te.Tensor | None:
    """x [..., depth] times the weight on tensor cores; None where types or scales are not theirs.

    They are where x is f16 or bf16, and the scale is one for each column or for groups of a
    multiple of 32 along the depth.  A single row is left to kernels of vectors.
    """
    if not isinstance(emitter.target, GpuTarget) or not isinstance(weight.kind.zero_point, int):
        return None
    element, kind = emitter.dtype(x.type), weight.kind
    lead = emitter.shape(x.shaped.shape[:-1])
    zero, low = weight.kind.zero_point, kind.range[0]
    if element not in ("float16", "bfloat16") or not 0 <= zero - low < 1 << 8:
        return None
    if extent(total(lead)) == 1 or not (real.factored or _has_groups(weight)):
        return None
    bits = NIBBLE if kind.bits <= NIBBLE else 8
    columns, depth = weight.shape
    pitch = -(-depth // _STAGE) * _STAGE * bits // 8

    def arrange(array: np.ndarray) -> np.ndarray:
        return in_fragment_order(weight.matrix(array).astype(np.int16) - low, bits)

    key = f"fragments of {bits},transposed={weight.transposed}"
    packed = emitter.packed(weight.value, (columns, pitch), Packing(key, arrange, "uint8"))
    unpacking = Unpacking(bits, zero - low, *_groups(weight, real, emitter))
    over = emitter.axis(depth, "depth")

    def term(*i: Expr) -> Expr:
        byte, shift = _byte_of(over.var, bits)
        found = tirx.Cast("int32", packed(i[-1], byte))
        if bits == NIBBLE:
            found = (found >> tirx.Cast("int32", shift)) & number(15, "int32")
        stored = found + number(low, "int32") if low else found
        row = tirx.Cast("float32", x_tensor(*i[:-1], over.var))
        found = tirx.Cast("float32", stored) - number(zero, "float32")
        if unpacking.scale is not None:
            found = found * unpacking.scale(tirx.floordiv(over.var, unpacking.group), i[-1])
        return te.sum(row * found, axis=over)

    shape = [*lead, tirx.IntImm("int64", columns)]
    sums = te.compute(shape, term, name=name)
    depth_dim = tirx.IntImm("int64", depth)

    def anchor(batch: Expr, column: Expr) -> State:
        return (column * pitch,)

    emitter.products[sums.op] = Product(
        sums,
        matrix(x_tensor, element, pitch=depth_dim, along_depth=True),
        Operand(packed, 16, True, anchor, lambda state, place: (state[0] + place, None)),
        batch=total([]),
        rows=total(lead),
        columns=shape[-1],
        depth=depth_dim,
        place=lambda z, row, column: (*unflatten(row, lead), column),
        element=element,
        unpacking=unpacking,
    )
    return te.compute(shape, lambda *i: finish(i, real.scaled(sums(*i), i[-1])), name=f"{name}_result")


def _has_groups(weight: StoredMatrix) -> bool:
    """Whether scales are those of groups along the depth that whole stages make up."""
    kind = weight.kind
    along_depth = kind.axis == (0 if weight.transposed else 1)
    return along_depth and kind.group is not None and kind.group % _STAGE == 0 and isinstance(kind.scale, str)


def _groups(weight: StoredMatrix, real: RealWeight, emitter: Emitter) -> tuple[int | None, te.Tensor | None]:
    """The length of a group, and scales as [groups, columns in whole tiles]; None for both where sums are."""
    if real.factored:
        return None, None
    kind = weight.kind
    assert isinstance(kind.scale, str)
    constant = emitter.constants[kind.scale]
    count = -(-weight.shape[1] // (kind.group or 1))

    widest = max(tile.columns for tile in TILES)
    width = -(-weight.shape[0] // widest) * widest

    def arrange(array: np.ndarray) -> np.ndarray:
        table = array if weight.transposed else array.transpose()
        return np.pad(table.astype(np.float32), [(0, 0), (0, width - table.shape[1])])

    packing = Packing(f"by group,transposed={weight.transposed}", arrange, "float32")
    return kind.group, emitter.packed(constant, (count, width), packing)


__all__ = ["half_product", "in_fragment_order"]
