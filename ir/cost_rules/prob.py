"""Cost of the prob family."""

from __future__ import annotations

from plait.ir.cost_rules.table import TRANSCENDENTAL, Cost, Sizes, cost_rule
from plait.ir.ops import prob


@cost_rule(prob.LogSumExp)
def log_sum_exp(op: prob.LogSumExp, sizes: Sizes) -> Cost:
    """Largest, subtract, exp and sum per element; a logarithm and an addition per result."""
    each, per_result = TRANSCENDENTAL + 3, TRANSCENDENTAL + 1
    return sizes.cost(op, flops=each * sizes.count(op.x) + per_result * sizes.count(op.result))
