"""Conditions on sizes that tracing met: are they true for every size that the ranges allow?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import sympy  # type: ignore[import-untyped]
import torch
from torch.export import ExportedProgram

Ranges = Mapping[str, tuple[int, int | None]]

#: As many combinations of sizes are tried one by one where algebra does not decide.
_TRIED = 4096
_PLAIN = {"Min": sympy.Min, "Max": sympy.Max}


def unproven_conditions(program: ExportedProgram, ranges: Ranges) -> list[str]:
    """Conditions asserted in a program that are not known to hold; `ranges` go by torch symbol."""
    found = []
    for module in program.graph_module.modules():
        if not isinstance(module, torch.fx.GraphModule):
            continue
        for node in module.graph.nodes:
            if node.target is torch.ops.aten._assert_scalar.default:
                argument = node.args[0]
                value = argument.meta.get("val") if isinstance(argument, torch.fx.Node) else argument
                condition = value.node.expr if isinstance(value, torch.SymBool) else value
                if condition is not True and not always_holds(condition, ranges):
                    found.append(str(condition))
    return found


def always_holds(condition: sympy.Basic, ranges: Ranges) -> bool:
    """Whether a condition on sizes holds in all of the ranges, as far as can be shown."""
    if condition in (sympy.true, sympy.false):
        return bool(condition)
    if isinstance(condition, sympy.And):
        return all(always_holds(part, ranges) for part in condition.args)
    symbols = sorted(condition.free_symbols, key=str)
    if any(str(symbol) not in ranges for symbol in symbols):
        return False  # the size depends on data
    return _by_algebra(condition, symbols, ranges) or _by_trial(condition, symbols, ranges)


def _by_algebra(condition: sympy.Basic, symbols: list[sympy.Symbol], ranges: Ranges) -> bool:
    """Each size is its lower bound plus something that is not negative."""
    if not isinstance(condition, sympy.core.relational.Relational):
        return False
    raised = {
        symbol: sympy.Symbol(f"{symbol}_above", integer=True, nonnegative=True) + ranges[str(symbol)][0]
        for symbol in symbols
    }

    def plain(side: sympy.Expr) -> sympy.Expr:
        for name, function in _PLAIN.items():
            side = side.replace(
                lambda e, name=name: type(e).__name__ == name,
                lambda e, function=function: function(*e.args),
            )
        return sympy.expand(side.subs(raised))

    difference = sympy.expand(plain(condition.lhs) - plain(condition.rhs))
    decided = {
        sympy.Eq: difference.is_zero,
        sympy.Ne: difference.is_nonzero,
        sympy.Ge: difference.is_nonnegative,
        sympy.Gt: difference.is_positive,
        sympy.Le: difference.is_nonpositive,
        sympy.Lt: difference.is_negative,
    }
    return decided.get(type(condition)) is True


def _by_trial(condition: sympy.Basic, symbols: list[sympy.Symbol], ranges: Ranges) -> bool:
    spans = []
    for symbol in symbols:
        low, high = ranges[str(symbol)]
        if high is None:
            return False
        spans.append(range(low, high + 1))
    if math.prod(map(len, spans)) > _TRIED:
        return False
    return all(
        condition.subs(dict(zip(symbols, sizes, strict=True))) == sympy.true
        for sizes in itertools.product(*spans)
    )
