"""Matrix products as the tensor core kernel takes them: what an operand's elements are and where they lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import te, tirx
from tvm.ir import Expr

State = tuple[Expr, ...]


@dataclass(frozen=True)
class Operand:
    """One side of a product, as a matrix [outer, depth] for each entry of the batch.

    Outer is the row of the left side, the column of the right side.

    Attributes:
        tensor: what holds the elements.
        run: elements that lie together, aligned to their joint size, from every multiple of `run` on.
        along_depth: whether runs go along the depth; along outer otherwise.
        anchor: what the place of an element takes from batch and outer alone; kernels keep
            these integers in registers.
        locate: offset of an element in the tensor from its anchor and depth, and whether there
            is one (None: always).  Within a run the offset grows
            by one a step and the presence does not change.
        fill: the 32-bit word that stands for absent elements.
    """

    tensor: te.Tensor
    run: int
    along_depth: bool
    anchor: Callable[[Expr, Expr], State]
    locate: Callable[[State, Expr], tuple[Expr, Expr | None]]
    fill: int = 0


@dataclass(frozen=True)
class Unpacking:
    """Integer weights of a product whose left operand is in half precision: unpacked in registers.

    The operand's bytes are in the order of `gpu.weights.in_fragment_order`.

    Attributes:
        bits: of one element in memory, 4 or 8; elements are not negative.
        zero: the element that stands for zero.
        group: elements along the depth that share a scale, a multiple of 32; None where scales
            are left to what follows the sums.
        scale: the scale of a column in a group; there where `group` is.
    """

    bits: int
    zero: int
    group: int | None = None
    scale: te.Tensor | None = None


@dataclass(frozen=True)
class Product:
    """sums[batch, row, column] = sum over depth of left[batch, row, depth] * right[batch, column, depth].

    Attributes:
        sums: the tensor that a kernel of TVM would compute; everything that follows it in its
            kernel reads one element of it for one of the result.
        place: indices of `sums` from batch, row and column.
        element: type of the operands' elements in shared memory.
        unsigned: whether the left and the right operand are unsigned bytes, from which 128 is taken.
        zeros: what stands for zero in the elements of both, 128 taken off; the kernel takes it off the sums.
        unpacking: how elements of the right operand come out of the bytes of its tensor; None: as they are.
    """

    sums: te.Tensor
    left: Operand
    right: Operand
    batch: Expr
    rows: Expr
    columns: Expr
    depth: Expr
    place: Callable[[Expr, Expr, Expr], tuple[Expr, ...]]
    element: str
    unsigned: tuple[bool, bool] = (False, False)
    zeros: tuple[int, int] = (0, 0)
    unpacking: Unpacking | None = None


def extent(value: Expr) -> int | None:
    """The value of a constant expression, or None."""
    return int(value.value) if isinstance(value, tirx.IntImm) else None


def run_length(limit: int, *extents: Expr) -> int:
    """The longest power of two, at most `limit`, known to divide all of some extents."""
    run = limit
    for size in extents:
        known = extent(size)
        if known is None:
            known = _factor(size)
        while known % run and run > 1:
            run //= 2
    return run


def _factor(size: Expr) -> int:
    """A constant known to divide an expression: 1 unless it is a product with one, or a sum of such."""
    if isinstance(size, tirx.IntImm):
        return int(size.value)
    if isinstance(size, tirx.Mul):
        return _factor(size.a) * _factor(size.b)
    if isinstance(size, (tirx.Add, tirx.Sub)):
        left, right = _factor(size.a), _factor(size.b)
        while right:
            left, right = right, left % right
        return left
    return 1


def narrow(value: Expr) -> Expr:
    """An index in 32 bits."""
    return (
        tirx.IntImm("int32", int(value.value))
        if isinstance(value, tirx.IntImm)
        else tirx.Cast("int32", value)
    )


def total(extents: Sequence[Expr]) -> Expr:
    """The product of extents, a constant where all of them are."""
    found: Expr = tirx.IntImm("int64", 1)
    for size in extents:
        a, b = extent(found), extent(size)
        found = tirx.IntImm("int64", a * b) if a is not None and b is not None else found * size
    return found


def unflatten(index: Expr, extents: Sequence[Expr]) -> tuple[Expr, ...]:
    """The place of an index among row-major axes; the first axis takes whatever is left."""
    places: list[Expr] = []
    for size in reversed(extents[1:]):
        if extent(size) == 1:
            places.insert(0, tirx.IntImm("int32", 0))
            continue
        width = narrow(size)
        places.insert(0, tirx.truncmod(index, width))
        index = tirx.truncdiv(index, width)
    return (index, *places) if extents else ()


__all__ = ["Operand", "Product", "State", "Unpacking", "extent", "narrow", "run_length", "total", "unflatten"]
