"""core: gathering, scattering, sorting and random numbers."""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Literal

from plait.ir.dims import IntLike
from plait.ir.op import Op, abstract, op
from plait.ir.ops.common import dense, integral, normalise_axis, numeric, same_dtype
from plait.ir.types import TensorType, Type, i64
from plait.ir.value import Value

Reduce = Literal["none", "add", "mul", "max", "min"]


@op("core.take")
class Take(Op):
    """Slices of `x` along `axis` picked by `indices`; negative indices count from the end."""

    x: Value
    indices: Value
    _: KW_ONLY
    axis: int = 0

    def infer(self) -> tuple[Type, ...]:
        kind, picks = dense(self, self.x, "x"), integral(self, self.indices, "indices")
        axis = normalise_axis(self, self.axis, kind.rank)
        return (kind.with_shape((*kind.shape[:axis], *picks.shape, *kind.shape[axis + 1 :])),)


@op("core.gather_elements")
class GatherElements(Op):
    """y[i][j] = x[indices[i][j]][j] for axis 0, and so on; indices have the rank of x."""

    x: Value
    indices: Value
    _: KW_ONLY
    axis: int

    def infer(self) -> tuple[Type, ...]:
        kind, picks = dense(self, self.x, "x"), integral(self, self.indices, "indices")
        normalise_axis(self, self.axis, kind.rank)
        if picks.rank != kind.rank:
            raise self.error(f"{self.indices} has rank {picks.rank} but {self.x} has rank {kind.rank}")
        return (kind.with_shape(picks.shape),)


@op("core.gather_nd")
class GatherND(Op):
    """y[...] = x[indices[..., 0], ..., indices[..., k-1]] with k the last dim of `indices`."""

    x: Value
    indices: Value

    def infer(self) -> tuple[Type, ...]:
        kind, picks = dense(self, self.x, "x"), integral(self, self.indices, "indices")
        depth = picks.shape[-1] if picks.rank else 0
        if not isinstance(depth, int) or not 1 <= depth <= kind.rank:
            raise self.error(f"last dim {depth} of {self.indices} does not index {self.x} : {kind}")
        return (kind.with_shape((*picks.shape[:-1], *kind.shape[depth:])),)


@abstract
class Scatter(Op):
    """Base of ops that write `updates` into a copy of `x`."""

    x: Value
    indices: Value
    updates: Value


@op("core.scatter_elements")
class ScatterElements(Scatter):
    """A copy of x with x[indices[i][j]][j] (for axis 0) set to, or combined with, updates[i][j]."""

    _: KW_ONLY
    axis: int
    reduce: Reduce = "none"

    def infer(self) -> tuple[Type, ...]:
        kind, picks = dense(self, self.x, "x"), integral(self, self.indices, "indices")
        updates = dense(self, self.updates, "updates")
        normalise_axis(self, self.axis, kind.rank)
        same_dtype(self, self.x, self.updates)
        if picks.rank != kind.rank or picks.shape != updates.shape:
            raise self.error(
                f"{self.indices} is {picks} and {self.updates} is {updates}", why="their shapes agree"
            )
        return (kind,)


@op("core.scatter_nd")
class ScatterND(Scatter):
    """A copy of x with the slice x[indices[..., :]] set to, or combined with, updates[...]."""

    _: KW_ONLY
    reduce: Reduce = "none"

    def infer(self) -> tuple[Type, ...]:
        kind, picks = dense(self, self.x, "x"), integral(self, self.indices, "indices")
        updates = dense(self, self.updates, "updates")
        same_dtype(self, self.x, self.updates)
        depth = picks.shape[-1] if picks.rank else 0
        if not isinstance(depth, int) or not 1 <= depth <= kind.rank:
            raise self.error(f"last dim {depth} of {self.indices} does not index {self.x} : {kind}")
        wanted = (*picks.shape[:-1], *kind.shape[depth:])
        if updates.shape != wanted:
            raise self.error(
                f"{self.updates} is {updates}", why=f"the slices have shape {list(map(str, wanted))}"
            )
        return (kind,)


@op("core.top_k")
class TopK(Op):
    """The k largest (or smallest) elements along an axis, in order, and their i64 indices."""

    x: Value
    _: KW_ONLY
    k: IntLike
    axis: int = -1
    largest: bool = True

    def infer(self) -> tuple[Type, ...]:
        kind = numeric(self, self.x, "x")
        axis = normalise_axis(self, self.axis, kind.rank)
        size = kind.shape[axis]
        if isinstance(self.k, int) and isinstance(size, int) and not 0 <= self.k <= size:
            raise self.error(f"k {self.k} exceeds dim {size} of {self.x}")
        shape = (*kind.shape[:axis], self.k, *kind.shape[axis + 1 :])
        return kind.with_shape(shape), TensorType(i64, shape)


@op("core.sort")
class Sort(Op):
    """Elements in order along an axis (equals keep theirs), and their i64 indices."""

    x: Value
    _: KW_ONLY
    axis: int = -1
    descending: bool = False

    def infer(self) -> tuple[Type, ...]:
        kind = numeric(self, self.x, "x")
        normalise_axis(self, self.axis, kind.rank)
        return kind, TensorType(i64, kind.shape)


@op("core.random")
class Random(Op):
    """Random numbers: uniform in [0, 1) or standard normal.

    They are made of the seed and of each element's row-major place by Philox 4x32-10,
    so that equal ops draw equal numbers on every device.
    """

    _: KW_ONLY
    distribution: Literal["uniform", "normal"]
    seed: int
    out: TensorType

    def infer(self) -> tuple[Type, ...]:
        if not isinstance(self.out, TensorType) or not self.out.dtype.is_float:
            raise self.error(f"cannot draw {self.out}", why="a floating-point tensor is wanted")
        return (self.out,)
