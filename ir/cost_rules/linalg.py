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
