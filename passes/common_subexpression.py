"""common-subexpression: what is computed twice is computed once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

from plait.ir import Constant, Graph, Loc, Op, Region
from plait.ir.ops.core.elementwise import Binary
from plait.passes.base import Pass, PassResult, register


@register
@dataclass(frozen=True)
class CommonSubexpression(Pass):
    """Merge pure ops with equal class, attributes, operands and types, and constants with equal content.

    The op that stays takes the locations of those it stands for.  Operands of
    commutative ops may stand in either order.  An op inside a region may be
    replaced by one outside, never the other way round.

    Given:
        %x : f32[B,4]
        %a = nn.relu(%x) : f32[B,4]
        %b = nn.relu(%x) : f32[B,4]
        %y = core.add(%a, %b) : f32[B,4]
        return %y
    Result:
        %a = nn.relu(%x) : f32[B,4]
        %y = core.add(%a, %a) : f32[B,4]
        return %y
    """

    name: ClassVar[str] = "common-subexpression"

    def run(self, graph: Graph) -> PassResult:
        constants = _merge_constants(graph)
        ops = self._region(graph, graph.body, {})
        rules = {"equal constants": constants, "equal ops": ops}
        return PassResult(
            bool(constants + ops), constants + ops, {title: n for title, n in rules.items() if n}
        )

    def _region(self, graph: Graph, region: Region, outer: dict[Hashable, Op]) -> int:
        seen = dict(outer)
        count = 0
        for op in region:
            key = key_of(op)
            if key is None:
                count += sum(self._region(graph, inner, seen) for inner in op.regions)
                continue
            first = seen.setdefault(key, op)
            if first is op:
                continue
            for mine, kept in zip(op.results, first.results, strict=True):
                graph.replace_uses(mine, kept)
            first.loc = Loc.fuse([first.loc, op.loc], via=self.name)
            graph.erase(op)
            count += 1
        return count

    def explain(self, graph: Graph, op: Op) -> str:
        key = key_of(op)
        if key is None:
            return f"%{op.name} has a region or an effect"
        twins = [other for other in graph.walk() if other is not op and key_of(other) == key]
        if not twins:
            return f"no other op computes %{op.name} from the same operands with the same attributes"
        return f"it merges %{op.name} with {', '.join(f'%{twin.name}' for twin in twins)}"


def key_of(op: Op) -> Hashable | None:
    """Equal for ops that compute the same; None for ops that are never merged."""
    if op.regions or not op.pure or not op.results:
        return None
    fields = []
    for spec in op.schema.operands:
        given = getattr(op, spec.name)
        fields.append(tuple(map(id, given)) if spec.role == "variadic" else id(given))
    if isinstance(op, Binary) and op.commutative:
        fields.sort()
    # repr tells 0.0 from -0.0 and 1 from 1.0 and true, which compare equal.
    attributes = tuple((spec.name, repr(getattr(op, spec.name))) for spec in op.schema.attributes)
    return type(op), tuple(fields), attributes, tuple(value.type for value in op.results)


def _merge_constants(graph: Graph) -> int:
    """Let readers of equal constants read the first; only types that occur twice are hashed."""
    by_type: dict[Hashable, list[Constant]] = defaultdict(list)
    for constant in graph.constants.values():
        by_type[constant.type].append(constant)
    count = 0
    for group in by_type.values():
        if len(group) < 2:
            continue
        first_of: dict[str, Constant] = {}
        for constant in group:
            first = first_of.setdefault(constant.content_hash, constant)
            if first is not constant and constant.users:
                graph.replace_uses(constant, first)
                count += 1
    return count
