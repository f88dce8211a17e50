"""Emissions of dense layers, matrix products, attention and embedding."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import te, tirx
from tvm.ir import Expr

from plait.backends.tvm.emit.contraction import PackedRight, matrix_product
from plait.backends.tvm.emit.cpu.dot import STEP, DotOperands, dot_operands, words
from plait.backends.tvm.emit.cpu.tiles import packing
from plait.backends.tvm.emit.expressions import element, number, size_of
from plait.backends.tvm.emit.index import wrapped
from plait.backends.tvm.emit.norm import softmax
from plait.backends.tvm.emit.quant import Dequantised, contraction_finish, operand
from plait.backends.tvm.emit.table import Arguments, Emitter, Kind, emit
from plait.backends.tvm.gpu import attention, contraction, spikes
from plait.ir import Value
from plait.ir.ops import linalg, nn, spike


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
    dots = dot_operands(emitter, op.x, op.w, depth)
    if dots is not None:
        return _linear_by_dots(op, args, emitter, dots, finish)
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


def _linear_by_dots(
    op: Any,
    args: Arguments,
    emitter: Emitter,
    dots: DotOperands,
    finish: Callable[[tuple[Expr, ...], Expr], Expr],
) -> te.Tensor:
    """A dense layer of 8-bit integers in words of four."""
    outputs, depth = op.w.type.shape

    def packed(lanes: int) -> tuple[te.Tensor, Callable[[Expr], Expr]]:
        shape = (-(-int(outputs) // lanes), int(depth) // STEP, lanes)
        return emitter.packed(op.w, shape, packing(lanes, "words", arrange=words, dtype="int32")), lambda w: w

    return matrix_product(
        emitter,
        batch=(),
        rows=op.x.type.shape[:-1],
        columns=outputs,
        depth=int(depth) // STEP,
        left=lambda b, rows, r: dots.word(lambda k: args.x(*rows, r * STEP + k)),
        right=lambda b, r, column: number(0, "int32"),
        packed=packed,
        finish=lambda i, total: finish(i, dots.corrected(total, i[-1])),
        name="linear",
        dots=True,
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
    a, b = operand(emitter, op.left), operand(emitter, op.right)
    finish = contraction_finish(op, args, emitter, channel=None)
    depth, columns = right.shape[-2:]
    if right.rank == 2:
        return matrix_product(
            emitter,
            batch=(),
            rows=left.shape[:-1],
            columns=columns,
            depth=depth,
            left=lambda _, rows, r: a.centred(args.left(*rows, r)),
            right=lambda _, r, column: b.centred(args.right(r, column)),
            packed=_packed_or_none(emitter, op.right, b, transposed=True),
            finish=finish,
            name="matmul",
        )
    lead = emitter.shape(result.shape[:-2])
    return matrix_product(
        emitter,
        batch=result.shape[:-2],
        rows=(left.shape[-2],),
        columns=columns,
        depth=depth,
        left=lambda i, rows, r: a.centred(matrix_element(args.left, i, rows[0], r, lead)),
        right=lambda i, r, column: b.centred(matrix_element(args.right, i, r, column, lead)),
        packed=None,
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


@emit(spike.SpikeLinear, kind=Kind.CONTRACTION)
def _spike_linear(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    """On a GPU by events; on a CPU spikes as zeros and ones times the weights, whatever the density."""
    outputs, depth = op.w.type.shape
    dtype = emitter.dtype(op.w.type)

    def finish(i: tuple[Expr, ...], total: Expr) -> Expr:
        return total if args.b is None else total + args.b(i[-1])

    by_events = spikes.spike_linear(op, args, emitter)
    if by_events is not None:
        if args.b is None:
            return by_events
        return te.compute(by_events.shape, lambda *i: finish(i, by_events(*i)), name="spike_linear")
    return matrix_product(
        emitter,
        batch=(),
        rows=op.x.type.shape[:-1],
        columns=outputs,
        depth=depth,
        left=lambda b, rows, r: tirx.Select(args.x(*rows, r), number(1, dtype), number(0, dtype)),
        right=lambda b, r, column: args.w(column, r),
        packed=_packed_weight(emitter, op.w, lambda x: x, transposed=False),
        finish=finish,
        name="spike_linear",
    )


@emit(nn.Embedding, kind=Kind.INJECTIVE)
def _embedding(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    rows = op.table.type.shape[0]

    def at(*i: Expr) -> Expr:
        return args.table(wrapped(emitter, args.indices(*i[:-1]), rows), i[-1])

    return te.compute(emitter.shape(op.result.type.shape), at, name="embedding")
