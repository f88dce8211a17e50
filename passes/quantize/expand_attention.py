"""expand-attention: attention as two products and a softmax, each of which can be quantised on its own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from plait.ir import Op, TensorType, Value
from plait.ir.ops import core, linalg, nn
from plait.ir.types import boolean, i64
from plait.passes.base import register
from plait.passes.rewriter import Replace, RewritePass, Rewriter, Skip, rule


@register
@dataclass(frozen=True)
class ExpandAttention(RewritePass):
    """Write nn.attention as softmax(q @ k.T * scale + mask) @ v.

    Given:
        %q : f32[B,2,5,8]
        %k : f32[B,2,7,8]
        %v : f32[B,2,7,6]
        %y = nn.attention(%q, %k, %v) {scale=0.5} : f32[B,2,5,6]
        return %y
    Result:
        %y.keys = core.transpose(%k) {permutation=[0,1,3,2]} : f32[B,2,8,7]
        %y.products = linalg.matmul(%q, %y.keys) : f32[B,2,5,7]
        %y.factor = core.full() {value=0.5} : f32[]
        %y.scores = core.mul(%y.products, %y.factor) : f32[B,2,5,7]
        %y.weights = nn.softmax(%y.scores) {axis=3} : f32[B,2,5,7]
        %y = linalg.matmul(%y.weights, %v) : f32[B,2,5,6]
        return %y
    """

    name: ClassVar[str] = "expand-attention"


@rule(ExpandAttention, "attention(q, k, v) => softmax(q k^T * scale + mask) v")
def expand(op: nn.Attention, rw: Rewriter) -> Replace | Skip:
    """Scores, their mask, weights, and the weighted sum.

    In half precision the queries are scaled before the product, which might overflow
    otherwise.  A row of which every key is masked has weights of zero.

    Given:
        %q : f32[B,T,8]
        %k : f32[B,T,8]
        %v : f32[B,T,8]
        %y = nn.attention(%q, %k, %v) {causal=true, scale=0.25} : f32[B,T,8]
        return %y
    Result:
        %y.keys = core.transpose(%k) {permutation=[0,2,1]} : f32[B,8,T]
        %y.products = linalg.matmul(%q, %y.keys) : f32[B,T,T]
        %y.factor = core.full() {value=0.25} : f32[]
        %y.scores = core.mul(%y.products, %y.factor) : f32[B,T,T]
        %y.query = core.iota() : i64[T,1]
        %y.key = core.iota() {axis=1} : i64[1,T]
        %y.seen = core.ge(%y.query, %y.key) : bool[T,T]
        %y.none = core.full() {value=-inf} : f32[]
        %y.causal = core.where(%y.seen, %y.scores, %y.none) : f32[B,T,T]
        %y.weights = nn.softmax(%y.causal) {axis=2} : f32[B,T,T]
        %y = linalg.matmul(%y.weights, %v) : f32[B,T,8]
        return %y
    """
    scale = _scale(op)
    if isinstance(scale, Skip):
        return scale
    made = _Expansion(op, rw)
    scores = made.scores(scale)
    if op.causal:
        scores = made.where(made.seen(), scores, "causal")
    if op.mask is not None:
        if op.mask.shaped.dtype == boolean:
            scores = made.where(op.mask, scores, "masked")
        else:
            scores = made.add(core.Add(scores, op.mask), "masked")
    axis = scores.shaped.rank - 1
    weights = made.add(nn.Softmax(scores, axis=axis), "weights")
    if op.mask is not None:
        weights = made.without_empty_rows(scores, weights)
    return rw.replace(op, with_=linalg.Matmul(weights, op.v))


def _scale(op: nn.Attention) -> float | Skip:
    if op.scale is not None:
        return op.scale
    width = op.q.shaped.shape[-1]
    if not isinstance(width, int):
        return Skip(f"its scale is 1 / sqrt({width}), which only a run shows")
    return 1.0 / math.sqrt(width)


class _Expansion:
    """The ops in front of one attention op, named after it."""

    def __init__(self, op: nn.Attention, rw: Rewriter) -> None:
        self.op, self.rw = op, rw
        self.kind = TensorType(op.q.shaped.dtype, ())
        self._lowest: Value | None = None

    def add(self, made: Op, name: str) -> Value:
        return self.rw.insert(made, before=self.op, name=f"{self.op.name}.{name}")

    def scores(self, scale: float) -> Value:
        """q @ k.T * scale."""
        q, k = self.op.q, self.op.k
        rank = k.shaped.rank
        keys = self.add(
            core.Transpose(k, permutation=(*range(rank - 2), rank - 1, rank - 2)),
            "keys",
        )
        if self.kind.dtype.bits < 32:
            factor = self.add(core.Full(value=scale, out=self.kind), "factor")
            return self.add(linalg.Matmul(self.add(core.Mul(q, factor), "queries"), keys), "scores")
        products = self.add(linalg.Matmul(q, keys), "products")
        factor = self.add(core.Full(value=scale, out=self.kind), "factor")
        return self.add(core.Mul(products, factor), "scores")

    def seen(self) -> Value:
        """Whether query i sees key j: j <= i."""
        queries, keys = self.op.q.shaped.shape[-2], self.op.k.shaped.shape[-2]
        query = self.add(core.Iota(axis=0, out=TensorType(i64, (queries, 1))), "query")
        key = self.add(core.Iota(axis=1, out=TensorType(i64, (1, keys))), "key")
        return self.add(core.Ge(query, key), "seen")

    def where(self, seen: Value, scores: Value, name: str) -> Value:
        """Scores of the keys that take part, minus infinity elsewhere."""
        return self.add(core.Where(seen, scores, self.lowest()), name)

    def lowest(self) -> Value:
        if self._lowest is None:
            self._lowest = self.add(core.Full(value=-math.inf, out=self.kind), "none")
        return self._lowest

    def without_empty_rows(self, scores: Value, weights: Value) -> Value:
        """Weights, with zeros in rows that no key takes part in."""
        axis = scores.shaped.rank - 1
        largest = self.add(core.Max(scores, axes=(axis,), keepdims=True), "largest")
        empty = self.add(core.Eq(largest, self.lowest()), "empty")
        zero = self.add(core.Full(value=0.0, out=self.kind), "zero")
        return self.add(core.Where(empty, zero, weights), "weighed")
