"""Cost of reductions: one FLOP for each element read."""

from __future__ import annotations

from plait.ir.cost_rules.table import Cost, Sizes, cost_rule
from plait.ir.ops import core


@cost_rule(
    core.Sum,
    core.Max,
    core.Min,
    core.Prod,
    core.Any,
    core.All,
    core.ArgMax,
    core.ArgMin,
    core.CumSum,
    core.CumProd,
)
def reduction(op: core.Sum, sizes: Sizes) -> Cost:
    """An accumulation of every element."""
    return sizes.cost(op, flops=sizes.count(op.x))


@cost_rule(core.Mean)
def mean(op: core.Mean, sizes: Sizes) -> Cost:
    """An accumulation of every element and a division of each result."""
    return sizes.cost(op, flops=sizes.count(op.x) + sizes.count(op.result))
