"""Emissions of QR, symmetric eigendecomposition and SVD, as loops: one matrix an item."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import te, tirx
from tvm.ir import Expr

from plait.backends.tvm.emit.expressions import number
from plait.backends.tvm.emit.loops import View, item_loops, local, part, product, serial, when
from plait.backends.tvm.emit.table import Arguments, Emitter, Kind, emit
from plait.ir import CompileError
from plait.ir.ops import linalg

#: Jacobi sweeps: convergence is quadratic, and a sweep over a diagonal matrix rotates nothing.
SWEEPS = 16


def _identity(matrix: View, rows: Expr, columns: Expr, dtype: str) -> None:
    with serial(0, rows) as i, serial(0, columns) as j:
        matrix[i, j] = tirx.Select(i == j, number(1, dtype), number(0, dtype))


# -- QR --------------------------------------------------------------------------------
@emit(linalg.QR, kind=Kind.ALONE)
def _qr(op: Any, args: Arguments, emitter: Emitter) -> tuple[te.Tensor, ...]:
    """Householder reflections I - tau v v^T, with v below the diagonal of a copy, v[k] = 1."""
    *lead, rows, columns = emitter.shape(op.x.type.shape)
    inner = emitter.dim(op.results[0].type.shape[-1])
    dtype = emitter.dtype(op.x.type)
    zero, one = number(0, dtype), number(1, dtype)

    def reflect(target: View, v: View, k: Expr, tau: Expr, start: Expr, stop: Expr, total: View) -> None:
        """Columns `start` to `stop` of the target under reflection `k`."""
        with serial(start, stop) as j:
            total[0] = target[k, j]
            with serial(k + 1, rows) as i:
                total[0] = total[0] + v[i, k] * target[i, j]
            total[0] = total[0] * tau
            target[k, j] = target[k, j] - total[0]
            with serial(k + 1, rows) as i:
                target[i, j] = target[i, j] - total[0] * v[i, k]

    def body(item: Expr, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        x = part(inputs[0], item, lead)
        q, r, work, scale = (part(output, item, lead) for output in outputs)
        total, beta = local(dtype), local(dtype)
        with serial(0, rows) as i, serial(0, columns) as j:
            work[i, j] = x[i, j]
        with serial(0, inner) as k:
            total[0] = zero
            scale[k] = zero
            with serial(k + 1, rows) as i:
                total[0] = total[0] + work[i, k] * work[i, k]
            with when(total[0] > zero):
                beta[0] = tirx.sqrt(total[0] + work[k, k] * work[k, k])
                with when(work[k, k] > zero):
                    beta[0] = -beta[0]
                scale[k] = (beta[0] - work[k, k]) / beta[0]
                with serial(k + 1, rows) as i:
                    work[i, k] = work[i, k] / (work[k, k] - beta[0])
                work[k, k] = beta[0]
                reflect(work, work, k, scale[k], k + 1, columns, total)
        with serial(0, inner) as i, serial(0, columns) as j:
            r[i, j] = tirx.Select(j < i, zero, work[i, j])
        with serial(0, rows) as i, serial(0, inner) as j:
            q[i, j] = tirx.Select(i == j, one, zero)
        with serial(0, inner) as step:
            k = inner - 1 - step
            reflect(q, work, k, scale[k], k, inner, total)

    shapes = ((*lead, rows, inner), (*lead, inner, columns), (*lead, rows, columns), (*lead, inner))
    found = item_loops(emitter, product(lead), body, [args.x], [(s, dtype) for s in shapes], "qr")
    return found[:2]


# -- Jacobi rotations ----------------------------------------------------------------------
def _rotation(half: Expr, off: Expr, cosine: View, sine: View, dtype: str) -> None:
    """The rotation that takes `off` to zero, with half = (later - earlier diagonal) / 2."""
    zero, one = number(0, dtype), number(1, dtype)
    ratio = half / off
    size = tirx.abs(ratio)
    # Golub & Van Loan, Matrix Computations, 4th ed., algorithm 8.5.1: the smaller root.
    tangent = tirx.Select(ratio < zero, -one, one) / (size + tirx.sqrt(one + size * size))
    cosine[0] = tangent
    sine[0] = cosine[0] / tirx.sqrt(one + cosine[0] * cosine[0])
    cosine[0] = one / tirx.sqrt(one + cosine[0] * cosine[0])


def _turn(matrix: View, rows: Expr, p: Expr, q: Expr, cosine: View, sine: View, kept: View) -> None:
    """Columns p and q of a matrix under a rotation."""
    with serial(0, rows) as k:
        kept[0] = matrix[k, p]
        matrix[k, p] = cosine[0] * kept[0] - sine[0] * matrix[k, q]
        matrix[k, q] = sine[0] * kept[0] + cosine[0] * matrix[k, q]


def _exchange(matrix: View, rows: Expr, p: Expr, q: Expr, kept: View) -> None:
    with serial(0, rows) as k:
        kept[0] = matrix[k, p]
        matrix[k, p] = matrix[k, q]
        matrix[k, q] = kept[0]


def _sort_columns(
    values: View, count: Expr, matrices: Sequence[tuple[View, Expr]], descending: bool, dtype: str
) -> None:
    """Values in order, with the columns of some matrices (and their numbers of rows) moved alike."""
    best, kept = local("int64"), local(dtype)
    with serial(0, count) as i:
        best[0] = i
        with serial(i + 1, count) as j:
            first, second = values[j], values[best[0]]
            with when(first > second if descending else first < second):
                best[0] = j
        with when(best[0] != i):
            kept[0] = values[i]
            values[i] = values[best[0]]
            values[best[0]] = kept[0]
            for matrix, rows in matrices:
                _exchange(matrix, rows, i, best[0], kept)


def _precision(dtype: str) -> float:
    """The relative size below which an off-diagonal element counts as zero."""
    return {"float64": 1e-16, "float32": 1e-8}.get(dtype, 1e-4)


@emit(linalg.Eigh, kind=Kind.ALONE)
def _eigh(op: Any, args: Arguments, emitter: Emitter) -> tuple[te.Tensor, ...]:
    """Cyclic Jacobi: rotations take each off-diagonal element to zero in turn, sweep after sweep."""
    *lead, n, _ = emitter.shape(op.x.type.shape)
    dtype = emitter.dtype(op.x.type)
    small = number(_precision(dtype), dtype)

    def body(item: Expr, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        x = part(inputs[0], item, lead)
        values, vectors, work = (part(output, item, lead) for output in outputs)
        cosine, sine, kept = local(dtype), local(dtype), local(dtype)
        with serial(0, n) as i, serial(0, n) as j:
            work[i, j] = x[te.max(i, j), te.min(i, j)]
        _identity(vectors, n, n, dtype)
        with serial(0, SWEEPS), serial(0, n) as p, serial(p + 1, n) as q:
            scale = tirx.abs(work[p, p]) + tirx.abs(work[q, q])
            with when(tirx.abs(work[p, q]) > small * scale):
                half = (work[q, q] - work[p, p]) * number(0.5, dtype)
                _rotation(half, work[p, q], cosine, sine, dtype)
                _turn(work, n, p, q, cosine, sine, kept)
                with serial(0, n) as k:
                    kept[0] = work[p, k]
                    work[p, k] = cosine[0] * kept[0] - sine[0] * work[q, k]
                    work[q, k] = sine[0] * kept[0] + cosine[0] * work[q, k]
                _turn(vectors, n, p, q, cosine, sine, kept)
        with serial(0, n) as i:
            values[i] = work[i, i]
        _sort_columns(values, n, [(vectors, n)], False, dtype)

    shapes = ((*lead, n), (*lead, n, n), (*lead, n, n))
    found = item_loops(emitter, product(lead), body, [args.x], [(s, dtype) for s in shapes], "eigh")
    return found[:2]


@emit(linalg.SVD, kind=Kind.ALONE)
def _svd(op: Any, args: Arguments, emitter: Emitter) -> tuple[te.Tensor, ...]:
    """One-sided Jacobi: rotations make the columns of A V orthogonal; their lengths are the values.

    A wide matrix is transposed first.  A singular value of zero leaves a column of zeros.
    """
    kind = op.x.type
    *_, rows_dim, columns_dim = kind.shape
    if not (isinstance(rows_dim, int) and isinstance(columns_dim, int)):
        raise CompileError(
            f"%{op.name} decomposes {op.x} : {kind}",
            where=op.loc.readable(),
            why="the sizes of the matrix must be known to choose the side that is made orthogonal",
            remedy="compile with these dims fixed: dims={...}",
        )
    wide = rows_dim < columns_dim
    *lead, rows, columns = emitter.shape(kind.shape)
    long, short = (columns, rows) if wide else (rows, columns)
    dtype = emitter.dtype(kind)
    zero, small = number(0, dtype), number(_precision(dtype), dtype)

    def body(item: Expr, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        x = part(inputs[0], item, lead)
        left, values, right = (part(output, item, lead) for output in outputs)
        first, second, mixed = local(dtype), local(dtype), local(dtype)
        cosine, sine, kept = local(dtype), local(dtype), local(dtype)
        with serial(0, long) as i, serial(0, short) as j:
            left[i, j] = x[j, i] if wide else x[i, j]
        _identity(right, short, short, dtype)
        with serial(0, SWEEPS), serial(0, short) as p, serial(p + 1, short) as q:
            first[0], second[0], mixed[0] = zero, zero, zero
            with serial(0, long) as k:
                first[0] = first[0] + left[k, p] * left[k, p]
                second[0] = second[0] + left[k, q] * left[k, q]
                mixed[0] = mixed[0] + left[k, p] * left[k, q]
            with when(tirx.abs(mixed[0]) > small * tirx.sqrt(first[0] * second[0])):
                _rotation((second[0] - first[0]) * number(0.5, dtype), mixed[0], cosine, sine, dtype)
                _turn(left, long, p, q, cosine, sine, kept)
                _turn(right, short, p, q, cosine, sine, kept)
        with serial(0, short) as j:
            first[0] = zero
            with serial(0, long) as k:
                first[0] = first[0] + left[k, j] * left[k, j]
            values[j] = tirx.sqrt(first[0])
            with when(values[j] > zero), serial(0, long) as k:
                left[k, j] = left[k, j] / values[j]
        _sort_columns(values, short, [(left, long), (right, short)], True, dtype)

    shapes = ((*lead, long, short), (*lead, short), (*lead, short, short))
    left, values, right = item_loops(
        emitter, product(lead), body, [args.x], [(s, dtype) for s in shapes], "jacobi"
    )

    def turned(tensor: te.Tensor, shape: Sequence[Expr], name: str) -> te.Tensor:
        return te.compute(shape, lambda *i: tensor(*i[:-2], i[-1], i[-2]), name=name)

    if wide:
        return right, values, turned(left, [*lead, short, long], "right")
    return left, values, turned(right, [*lead, short, short], "right")
