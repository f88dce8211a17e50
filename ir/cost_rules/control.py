"""Cost of control flow from the cost of its regions."""

from __future__ import annotations

from dataclasses import replace

from plait.ir.cost_rules.table import UNKNOWN_COST, Cost, Sizes, cost_rule
from plait.ir.ops import core


@cost_rule(core.Scan)
def scan(op: core.Scan, sizes: Sizes) -> Cost:
    """The body as often as there are steps."""
    sequences = op.inputs[: len(op.inputs) - op.carries]
    length = sizes.shape(sequences[0])[0] if sequences else sizes.dim(op.length or 0)
    return sizes.region(op.body).scaled(length)


@cost_rule(core.Cond)
def cond(op: core.Cond, sizes: Sizes) -> Cost:
    """The costlier branch, a bound."""
    return sizes.region(op.then).maximum(sizes.region(op.otherwise))


@cost_rule(core.While)
def while_(op: core.While, sizes: Sizes) -> Cost:
    """Unknown like the number of rounds, unless a bound of `count` is known."""
    if op.bound_dim is None or op.bound_dim not in sizes.dims:
        return UNKNOWN_COST
    rounds = sizes.dims[op.bound_dim]
    bodies, tests = sizes.region(op.body).scaled(rounds), sizes.region(op.condition).scaled(rounds + 1)
    return replace(bodies + tests, exact=False)
