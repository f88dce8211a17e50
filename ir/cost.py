"""Cost of ops and graphs: MACs, FLOPs and bytes, from types alone.

The conventions stand in `plait.ir.cost_rules.table`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, replace
from typing import Any

from plait.ir.bind import bound_dims, default_dims
from plait.ir.cost_rules import RULES, UNKNOWN_COST, Cost, Sizes, engineering
from plait.ir.graph import Graph
from plait.ir.op import Op
from plait.ir.region import Region

__all__ = ["Cost", "CostRow", "GraphCost", "annotate_cost", "graph_cost", "op_cost"]


@dataclass(frozen=True)
class CostRow:
    """Cost of one op of a graph."""

    name: str
    opname: str
    cost: Cost


@dataclass(frozen=True)
class GraphCost:
    """Cost of a graph, one row for each top-level op; `coverage` is the share of rows that are exact."""

    total: Cost
    rows: tuple[CostRow, ...]
    coverage: float

    def to_dict(self) -> dict[str, Any]:
        """Total, coverage and rows as plain values."""
        return {
            "total": self.total.to_dict(),
            "coverage": self.coverage,
            "rows": [{"name": r.name, "op": r.opname, **r.cost.to_dict()} for r in self.rows],
        }

    def __str__(self) -> str:
        head = ("name", "op", "MACs", "FLOPs", "read", "written", "")
        table = [
            head,
            *(_cells(r.name, r.opname, r.cost) for r in self.rows),
            _cells("total", "", self.total),
        ]
        widths = [max(len(row[i]) for row in table) for i in range(len(head))]
        lines = []
        for row in table:
            left = [row[i].ljust(widths[i]) for i in (0, 1)]
            right = [row[i].rjust(widths[i]) for i in range(2, len(head) - 1)]
            lines.append("  ".join([*left, *right, row[-1]]).rstrip())
        lines.insert(1, "-" * max(map(len, lines)))
        lines.insert(-1, lines[1])
        lines.append(f"exact for {self.coverage:.0%} of {len(self.rows)} ops; ~ is an estimate, ? unknown")
        return "\n".join(lines)


def _cells(name: str, opname: str, cost: Cost) -> tuple[str, ...]:
    return (
        name,
        opname,
        engineering(cost.macs, "").rstrip(),
        engineering(cost.flops, "").rstrip(),
        engineering(cost.bytes_read, "B"),
        engineering(cost.bytes_written, "B"),
        "" if cost.exact else "~",
    )


def op_cost(op: Op, dims: Mapping[str, int]) -> Cost:
    """Cost of an op that is in a graph; unknown where it has no rule.

    Raises InputError naming a dim that has no value in `dims`.
    """
    rule = RULES.get(type(op))
    return UNKNOWN_COST if rule is None else rule(op, Sizes(dims, _region_cost))


def _region_cost(region: Region, dims: Mapping[str, int]) -> Cost:
    return sum((op_cost(op, dims) for op in region), Cost())


def graph_cost(graph: Graph, dims: Mapping[str, int] | None = None) -> GraphCost:
    """Cost of a graph under dim values; ops inside regions count in the row of the op that holds them.

    Sizes that depend on data stand at their bounds unless given; what is computed
    with them is an estimate.

    Raises InputError naming a dim that has no value.
    """
    values = default_dims(graph, dims)
    guessed = bound_dims(graph).keys() - (dims or {}).keys()
    rows = tuple(
        CostRow(op.name, op.opname, _estimated(op, op_cost(op, values), guessed)) for op in graph.ops
    )
    exact = sum(row.cost.exact for row in rows)
    return GraphCost(sum((row.cost for row in rows), Cost()), rows, exact / len(rows) if rows else 1.0)


def _estimated(op: Op, cost: Cost, guessed: Set[str]) -> Cost:
    """The cost of an op, inexact where its types have a dim whose value is a guess."""
    if guessed and any(value.type.symbols & guessed for value in (*op.operands, *op.results)):
        return replace(cost, exact=False)
    return cost


def annotate_cost(graph: Graph, dims: Mapping[str, int] | None = None) -> Callable[[Op], str]:
    """A function for `print_graph(graph, annotate=...)` that writes `2.36 GFLOP, 1.2 MB` behind each op."""
    values = default_dims(graph, dims)
    return lambda op: str(op_cost(op, values))
