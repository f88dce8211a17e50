"""Cost of factorisations (Golub & Van Loan, Matrix Computations, 4th ed., 2013)."""

from __future__ import annotations

import math

from plait.ir.cost_rules.table import Cost, Sizes, cost_rule
from plait.ir.ops import linalg


@cost_rule(linalg.Cholesky)
def cholesky(op: linalg.Cholesky, sizes: Sizes) -> Cost:
    """(n^3 - n)/6 MACs, n(n-1)/2 divisions and n roots for each matrix."""
    *lead, n, _ = sizes.shape(op.x)
    batch = math.prod(lead)
    macs = batch * (n**3 - n) // 6
    return sizes.cost(op, macs=macs, flops=2 * macs + batch * (n * (n - 1) // 2 + n))


@cost_rule(linalg.TriangularSolve)
def triangular_solve(op: linalg.TriangularSolve, sizes: Sizes) -> Cost:
    """n(n-1)/2 MACs and n divisions for each right-hand side."""
    *lead, n, columns = sizes.shape(op.right)
    batch = math.prod(lead) * columns
    macs = batch * n * (n - 1) // 2
    return sizes.cost(op, macs=macs, flops=2 * macs + batch * n)


@cost_rule(linalg.Eigh)
def eigh(op: linalg.Eigh, sizes: Sizes) -> Cost:
    """About 9 n^3 FLOPs: the symmetric QR algorithm with eigenvectors, whose iterations vary."""
    *lead, n, _ = sizes.shape(op.x)
    flops = 9 * math.prod(lead) * n**3
    return sizes.cost(op, macs=flops // 2, flops=flops, exact=False)


@cost_rule(linalg.LU)
def lu(op: linalg.LU, sizes: Sizes) -> Cost:
    """A division for each element of L and a rank-one update of what is left, for each pivot."""
    *lead, rows, columns = sizes.shape(op.x)
    inner, batch = min(rows, columns), math.prod(lead)
    macs = batch * sum((rows - k - 1) * (columns - k - 1) for k in range(inner))
    divisions = batch * sum(rows - k - 1 for k in range(inner))
    return sizes.cost(op, macs=macs, flops=2 * macs + divisions)


@cost_rule(linalg.QR)
def qr(op: linalg.QR, sizes: Sizes) -> Cost:
    """About 2 k^2 (m + n - 2k/3) FLOPs for the reflections and as many to form Q; algorithm 5.2.1."""
    *lead, rows, columns = sizes.shape(op.x)
    inner = min(rows, columns)
    flops = 4 * math.prod(lead) * (inner * inner * (rows + columns) - 2 * inner**3 // 3)
    return sizes.cost(op, macs=flops // 2, flops=flops, exact=False)


@cost_rule(linalg.SVD)
def svd(op: linalg.SVD, sizes: Sizes) -> Cost:
    """About 6 m n^2 + 20 n^3 FLOPs with n the smaller side; figure 8.6.1, thin U and V."""
    *lead, rows, columns = sizes.shape(op.x)
    large, small = max(rows, columns), min(rows, columns)
    flops = math.prod(lead) * (6 * large * small**2 + 20 * small**3)
    return sizes.cost(op, macs=flops // 2, flops=flops, exact=False)
