"""Rules: solutions, inverses, determinants and factorisations of matrices."""

from __future__ import annotations

from collections.abc import Sequence

from plait.frontends.pytorch.builder import Builder
from plait.frontends.pytorch.registry import register
from plait.ir import types as t
from plait.ir.dims import IntLike
from plait.ir.ops import core, linalg
from plait.ir.value import Value


def _transposed(build: Builder, x: Value) -> Value:
    rank = build.kind(x).rank
    return build.swap(x, rank - 2, rank - 1)


def _success(build: Builder, lead: Sequence[IntLike]) -> Value:
    """The `info` of LAPACK: no matrix was refused."""
    return build.full(0, t.i32, tuple(lead))


def _eye(build: Builder, size: IntLike, like: Value) -> Value:
    down = build.insert_axis(build.iota(size, t.i64), 1)
    across = build.insert_axis(build.iota(size, t.i64), 0)
    return build.cast(build.emit(core.Eq(down, across)), build.kind(like).dtype)


def _decompose(build: Builder, x: Value) -> tuple[Value, Value, Value]:
    """The packed factors of the rows of `x` in another order, that order, and LAPACK's pivots."""
    factors, order, exchanges = build.emit_all(linalg.LU(x))
    return factors, order, build.cast(build.add(exchanges, 1), t.i32)


def _solved(build: Builder, factors: Value, order: Value, right: Value) -> Value:
    """y with A y = right: the rows of `right` in the order of the factors, then two substitutions."""
    kind = build.kind(right)
    rows = build.insert_axis(order, build.kind(order).rank)
    permuted = build.emit(core.GatherElements(right, build.broadcast(rows, kind.shape), axis=kind.rank - 2))
    half = build.emit(linalg.TriangularSolve(factors, permuted, unit=True))
    return build.emit(linalg.TriangularSolve(factors, half, lower=False))


def _solve(build: Builder, matrix: Value, right: Value, left: bool) -> tuple[Value, Value, Value]:
    """The solution of A X = B, or of X A = B, and the factors and pivots of the matrix."""
    a, b = build.kind(matrix), build.kind(right)
    # torch takes one axis less, or the batch axes of A and rows, as vectors
    vectors = b.rank == 1 or (a.rank - 1 == b.rank and b.shape == a.shape[:-1])
    if vectors:
        right = build.insert_axis(right, b.rank)
    if not left:
        matrix, right = _transposed(build, matrix), _transposed(build, right)
    factors, order, pivots = _decompose(build, matrix)
    lead = build.out.shape[: -1 if vectors else -2]
    wide = build.kind(right)
    right = build.broadcast(right, (*lead, *wide.shape[-2:]))
    factors_wide = build.broadcast(factors, (*lead, *a.shape[-2:]))
    order_wide = build.broadcast(order, (*lead, a.shape[-1]))
    y = _solved(build, factors_wide, order_wide, right)
    if not left:
        y = _transposed(build, y)
    return (build.drop_axis(y, len(lead) + 1) if vectors else y), factors, pivots


@register("aten._linalg_solve_ex.default")
def solve_ex(
    build: Builder, matrix: Value, right: Value, *, left: bool = True, check_errors: bool = False
) -> tuple[Value, Value, Value, Value]:
    return *_solve(build, matrix, right, left), _success(build, build.kind(matrix).shape[:-2])


@register("aten.linalg_solve_ex.default")
def solve_with_info(
    build: Builder, matrix: Value, right: Value, *, left: bool = True, check_errors: bool = False
) -> tuple[Value, Value]:
    return _solve(build, matrix, right, left)[0], _success(build, build.kind(matrix).shape[:-2])


@register("aten.linalg_solve.default")
def solve(build: Builder, matrix: Value, right: Value, *, left: bool = True) -> Value:
    return _solve(build, matrix, right, left)[0]


def _inverse(build: Builder, x: Value) -> Value:
    factors, order, _ = _decompose(build, x)
    shape = build.kind(x).shape
    return _solved(build, factors, order, build.broadcast(_eye(build, shape[-1], x), shape))


@register("aten.linalg_inv_ex.default")
def inverse_with_info(build: Builder, x: Value, *, check_errors: bool = False) -> tuple[Value, Value]:
    return _inverse(build, x), _success(build, build.kind(x).shape[:-2])


@register("aten.inverse.default", "aten.linalg_inv.default")
def inverse(build: Builder, x: Value) -> Value:
    return _inverse(build, x)


# -- determinants ------------------------------------------------------------------------
def _diagonal(build: Builder, x: Value) -> Value:
    """The diagonal of the last two axes: what is off it is masked and summed away."""
    kind = build.kind(x)
    size, dtype = kind.shape[-1], kind.dtype
    down = build.insert_axis(build.iota(size, t.i64), 1)
    on = build.emit(core.Eq(down, build.insert_axis(build.iota(size, t.i64), 0)))
    masked = build.emit(core.Where(on, x, build.full(0, dtype)))
    return build.emit(core.Sum(masked, axes=(kind.rank - 1,)))


def _parity(build: Builder, order: Value) -> Value:
    """1 for an even permutation and -1 for an odd one, by its inversions, as i64."""
    kind = build.kind(order)
    size, rank = kind.shape[-1], kind.rank
    before = build.emit(
        core.Lt(build.insert_axis(build.iota(size, t.i64), 1), build.insert_axis(build.iota(size, t.i64), 0))
    )
    larger = build.emit(core.Gt(build.insert_axis(order, rank), build.insert_axis(order, rank - 1)))
    inverted = build.cast(build.emit(core.And(larger, before)), t.i64)
    count = build.emit(core.Sum(inverted, axes=(rank - 1, rank)))
    odd = build.emit(core.Remainder(count, build.full(2, t.i64)))
    return build.sub(build.full(1, t.i64), build.mul(odd, 2))


@register("aten._linalg_det.default")
def determinant_with_factors(build: Builder, x: Value) -> tuple[Value, Value, Value]:
    factors, order, pivots = _decompose(build, x)
    diagonal = _diagonal(build, factors)
    product = build.emit(core.Prod(diagonal, axes=(build.kind(diagonal).rank - 1,)))
    sign = build.cast(_parity(build, order), build.kind(x).dtype)
    return build.emit(core.Mul(product, sign)), factors, pivots


@register("aten.det.default", "aten.linalg_det.default")
def determinant(build: Builder, x: Value) -> Value:
    return determinant_with_factors(build, x)[0]


@register("aten._linalg_slogdet.default")
def logarithm_of_determinant(build: Builder, x: Value) -> tuple[Value, Value, Value, Value]:
    """Sign and logarithm of the magnitude, then the factors and pivots."""
    factors, order, pivots = _decompose(build, x)
    diagonal = _diagonal(build, factors)
    last = build.kind(diagonal).rank - 1
    signs = build.emit(core.Prod(build.emit(core.Sign(diagonal)), axes=(last,)))
    sign = build.emit(core.Mul(signs, build.cast(_parity(build, order), build.kind(x).dtype)))
    sizes = build.emit(core.Log(build.emit(core.Abs(diagonal))))
    return sign, build.emit(core.Sum(sizes, axes=(last,))), factors, pivots


@register("aten.linalg_slogdet.default", "aten.slogdet.default")
def sign_and_logarithm(build: Builder, x: Value) -> tuple[Value, Value]:
    return logarithm_of_determinant(build, x)[:2]


# -- factors ---------------------------------------------------------------------------------
@register("aten.linalg_lu.default")
def lu(build: Builder, x: Value, *, pivot: bool = True) -> tuple[Value, Value, Value]:
    """P, L and U with x = P @ L @ U."""
    if not pivot:
        build.refuse("pivot=False")
    factors, order, _ = _decompose(build, x)
    permutation, lower, _ = build.results
    kind = build.kind(x)
    rank, rows = kind.rank, kind.shape[-2]
    inner = lower.shape[-1]
    down = build.insert_axis(build.iota(rows, t.i64), 1)
    p = build.cast(build.emit(core.Eq(down, build.insert_axis(order, rank - 2))), permutation.dtype)
    below = build.emit(core.Triangle(build.slice(factors, rank - 1, 0, inner), diagonal=-1))
    ones = build.emit(core.Eq(down, build.insert_axis(build.iota(inner, t.i64), 0)))
    whole = build.add(below, build.cast(ones, kind.dtype))
    above = build.emit(core.Triangle(build.slice(factors, rank - 2, 0, inner), upper=True))
    return p, whole, above


@register("aten.linalg_lu_factor_ex.default")
def lu_factor_with_info(
    build: Builder, x: Value, *, pivot: bool = True, check_errors: bool = False
) -> tuple[Value, Value, Value]:
    if not pivot:
        build.refuse("pivot=False")
    factors, _, pivots = _decompose(build, x)
    return factors, pivots, _success(build, build.kind(x).shape[:-2])


def _absent(build: Builder, position: int) -> Value:
    """The empty tensor that torch gives for a factor nobody asked for."""
    kind = build.results[position]
    return build.full(0, kind.dtype, kind.shape)


@register("aten.linalg_qr.default")
def qr(build: Builder, x: Value, mode: str = "reduced") -> tuple[Value, Value]:
    if mode == "complete" and build.results[0].shape[-1] != build.results[1].shape[-2]:
        build.refuse("mode='complete' with symbolic dims")
    rows, columns = build.kind(x).shape[-2:]
    if mode == "complete" and not (isinstance(rows, int) and isinstance(columns, int) and rows <= columns):
        build.refuse("mode='complete' of a matrix with more rows than columns; use mode='reduced'")
    q, r = build.emit_all(linalg.QR(x))
    return (_absent(build, 0) if mode == "r" else q), r


@register("aten._linalg_svd.default")
def svd(
    build: Builder,
    x: Value,
    full_matrices: bool = False,
    compute_uv: bool = True,
    *,
    driver: str | None = None,
) -> tuple[Value, Value, Value]:
    rows, columns = build.kind(x).shape[-2:]
    if compute_uv and full_matrices and rows != columns:
        build.refuse("full_matrices=True of a matrix that is not square; pass full_matrices=False")
    u, values, v = build.emit_all(linalg.SVD(x))
    return (u, values, v) if compute_uv else (_absent(build, 0), values, _absent(build, 2))
