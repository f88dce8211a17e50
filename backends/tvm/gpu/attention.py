"""Attention with both of its products on tensor cores and the softmax between them in f32."""

from __future__ import annotations

import math
from typing import Any

from tvm import te, tirx
from tvm.ir import Expr

from plait.backends.tvm.emit.expressions import element, number
from plait.backends.tvm.emit.norm import softmax
from plait.backends.tvm.emit.table import Arguments, Emitter
from plait.backends.tvm.gpu.contraction import CHUNK_ELEMENTS, matrix, stacked, tensor_core_element
from plait.backends.tvm.gpu.product import Operand, Product, State, narrow, total, unflatten
from plait.ir import TensorType
from plait.ir import types as t


def attention(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor | None:
    """Three kernels, or None when the types are not those of tensor cores.

    The weights have rows of whole 16-byte chunks, filled up with zeros, so that the second product
    copies them as such whatever the number of keys is.
    """
    element_type = tensor_core_element(emitter, op.q, op.k)
    if element_type is None:
        return None
    lead = emitter.shape(op.q.type.shape[:-2])
    weights = _weights(op, emitter, _scores(op, args, emitter, element_type, lead), element_type)
    return _values(op, args, emitter, element_type, lead, weights)


def _scores(op: Any, args: Arguments, emitter: Emitter, element_type: str, lead: list[Expr]) -> te.Tensor:
    """Scaled and masked scores in f32: [lead, queries, keys]."""
    from plait.backends.tvm.emit.linear import matrix_element

    q, k = op.q.type, op.k.type
    depth = emitter.dim(q.shape[-1])
    shape = [*lead, *emitter.shape((q.shape[-2], k.shape[-2]))]
    scale = op.scale if op.scale is not None else 1.0 / math.sqrt(int(q.shape[-1]))
    over = emitter.axis(depth, "depth")

    def term(*i: Expr) -> Expr:
        query = tirx.Cast("float32", args.q(*i[:-1], over.var))
        key = tirx.Cast("float32", matrix_element(args.k, i[:-2], i[-1], over.var, lead))
        return te.sum(query * key, axis=over)

    sums = te.compute(shape, term, name="scores")
    emitter.products[sums.op] = Product(
        sums,
        matrix(
            args.q,
            element_type,
            pitch=depth,
            along_depth=True,
            start=stacked(emitter.shape(q.shape), lead),
        ),
        matrix(
            args.k,
            element_type,
            pitch=depth,
            along_depth=True,
            start=stacked(emitter.shape(k.shape), lead),
        ),
        batch=total(lead),
        rows=shape[-2],
        columns=shape[-1],
        depth=depth,
        place=lambda z, row, column: (*unflatten(z, lead), row, column),
        element=element_type,
    )
    low = tirx.min_value("float32")

    def finish(*i: Expr) -> Expr:
        score = sums(*i) * number(scale, "float32")
        if args.mask is not None:
            mask = element(args.mask, i, shape)
            boolean = str(mask.ty.dtype) == "bool"
            score = tirx.Select(mask, score, low) if boolean else score + tirx.Cast("float32", mask)
        return tirx.Select(i[-1] <= i[-2], score, low) if op.causal else score

    found: te.Tensor = emitter.stage("scores", te.compute(shape, finish, name="scores_result"))
    return found


def _weights(op: Any, emitter: Emitter, scores: te.Tensor, element_type: str) -> te.Tensor:
    """Softmax of the scores: [lead, queries, keys up to the next whole chunk]."""
    q, keys = op.q.type, op.k.type.shape[-2]
    # A row whose keys are all masked has no largest score; its weights are zero.
    guarded = op.mask is not None or op.causal
    wide = TensorType(t.f32, (*q.shape[:-1], keys))
    found = softmax(emitter, scores, wide.rank - 1, wide, guarded=guarded)
    count = emitter.read_dim(keys)
    chunk = CHUNK_ELEMENTS[element_type]
    pitch = tirx.floordiv(count + (chunk - 1), chunk) * chunk
    whole = isinstance(keys, int) and keys % chunk == 0

    def at(*i: Expr) -> Expr:
        if whole:
            return tirx.Cast(element_type, found(*i))
        zero = number(0, element_type)
        return tirx.if_then_else(i[-1] < count, tirx.Cast(element_type, found(*i)), zero)

    shape = [*emitter.shape(q.shape[:-1]), pitch]
    staged: te.Tensor = emitter.stage("softmax", te.compute(shape, at, name="weights"))
    return staged


def _values(
    op: Any,
    args: Arguments,
    emitter: Emitter,
    element_type: str,
    lead: list[Expr],
    weights: te.Tensor,
) -> te.Tensor:
    """The weighted sums of the values: [lead, queries, features]."""
    from plait.backends.tvm.emit.linear import matrix_element

    v, result = op.v.type, op.result.type
    keys = emitter.read_dim(v.shape[-2])
    shape = emitter.shape(result.shape)
    over = emitter.axis(keys, "key")

    def term(*i: Expr) -> Expr:
        weight = tirx.Cast("float32", weights(*i[:-1], over.var))
        value = tirx.Cast("float32", matrix_element(args.v, i[:-2], over.var, i[-1], lead))
        return te.sum(weight * value, axis=over)

    sums = te.compute(shape, term, name="values")
    stored = matrix(
        args.v,
        element_type,
        pitch=shape[-1],
        along_depth=False,
        start=stacked(emitter.shape(v.shape), lead),
    )

    def locate(state: State, depth: Expr) -> tuple[Expr, Expr | None]:
        # Behind the last key the weights are zero, and there is no value to read.
        return stored.locate(state, depth)[0], depth < narrow(keys)

    pitch = weights.shape[-1]
    emitter.products[sums.op] = Product(
        sums,
        matrix(
            weights,
            element_type,
            pitch=pitch,
            along_depth=True,
            start=stacked(list(weights.shape), lead),
        ),
        Operand(stored.tensor, stored.run, False, stored.anchor, locate),
        batch=total(lead),
        rows=shape[-2],
        columns=shape[-1],
        depth=pitch,
        place=lambda z, row, column: (*unflatten(z, lead), row, column),
        element=element_type,
    )
    dtype = emitter.dtype(result)
    return te.compute(shape, lambda *i: tirx.Cast(dtype, sums(*i)), name="values_result")


__all__ = ["attention"]
