"""dead-code: what nothing reads is not computed and not stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from plait.ir import Graph, Op, Region
from plait.passes.base import Pass, PassResult, register
from plait.passes.constants import references


@register
@dataclass(frozen=True)
class DeadCode(Pass):
    """Remove pure ops whose results nothing reads, then constants that nothing reads.

    Constants that a quantised type refers to stay; so do unread inputs, which
    belong to the signature.

    Given:
        @w : f32[4]
        %x : f32[B,4]
        %a = nn.relu(%x) : f32[B,4]
        %b = core.add(%a, @w) : f32[B,4]
        return %a
    Result:
        %a = nn.relu(%x) : f32[B,4]
        return %a
    """

    name: ClassVar[str] = "dead-code"

    def run(self, graph: Graph) -> PassResult:
        ops = _sweep(graph, graph.body)
        constants = _sweep_constants(graph)
        rules = {"unread ops": ops, "unread constants": constants}
        return PassResult(
            bool(ops + constants), ops + constants, {title: n for title, n in rules.items() if n}
        )

    def explain(self, graph: Graph, op: Op) -> str:
        if not pure(op):
            return f"%{op.name} has an effect"
        for value in op.results:
            for user in value.users:
                reader = "the result" if isinstance(user, Region) else f"%{user.name}"
                return f"{value} is read by {reader}"
        return f"it removes %{op.name}, which nothing reads"


def pure(op: Op) -> bool:
    """Whether an op and all inside its regions are without effects."""
    return op.pure and all(inner.pure for region in op.regions for inner in region.walk())


def _sweep(graph: Graph, region: Region) -> int:
    """Erase unread ops from the last to the first, so that chains go in one walk."""
    count = 0
    for op in reversed(region):
        if pure(op) and not any(value.users for value in op.results):
            graph.erase(op)
            count += 1
        else:
            count += sum(_sweep(graph, inner) for inner in op.regions)
    return count


def _sweep_constants(graph: Graph) -> int:
    """Remove unread constants, and then those that only types of removed ones referred to."""
    count = 0
    while True:
        values = [*graph.values(), *graph.constants.values()]
        needed = references(values)
        unread = [c for c in graph.constants.values() if not c.users and c.name not in needed]
        if not unread:
            return count
        for constant in unread:
            graph.remove_constant(constant)
        count += len(unread)
