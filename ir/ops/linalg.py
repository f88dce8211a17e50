"""The linalg family: matrix products and factorisations over the last two axes."""

from __future__ import annotations

from dataclasses import KW_ONLY

from plait.ir.dims import minimum
from plait.ir.fixed_point import Requantization
from plait.ir.op import Op, op, shaped
from plait.ir.ops.common import Activation, broadcast, floating, same_dtype
from plait.ir.ops.nn.conv import contraction_result
from plait.ir.types import TensorType, Type, i64
from plait.ir.value import Value


@op("linalg.matmul")
class Matmul(Op):
    """act(left @ right): [..., M, K] x [..., K, N] -> [..., M, N]; leading dims broadcast.

    A quantised right operand of a dense left one stands for its real numbers.
    """

    left: Value
    right: Value
    _: KW_ONLY
    act: Activation = "none"
    act_alpha: float = 0.01
    requantize: Requantization = "real"
    out: Type | None = None

    def infer(self) -> tuple[Type, ...]:
        a, b = shaped(self, self.left, "left"), shaped(self, self.right, "right")
        if a.rank < 2 or b.rank < 2:
            raise self.error(f"{self.left} is {a} and {self.right} is {b}", why="both need two axes or more")
        if a.shape[-1] != b.shape[-2]:
            raise self.error(
                f"{self.left} is {a} but {self.right} is {b}",
                why=f"{a.shape[-1]} columns meet {b.shape[-2]} rows",
            )
        lead = broadcast(
            self, a.with_shape(a.shape[:-2]), b.with_shape(b.shape[:-2]), (self.left, self.right)
        )
        shape = (*lead, a.shape[-2], b.shape[-1])
        return (
            contraction_result(self, self.left, self.right, None, shape, self.out, output_axis=b.rank - 1),
        )


def square(op: Op, value: Value, name: str) -> TensorType:
    """The type of a floating-point [..., N, N] operand."""
    kind = floating(op, value, name)
    if kind.rank < 2 or kind.shape[-1] != kind.shape[-2]:
        raise op.error(f"operand {name} ({value}) is {kind}", why="a square matrix is wanted")
    return kind


@op("linalg.cholesky")
class Cholesky(Op):
    """Lower triangular L with L @ L.T = x for symmetric positive definite x [..., N, N]."""

    x: Value

    def infer(self) -> tuple[Type, ...]:
        return (square(self, self.x, "x"),)


@op("linalg.triangular_solve")
class TriangularSolve(Op):
    """y with matrix @ y = right, for triangular matrix [..., N, N] and right [..., N, M].

    `lower` names the triangle that is read, `transposed` solves with its transpose, and
    with `unit` the diagonal is taken as ones without being read.
    """

    matrix: Value
    right: Value
    _: KW_ONLY
    lower: bool = True
    transposed: bool = False
    unit: bool = False

    def infer(self) -> tuple[Type, ...]:
        a, b = square(self, self.matrix, "matrix"), floating(self, self.right, "right")
        same_dtype(self, self.matrix, self.right)
        if b.rank != a.rank or b.shape[:-1] != a.shape[:-1]:
            raise self.error(
                f"{self.matrix} is {a} but {self.right} is {b}", why="they are [..,N,N] and [..,N,M]"
            )
        return (b,)


@op("linalg.eigh")
class Eigh(Op):
    """Eigenvalues [..., N] in ascending order and eigenvectors [..., N, N] of a symmetric matrix."""

    x: Value

    def infer(self) -> tuple[Type, ...]:
        kind = square(self, self.x, "x")
        return kind.with_shape(kind.shape[:-1]), kind


def matrix(op: Op, value: Value, name: str) -> TensorType:
    """The type of a floating-point [..., M, N] operand."""
    kind = floating(op, value, name)
    if kind.rank < 2:
        raise op.error(f"operand {name} ({value}) is {kind}", why="two axes or more are wanted")
    return kind


@op("linalg.lu")
class LU(Op):
    """Factors of x [..., M, N] with partial pivoting, the order [..., M] of its rows, and the exchanges.

    The first result holds U on and above its diagonal and L, whose diagonal is ones,
    below it; with p the second result (i64), x[..., p[i], :] = (L @ U)[..., i, :].  The third
    (i64 [..., min(M, N)]) names the row that each step exchanged with its own.
    """

    x: Value

    def infer(self) -> tuple[Type, ...]:
        kind = matrix(self, self.x, "x")
        *lead, rows, columns = kind.shape
        steps = minimum(rows, columns)
        return kind, TensorType(i64, (*lead, rows)), TensorType(i64, (*lead, steps))


@op("linalg.qr")
class QR(Op):
    """Q [..., M, K] with orthonormal columns and upper triangular R [..., K, N], K = min(M, N), Q @ R = x.

    The signs are those of Householder reflections: no diagonal element of R is made positive.
    """

    x: Value

    def infer(self) -> tuple[Type, ...]:
        kind = matrix(self, self.x, "x")
        *lead, rows, columns = kind.shape
        inner = minimum(rows, columns)
        return kind.with_shape((*lead, rows, inner)), kind.with_shape((*lead, inner, columns))


@op("linalg.svd")
class SVD(Op):
    """U [..., M, K], singular values [..., K] in descending order and V^T [..., K, N], K = min(M, N)."""

    x: Value

    def infer(self) -> tuple[Type, ...]:
        kind = matrix(self, self.x, "x")
        *lead, rows, columns = kind.shape
        inner = minimum(rows, columns)
        return (
            kind.with_shape((*lead, rows, inner)),
            kind.with_shape((*lead, inner)),
            kind.with_shape((*lead, inner, columns)),
        )
