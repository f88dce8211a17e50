"""Rules: tensors made from numbers and sizes."""

from __future__ import annotations

from collections.abc import Sequence

from plait.frontends.pytorch.builder import Builder, Operand, Scalar
from plait.frontends.pytorch.registry import register
from plait.ir import types as t
from plait.ir.dims import Dim, IntLike
from plait.ir.ops import core
from plait.ir.types import DType
from plait.ir.value import Value


def _arange(build: Builder, start: Operand, step: Operand) -> Value:
    out = build.out
    if isinstance(step, (Value, Dim)):
        build.refuse("a step that depends on a size")
    if isinstance(start, (int, float)):
        return build.iota(out.shape[0], out.dtype, _number(start, out.dtype), _number(step, out.dtype))
    counted = build.iota(out.shape[0], out.dtype, 0, _number(step, out.dtype))
    return build.add(counted, start)


def _number(value: Scalar, dtype: DType) -> int | float:
    return float(value) if dtype.is_float else int(value)


@register("aten.arange.default")
def arange(build: Builder, end: Operand, *, dtype: DType | None = None) -> Value:
    return _arange(build, 0, 1)


@register("aten.arange.start", "aten.arange.start_step")
def arange_start(
    build: Builder, start: Operand, end: Operand, step: Operand = 1, *, dtype: DType | None = None
) -> Value:
    return _arange(build, start, step)


@register("prims.iota.default")
def iota(
    build: Builder, length: IntLike, *, start: Operand, step: Operand, dtype: DType | None = None
) -> Value:
    return _arange(build, start, step)


@register("aten.linspace.default")
def linspace(
    build: Builder, start: Operand, end: Operand, steps: IntLike, *, dtype: DType | None = None
) -> Value:
    if not (isinstance(start, (int, float)) and isinstance(end, (int, float)) and isinstance(steps, int)):
        build.refuse("bounds or a count that depend on a size")
    step = (end - start) / (steps - 1) if steps > 1 else 0.0
    if not build.out.dtype.is_float:
        return build.cast(build.iota(steps, t.f64, float(start), step), build.out.dtype)
    return build.iota(steps, build.out.dtype, float(start), step)


def _filled(build: Builder, value: Operand) -> Value:
    out = build.out
    if isinstance(value, (Value, Dim)):
        return build.broadcast(build.operand(value, out.dtype), out.shape)
    return build.full(value, out.dtype, out.shape)


@register("aten.full.default", "aten.full_like.default")
def full(build: Builder, _: object, fill_value: Operand, *, dtype: DType | None = None) -> Value:
    return _filled(build, fill_value)


@register("aten.new_full.default")
def new_full(
    build: Builder, x: Value, size: Sequence[IntLike], fill_value: Operand, *, dtype: DType | None = None
) -> Value:
    return _filled(build, fill_value)


@register(
    "aten.zeros.default", "aten.zeros_like.default", "aten.new_zeros.default", "aten.zero.default",
    # the elements of an empty tensor are arbitrary
    "aten.empty.memory_format", "aten.empty_like.default", "aten.new_empty.default",
    "aten.empty_strided.default", "aten.new_empty_strided.default", "aten.empty_permuted.default",
)  # fmt: skip
def zeros(build: Builder, *_: object, dtype: DType | None = None) -> Value:
    return _filled(build, 0)


@register("aten.ones.default", "aten.ones_like.default", "aten.new_ones.default")
def ones(build: Builder, *_: object, dtype: DType | None = None) -> Value:
    return _filled(build, 1)


@register("aten.eye.default", "aten.eye.m")
def eye(build: Builder, n: IntLike, m: IntLike | None = None, *, dtype: DType | None = None) -> Value:
    rows, columns = build.out.shape
    down = build.reshape(build.iota(rows, t.i64), (rows, 1))
    across = build.reshape(build.iota(columns, t.i64), (1, columns))
    return build.cast(build.emit(core.Eq(down, across)), build.out.dtype)


@register("aten.tril.default")
def tril(build: Builder, x: Value, diagonal: int = 0) -> Value:
    return _triangle(build, x, False, diagonal)


@register("aten.triu.default")
def triu(build: Builder, x: Value, diagonal: int = 0) -> Value:
    return _triangle(build, x, True, diagonal)


def _triangle(build: Builder, x: Value, upper: bool, diagonal: int) -> Value:
    return build.emit(core.Triangle(x, upper=upper, diagonal=diagonal))
