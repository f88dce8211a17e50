"""Emissions of dense layers and matrix products for tensor cores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


def tensor_core_element(emitter: Emitter, left: Value, right: Value) -> str | None:
    """The type in which tensor cores take the operands of a product, or None when they do not."""
    if not isinstance(emitter.target, GpuTarget):
        return None
    if isinstance(left.type, QuantType) and isinstance(right.type, QuantType):
        return "int8" if _is_plain_int8(left.type) and _is_symmetric_weight(right) else None
    if isinstance(left.type, QuantType) or isinstance(right.type, QuantType):
        return None
    names = {emitter.dtype(left.type), emitter.dtype(right.type)}
    if len(names) > 1:
        return None
    (name,) = names
    if name in ("float16", "bfloat16"):
        return name
    return name if name == "float32" and emitter.target.tf32 else None


def _is_plain_int8(kind: QuantType) -> bool:
    return kind.signed and kind.group is None and isinstance(kind.zero_point, int)


def _is_symmetric_weight(value: Value) -> bool:
    kind = value.type
    assert isinstance(kind, QuantType)
    return isinstance(value, Constant) and kind.signed and kind.group is None and kind.zero_point == 0


def stored_zero(kind: Any) -> int:
    """The stored integer that stands for zero in an operand of tensor cores."""
    if not isinstance(kind, QuantType):
        return 0
    assert isinstance(kind.zero_point, int)  # `tensor_core_element` takes no others
    return kind.zero_point


def zero_word(kind: Any) -> int:
    """The word of four elements that stand for zero in a tensor."""
    return (stored_zero(kind) & 0xFF) * 0x01010101


def widened(element: str) -> Callable[[Expr], Expr]:
    """An operand's element as the sums take it: stored integers as they are, with no zero point off."""
    accumulator = "int32" if element == "int8" else "float32"

    def wide(x: Expr) -> Expr:
        return x if str(x.ty.dtype) == accumulator else tirx.Cast(accumulator, x)

    return wide


def centred(
    emitter: Emitter, op: Any, raw: te.Tensor, channel: int, *, filters_first: bool = True
) -> te.Tensor:
    """Sums of stored integers with the left operand's zero point taken off.

    sum((x - z) w) = sum(x w) - z sum(w), and the sums of a constant weight are known.

    Args:
        channel: axis of the sums that runs along the weight's output channels.
        filters_first: whether the output channels are the first axis of the weight, or the last.
    """
    left, right = op.operands[:2]
    if not stored_zero(left.type):
        return raw
    outputs = right.type.shape[0 if filters_first else -1]

    def add_up(array: np.ndarray) -> np.ndarray:
        rows = array if filters_first else np.moveaxis(array, -1, 0)
        found: np.ndarray = rows.reshape(len(rows), -1).sum(1, dtype=np.int32)
        return found

    packing = Packing(f"sums,filters_first={filters_first}", add_up, "int32")
    sums = emitter.packed(right, (outputs,), packing)
    zero = number(stored_zero(left.type), "int32")
    return te.compute(raw.shape, lambda *i: raw(*i) - zero * sums(i[channel]), name="centred")


def matrix(
    tensor: te.Tensor,
    element: str,
    *,
    pitch: Expr,
    along_depth: bool,
    start: Callable[[Expr], Expr] | None = None,
) -> Operand:
    """An operand whose rows (along_depth) or depths (otherwise) lie `pitch` elements apart.

    Args:
        start: offset of the matrix of a batch entry; None where all entries share one.
    """

    def anchor(batch: Expr, outer: Expr) -> State:
        inner = outer * narrow(pitch) if along_depth else outer
        return (inner if start is None else start(batch) + inner,)

    def locate(state: State, depth: Expr) -> tuple[Expr, Expr | None]:
        return state[0] + (depth if along_depth else depth * narrow(pitch)), None

    run = run_length(CHUNK_ELEMENTS[element], pitch)
    return Operand(tensor, run, along_depth, anchor, locate)


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
    return _emitted(
        op,
        args,
        emitter,
        element,
        batch=[],
        lead=lead,
        columns=outputs,
        depth=depth,
        left=matrix(args.x, element, pitch=depth, along_depth=True),
        right=matrix(args.w, element, pitch=depth, along_depth=True),
        read_right=lambda b, r, column: args.w(column, r),
        read_left=lambda b, rows, r: args.x(*rows, r),
        channel=-1,
        name="linear",
    )


def matmul(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor | None:
    """A matrix product on tensor cores, or None when its types are not theirs."""
    from plait.backends.tvm.emit.linear import matrix_element

    element = tensor_core_element(emitter, op.left, op.right)
    if element is None or op.left.type.rank < 2 or op.right.type.rank < 2:
        return None
    if element == "int8":
        return _quantised_matmul(op, args, emitter)
    left_shape, right_shape = emitter.shape(op.left.type.shape), emitter.shape(op.right.type.shape)
    depth, columns = right_shape[-2:]
    shared_right = op.right.type.rank == 2
    batch = [] if shared_right else emitter.shape(op.result.type.shape[:-2])
    lead = left_shape[:-1] if shared_right else [left_shape[-2]]
    return _emitted(
        op,
        args,
        emitter,
        element,
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
        ),
        right=matrix(
            args.right,
            element,
            pitch=columns,
            along_depth=False,
            start=None if shared_right else stacked(right_shape, batch),
        ),
        read_left=lambda b, rows, r: (
            args.left(*rows, r) if shared_right else matrix_element(args.left, b, rows[0], r, batch)
        ),
        read_right=lambda b, r, column: matrix_element(args.right, b, r, column, batch),
        channel=None,
        name="matmul",
    )


def _quantised_matmul(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor | None:
    """With a constant right operand, which is laid out with its depth innermost; None for a stack of them."""
    if op.right.type.rank != 2:
        return None
    depth, columns = op.right.type.shape
    weight = emitter.packed(op.right, (columns, depth), Packing("transposed", np.transpose))
    pitch = emitter.dim(depth)
    return _emitted(
        op,
        args,
        emitter,
        "int8",
        batch=[],
        lead=emitter.shape(op.left.type.shape[:-1]),
        columns=emitter.dim(columns),
        depth=pitch,
        left=matrix(args.left, "int8", pitch=pitch, along_depth=True),
        right=matrix(weight, "int8", pitch=pitch, along_depth=True),
        read_left=lambda b, rows, r: args.left(*rows, r),
        read_right=lambda b, r, column: weight(column, r),
        channel=None,
        name="matmul",
        filters_first=False,
    )


def _emitted(
    op: Any,
    args: Arguments,
    emitter: Emitter,
    element: str,
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
    wide = widened(element)
    over = emitter.axis(depth, "depth")
    shape = [*batch, *lead, columns]
    split = len(batch)

    def term(*i: Expr) -> Expr:
        x = read_left(i[:split], i[split:-1], over.var)
        w = read_right(i[:split], over.var, i[-1])
        return te.sum(wide(x) * wide(w), axis=over)

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
    )
    finish = contraction_finish(op, args, emitter, channel=channel)
    real = centred(emitter, op, sums, -1, filters_first=filters_first)
    return te.compute(shape, lambda *i: finish(i, real(*i)), name=f"{name}_result")


__all__ = [
    "CHUNK_ELEMENTS",
    "centred",
    "linear",
    "matmul",
    "matrix",
    "stacked",
    "stored_zero",
    "tensor_core_element",
    "widened",
    "zero_word",
]
