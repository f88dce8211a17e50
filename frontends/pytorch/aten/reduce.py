"""Rules: reductions and scans."""

from __future__ import annotations

import math
from collections.abc import Sequence

from plait.frontends.pytorch.builder import Builder, Scalar
from plait.frontends.pytorch.registry import register
from plait.ir import types as t
from plait.ir.dims import Dim, product
from plait.ir.ops import core, prob
from plait.ir.ops.core.reduce import ArgReduction, BooleanReduction, Reduction, RunningReduction
from plait.ir.types import DType
from plait.ir.value import Value

_Axes = int | Sequence[int] | None


def _reduce(build: Builder, op: type[Reduction], x: Value, dims: _Axes, keepdim: bool) -> Value:
    axes = build.axes(dims, build.kind(x).rank)
    return build.emit(op(x, axes=axes, keepdims=keepdim)) if axes else x


@register("aten.sum.default", "aten.sum.dim_IntList")
def total(
    build: Builder, x: Value, dim: _Axes = None, keepdim: bool = False, *, dtype: DType | None = None
) -> Value:
    return _reduce(build, core.Sum, build.cast(x, build.out.dtype), dim, keepdim)


@register("aten.mean.default", "aten.mean.dim")
def mean(
    build: Builder, x: Value, dim: _Axes = None, keepdim: bool = False, *, dtype: DType | None = None
) -> Value:
    return _reduce(build, core.Mean, build.cast(x, build.out.dtype), dim, keepdim)


@register("aten.prod.default", "aten.prod.dim_int")
def prod(
    build: Builder, x: Value, dim: _Axes = None, keepdim: bool = False, *, dtype: DType | None = None
) -> Value:
    return _reduce(build, core.Prod, build.cast(x, build.out.dtype), dim, keepdim)


def _extreme(
    build: Builder,
    reduction: type[Reduction],
    logical: type[BooleanReduction],
    x: Value,
    dims: _Axes,
    keepdim: bool,
) -> Value:
    return _reduce(build, logical if build.kind(x).dtype == t.boolean else reduction, x, dims, keepdim)


@register("aten.amax.default", "aten.max.default")
def amax(build: Builder, x: Value, dim: _Axes = None, keepdim: bool = False) -> Value:
    return _extreme(build, core.Max, core.Any, x, dim, keepdim)


@register("aten.amin.default", "aten.min.default")
def amin(build: Builder, x: Value, dim: _Axes = None, keepdim: bool = False) -> Value:
    return _extreme(build, core.Min, core.All, x, dim, keepdim)


@register("aten.aminmax.default")
def aminmax(
    build: Builder, x: Value, *, dim: int | None = None, keepdim: bool = False
) -> tuple[Value, Value]:
    return amin(build, x, dim, keepdim), amax(build, x, dim, keepdim)


@register("aten.max.dim")
def max_with_index(build: Builder, x: Value, dim: int, keepdim: bool = False) -> tuple[Value, Value]:
    return amax(build, x, dim, keepdim), argmax(build, x, dim, keepdim)


@register("aten.min.dim")
def min_with_index(build: Builder, x: Value, dim: int, keepdim: bool = False) -> tuple[Value, Value]:
    return amin(build, x, dim, keepdim), argmin(build, x, dim, keepdim)


def _position(build: Builder, op: type[ArgReduction], x: Value, dim: int | None, keepdim: bool) -> Value:
    kind = build.kind(x)
    if kind.dtype == t.boolean:
        x = build.cast(x, t.i32)
    if dim is not None and kind.rank:
        return build.emit(op(x, axis=build.axis(dim, kind.rank), keepdims=keepdim))
    found = build.emit(op(build.flatten(x), axis=0, keepdims=False))
    return build.reshape(found, (1,) * kind.rank) if keepdim else found


@register("aten.argmax.default")
def argmax(build: Builder, x: Value, dim: int | None = None, keepdim: bool = False) -> Value:
    return _position(build, core.ArgMax, x, dim, keepdim)


@register("aten.argmin.default")
def argmin(build: Builder, x: Value, dim: int | None = None, keepdim: bool = False) -> Value:
    return _position(build, core.ArgMin, x, dim, keepdim)


@register("aten.any.default", "aten.any.dim", "aten.any.dims")
def any_true(build: Builder, x: Value, dim: _Axes = None, keepdim: bool = False) -> Value:
    return _reduce(build, core.Any, build.cast(x, t.boolean), dim, keepdim)


@register("aten.all.default", "aten.all.dim", "aten.all.dims")
def all_true(build: Builder, x: Value, dim: _Axes = None, keepdim: bool = False) -> Value:
    return _reduce(build, core.All, build.cast(x, t.boolean), dim, keepdim)


@register("aten.count_nonzero.default", "aten.count_nonzero.dim_IntList")
def count_nonzero(build: Builder, x: Value, dim: _Axes = None) -> Value:
    nonzero = build.cast(build.cast(x, t.boolean), t.i64)
    return _reduce(build, core.Sum, nonzero, dim, False)


@register("aten.logsumexp.default")
def logsumexp(build: Builder, x: Value, dim: _Axes, keepdim: bool = False) -> Value:
    x = build.cast(x, build.out.dtype)
    axes = build.axes(dim, build.kind(x).rank)
    return build.emit(prob.LogSumExp(x, axes=axes, keepdims=keepdim)) if axes else x


# -- spread ---------------------------------------------------------------------------------
def _variance(
    build: Builder, x: Value, dims: _Axes, correction: Scalar | None, keepdim: bool
) -> tuple[Value, Value]:
    """Variance with `correction` taken from the count (1 where None), and the mean."""
    kind = build.kind(x)
    axes = build.axes(dims, kind.rank)
    average = build.emit(core.Mean(x, axes=axes, keepdims=True))
    difference = build.sub(x, average)
    power = build.emit(core.Sum(build.mul(difference, difference), axes=axes, keepdims=keepdim))
    count = product(kind.shape[axis] for axis in axes)
    lost = 1 if correction is None else correction
    if isinstance(count, Dim):
        freedom = build.emit(core.Clamp(build.sub(build.size(count, kind.dtype), lost), low=0.0))
    else:
        freedom = build.full(max(count - lost, 0), kind.dtype)
    kept = average if keepdim else build.reshape(average, build.kind(power).shape)
    return build.div(power, freedom), kept


def _legacy(dim: _Axes | bool, unbiased: bool | None) -> tuple[_Axes, int]:
    """Axes and correction of the overloads that say `unbiased`."""
    if isinstance(dim, bool):
        return None, int(dim)
    return dim, int(unbiased is None or unbiased)


@register("aten.var.correction")
def var(
    build: Builder, x: Value, dim: _Axes = None, *, correction: Scalar | None = None, keepdim: bool = False
) -> Value:
    return _variance(build, x, dim, correction, keepdim)[0]


@register("aten.var.default", "aten.var.dim")
def var_unbiased(
    build: Builder, x: Value, dim: _Axes | bool = None, unbiased: bool | None = None, keepdim: bool = False
) -> Value:
    axes, correction = _legacy(dim, unbiased)
    return _variance(build, x, axes, correction, keepdim)[0]


@register("aten.std.correction")
def std(
    build: Builder, x: Value, dim: _Axes = None, *, correction: Scalar | None = None, keepdim: bool = False
) -> Value:
    return build.emit(core.Sqrt(_variance(build, x, dim, correction, keepdim)[0]))


@register("aten.std.default", "aten.std.dim")
def std_unbiased(
    build: Builder, x: Value, dim: _Axes | bool = None, unbiased: bool | None = None, keepdim: bool = False
) -> Value:
    axes, correction = _legacy(dim, unbiased)
    return build.emit(core.Sqrt(_variance(build, x, axes, correction, keepdim)[0]))


@register("aten.var_mean.correction")
def var_mean(
    build: Builder, x: Value, dim: _Axes = None, *, correction: Scalar | None = None, keepdim: bool = False
) -> tuple[Value, Value]:
    return _variance(build, x, dim, correction, keepdim)


@register("aten.var_mean.default", "aten.var_mean.dim")
def var_mean_unbiased(
    build: Builder, x: Value, dim: _Axes | bool = None, unbiased: bool | None = None, keepdim: bool = False
) -> tuple[Value, Value]:
    axes, correction = _legacy(dim, unbiased)
    return _variance(build, x, axes, correction, keepdim)


@register("aten.std_mean.correction")
def std_mean(
    build: Builder, x: Value, dim: _Axes = None, *, correction: Scalar | None = None, keepdim: bool = False
) -> tuple[Value, Value]:
    variance, average = _variance(build, x, dim, correction, keepdim)
    return build.emit(core.Sqrt(variance)), average


@register("aten.std_mean.default", "aten.std_mean.dim")
def std_mean_unbiased(
    build: Builder, x: Value, dim: _Axes | bool = None, unbiased: bool | None = None, keepdim: bool = False
) -> tuple[Value, Value]:
    axes, correction = _legacy(dim, unbiased)
    variance, average = _variance(build, x, axes, correction, keepdim)
    return build.emit(core.Sqrt(variance)), average


@register("aten.linalg_vector_norm.default")
def vector_norm(
    build: Builder,
    x: Value,
    ord: Scalar = 2,
    dim: _Axes = None,
    keepdim: bool = False,
    *,
    dtype: DType | None = None,
) -> Value:
    x = build.cast(x, build.out.dtype)
    if ord == 2:
        return build.emit(core.Sqrt(_reduce(build, core.Sum, build.mul(x, x), dim, keepdim)))
    size = build.emit(core.Abs(x))
    if ord == 1:
        return _reduce(build, core.Sum, size, dim, keepdim)
    if math.isinf(ord):
        return _reduce(build, core.Max if ord > 0 else core.Min, size, dim, keepdim)
    if ord == 0:
        nonzero = build.cast(build.cast(x, t.boolean), build.out.dtype)
        return _reduce(build, core.Sum, nonzero, dim, keepdim)
    powers = build.emit(core.Pow(size, build.full(ord, build.out.dtype)))
    inner = _reduce(build, core.Sum, powers, dim, keepdim)
    return build.emit(core.Pow(inner, build.full(1.0 / ord, build.out.dtype)))


@register("aten.norm.ScalarOpt_dim", "aten.norm.Scalar")
def norm(
    build: Builder, x: Value, p: Scalar | None = None, dim: _Axes = None, keepdim: bool = False
) -> Value:
    return vector_norm(build, x, 2 if p is None else p, dim, keepdim)


# -- scans -----------------------------------------------------------------------------------
@register("aten.cumsum.default")
def cumsum(build: Builder, x: Value, dim: int, *, dtype: DType | None = None) -> Value:
    return _scan(build, core.CumSum, x, dim)


@register("aten.cumprod.default")
def cumprod(build: Builder, x: Value, dim: int, *, dtype: DType | None = None) -> Value:
    return _scan(build, core.CumProd, x, dim)


def _scan(build: Builder, op: type[RunningReduction], x: Value, dim: int) -> Value:
    kind = build.kind(x)
    x = build.cast(x, build.out.dtype)
    return build.emit(op(x, axis=build.axis(dim, kind.rank))) if kind.rank else x
