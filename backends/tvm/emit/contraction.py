"""Matrix products in the two shapes that the targets want: plain, and tiled for vector registers.

On a GPU a product is one reduction over plain operands, which the tiling rules of
the GPU scheduler recognise.  On a CPU the right operand is laid out in blocks of
columns, [blocks, depth, lanes], by this machine's vector width: at compile time where
it is a constant, in a loop of the kernel otherwise; see `emit.cpu.product`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import te, tirx
from tvm.ir import Expr

from plait.backends.targets import CpuTarget
from plait.backends.tvm.emit.cpu.product import Product
from plait.backends.tvm.emit.cpu.tiles import chosen_tile, streams_weights
from plait.backends.tvm.emit.cpu.writer import element_bits
from plait.backends.tvm.emit.expressions import number, size_of
from plait.backends.tvm.emit.loops import whole
from plait.backends.tvm.emit.table import Emitter
from plait.ir import IntLike

Index = tuple[Expr, ...]
#: Gives a right operand in blocks of so many lanes, and how to read an element of it.
PackedRight = Callable[[int], tuple[te.Tensor, Callable[[Expr], Expr]]]
#: Columns of a product that only a run shows.
_MANY = 4096


def matrix_product(
    emitter: Emitter,
    *,
    batch: Sequence[IntLike],
    rows: Sequence[IntLike],
    columns: IntLike,
    depth: IntLike,
    left: Callable[[Index, Index, Expr], Expr],
    right: Callable[[Index, Expr, Expr], Expr],
    packed: PackedRight | None,
    finish: Callable[[Index, Expr], Expr],
    name: str,
    dots: bool = False,
) -> te.Tensor:
    """`finish(place, sum over r of left[batch, rows, r] * right[batch, r, column])`.

    Args:
        batch: leading dims that both operands share.
        rows: dims of the left operand that only it has.
        left: its element by batch coordinates, row coordinates and depth.
        right: its element by batch coordinates, depth and column.
        packed: the right operand in blocks of lanes, where it is laid out at compile time.
        finish: the result from its coordinates [batch, rows, column] and the sum.
        dots: whether elements are words, see `emit.cpu.dot`.

    Returns:
        A tensor [batch, rows, columns].
    """
    shape = emitter.shape((*batch, *rows, columns))
    lead, split = len(batch), len(batch) + len(rows)
    if not isinstance(emitter.target, CpuTarget):
        over = emitter.axis(depth, "depth")

        def term(*i: Expr) -> Expr:
            return left(i[:lead], i[lead:split], over.var) * right(i[:lead], over.var, i[split])

        plain = te.compute(shape, lambda *i: te.sum(term(*i), axis=over), name=name)
        return te.compute(shape, lambda *i: finish(i, plain(*i)), name=f"{name}_result")
    first = left(*_zeros(len(batch), len(rows)), whole(0))
    dtype = str(first.ty.dtype)
    count: IntLike = 1
    for dim in rows:
        count = count * dim
    known = columns if isinstance(columns, int) else _MANY
    tile, rows_first = chosen_tile(emitter, count, known, depth, bits=element_bits(dtype))
    stored = []
    if packed is not None:
        weight, decode = packed(tile.lanes)

        def read_right(b: Index, block: Expr, d: Index, lane: Expr) -> Expr:
            return decode(weight(block, *d, lane))
    else:
        copied = _packed_in_kernel(emitter, emitter.shape(batch), depth, columns, tile.lanes, right)
        stored.append(copied)

        def read_right(b: Index, block: Expr, d: Index, lane: Expr) -> Expr:
            return copied(*b, block, *d, lane)

    def stand_in(*i: Expr) -> Expr:
        zero = (whole(0),)
        return left(i[:lead], i[lead:split], zero[0]) * read_right(i[:lead], zero[0], zero, zero[0])

    sums = te.compute(shape, stand_in, name=name)
    emitter.products[sums.op] = Product(
        sums=sums,
        tile=tile,
        batch=shape[:lead],
        rows=shape[lead:split],
        columns=shape[split],
        depth=[emitter.dim(depth)],
        left=lambda b, r, block, d: left(b, r, d[0]),
        right=read_right,
        place=lambda b, r, column: (*b, *r, column),
        stored=stored,
        rows_first=rows_first,
        dots=dots,
        streams=packed is not None and streams_weights(count, known, depth),
    )
    return te.compute(shape, lambda *i: finish(i, sums(*i)), name=f"{name}_result")


def _zeros(batch: int, rows: int) -> tuple[Index, Index]:
    return (whole(0),) * batch, (whole(0),) * rows


def _packed_in_kernel(
    emitter: Emitter,
    batch: list[Expr],
    depth: IntLike,
    columns: IntLike,
    lanes: int,
    right: Callable[[Index, Expr, Expr], Expr],
) -> te.Tensor:
    """The right operand as [batch, blocks, depth, lanes], computed by the kernel itself."""
    width = emitter.dim(columns)
    blocks = tirx.floordiv(width + (lanes - 1), whole(lanes))
    shape = [*batch, blocks, emitter.dim(depth), whole(lanes)]

    def at(*i: Expr) -> Expr:
        b, (block, r, lane) = i[: len(batch)], i[len(batch) :]
        column = block * lanes + lane
        found = right(b, r, column)
        size = size_of(width)
        if size is not None and size % lanes == 0:
            return found
        return tirx.if_then_else(column < width, found, number(0, str(found.ty.dtype)))

    return te.compute(shape, at, name="pack")
