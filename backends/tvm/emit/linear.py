"""Emissions of dense layers, matrix products, attention and embedding."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import te, tirx
from tvm.ir import Expr

from plait.backends.tvm.emit.contraction import PackedRight, matrix_product
from plait.backends.tvm.emit.cpu.dot import STEP, dot_activations, dot_operands
from plait.backends.tvm.emit.cpu.matrix import computed_words, constant_words, dot_product, weight_product
from plait.backends.tvm.emit.cpu.tiles import packing
from plait.backends.tvm.emit.expressions import element, number, size_of
from plait.backends.tvm.emit.index import wrapped
from plait.backends.tvm.emit.norm import softmax
from plait.backends.tvm.emit.quant import Dequantised, contraction_finish, operand
from plait.backends.tvm.emit.table import Arguments, Emitter, Kind, emit
from plait.backends.tvm.emit.weights import StoredMatrix, is_weight_only, real_weight
from plait.backends.tvm.gpu import attention, contraction
from plait.backends.tvm.gpu.weights import half_product
from plait.ir import Constant, IntLike, Value
from plait.ir.ops import linalg, nn

#: The result of a product from its place and the sum.
Finish = Callable[[tuple[Expr, ...], Expr], Expr]


def _packed_weight(
    emitter: Emitter, value: Value, decode: Callable[[Expr], Expr], *, transposed: bool
) -> PackedRight | None:
    """A constant right operand [columns, depth], or [depth, columns] where `transposed`."""
    if not emitter.packs(value):
        return None
    columns, depth = value.shaped.shape[::-1] if transposed else value.shaped.shape

    def packed(lanes: int) -> tuple[te.Tensor, Callable[[Expr], Expr]]:
        shape = (-(-int(columns) // lanes), int(depth), lanes)
        layout = packing(lanes, "transposed", arrange=np.transpose) if transposed else packing(lanes)
        return emitter.packed(value, shape, layout), decode

    return packed


@emit(nn.Linear, kind=Kind.CONTRACTION)
def _linear(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    on_tensor_cores = contraction.linear(op, args, emitter)
    if on_tensor_cores is not None:
        return on_tensor_cores
    outputs, depth = op.w.type.shape
    finish = contraction_finish(op, args, emitter, channel=-1)
    if is_weight_only(op.x, op.w):
        return _by_real_weight(emitter, op.x, args.x, op.w, args, finish, "linear", transposed=False)
    dots = dot_operands(emitter, op.x, op.w, depth) if _fills_words(depth) else None
    if dots is not None:
        return dot_product(
            emitter,
            dots,
            batch=(),
            rows=op.x.type.shape[:-1],
            columns=outputs,
            depth=depth,
            left=lambda b, rows, r: args.x(*rows, r),
            panels=constant_words(emitter, op.w, outputs, depth),
            finish=finish,
            name="linear",
        )
    x, w = operand(emitter, op.x), operand(emitter, op.w)
    return matrix_product(
        emitter,
        batch=(),
        rows=op.x.type.shape[:-1],
        columns=outputs,
        depth=depth,
        left=lambda b, rows, r: x.centred(args.x(*rows, r)),
        right=lambda b, r, column: w.centred(args.w(column, r), column),
        packed=_packed_or_none(emitter, op.w, w, transposed=False),
        finish=finish,
        name="linear",
    )


def _fills_words(depth: IntLike) -> bool:
    """Whether a depth has a word of four elements at least."""
    return isinstance(depth, int) and depth >= STEP


def _by_real_weight(
    emitter: Emitter,
    x: Value,
    x_tensor: te.Tensor,
    w: Value,
    args: Arguments,
    finish: Finish,
    name: str,
    *,
    transposed: bool,
) -> te.Tensor:
    """A dense layer in floating point with a matrix of integers, [depth, columns] where `transposed`."""
    real = real_weight(emitter, w, 1 if transposed else 0, x)
    wide = operand(emitter, x).centred
    rows = x.shaped.shape[:-1]
    depth, columns = w.shaped.shape if transposed else w.shaped.shape[::-1]
    if isinstance(w, Constant):
        weight = StoredMatrix(emitter, w, transposed)
        found = half_product(x, x_tensor, weight, real, emitter, finish, name)
        if found is None and emitter.is_cpu:
            found = weight_product(
                emitter,
                weight,
                real,
                rows=rows,
                left=lambda row, r: wide(x_tensor(*row, r)),
                finish=finish,
                name=name,
            )
        if found is not None:
            return found
        bytes_of = weight.rows()

        def element(column: Expr, r: Expr) -> Expr:
            byte = bytes_of(column, tirx.floordiv(r, weight.per_byte))
            return real.element(weight.unpacked(byte, r), weight.place(column, r))
    else:
        tensor = args.right if transposed else args.w

        def element(column: Expr, r: Expr) -> Expr:
            place = (r, column) if transposed else (column, r)
            return real.element(tensor(*place), place)

    # A map of its own: tiling rules of a GPU compute it where they copy into shared memory.
    unpacked = te.compute(emitter.shape((columns, depth)), element, name="unpacked")
    return matrix_product(
        emitter,
        batch=(),
        rows=rows,
        columns=columns,
        depth=depth,
        left=lambda b, row, r: wide(x_tensor(*row, r)),
        right=lambda b, r, column: unpacked(column, r),
        packed=None,
        finish=lambda i, total: finish(i, real.scaled(total, i[-1])),
        name=name,
    )


def _packed_or_none(
    emitter: Emitter, value: Value, weight: Dequantised, *, transposed: bool
) -> PackedRight | None:
    if weight.zero_point_per_channel:
        return None
    return _packed_weight(emitter, value, weight.centred, transposed=transposed)


@emit(linalg.Matmul, kind=Kind.CONTRACTION)
def _matmul(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    on_tensor_cores = contraction.matmul(op, args, emitter)
    if on_tensor_cores is not None:
        return on_tensor_cores
    left, right, result = op.left.type, op.right.type, op.result.type
    finish = contraction_finish(op, args, emitter, channel=None)
    depth, columns = right.shape[-2:]
    weight_only = is_weight_only(op.left, op.right)
    if weight_only and right.rank == 2:
        return _by_real_weight(emitter, op.left, args.left, op.right, args, finish, "matmul", transposed=True)
    if not weight_only and _fills_words(depth):
        found = _matmul_by_dots(op, args, emitter, finish)
        if found is not None:
            return found
    a, b = operand(emitter, op.left), operand(emitter, op.right)
    if right.rank == 2:
        return matrix_product(
            emitter,
            batch=(),
            rows=left.shape[:-1],
            columns=columns,
            depth=depth,
            left=lambda _, rows, r: a.centred(args.left(*rows, r)),
            right=lambda _, r, column: b.centred(args.right(r, column), column),
            packed=_packed_or_none(emitter, op.right, b, transposed=True),
            finish=finish,
            name="matmul",
        )
    lead = emitter.shape(result.shape[:-2])
    other = args.right
    real = real_weight(emitter, op.right, right.rank - 1, op.left) if weight_only else None
    if real is not None:
        other = te.compute(
            emitter.shape(right.shape), lambda *i: real.element(args.right(*i), i), name="unpacked"
        )

    def element_of(i: tuple[Expr, ...], r: Expr, column: Expr) -> Expr:
        found = matrix_element(other, i, r, column, lead)
        return b.centred(found, column) if real is None else found

    def finished(i: tuple[Expr, ...], total: Expr) -> Expr:
        return finish(i, total if real is None else real.scaled(total, i[-1]))

    return matrix_product(
        emitter,
        batch=result.shape[:-2],
        rows=(left.shape[-2],),
        columns=columns,
        depth=depth,
        left=lambda i, rows, r: a.centred(matrix_element(args.left, i, rows[0], r, lead)),
        right=element_of,
        packed=None,
        finish=finished,
        name="matmul",
    )


def _matmul_by_dots(op: Any, args: Arguments, emitter: Emitter, finish: Finish) -> te.Tensor | None:
    """A product of two matrices of 8-bit integers in words of four; None where they take another way."""
    left, right, result = op.left.type, op.right.type, op.result.type
    depth, columns = right.shape[-2:]
    if right.rank == 2:
        batch, rows = (), left.shape[:-1]
    else:
        batch, rows = result.shape[:-2], (left.shape[-2],)
    lead = emitter.shape(batch)
    if isinstance(op.right, Constant) and right.rank == 2:
        dots = dot_operands(emitter, op.left, op.right, depth, transposed=True)
    else:
        dots = dot_activations(emitter, op.left, op.right)
    if dots is None:
        return None
    if dots.sums is not None:
        panels = constant_words(emitter, op.right, columns, depth, transposed=True)
    else:
        panels = computed_words(
            emitter,
            dots,
            batch,
            columns,
            depth,
            lambda b, r, column: matrix_element(args.right, b, r, column, lead),
        )
    return dot_product(
        emitter,
        dots,
        batch=batch,
        rows=rows,
        columns=columns,
        depth=depth,
        left=lambda b, row, r: (
            args.left(*row, r) if right.rank == 2 else matrix_element(args.left, b, row[0], r, lead)
        ),
        panels=panels,
        finish=finish,
        name="matmul",
    )


def matrix_element(
    tensor: te.Tensor, lead: tuple[Expr, ...], row: Expr, column: Expr, shape: list[Expr]
) -> Expr:
    """Element of a matrix among a stack whose leading dims broadcast to `shape`."""
    offset = len(lead) - (len(tensor.shape) - 2)
    places = []
    for axis, dim in enumerate(tensor.shape[:-2]):
        stretched = size_of(dim) == 1 and size_of(shape[axis + offset]) != 1
        places.append(tirx.IntImm("int64", 0) if stretched else lead[axis + offset])
    return tensor(*places, row, column)


@emit(nn.Attention, kind=Kind.ALONE)
def _attention(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    """Three kernels: scores with scale and mask, softmax, and the weighted sum of values."""
    on_tensor_cores = attention.attention(op, args, emitter)
    if on_tensor_cores is not None:
        return on_tensor_cores
    q, k, v = op.q.type, op.k.type, op.v.type
    dtype = emitter.dtype(q)
    scale = op.scale if op.scale is not None else 1.0 / math.sqrt(int(q.shape[-1]))
    lead = emitter.shape(q.shape[:-2])
    scores_shape = emitter.shape((*q.shape[:-1], k.shape[-2]))
    low = tirx.min_value(dtype)

    def finish(i: tuple[Expr, ...], total: Expr) -> Expr:
        score = total * number(scale, dtype)
        if args.mask is not None:
            mask = element(args.mask, i, scores_shape)
            score = tirx.Select(mask, score, low) if str(mask.ty.dtype) == "bool" else score + mask
        return tirx.Select(i[-1] <= i[-2], score, low) if op.causal else score

    scores = matrix_product(
        emitter,
        batch=q.shape[:-2],
        rows=(q.shape[-2],),
        columns=k.shape[-2],
        depth=q.shape[-1],
        left=lambda i, rows, r: args.q(*i, rows[0], r),
        right=lambda i, r, column: matrix_element(args.k, i, column, r, lead),
        packed=None,
        finish=finish,
        name="scores",
    )
    scores = emitter.stage("scores", scores)
    # A row whose keys are all masked has no largest score; its weights are zero.
    guarded = args.mask is not None or op.causal
    weights = softmax(
        emitter, scores, len(q.shape) - 1, q.with_shape((*q.shape[:-1], k.shape[-2])), guarded=guarded
    )
    weights = emitter.stage("softmax", weights)
    return matrix_product(
        emitter,
        batch=q.shape[:-2],
        rows=(q.shape[-2],),
        columns=v.shape[-1],
        depth=k.shape[-2],
        left=lambda i, rows, r: weights(*i, rows[0], r),
        right=lambda i, r, column: matrix_element(args.v, i, r, column, lead),
        packed=None,
        finish=lambda i, total: total,
        name="values",
    )


@emit(nn.Embedding, kind=Kind.INJECTIVE)
def _embedding(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    rows = op.table.type.shape[0]

    def at(*i: Expr) -> Expr:
        return args.table(wrapped(emitter, args.indices(*i[:-1]), rows), i[-1])

    return te.compute(emitter.shape(op.result.type.shape), at, name="embedding")
