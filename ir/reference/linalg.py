"""Reference semantics of the linalg family; half precision is computed in f32."""

from __future__ import annotations

import torch

from plait.ir.ops import linalg
from plait.ir.reference.quantised import contract
from plait.ir.reference.table import Args, Context, reference


def widened(x: torch.Tensor) -> torch.Tensor:
    """The tensor in a precision that factorisations support."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


@reference(linalg.Matmul)
def matmul(op: linalg.Matmul, args: Args, ctx: Context) -> torch.Tensor:
    """Batched matrix product with activation."""
    left, right = args
    types = (op.left.shaped, op.right.shaped)
    return contract(op, (left, right, None), types, ctx, torch.matmul, output_axis=-1, result_axis=-1)


@reference(linalg.Cholesky)
def cholesky(op: linalg.Cholesky, args: Args, ctx: Context) -> torch.Tensor:
    """Lower factor; only the lower triangle of the operand is read."""
    (x,) = args
    factor: torch.Tensor = torch.linalg.cholesky(widened(x))
    return factor.to(x.dtype)


@reference(linalg.TriangularSolve)
def triangular_solve(op: linalg.TriangularSolve, args: Args, ctx: Context) -> torch.Tensor:
    """Substitution; the other triangle is not read."""
    matrix, right = args
    matrix = matrix.mT if op.transposed else matrix
    upper = op.lower == op.transposed
    solution: torch.Tensor = torch.linalg.solve_triangular(
        widened(matrix), widened(right), upper=upper, unitriangular=op.unit
    )
    return solution.to(right.dtype)


@reference(linalg.Eigh)
def eigh(op: linalg.Eigh, args: Args, ctx: Context) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues and eigenvectors; only the lower triangle is read."""
    (x,) = args
    values, vectors = torch.linalg.eigh(widened(x))
    return values.to(x.dtype), vectors.to(x.dtype)


@reference(linalg.LU)
def lu(op: linalg.LU, args: Args, ctx: Context) -> tuple[torch.Tensor, ...]:
    """The packed factors, and LAPACK's row exchanges carried out on the row numbers."""
    (x,) = args
    factors, pivots = torch.linalg.lu_factor(widened(x))
    exchanges = pivots.to(torch.int64) - 1
    order = torch.arange(x.shape[-2], device=x.device).expand(x.shape[:-1]).clone()
    for step in range(exchanges.shape[-1]):
        other = exchanges[..., step, None]
        here = order[..., step, None].clone()
        order[..., step, None] = order.gather(-1, other)
        order.scatter_(-1, other, here)
    return factors.to(x.dtype), order, exchanges


@reference(linalg.QR)
def qr(op: linalg.QR, args: Args, ctx: Context) -> tuple[torch.Tensor, torch.Tensor]:
    """The reduced factors."""
    (x,) = args
    q, r = torch.linalg.qr(widened(x))
    return q.to(x.dtype), r.to(x.dtype)


@reference(linalg.SVD)
def svd(op: linalg.SVD, args: Args, ctx: Context) -> tuple[torch.Tensor, ...]:
    """The reduced factors."""
    (x,) = args
    return tuple(part.to(x.dtype) for part in torch.linalg.svd(widened(x), full_matrices=False))
