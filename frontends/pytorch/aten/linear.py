"""Rules: dense layers, matrix products and factorisations."""

from __future__ import annotations

from collections.abc import Sequence

from plait.frontends.pytorch.builder import Builder, Scalar
from plait.frontends.pytorch.registry import register
from plait.ir import types as t
from plait.ir.dims import product
from plait.ir.ops import core, linalg, nn
from plait.ir.value import Value


@register("aten.linear.default")
def linear(build: Builder, x: Value, weight: Value, bias: Value | None = None) -> Value:
    kind = build.kind(weight)
    if kind.rank == 1:  # one output without an axis of its own
        y = build.emit(nn.Linear(x, build.reshape(weight, (1, *kind.shape)), None))
        flat = build.reshape(y, build.kind(y).shape[:-1])
        return flat if bias is None else build.add(flat, bias)
    if bias is not None and build.kind(bias).rank != 1:
        return build.add(build.emit(nn.Linear(x, weight)), bias)
    return build.emit(nn.Linear(x, weight, bias))


@register("aten.matmul.default", "aten.mm.default", "aten.bmm.default", "aten.mv.default", "aten.dot.default",
          "aten.vdot.default", "aten.inner.default", "aten.linalg_matmul.default")  # fmt: skip
def matmul(build: Builder, left: Value, right: Value) -> Value:
    a, b = build.kind(left), build.kind(right)
    if not a.dtype.is_float:
        return _integer_product(build, left, right)
    if a.rank == 1:
        left = build.reshape(left, (1, *a.shape))
    if b.rank == 1:
        right = build.reshape(right, (*b.shape, 1))
    y = build.emit(linalg.Matmul(left, right))
    shape = list(build.kind(y).shape)
    if b.rank == 1:
        shape.pop(-1)
    if a.rank == 1:
        shape.pop(-1 if b.rank == 1 else -2)
    return build.reshape(y, shape)


def _integer_product(build: Builder, left: Value, right: Value) -> Value:
    """A product of integer matrices, as multiplication and sum: linalg.matmul is for floats."""
    a, b = build.kind(left), build.kind(right)
    if a.rank < 2 or b.rank < 2:
        if a.rank == b.rank == 1:
            return build.emit(core.Sum(build.mul(left, right), axes=(0,)))
        build.refuse("a product of an integer matrix and a vector")
    rows = build.reshape(left, (*a.shape, 1))
    columns = build.reshape(right, (*b.shape[:-2], 1, *b.shape[-2:]))
    terms = build.mul(rows, columns)
    return build.emit(core.Sum(terms, axes=(build.kind(terms).rank - 2,)))


@register("aten.addmm.default", "aten.baddbmm.default", "aten.addmv.default")
def addmm(
    build: Builder, bias: Value, left: Value, right: Value, beta: Scalar = 1, alpha: Scalar = 1
) -> Value:
    y = matmul(build, left, right)
    if alpha != 1:
        y = build.mul(y, alpha)
    if beta == 0:
        return y
    return build.emit(core.Add(y, bias if beta == 1 else build.mul(bias, beta)))


@register("aten.addbmm.default")
def addbmm(
    build: Builder, bias: Value, left: Value, right: Value, beta: Scalar = 1, alpha: Scalar = 1
) -> Value:
    y = build.emit(core.Sum(build.emit(linalg.Matmul(left, right)), axes=(0,)))
    return build.add(build.mul(y, alpha), build.mul(bias, beta))


@register("aten.outer.default", "aten.ger.default")
def outer(build: Builder, left: Value, right: Value) -> Value:
    dtype = build.out.dtype
    column = build.insert_axis(build.cast(left, dtype), 1)
    return build.mul(column, build.insert_axis(build.cast(right, dtype), 0))


@register("aten.bilinear.default")
def bilinear(build: Builder, x: Value, y: Value, weight: Value, bias: Value | None = None) -> Value:
    """sum_ij x[..., i] w[o, i, j] y[..., j] + b[o]."""
    outputs, width, depth = build.kind(weight).shape
    lead = build.kind(x).shape[:-1]
    table = build.reshape(build.transpose(weight, (1, 0, 2)), (width, outputs * depth))
    rows = build.reshape(x, (product(lead), width))
    mixed = build.reshape(build.emit(linalg.Matmul(rows, table)), (*lead, outputs, depth))
    scored = build.mul(mixed, build.insert_axis(y, len(lead)))
    result = build.emit(core.Sum(scored, axes=(len(lead) + 1,)))
    return result if bias is None else build.add(result, bias)


# -- factorisations ------------------------------------------------------------------------
@register("aten.linalg_cholesky.default", "aten.cholesky.default")
def cholesky(build: Builder, x: Value, upper: bool = False) -> Value:
    lower = build.emit(linalg.Cholesky(x))
    rank = build.kind(x).rank
    return build.swap(lower, rank - 2, rank - 1) if upper else lower


@register("aten.linalg_cholesky_ex.default")
def cholesky_ex(
    build: Builder, x: Value, upper: bool = False, check_errors: bool = False
) -> tuple[Value, Value]:
    shape = build.kind(x).shape
    return cholesky(build, x, upper), build.full(0, t.i32, shape[:-2])


@register("aten.linalg_solve_triangular.default")
def solve_triangular(
    build: Builder, matrix: Value, right: Value, upper: bool, left: bool = True, unitriangular: bool = False
) -> Value:
    if unitriangular:
        build.refuse("unitriangular=True")
    a, b = build.kind(matrix), build.kind(right)
    lead = build.out.shape[:-2]
    matrix = build.broadcast(matrix, (*lead, *a.shape[-2:]))
    right = build.broadcast(right, (*lead, *b.shape[-2:]))
    if left:
        return build.emit(linalg.TriangularSolve(matrix, right, lower=not upper))
    rank = len(lead) + 2  # y A = b is A.T y.T = b.T
    y = linalg.TriangularSolve(
        matrix, build.swap(right, rank - 2, rank - 1), lower=not upper, transposed=True
    )
    return build.swap(build.emit(y), rank - 2, rank - 1)


@register("aten.cholesky_solve.default")
def cholesky_solve(build: Builder, right: Value, factor: Value, upper: bool = False) -> Value:
    """x with (L L^T) x = right."""
    lead = build.out.shape[:-2]
    factor = build.broadcast(factor, (*lead, *build.kind(factor).shape[-2:]))
    right = build.broadcast(right, (*lead, *build.kind(right).shape[-2:]))
    first = linalg.TriangularSolve(factor, right, lower=not upper, transposed=upper)
    return build.emit(
        linalg.TriangularSolve(factor, build.emit(first), lower=not upper, transposed=not upper)
    )


@register("aten.linalg_eigh.default", "aten._linalg_eigh.default")
def eigh(build: Builder, x: Value, UPLO: str = "L", compute_v: bool = True) -> Sequence[Value]:
    return build.emit_all(linalg.Eigh(x))


@register("aten.linalg_eigvalsh.default")
def eigvalsh(build: Builder, x: Value, UPLO: str = "L") -> Value:
    return build.emit_all(linalg.Eigh(x))[0]
