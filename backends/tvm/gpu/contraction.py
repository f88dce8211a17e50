"""Emissions of dense layers and matrix products for tensor cores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import te, tirx
from tvm.ir import Expr

from plait.backends.targets import GpuTarget
from plait.backends.tvm.emit.expressions import number, size_of
from plait.backends.tvm.emit.quant import contraction_finish
from plait.backends.tvm.emit.table import Arguments, Emitter, Packing
from plait.backends.tvm.gpu.product import Operand, Product, State, narrow, run_length, total, unflatten
from plait.ir import Constant, QuantType, Value

CHUNK_ELEMENTS = {"float16": 8, "bfloat16": 8, "float32": 4, "int8": 16}
#: What is taken from an unsigned byte so that a signed one is left.
_HALF_RANGE = 128


def tensor_core_element(emitter: Emitter, left: Value, right: Value) -> str | None:
    """The type in which tensor cores take the operands of a product, or None when they do not."""
    if not isinstance(emitter.target, GpuTarget):
        return None
    if isinstance(left.type, QuantType) and isinstance(right.type, QuantType):
        return "int8" if _has_one_zero_point(left.type) and _has_one_zero_point(right.type) else None
    if isinstance(left.type, QuantType) or isinstance(right.type, QuantType):
        return None
    names = {emitter.dtype(left.type), emitter.dtype(right.type)}
    if len(names) > 1:
        return None
    (name,) = names
    if name in ("float16", "bfloat16"):
        return name
    return name if name == "float32" and emitter.target.tf32 else None


def _has_one_zero_point(kind: QuantType) -> bool:
    return kind.group is None and isinstance(kind.zero_point, int)


def stored_zero(kind: Any) -> int:
    """The stored integer that stands for zero in an operand of tensor cores."""
    if not isinstance(kind, QuantType):
        return 0
    assert isinstance(kind.zero_point, int)  # `tensor_core_element` takes no others
    return kind.zero_point


def zero_word(kind: Any) -> int:
    """The word of four elements that stand for zero in a tensor."""
    return (stored_zero(kind) & 0xFF) * 0x01010101


@dataclass(frozen=True)
class Terms:
    """What the sums of a product add up, as a tensor expression and as the kernel does it.

    Attributes:
        left, right: an element of an operand as the sums take it.
        unsigned, zeros: see `Product`.
        offset: stands for zero in the left elements where that is taken off behind the sums.
        fills: words for absent elements of both.  Where neither operand is known to be zero in
            their place, an absent element is its operand's zero point.
    """

    left: Callable[[Expr], Expr]
    right: Callable[[Expr], Expr]
    unsigned: tuple[bool, bool] = (False, False)
    zeros: tuple[int, int] = (0, 0)
    offset: int = 0
    fills: tuple[int, int] = (0, 0)


def terms(element: str, left: Value, right: Value, *, known: bool = True) -> Terms:
    """The terms of the sums of two operands.

    sum((x - z) w) = sum(x w) - z sum(w): of a constant weight without a zero point, the last sums are
    known (`centred`).  Otherwise the kernel adds up what it needs.

    Args:
        known: whether a constant has one sum for each column, and zeros behind its depth.
    """
    if element != "int8":
        return Terms(_plain("float32", 0), _plain("float32", 0))
    kinds = (left.type, right.type)
    unsigned = tuple(isinstance(kind, QuantType) and not kind.signed for kind in kinds)
    shifts = tuple(_HALF_RANGE if flag else 0 for flag in unsigned)
    zeros = tuple(stored_zero(kind) - shift for kind, shift in zip(kinds, shifts, strict=True))
    signs = (unsigned[0], unsigned[1])
    if known and isinstance(right, Constant) and zeros[1] == 0 and not unsigned[1]:
        return Terms(_plain("int32", shifts[0]), _plain("int32", 0), signs, offset=zeros[0])
    return Terms(
        _plain("int32", stored_zero(left.type)),
        _plain("int32", stored_zero(right.type)),
        signs,
        (zeros[0], zeros[1]),
        fills=(zero_word(left.type), zero_word(right.type)),
    )


def _plain(accumulator: str, offset: int) -> Callable[[Expr], Expr]:
    """An element in the type of the sums, with a number taken off."""

    def wide(x: Expr) -> Expr:
        found = x if str(x.ty.dtype) == accumulator else tirx.Cast(accumulator, x)
        return found - number(offset, accumulator) if offset else found

    return wide


def centred(
    emitter: Emitter, op: Any, raw: te.Tensor, offset: int, channel: int, *, filters_first: bool = True
) -> te.Tensor:
    """Sums with `offset` taken off the left elements.

    Args:
        channel: axis of the sums that runs along the weight's output channels.
        filters_first: whether the output channels are the first axis of the weight, or the last.
    """
    if not offset:
        return raw
    right = op.operands[1]
    outputs = right.type.shape[0 if filters_first else -1]

    def add_up(array: np.ndarray) -> np.ndarray:
        rows = array if filters_first else np.moveaxis(array, -1, 0)
        found: np.ndarray = rows.reshape(len(rows), -1).sum(1, dtype=np.int32)
        return found

    packing = Packing(f"sums,filters_first={filters_first}", add_up, "int32")
    sums = emitter.packed(right, (outputs,), packing)
    zero = number(offset, "int32")
    return te.compute(raw.shape, lambda *i: raw(*i) - zero * sums(i[channel]), name="centred")


def matrix(
    tensor: te.Tensor,
    element: str,
    *,
    pitch: Expr,
    along_depth: bool,
    start: Callable[[Expr], Expr] | None = None,
    fill: int = 0,
) -> Operand:
    """An operand whose rows (along_depth) or depths (otherwise) lie `pitch` elements apart.

    Args:
        start: offset of the matrix of a batch entry; None where all entries share one.
        fill: the word that stands for absent elements.
    """

    def anchor(batch: Expr, outer: Expr) -> State:
        inner = outer * narrow(pitch) if along_depth else outer
        return (inner if start is None else start(batch) + inner,)

    def locate(state: State, depth: Expr) -> tuple[Expr, Expr | None]:
        return state[0] + (depth if along_depth else depth * narrow(pitch)), None

    run = run_length(CHUNK_ELEMENTS[element], pitch)
    return Operand(tensor, run, along_depth, anchor, locate, fill)


def stacked(shape: Sequence[Expr], lead: Sequence[Expr]) -> Callable[[Expr], Expr]:
    """Offset of a matrix in a stack of `shape` whose leading dims broadcast to `lead`."""
    offset = len(lead) - (len(shape) - 2)

    def start(batch: Expr) -> Expr:
        places = unflatten(batch, lead)[offset:]
        found: Expr = tirx.const(0, "int32")
        for axis, size in enumerate(shape[:-2]):
            stretched = size_of(size) == 1 and size_of(lead[axis + offset]) != 1
            found = found * narrow(size) + (tirx.const(0, "int32") if stretched else places[axis])
        return found * narrow(total(shape[-2:]))

    return start


def linear(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor | None:
    """A dense layer on tensor cores, or None when its types are not theirs."""
    element = tensor_core_element(emitter, op.x, op.w)
    if element is None:
        return None
    outputs, depth = emitter.shape(op.w.type.shape)
    lead = emitter.shape(op.x.type.shape[:-1])
    weight, pitch = args.w, depth
    if element == "int8" and isinstance(op.w, Constant) and (length := size_of(depth)) is not None:
        weight, pitch = _in_chunks(emitter, op.w, length, lambda array: array, "rows")
    found = terms(element, op.x, op.w)
    return _emitted(
        op,
        args,
        emitter,
        element,
        found,
        batch=[],
        lead=lead,
        columns=outputs,
        depth=depth,
        left=matrix(args.x, element, pitch=depth, along_depth=True, fill=found.fills[0]),
        right=matrix(weight, element, pitch=pitch, along_depth=True, fill=found.fills[1]),
        read_right=lambda b, r, column: weight(column, r),
        read_left=lambda b, rows, r: args.x(*rows, r),
        channel=-1,
        name="linear",
    )


def _in_chunks(
    emitter: Emitter, value: Constant, depth: int, arrange: Callable[[np.ndarray], np.ndarray], key: str
) -> tuple[te.Tensor, Expr]:
    """A constant of bytes arranged as [..., columns, depth] with rows of whole chunks, and their length."""
    chunk = CHUNK_ELEMENTS["int8"]
    width = -(-depth // chunk) * chunk

    def apply(array: np.ndarray) -> np.ndarray:
        arranged = arrange(array)
        return np.pad(arranged, [*[(0, 0)] * (arranged.ndim - 1), (0, width - depth)])

    shape = arrange(value.data).shape
    packing = Packing(f"{key},width={width}", apply)
    return emitter.packed(value, (*shape[:-1], width), packing), tirx.IntImm("int64", width)


@dataclass(frozen=True)
class _Right:
    """The right operand of a matrix product in memory: [..., columns, depth] or [..., depth, columns]."""

    tensor: te.Tensor
    shape: list[Expr]
    along_depth: bool

    def read(self, b: tuple[Expr, ...], r: Expr, column: Expr, batch: list[Expr]) -> Expr:
        """Its element at a depth and a column."""
        from plait.backends.tvm.emit.linear import matrix_element

        place = (column, r) if self.along_depth else (r, column)
        return matrix_element(self.tensor, b, *place, batch)


def _right_of(op: Any, args: Arguments, emitter: Emitter, element: str) -> _Right:
    """Constants of bytes are laid out with the depth innermost; others lie as they lie."""
    value = op.right
    if element == "int8" and isinstance(value, Constant):
        turned, pitch = _in_chunks(
            emitter, value, int(value.shaped.shape[-2]), lambda array: array.swapaxes(-1, -2), "transposed"
        )
        return _Right(turned, [*emitter.shape(value.shaped.shape[:-2]), turned.shape[-2], pitch], True)
    swapped = emitter.layouts.get(value) == swapped_axes(value.shaped.rank)
    stored = emitter.stored(value)[0] if swapped else args.right
    return _Right(stored, list(stored.shape), swapped)


def swapped_axes(rank: int) -> tuple[int, ...]:
    """The layout of a stack of matrices that lie transposed."""
    return (*range(rank - 2), rank - 1, rank - 2)


def matmul(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor | None:
    """A matrix product on tensor cores, or None when its types are not theirs."""
    from plait.backends.tvm.emit.linear import matrix_element

    element = tensor_core_element(emitter, op.left, op.right)
    if element is None:
        return None
    left_shape = emitter.shape(op.left.type.shape)
    depth, columns = emitter.shape(op.right.type.shape[-2:])
    right = _right_of(op, args, emitter, element)
    shared_right = op.right.type.rank == 2
    batch = [] if shared_right else emitter.shape(op.result.type.shape[:-2])
    lead = left_shape[:-1] if shared_right else [left_shape[-2]]
    found = terms(element, op.left, op.right, known=shared_right)
    return _emitted(
        op,
        args,
        emitter,
        element,
        found,
        batch=batch,
        lead=lead,
        columns=columns,
        depth=depth,
        left=matrix(
            args.left,
            element,
            pitch=depth,
            along_depth=True,
            start=None if shared_right else stacked(left_shape, batch),
            fill=found.fills[0],
        ),
        right=matrix(
            right.tensor,
            element,
            pitch=right.shape[-1],
            along_depth=right.along_depth,
            start=None if shared_right else stacked(right.shape, batch),
            fill=found.fills[1],
        ),
        read_left=lambda b, rows, r: (
            args.left(*rows, r) if shared_right else matrix_element(args.left, b, rows[0], r, batch)
        ),
        read_right=lambda b, r, column: right.read(b, r, column, batch),
        channel=None,
        name="matmul",
        filters_first=False,
    )


def _emitted(
    op: Any,
    args: Arguments,
    emitter: Emitter,
    element: str,
    found: Terms,
    *,
    batch: list[Expr],
    lead: list[Expr],
    columns: Expr,
    depth: Expr,
    left: Operand,
    right: Operand,
    read_left: Callable[[tuple[Expr, ...], tuple[Expr, ...], Expr], Expr],
    read_right: Callable[[tuple[Expr, ...], Expr, Expr], Expr],
    channel: int | None,
    name: str,
    filters_first: bool = True,
) -> te.Tensor:
    """The sums [batch, lead, columns], known to the emitter as a product, and what follows them."""
    over = emitter.axis(depth, "depth")
    shape = [*batch, *lead, columns]
    split = len(batch)

    def term(*i: Expr) -> Expr:
        x = read_left(i[:split], i[split:-1], over.var)
        w = read_right(i[:split], over.var, i[-1])
        return te.sum(found.left(x) * found.right(w), axis=over)

    sums = te.compute(shape, term, name=name)
    emitter.products[sums.op] = Product(
        sums,
        left,
        right,
        batch=total(batch),
        rows=total(lead),
        columns=columns,
        depth=depth,
        place=lambda z, row, column: (*unflatten(z, batch), *unflatten(row, lead), column),
        element=element,
        unsigned=found.unsigned,
        zeros=found.zeros,
    )
    finish = contraction_finish(op, args, emitter, channel=channel)
    real = centred(emitter, op, sums, found.offset, -1, filters_first=filters_first)
    return te.compute(shape, lambda *i: finish(i, real(*i)), name=f"{name}_result")


__all__ = [
    "CHUNK_ELEMENTS",
    "Terms",
    "centred",
    "linear",
    "matmul",
    "matrix",
    "stacked",
    "stored_zero",
    "swapped_axes",
    "tensor_core_element",
    "terms",
    "zero_word",
]
