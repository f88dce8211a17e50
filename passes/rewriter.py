"""Rewrite rules, the rewriter that keeps locations, and the driver that applies rules to a fixpoint.

    @rule(FuseActivation, "relu(producer(x)) => producer(x, act)")
    def fuse(act: nn.Relu, rw: Rewriter) -> Replace | Skip:
        producer = rw.sole_producer(act.x, act, (nn.Conv2d,))
        if isinstance(producer, Skip):
            return producer
        return rw.replace(act, with_=producer.evolve(act="relu"))

A rule starts at ops of the class that its first parameter is annotated with.
It either rewrites through the `Rewriter`, which returns `Replace`, or returns
`Skip` with the reason.  A value keeps its name only as long as it stays the
same tensor, so names can be compared across passes.
"""

from __future__ import annotations

import inspect
import types
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from plait.ir import Constant, Graph, Loc, Op, Region, Type, Value, VerifyError
from plait.ir.ops.core import Full
from plait.passes.base import Pass, PassError, PassResult


@dataclass(frozen=True)
class Skip:
    """A rule does not apply here."""

    reason: str


@dataclass(frozen=True)
class Replace:
    """A rule applied; `ops` are the new ops."""

    ops: tuple[Op, ...] = ()


@dataclass(frozen=True)
class Rule:
    """A rewrite rule of one or more passes; `title` is its equation."""

    title: str
    function: Callable[..., Replace | Skip]
    roots: tuple[type[Op], ...]
    takes_options: bool

    @property
    def name(self) -> str:
        return self.function.__name__

    def matches(self, op: Op) -> bool:
        """Whether the rule starts at ops of this class."""
        return isinstance(op, self.roots)

    def apply(self, op: Op, rewriter: Rewriter, options: Pass | None) -> Replace | Skip:
        """Try the rule at `op`."""
        return self.function(op, rewriter, options) if self.takes_options else self.function(op, rewriter)


RULES: dict[type[Pass], list[Rule]] = {}
F = TypeVar("F", bound=Callable[..., Any])
O = TypeVar("O", bound=Op)


def rule(owner: type[Pass] | Sequence[type[Pass]], title: str) -> Callable[[F], F]:
    """Decorator that adds a rule to a pass, or to several.

    The function takes the op to start at, annotated with its class (or a union
    of classes, or a base), the rewriter, and optionally the pass for its options.
    """

    def define(function: F) -> F:
        parameters = list(inspect.signature(function).parameters)
        hint = get_type_hints(function)[parameters[0]]
        roots = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
        made = Rule(title, function, tuple(roots), len(parameters) > 2)
        for cls in (owner,) if isinstance(owner, type) else owner:
            RULES.setdefault(cls, []).append(made)
        return function

    return define


class Rewriter:
    """Changes a graph on behalf of a pass.

    Every new op gets the origins of all ops that it stands for, and the pass in
    its `loc.passes`; ops that a replacement leaves without readers are erased.
    """

    def __init__(self, graph: Graph, pass_name: str) -> None:
        self.graph = graph
        self.pass_name = pass_name

    # -- questions -------------------------------------------------------------
    def sole_producer(self, value: Value, reader: Op, kinds: tuple[type[O], ...]) -> O | Skip:
        """The op of one of `kinds` that computes `value` for `reader` only, or why there is none."""
        producer = value.producer
        names = ", ".join(kind.opname for kind in kinds)
        if producer is None:
            what = "a constant" if isinstance(value, Constant) else "a parameter"
            return Skip(f"{value} is {what}, the rule wants the result of one of {names}")
        if not isinstance(producer, kinds):
            return Skip(f"{value} is the result of {producer.opname}, the rule wants one of {names}")
        if value.use_count > 1:
            others = [
                str(u.results[0]) if isinstance(u, Op) else "the result"
                for u in value.users
                if u is not reader
            ]
            return Skip(f"{value} is read elsewhere too: {', '.join(others) or 'twice here'}")
        if producer.parent is not reader.parent:
            return Skip(f"{value} is computed outside of the region that reads it")
        return producer

    # -- changes ---------------------------------------------------------------
    def replace(self, op: Op, *, with_: Op, matched: Iterable[Op] = ()) -> Replace:
        """Put `with_` in the place of `op`, under the same names.

        Its location is its own (`evolve` keeps the one of the op it comes from),
        then that of `op`, of `matched`, and of every op that loses its last reader.
        """
        matched = tuple(matched)
        for kept in matched:
            if kept.parent is None:
                raise VerifyError(f"matched op {kept!r} is in no graph", invariant=2)
        old, operands = op.loc, (*op.operands, *_captured(op))
        self.graph.replace(op, with_)
        gone = self._sweep(operands)
        with_.loc = Loc.fuse([with_.loc, old, *(m.loc for m in matched), *gone], via=self.pass_name)
        return Replace((with_,))

    def replace_value(self, value: Value, by: Value) -> Replace:
        """Let all readers of `value` read `by`, which is the same tensor; its op goes if nothing reads it."""
        op = value.producer
        self.graph.replace_uses(value, by)
        if op is not None and op.pure and not any(result.users for result in op.results):
            operands = (*op.operands, *_captured(op))
            self.graph.erase(op)
            self._sweep(operands)
        return Replace()

    def insert(self, op: Op, *, before: Op, name: str, matched: Iterable[Op] = ()) -> Value:
        """Add a new op with one result in front of `before`, located at `before` and `matched`."""
        loc = Loc.fuse([op.loc, before.loc, *(m.loc for m in matched)], via=self.pass_name)
        return self.graph.emit(op, name=name, loc=loc, before=before)

    def constant(self, name: str, array: np.ndarray, type: Type | None = None) -> Constant:
        """Add a constant under `name`, or that with a number behind it where the name is taken."""
        return self.graph.add_constant(self.graph.free_name(name), np.asarray(array, order="C"), type)

    def _sweep(self, values: Iterable[Value]) -> list[Loc]:
        """Erase the producers of values that nothing reads any more; their locations.

        Scalars and other fills say nothing about what the new op does, so their
        locations are left out.
        """
        found: list[Loc] = []
        stack = list(values)
        while stack:
            producer = stack.pop(0).producer
            if producer is None or producer.parent is None or not producer.pure:
                continue
            if any(result.users for result in producer.results):
                continue
            if not isinstance(producer, Full):
                found.append(producer.loc)
            stack += [*producer.operands, *_captured(producer)]
            self.graph.erase(producer)
        return found


def _captured(op: Op) -> tuple[Value, ...]:
    """Values from outside that the regions of an op read."""
    return tuple(value for region in op.regions for value in region.captured())


def attached(op: Op) -> bool:
    """Whether an op, and all ops around it, are still in a graph."""
    region: Region | None = op.parent
    while region is not None:
        if region.owner is None:
            return True
        region = region.owner.parent
    return False


def apply_rules(graph: Graph, rules: Sequence[Rule], name: str, options: Pass | None = None) -> PassResult:
    """Apply rules op by op until none applies.

    Raises:
        PassError: when the number of rewrites passes a bound that only rules
            which undo each other reach; names the rules at work.
    """
    rewriter = Rewriter(graph, name)
    by_class: dict[type[Op], list[Rule]] = {}
    work = deque(graph.walk())
    queued = set(work)
    bound = 200 + 50 * len(work)
    counts: Counter[str] = Counter()
    while work:
        op = work.popleft()
        queued.discard(op)
        if not attached(op):
            continue
        cls = type(op)
        if cls not in by_class:
            by_class[cls] = [r for r in rules if issubclass(cls, r.roots)]
        for current in by_class[cls]:
            around = _neighbours(op)
            outcome = current.apply(op, rewriter, options)
            if isinstance(outcome, Skip):
                continue
            counts[current.title] += 1
            if counts.total() > bound:
                raise _endless(name, op, counts, bound)
            fresh = [n for new in outcome.ops for n in (new, *_neighbours(new))]
            for again in (*fresh, *around, op):
                if again not in queued:
                    queued.add(again)
                    work.append(again)
            break
    return PassResult(bool(counts), counts.total(), dict(counts))


def _neighbours(op: Op) -> list[Op]:
    """Ops whose rules may newly apply when `op` changes."""
    found = [value.producer for value in op.operands if value.producer is not None]
    found += [user for value in op.results for user in value.users if isinstance(user, Op)]
    return found


def _endless(name: str, op: Op, counts: Counter[str], bound: int) -> PassError:
    busiest = ", ".join(f"'{title}' {count} times" for title, count in counts.most_common(3))
    error = PassError(
        f"pass {name} did not come to an end within {bound} rewrites",
        where=f"{op!r} ({op.loc.readable()})",
        why=f"rules undo each other: {busiest}",
        remedy="make one direction the canonical one",
    )
    error.pass_name = name
    return error


@dataclass(frozen=True)
class RewritePass(Pass):
    """A pass that is a set of rules, added with `@rule(ThePass, "title")`."""

    def rules(self) -> tuple[Rule, ...]:
        """The rules in the order in which they are tried."""
        return tuple(RULES.get(type(self), ()))

    def run(self, graph: Graph) -> PassResult:
        return apply_rules(graph, self.rules(), self.name, self)
