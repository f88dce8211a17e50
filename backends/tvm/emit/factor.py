"""Emissions of factorisations and triangular solves, as loops: one matrix (or column) an item."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import te, tirx
from tvm.ir import Expr

from plait.backends.tvm.emit.expressions import number
from plait.backends.tvm.emit.loops import item_loops, local, part, product, serial, when
from plait.backends.tvm.emit.table import Arguments, Emitter, Kind, emit
from plait.ir.ops import linalg


@emit(linalg.Cholesky, kind=Kind.ALONE)
def _cholesky(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    """Column by column; only the lower triangle is read."""
    *lead, n, _ = emitter.shape(op.x.type.shape)
    dtype = emitter.dtype(op.x.type)

    def body(item: Expr, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        x, factor = part(inputs[0], item, lead), part(outputs[0], item, lead)
        total = local(dtype)
        with serial(0, n) as j, serial(j, n) as i:
            total[0] = x[i, j]
            with serial(0, j) as k:
                total[0] = total[0] - factor[i, k] * factor[j, k]
            with when(i == j):
                factor[i, i] = tirx.sqrt(total[0])
            with when(i > j):
                factor[i, j] = total[0] / factor[j, j]
                factor[j, i] = number(0, dtype)

    return item_loops(emitter, product(lead), body, [args.x], [((*lead, n, n), dtype)], "cholesky")[0]


@emit(linalg.TriangularSolve, kind=Kind.ALONE)
def _triangular_solve(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    """Substitution, forward for a lower triangle and backward for an upper one; a column an item."""
    *lead, n, columns = emitter.shape(op.right.type.shape)
    dtype = emitter.dtype(op.right.type)
    forward = op.lower != op.transposed

    def body(item: Expr, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        batch, column = tirx.floordiv(item, columns), tirx.floormod(item, columns)
        a = part(inputs[0], batch, lead)
        right, y = part(inputs[1], batch, lead), part(outputs[0], batch, lead)
        total = local(dtype)
        with serial(0, n) as step:
            i = step if forward else n - 1 - step
            total[0] = right[i, column]
            with serial(0, step) as before:
                k = before if forward else n - 1 - before
                total[0] = total[0] - (a[k, i] if op.transposed else a[i, k]) * y[k, column]
            y[i, column] = total[0] if op.unit else total[0] / a[i, i]

    shape = (*lead, n, columns)
    inputs = [args.matrix, args.right]
    return item_loops(emitter, product(lead) * columns, body, inputs, [(shape, dtype)], "triangular_solve")[0]


@emit(linalg.LU, kind=Kind.ALONE)
def _lu(op: Any, args: Arguments, emitter: Emitter) -> tuple[te.Tensor, ...]:
    """Gaussian elimination; the pivot is the element of the column with the largest magnitude."""
    *lead, rows, columns = emitter.shape(op.x.type.shape)
    steps = emitter.dim(op.results[2].type.shape[-1])
    dtype = emitter.dtype(op.x.type)

    def body(item: Expr, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        x, factors = part(inputs[0], item, lead), part(outputs[0], item, lead)
        order, exchanges = part(outputs[1], item, lead), part(outputs[2], item, lead)
        pivot, row, kept = local("int64"), local("int64"), local(dtype)
        with serial(0, rows) as i:
            order[i] = i
            with serial(0, columns) as j:
                factors[i, j] = x[i, j]
        with serial(0, steps) as k:
            pivot[0] = k
            with serial(k + 1, rows) as i:
                larger = tirx.abs(factors[i, k]) > tirx.abs(factors[pivot[0], k])
                with when(larger):
                    pivot[0] = i
            exchanges[k] = pivot[0]
            with when(pivot[0] != k):
                row[0] = order[k]
                order[k] = order[pivot[0]]
                order[pivot[0]] = row[0]
                with serial(0, columns) as j:
                    kept[0] = factors[k, j]
                    factors[k, j] = factors[pivot[0], j]
                    factors[pivot[0], j] = kept[0]
            # A column of zeros has nothing to eliminate.
            with when(factors[k, k] != number(0, dtype)), serial(k + 1, rows) as i:
                factors[i, k] = factors[i, k] / factors[k, k]
                with serial(k + 1, columns) as j:
                    factors[i, j] = factors[i, j] - factors[i, k] * factors[k, j]

    outputs = [((*lead, rows, columns), dtype), ((*lead, rows), "int64"), ((*lead, steps), "int64")]
    return item_loops(emitter, product(lead), body, [args.x], outputs, "lu")
