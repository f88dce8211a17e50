"""nn: dense layers, attention and embedding."""

from __future__ import annotations

from dataclasses import KW_ONLY

from plait.ir.fixed_point import Requantization
from plait.ir.op import Op, op, shaped
from plait.ir.ops.common import Activation, broadcast, floating, integral, same_dtype
from plait.ir.ops.nn.conv import contraction_result
from plait.ir.types import TensorType, Type
from plait.ir.value import Value


@op("nn.linear")
class Linear(Op):
    """act(x @ w.T + b): [..., in] x [out, in] -> [..., out].

    A quantised w under a dense x stands for its real numbers, rounded to the element type of x.
    """

    x: Value
    w: Value
    b: Value | None = None
    _: KW_ONLY
    act: Activation = "none"
    act_alpha: float = 0.01
    requantize: Requantization = "real"
    out: Type | None = None

    def infer(self) -> tuple[Type, ...]:
        x, w = shaped(self, self.x, "x"), shaped(self, self.w, "w")
        if x.rank < 1 or w.rank != 2:
            raise self.error(f"{self.x} is {x} and {self.w} is {w}", why="[..., in] and [out, in] are wanted")
        if x.shape[-1] != w.shape[1]:
            raise self.error(f"{self.x} has {x.shape[-1]} features but {self.w} expects {w.shape[1]}")
        if self.b is not None and shaped(self, self.b, "b").shape != (w.shape[0],):
            raise self.error(
                f"bias {self.b} is {self.b.type}", why=f"it holds one number for each of {w.shape[0]} outputs"
            )
        return (contraction_result(self, self.x, self.w, self.b, (*x.shape[:-1], w.shape[0]), self.out),)


@op("nn.attention")
class Attention(Op):
    """softmax(q @ k.T * scale + mask) @ v over the last two axes (Vaswani et al. 2017).

    q [..., T, D], k [..., S, D], v [..., S, E] -> [..., T, E]; leading dims broadcast
    from k and v to q.  `mask` broadcasts to [..., T, S]: boolean (true takes part) or
    added.  `scale` none is 1/sqrt(D).
    """

    q: Value
    k: Value
    v: Value
    mask: Value | None = None
    _: KW_ONLY
    causal: bool = False
    scale: float | None = None

    def infer(self) -> tuple[Type, ...]:
        q, k, v = (floating(self, x, n) for x, n in ((self.q, "q"), (self.k, "k"), (self.v, "v")))
        same_dtype(self, self.q, self.k)
        same_dtype(self, self.q, self.v)
        if min(q.rank, k.rank, v.rank) < 2:
            raise self.error("q, k and v need two axes or more")
        if q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
            raise self.error(
                f"{self.q} is {q}, {self.k} is {k}, {self.v} is {v}",
                why="they are [..,T,D], [..,S,D] and [..,S,E]",
            )
        lead = q.with_shape(q.shape[:-2])
        for value, kind in ((self.k, k), (self.v, v)):
            shape = broadcast(self, lead, kind.with_shape(kind.shape[:-2]), (self.q, value))
            if shape != lead.shape:
                raise self.error(f"{value} : {kind} does not broadcast to {self.q} : {q}")
        if self.mask is not None:
            mask = shaped(self, self.mask, "mask")
            scores = q.with_shape((*q.shape[:-1], k.shape[-2]))
            if mask.dtype.kind != "bool" and mask.dtype != q.dtype:
                raise self.error(f"mask {self.mask} is {mask}", why=f"it is bool or {q.dtype}")
            if broadcast(self, scores, mask, (self.q, self.mask)) != scores.shape:
                raise self.error(f"mask {self.mask} : {mask} does not broadcast to {scores}")
        return (q.with_shape((*q.shape[:-1], v.shape[-1])),)


@op("nn.embedding")
class Embedding(Op):
    """Rows of a table: indices [...] of i32 or i64, table [rows, width] -> [..., width]."""

    indices: Value
    table: Value

    def infer(self) -> tuple[Type, ...]:
        picks, table = integral(self, self.indices, "indices"), shaped(self, self.table, "table")
        if table.rank != 2 or not isinstance(table, TensorType):
            raise self.error(f"table {self.table} is {table}", why="a dense [rows, width] is wanted")
        return (table.with_shape((*picks.shape, table.shape[1])),)
