"""Matrix products of integers on a CPU: by words of four, or with weights that are unpacked in registers.

The right operand lies in panels: blocks of as many columns as a register tile has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tvm import te, tirx
from tvm.ir import Expr

from plait.backends.tvm.emit.cpu.dot import STEP, DotOperands, whole_words, words
from plait.backends.tvm.emit.cpu.product import Product
from plait.backends.tvm.emit.cpu.reader import Place
from plait.backends.tvm.emit.cpu.tiles import Tile, chosen_tile, pack_columns, packing, streams_weights
from plait.backends.tvm.emit.expressions import number, size_of
from plait.backends.tvm.emit.loops import whole
from plait.backends.tvm.emit.table import Emitter, Packing
from plait.backends.tvm.emit.weights import RealWeight, StoredMatrix
from plait.ir import Constant, IntLike

#: Columns of a product that only a run shows.
_MANY = 4096


@dataclass(frozen=True)
class Panels:
    """A right operand in panels.

    Attributes:
        read: the element at (batch, block, depth, lane).
        stored: maps that the kernel computes first.
        fetched: the element in memory that is asked for ahead; None: what is read.
    """

    read: Callable[[Place, Expr, Place, Expr], Expr]
    stored: list[te.Tensor] = field(default_factory=list)
    fetched: Callable[[Place, Expr, Place, Expr], Expr] | None = None


def panel_product(
    emitter: Emitter,
    *,
    batch: Sequence[IntLike],
    rows: Sequence[IntLike],
    columns: IntLike,
    depth: Sequence[int],
    left: Callable[[Place, Place, Place], Expr],
    panels: Callable[[Tile], Panels],
    finish: Callable[[Place, Expr], Expr],
    name: str,
    dots: DotOperands | None = None,
    left_tail: Callable[[Place, Place, Place], Expr] | None = None,
    terms: int = 0,
) -> te.Tensor:
    """`finish(place, sum over the depth of left * right)` of shape [batch, rows, columns].

    Args:
        depth: extents of the summed axes.
        left: the element at (batch, row, depth).
        dots: where elements are words.
        left_tail: the word behind the depth, see `Product`.
        terms: of each sum, where words have zero points.
    """
    shape = emitter.shape((*batch, *rows, columns))
    lead, split = len(batch), len(batch) + len(rows)
    count: IntLike = 1
    for dim in rows:
        count = count * dim
    known = columns if isinstance(columns, int) else _MANY
    kept = 0 if dots is None else dots.kept
    tile, rows_first = chosen_tile(emitter, count, known, math.prod(depth), kept=kept)
    right = panels(tile)

    def stand_in(*i: Expr) -> Expr:
        zeros = (whole(0),) * len(depth)
        return left(i[:lead], i[lead:split], zeros) * right.read(i[:lead], whole(0), zeros, whole(0))

    sums = te.compute(shape, stand_in, name=name)
    emitter.products[sums.op] = Product(
        sums=sums,
        tile=tile,
        batch=shape[:lead],
        rows=shape[lead:split],
        columns=shape[split],
        depth=[whole(extent) for extent in depth],
        left=lambda b, row, block, d: left(b, row, d),
        right=right.read,
        place=lambda b, row, column: (*b, *row, column),
        stored=right.stored,
        rows_first=rows_first,
        dots=dots is not None,
        streams=not right.stored and streams_weights(count, known, math.prod(depth)),
        left_tail=None if left_tail is None else lambda b, row, block, d: left_tail(b, row, d),
        zeros=(0, 0) if dots is None else dots.summed,
        terms=terms,
        fetched=right.fetched,
    )

    def finished(*i: Expr) -> Expr:
        total = sums(*i)
        return finish(i, total if dots is None else dots.corrected(total, i[-1]))

    return te.compute(shape, finished, name=f"{name}_result")


# -- words of four --------------------------------------------------------------------------
def dot_product(
    emitter: Emitter,
    dots: DotOperands,
    *,
    batch: Sequence[IntLike],
    rows: Sequence[IntLike],
    columns: IntLike,
    depth: int,
    left: Callable[[Place, Place, Expr], Expr],
    panels: Callable[[Tile], Panels],
    finish: Callable[[Place, Expr], Expr],
    name: str,
) -> te.Tensor:
    """A matrix product of bytes, four elements of the depth at a time.

    Args:
        depth: in elements, four at least.
        left: the element at (batch, row, depth).
        panels: words, those behind the depth included.
    """

    def word(b: Place, row: Place, d: Place, count: int = STEP) -> Expr:
        return dots.left_word(lambda k: left(b, row, d[0] * STEP + k), count)

    rest = depth % STEP
    return panel_product(
        emitter,
        batch=batch,
        rows=rows,
        columns=columns,
        depth=(depth // STEP,),
        left=word,
        panels=panels,
        finish=finish,
        name=name,
        dots=dots,
        left_tail=(lambda b, row, d: word(b, row, d, rest)) if rest else None,
        terms=depth,
    )


def constant_words(
    emitter: Emitter, value: Constant, columns: int, depth: int, *, transposed: bool = False
) -> Callable[[Tile], Panels]:
    """Panels of a constant [columns, depth] or, `transposed`, [depth, columns], laid out at compile time."""

    def arrange(array: np.ndarray) -> np.ndarray:
        return words(array.transpose() if transposed else array)

    def panels(tile: Tile) -> Panels:
        shape = (-(-columns // tile.lanes), whole_words(depth), tile.lanes)
        key = f"words{',transposed' if transposed else ''}"
        weight = emitter.packed(value, shape, packing(tile.lanes, key, arrange=arrange, dtype="int32"))
        return Panels(lambda b, block, d, lane: weight(block, *d, lane))

    return panels


def computed_words(
    emitter: Emitter,
    dots: DotOperands,
    batch: Sequence[IntLike],
    columns: IntLike,
    depth: int,
    right: Callable[[Place, Expr, Expr], Expr],
) -> Callable[[Tile], Panels]:
    """Panels of an operand that is computed, laid out by the kernel.

    Args:
        right: the element at (batch, depth, column).
    """
    width = emitter.dim(columns)
    count = whole_words(depth)

    def panels(tile: Tile) -> Panels:
        blocks = tirx.floordiv(width + (tile.lanes - 1), whole(tile.lanes))
        known = size_of(width)

        def at(*i: Expr) -> Expr:
            b, (block, step, lane) = i[: len(batch)], i[len(batch) :]
            column = block * tile.lanes + lane
            found = _guarded_word(dots, lambda r: right(b, r, column), step, depth)
            if known is not None and known % tile.lanes == 0:
                return found
            return tirx.if_then_else(column < width, found, number(0, "int32"))

        shape = [*emitter.shape(batch), blocks, whole(count), whole(tile.lanes)]
        copied = te.compute(shape, at, name="pack")
        return Panels(lambda b, block, d, lane: copied(*b, block, *d, lane), [copied])

    return panels


def _guarded_word(dots: DotOperands, element: Callable[[Expr], Expr], step: Expr, depth: int) -> Expr:
    """A word of the right operand; zeros behind the depth."""
    found = dots.right_word(lambda k: element(step * STEP + k))
    rest = depth % STEP
    if not rest:
        return found
    tail = dots.right_word(lambda k: element(step * STEP + k), rest)
    return tirx.if_then_else(step < depth // STEP, found, tail)


# -- weights unpacked in registers --------------------------------------------------------------
def weight_product(
    emitter: Emitter,
    weight: StoredMatrix,
    real: RealWeight,
    *,
    rows: Sequence[IntLike],
    left: Callable[[Place, Expr], Expr],
    finish: Callable[[Place, Expr], Expr],
    name: str,
) -> te.Tensor | None:
    """A dense layer in floating point whose weights come from memory as integers.

    None where zero points or scales vary in another way than by column, or by column and group of the depth.

    Args:
        left: the element at (row, depth), in the type of the sums.
    """
    kind = weight.kind
    columns, depth = weight.shape
    grouped = not real.factored
    if not isinstance(kind.zero_point, int) or (grouped and not _has_groups(weight)):
        return None
    group = kind.group if grouped and kind.group is not None else depth

    def panels(tile: Tile) -> Panels:
        return _weight_panels(emitter, weight, real, tile, group)

    def along(d: Place) -> Expr:
        return d[0] * group + d[1] if grouped else d[0]

    return panel_product(
        emitter,
        batch=(),
        rows=rows,
        columns=columns,
        depth=(depth // group, group) if grouped else (depth,),
        left=lambda b, row, d: left(row, along(d)),
        panels=panels,
        finish=lambda i, total: finish(i, real.scaled(total, i[-1])),
        name=name,
    )


def _has_groups(weight: StoredMatrix) -> bool:
    """Whether groups run along the depth and make it up."""
    kind = weight.kind
    if kind.axis != (0 if weight.transposed else 1) or not isinstance(kind.scale, str):
        return False
    return kind.group is not None and weight.shape[1] % kind.group == 0


def _weight_panels(
    emitter: Emitter, weight: StoredMatrix, real: RealWeight, tile: Tile, group: int
) -> Panels:
    kind, per = weight.kind, weight.per_byte
    columns, depth = weight.shape
    grouped = not real.factored
    blocks = -(-columns // tile.lanes)
    key = f"packed depth{',transposed' if weight.transposed else ''}"
    layout = packing(tile.lanes, key, arrange=weight.packed_depth, dtype=weight.dtype)
    stored = emitter.packed(weight.value, (blocks, -(-depth // per), tile.lanes), layout)
    scales = _group_scales(emitter, weight, tile, blocks) if grouped else None
    assert isinstance(kind.zero_point, int)
    zero = kind.zero_point + weight.bias

    def byte(block: Expr, d: Place, lane: Expr) -> Expr:
        if not grouped:
            return stored(block, _half(d[0], per), lane)
        if group % per:
            return stored(block, _half(d[0] * group + d[1], per), lane)
        return stored(block, d[0] * (group // per) + _half(d[1], per), lane)

    def read(b: Place, block: Expr, d: Place, lane: Expr) -> Expr:
        found = tirx.Cast("int32", byte(block, d, lane))
        if per == 2:
            along = d[0] * group + d[1] if grouped and group % per else d[-1]
            found = _nibble(found, along)
        value = tirx.Cast(real.dtype, found)
        if zero:
            value = value - number(zero, real.dtype)
        if scales is None:
            return value
        scale = scales(block, d[0], lane)
        return value * (scale if real.dtype == "float32" else tirx.Cast(real.dtype, scale))

    return Panels(read, fetched=lambda b, block, d, lane: byte(block, d, lane))


def _half(depth: Expr, per: int) -> Expr:
    """The byte of an element."""
    return depth if per == 1 else tirx.floordiv(depth, per)


def _nibble(byte: Expr, depth: Expr) -> Expr:
    """The lower half of a byte at even depths, the upper one at odd ones."""
    shift = tirx.Cast("int32", tirx.floormod(depth, 2) * 4)
    return (byte >> shift) & number(15, "int32")


def _group_scales(emitter: Emitter, weight: StoredMatrix, tile: Tile, blocks: int) -> te.Tensor:
    """Scales as [blocks, groups, lanes]."""
    assert isinstance(weight.kind.scale, str)
    constant = emitter.constants[weight.kind.scale]
    groups = weight.shape[1] // (weight.kind.group or 1)

    def arrange(array: np.ndarray) -> np.ndarray:
        return pack_columns(tile.lanes, weight.matrix(array).astype(np.float32))

    key = f"scales by lanes={tile.lanes},transposed={weight.transposed}"
    found: Any = emitter.packed(constant, (blocks, groups, tile.lanes), Packing(key, arrange, "float32"))
    return found


__all__ = [
    "Panels",
    "computed_words",
    "constant_words",
    "dot_product",
    "panel_product",
    "weight_product",
]
