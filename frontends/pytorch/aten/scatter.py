"""Rules: writing to places that indices and masks name."""

from __future__ import annotations

from typing import Literal

import numpy as np

from plait.frontends.pytorch.builder import Builder, Operand, Scalar
from plait.frontends.pytorch.registry import register
from plait.ir import types as t
from plait.ir.dims import product
from plait.ir.ops import core
from plait.ir.types import DType
from plait.ir.value import Value

_Reduce = Literal["none", "add", "mul", "max", "min"]

_REDUCE: dict[str, _Reduce] = {
    "sum": "add", "add": "add", "mean": "add", "prod": "mul", "multiply": "mul", "amax": "max", "amin": "min",
}  # fmt: skip


@register("aten.masked_scatter.default")
def masked_scatter(build: Builder, x: Value, mask: Value, source: Value) -> Value:
    """The places of the mask take the elements of `source` in order: the n-th place the n-th element."""
    shape = build.out.shape
    chosen = build.broadcast(build.cast(mask, t.boolean), shape)
    count = build.kind(source).shape
    if product(count) == 0:
        return build.broadcast(x, shape)
    numbers = build.emit(core.CumSum(build.cast(build.flatten(chosen), t.i64), axis=0))
    place = build.emit(core.Clamp(build.sub(numbers, 1), low=0.0))
    last = build.emit(core.Minimum(place, build.sub(build.size(product(count), t.i64), 1)))
    taken = build.reshape(build.emit(core.Take(build.flatten(source), last)), shape)
    return build.emit(core.Where(chosen, taken, build.broadcast(x, shape)))


def _scatter(build: Builder, x: Value, dim: int, index: Value, updates: Operand, reduce: _Reduce) -> Value:
    kind = build.kind(x)
    if not kind.rank:  # torch takes a scalar as a vector of one element
        x, index = build.reshape(x, (1,)), build.flatten(index)
        updates = build.flatten(updates) if isinstance(updates, Value) else updates
        return build.reshape(_scatter(build, x, 0, index, updates, reduce), ())
    if not build.kind(index).rank:
        index = build.reshape(index, (1,))
    picks = build.kind(index)
    if isinstance(updates, Value) and build.kind(updates).rank:
        updates = build.cast(updates, kind.dtype)
        for axis, size in enumerate(picks.shape):  # torch reads only what the index covers
            updates = build.slice(updates, axis, 0, size)
    else:
        updates = build.broadcast(build.operand(updates, kind.dtype), picks.shape)
    axis = build.axis(dim, kind.rank)
    return build.emit(core.ScatterElements(x, index, updates, axis=axis, reduce=reduce))


@register("aten.scatter.src", "aten.scatter.value")
def scatter(build: Builder, x: Value, dim: int, index: Value, src: Operand) -> Value:
    return _scatter(build, x, dim, index, src, "none")


@register("aten.scatter.reduce", "aten.scatter.value_reduce")
def scatter_with(build: Builder, x: Value, dim: int, index: Value, src: Operand, *, reduce: str) -> Value:
    return _scatter(build, x, dim, index, src, "add" if reduce == "add" else "mul")


@register("aten.scatter_add.default")
def scatter_add(build: Builder, x: Value, dim: int, index: Value, src: Value) -> Value:
    return _scatter(build, x, dim, index, src, "add")


def _identity(reduce: str, dtype: DType) -> float | int | bool:
    """The number that leaves any other as it is under a reduction."""
    if reduce in ("sum", "mean"):
        return 0
    if reduce == "prod":
        return 1
    low, high = (float("-inf"), float("inf")) if dtype.is_float else _limits(dtype)
    return low if reduce == "amax" else high


def _limits(dtype: DType) -> tuple[int, int]:
    if dtype == t.boolean:
        return 0, 1
    limits = np.iinfo(dtype.numpy)
    return int(limits.min), int(limits.max)


@register("aten.scatter_reduce.two")
def scatter_reduce(
    build: Builder, x: Value, dim: int, index: Value, src: Value, reduce: str, *, include_self: bool = True
) -> Value:
    return _reduced(build, x, dim, index, src, reduce, include_self)


def _reduced(
    build: Builder, x: Value, dim: int, index: Value, src: Value, reduce: str, include_self: bool
) -> Value:
    """Without `include_self`, places that are written begin from the identity of the reduction."""
    kind = build.kind(x)
    dtype = kind.dtype
    counts = x
    if reduce == "mean" or not include_self:
        none = build.full(0, t.i64, kind.shape)
        counts = _scatter(build, none, dim, index, 1, "add")
    if not include_self:
        touched = build.emit(core.Gt(counts, build.full(0, t.i64)))
        x = build.emit(core.Where(touched, build.full(_identity(reduce, dtype), dtype), x))
    y = _scatter(build, x, dim, index, src, _REDUCE[reduce])
    if reduce != "mean":
        return y
    number = build.add(counts, 1) if include_self else build.emit(core.Clamp(counts, low=1.0))
    divide = core.Div if dtype.is_float else core.FloorDiv
    return build.emit(divide(y, build.cast(number, dtype)))


@register("aten.index_reduce.default")
def index_reduce(
    build: Builder, x: Value, dim: int, index: Value, source: Value, reduce: str, *, include_self: bool = True
) -> Value:
    axis = build.axis(dim, build.kind(x).rank)
    shape = build.kind(source).shape
    line = build.reshape(index, [size if i == axis else 1 for i, size in enumerate(shape)])
    return _reduced(build, x, axis, build.broadcast(line, shape), source, reduce, include_self)


def _along(build: Builder, x: Value, dim: int, index: Value, source: Value, reduce: _Reduce) -> Value:
    """Slices of `source` written to, or combined with, the slices of `x` that a 1-D index names."""
    kind = build.kind(x)
    if not kind.rank:
        whole = _along(build, build.reshape(x, (1,)), 0, index, build.flatten(source), reduce)
        return build.reshape(whole, ())
    axis = build.axis(dim, kind.rank)
    shape = build.kind(source).shape
    line = build.reshape(index, [size if i == axis else 1 for i, size in enumerate(shape)])
    return build.emit(
        core.ScatterElements(
            x, build.broadcast(line, shape), build.cast(source, kind.dtype), axis=axis, reduce=reduce
        )
    )


@register("aten.index_add.default")
def index_add(build: Builder, x: Value, dim: int, index: Value, source: Value, *, alpha: Scalar = 1) -> Value:
    return _along(build, x, dim, index, source if alpha == 1 else build.mul(source, alpha), "add")


@register("aten.index_copy.default")
def index_copy(build: Builder, x: Value, dim: int, index: Value, source: Value) -> Value:
    return _along(build, x, dim, index, source, "none")


@register("aten.index_fill.int_Scalar", "aten.index_fill.int_Tensor")
def index_fill(build: Builder, x: Value, dim: int, index: Value, value: Operand) -> Value:
    kind = build.kind(x)
    axis = build.axis(dim, kind.rank)
    count = product(build.kind(index).shape)
    shape = tuple(count if i == axis else size for i, size in enumerate(kind.shape))
    filled = build.broadcast(build.operand(value, kind.dtype), shape)
    return _along(build, x, dim, index, filled, "none")
