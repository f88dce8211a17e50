"""Cost rules of every op, one module for each family.  Importing this package fills the table."""

from plait.ir.cost_rules import (
    complex,
    control,
    dynamic,
    elementwise,
    linalg,
    message,
    movement,
    nn_layers,
    nn_norm_pool,
    prob,
    quant,
    reduce,
    spike,
)
from plait.ir.cost_rules.table import RULES, UNKNOWN_COST, Cost, Sizes, cost_rule, engineering

__all__ = [
    "RULES",
    "UNKNOWN_COST",
    "Cost",
    "Sizes",
    "complex",
    "control",
    "cost_rule",
    "dynamic",
    "elementwise",
    "engineering",
    "linalg",
    "message",
    "movement",
    "nn_layers",
    "nn_norm_pool",
    "prob",
    "quant",
    "reduce",
    "spike",
]
