"""Matrix products and factorisations."""

from __future__ import annotations

from typing import Any

import numpy as np

from plait.frontends.nodes.einsum import einsum
from plait.frontends.tensorflow.call import Call
from plait.frontends.tensorflow.operand import Operand
from plait.frontends.tensorflow.registry import lowers
from plait.ir import Value
from plait.ir.ops import core, linalg, nn

#: Convolutions with a window of one element, which are dense layers on channels-first data.
_POINTWISE: dict[int, Any] = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}


@lowers("MatMul")
def matmul(call: Call) -> Operand:
    """A product with constant weights is a dense layer, on all axes of a tensor that is read as rows."""
    left, right = call.operand(0), call.operand(1)
    turn_left, turn_right = call.flag("transpose_a"), call.flag("transpose_b")
    if right.array is not None and not turn_left and right.element.is_float:
        weights = right.array if turn_right else right.array.T
        key = "plain" if turn_right else "transposed"
        source = left.rows if left.rows is not None and left.value is None else left
        if source is not left and source.only_first and source.rank in _POINTWISE:
            return _rows(call, _pointwise(call, source, weights, key), left)
        w = call.builder.derived(right, key, weights)
        y = call.emit(nn.Linear(call.builder.value(source, call.name), w))
        return _rows(call, Operand.of(y), left) if source is not left else Operand.of(y)
    a = call.transpose(call.value(0), (1, 0)) if turn_left else call.value(0)
    b = call.transpose(call.value(1), (1, 0)) if turn_right else call.value(1)
    return Operand.of(call.emit(linalg.Matmul(a, b)))


def _pointwise(call: Call, source: Operand, weights: np.ndarray, key: str) -> Operand:
    """A dense layer over the last axis of a tensor that is held with channels first."""
    spatial = source.rank - 2
    shaped = weights.reshape(*weights.shape, *(1,) * spatial)
    w = call.builder.derived(call.operand(1), (key, spatial), shaped)
    x = call.builder.first(source, call.name)
    return Operand.of_first(call.emit(_POINTWISE[source.rank](x, w)))


def _rows(call: Call, made: Operand, rows: Operand) -> Operand:
    """The rows of a tensor [..., D], in the place of [R, D]."""
    return Operand(call.name, made.element, (rows.shape[0], made.shape[-1]), rows=made)


@lowers("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3")
def batched_matmul(call: Call) -> Operand:
    def side(index: int, name: str) -> Value:
        x = call.value(index)
        rank = x.shaped.rank
        if not call.flag(name):
            return x
        return call.transpose(x, (*range(rank - 2), rank - 1, rank - 2))

    right = call.operand(1)
    if right.array is not None and right.rank == 2 and right.element.is_float and not call.flag("adj_x"):
        weights = right.array if call.flag("adj_y") else right.array.T
        key = "plain" if call.flag("adj_y") else "transposed"
        source = call.operand(0)
        if source.only_first and source.rank in _POINTWISE:
            return _pointwise(call, source, weights, key)
        return Operand.of(call.emit(nn.Linear(call.value(0), call.builder.derived(right, key, weights))))
    return Operand.of(call.emit(linalg.Matmul(side(0, "adj_x"), side(1, "adj_y"))))


@lowers("Einsum")
def contraction(call: Call) -> Operand:
    """As a dense layer where it is one, else as transposes, sums and batched matrix products."""
    dense = _dense_einsum(call)
    return Operand.of(einsum(call)) if dense is None else dense


def _dense_einsum(call: Call) -> Operand | None:
    """`...c,c<out>->...<out>` with constant weights, as in the projections of attention; None for others."""
    equation = call.text("equation", "").replace(" ", "")
    left, arrow, result = equation.partition("->")
    terms = left.split(",")
    if not arrow or len(terms) != 2 or len(call.inputs) != 2 or "." in equation:
        return None
    x, w = terms
    weights = call.operand(1)
    inner = [label for label in w if label in x]
    count = len(inner)
    if (
        weights.array is None
        or not weights.element.is_float
        or not count
        or x[len(x) - count :] != w[:count]
        or result != x[: len(x) - count] + w[count:]
        or len(set(x)) + len(set(w)) != len(x) + len(w)
    ):
        return None
    array = weights.array
    rows = int(np.prod(array.shape[:count], dtype=np.int64))
    flat = call.builder.derived(weights, ("einsum", count), array.reshape(rows, -1).T)
    operand = call.operand(0)
    if operand.only_first and operand.rank in _POINTWISE and count == 1 and len(w) == 2:
        return _pointwise(call, operand, array.T, "einsum")
    value = call.builder.value(operand, call.name)
    lead = operand.shape[: operand.rank - count]
    y = nn.Linear(call.reshape(value, (*lead, rows)), flat)
    outputs = array.shape[count:]
    if len(outputs) == 1:
        return Operand.of(call.emit(y))
    wide = call.step(y)
    return Operand.of(call.emit(core.Reshape(wide, out=wide.shaped.with_shape((*lead, *outputs)))))


@lowers("Cholesky")
def cholesky(call: Call) -> Value:
    return call.emit(linalg.Cholesky(call.value(0)))


@lowers("MatrixTriangularSolve")
def triangular_solve(call: Call) -> Value:
    matrix, right = call.value(0), call.value(1)
    lower = bool(call.attributes.get("lower", True))
    return call.emit(linalg.TriangularSolve(matrix, right, lower=lower, transposed=call.flag("adjoint")))


@lowers("SelfAdjointEigV2")
def self_adjoint_eigen(call: Call) -> list[Value]:
    values, vectors = call.builder.add(linalg.Eigh(call.value(0)), call.name).results
    return [values, vectors]


@lowers("Qr")
def qr(call: Call) -> list[Value] | None:
    """Q and R, reduced to the smaller side."""
    if call.flag("full_matrices"):
        return None
    q, r = call.builder.add(linalg.QR(call.value(0)), call.name).results
    return [q, r]


@lowers("Svd")
def singular_values(call: Call) -> list[Value] | None:
    """Singular values, U and V (not its transpose)."""
    if call.flag("full_matrices"):
        return None
    u, values, vt = call.builder.add(linalg.SVD(call.value(0)), call.name).results
    rank = vt.shaped.rank
    v = call.transpose(vt, (*range(rank - 2), rank - 1, rank - 2))
    return [values, u, v]


@lowers("Cross")
def cross(call: Call) -> Value:
    """The vector product over the last axis."""
    a, b = call.value(0), call.value(1)
    axis = a.shaped.rank - 1

    def turned(x: Value, shift: int) -> Value:
        return call.step(core.Roll(x, shifts=(shift,), axes=(axis,)))

    first = call.step(core.Mul(turned(a, -1), turned(b, -2)))
    return call.emit(core.Sub(first, call.step(core.Mul(turned(a, -2), turned(b, -1)))))


@lowers("MatrixDiagPart", "MatrixDiagPartV2", "MatrixDiagPartV3", "DiagPart")
def diagonal_part(call: Call) -> Operand | None:
    """The main diagonal of the last two axes of square matrices."""
    x = call.value(0)
    if len(call.inputs) > 1 and call.ints(1, "k") not in ((0,), (0, 0)):
        return None
    shape = x.shaped.shape
    if shape[-1] != shape[-2] or (call.op_type == "DiagPart" and len(shape) != 2):
        return None
    rank = len(shape)
    return Operand.of(call.step(core.Sum(_on_diagonal(call, x), axes=(rank - 1,))))


@lowers("MatrixDiag", "MatrixDiagV2", "MatrixDiagV3", "Diag")
def diagonal_matrix(call: Call) -> Operand | None:
    """A vector on the diagonal of a square matrix of zeros."""
    x = call.value(0)
    shape = x.shaped.shape
    if len(call.inputs) > 1 and (
        call.ints(1, "k") not in ((0,), (0, 0))
        or any(int(call.number(i, "a size")) not in (-1, shape[-1]) for i in (2, 3))
        or call.number(4, "the padding") != 0
    ):
        return None
    if call.op_type == "Diag" and len(shape) != 1:
        return None
    wide = call.broadcast(call.reshape(x, (*shape[:-1], 1, shape[-1])), (*shape[:-1], shape[-1], shape[-1]))
    return Operand.of(_on_diagonal(call, wide))


def _on_diagonal(call: Call, x: Value) -> Value:
    """`x` on the main diagonal of its last two axes, zeros elsewhere."""
    return call.emit(core.Triangle(call.step(core.Triangle(x)), upper=True))
