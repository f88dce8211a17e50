"""Why a pass or a rule did, or did not, apply at an op."""

from __future__ import annotations

from plait.ir import Graph, InputError, Op
from plait.ir.errors import did_you_mean
from plait.passes.base import PASSES, Pass
from plait.passes.pipeline import parse_pipeline
from plait.passes.rewriter import RULES, RewritePass, Rewriter, Rule, Skip


def why(graph: Graph, rule_or_pass: str | Pass, value_name: str) -> str:
    """Say whether a pass or rule applies at the op that computes a value, and why.

    Args:
        graph: stays as it is.
        rule_or_pass: a pass (`fuse-activation`, options allowed), or a rule by the
            name of its function or by its title.
        value_name: a result of the op, with or without %.

    Returns:
        One sentence for the op; for rules that start at its readers, one more for
        each of these.

    Raises:
        InputError: for an unknown pass, rule or value.
    """
    value = graph.value(value_name)
    op = value.producer
    if op is None:
        raise InputError(
            f"{value} is computed by no op",
            where=f"graph @{graph.name}",
            why="it is an input or a constant",
            remedy="name the result of an op",
        )
    title, options, rules = _find(rule_or_pass)
    if rules is None:
        assert options is not None
        copy = graph.clone()
        told = options.explain(copy, _counterpart(copy, op))
        return f"{title} at {_place(op)}: {told}"
    answers = [_answer(graph, title, options, rules, op, via=None)]
    if not any(current.matches(op) for current in rules):
        readers = [user for result in op.results for user in result.users if isinstance(user, Op)]
        answers += [
            _answer(graph, title, options, rules, reader, via=op)
            for reader in readers
            if any(current.matches(reader) for current in rules)
        ]
    return "\n".join(answers)


def _find(given: str | Pass) -> tuple[str, Pass | None, tuple[Rule, ...] | None]:
    """Title, the pass for its options, and the rules (None for a pass that is no set of rules)."""
    if isinstance(given, Pass):
        return given.name, given, given.rules() if isinstance(given, RewritePass) else None
    rules = {
        key: (cls, made) for cls, held in RULES.items() for made in held for key in (made.name, made.title)
    }
    if given in rules:
        cls, made = rules[given]
        return f"{cls.name} / {made.name}", cls(), (made,)
    if given.partition("{")[0] not in PASSES:
        known = [*PASSES, *(made.name for held in RULES.values() for made in held)]
        raise InputError(
            f"no pass or rule is called '{given}'{did_you_mean(given, known)}",
            why=f"the passes are {', '.join(sorted(PASSES))}",
            remedy="name one of them, or a rule",
        )
    parsed = parse_pipeline(given)
    if len(parsed) != 1:
        raise InputError(f"'{given}' is a pipeline of {len(parsed)} passes", remedy="ask about one at a time")
    return _find(parsed[0])


def _answer(
    graph: Graph, title: str, options: Pass | None, rules: tuple[Rule, ...], op: Op, via: Op | None
) -> str:
    place = _place(op) + (f", a reader of {via.results[0]}" if via is not None else "")
    tried = [current for current in rules if current.matches(op)]
    if not tried:
        wanted = sorted({root.opname for current in rules for root in _concrete(current)})
        shown = ", ".join(wanted[:12]) + (f" and {len(wanted) - 12} more" if len(wanted) > 12 else "")
        return f"{title} did not apply at {place}: {op.results[0]} is {op.opname}, the pass starts at {shown}"
    reasons = []
    for current in tried:
        copy = graph.clone()
        name = options.name if options is not None else title
        outcome = current.apply(_counterpart(copy, op), Rewriter(copy, name), options)
        if not isinstance(outcome, Skip):
            return f"{title} applies at {place}: {current.title}"
        reasons.append(f"{outcome.reason}" if len(tried) == 1 else f"[{current.title}] {outcome.reason}")
    return f"{title} did not apply at {place}: {'; '.join(reasons)}"


def reasons(graph: Graph, rule_or_pass: str | Pass, op: Op) -> list[str]:
    """Why the rules of a pass that start at `op` do not apply there; empty where one does, or none starts."""
    _, options, rules = _find(rule_or_pass)
    found = []
    for current in rules or ():
        if current.matches(op):
            copy = graph.clone()
            name = options.name if options is not None else current.title
            outcome = current.apply(_counterpart(copy, op), Rewriter(copy, name), options)
            if not isinstance(outcome, Skip):
                return []
            found.append(outcome.reason)
    return found


def _concrete(current: Rule) -> list[type[Op]]:
    """The op classes that a rule starts at; a base counts as all its subclasses."""
    found = []
    for root in current.roots:
        stack = [root]
        while stack:
            cls = stack.pop()
            stack += cls.__subclasses__()
            if hasattr(cls, "opname"):
                found.append(cls)
    return found


def _counterpart(copy: Graph, op: Op) -> Op:
    found = copy.value(f"%{op.name}").producer
    assert found is not None  # a clone has the same names
    return found


def _place(op: Op) -> str:
    origin = f" ({op.loc.origins[0]})" if op.loc.origins else ""
    return f"{op.results[0]}{origin}"
