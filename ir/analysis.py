"""Graph-theoretic views through networkx: order, dominators, critical path, partition."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import networkx

from plait.ir.errors import InputError
from plait.ir.graph import Graph
from plait.ir.op import Op
from plait.ir.value import Constant, Value


def to_networkx(graph: Graph) -> networkx.MultiDiGraph:
    """The body as a directed multigraph.

    A node is the name of an op's first result, with attributes `op` (its op name)
    and `object` (the `Op`), or `%name` of an input (`op` "input").  An edge runs
    from the producer of a value to each reader, with attributes `value` and `type`.
    Readers inside a region count as the op that holds the region.
    """
    view = networkx.MultiDiGraph(name=graph.name)
    for value in graph.inputs:
        view.add_node(str(value), op="input", object=None)
    for op in graph.ops:
        view.add_node(op.name, op=op.opname, object=op)
    for op in graph.ops:
        for value in _reads(op):
            source = value.producer.name if value.producer is not None else str(value)
            view.add_edge(source, op.name, value=value.name, type=str(value.type))
    return view


def _reads(op: Op) -> list[Value]:
    """Operands of an op and outer values that its regions read, constants left out."""
    captured = [value for region in op.regions for value in region.captured()]
    return [value for value in (*op.operands, *captured) if not isinstance(value, Constant)]


def topological_order(graph: Graph) -> list[Op]:
    """The top-level ops in an order that respects every value; ties as the graph lists them."""
    position = {op.name: index for index, op in enumerate(graph.ops)}
    view = to_networkx(graph)
    names = networkx.lexicographical_topological_sort(view, key=lambda name: position.get(name, -1))
    return [view.nodes[name]["object"] for name in names if view.nodes[name]["object"] is not None]


def dominators(graph: Graph) -> dict[str, str]:
    """Immediate dominator of each op: the nearest op (or "entry") on every path from the inputs to it.

    Ops that no input reaches are dominated by "entry".
    """
    view = networkx.DiGraph(to_networkx(graph))
    view.add_node("entry")
    for name in [n for n, degree in view.in_degree() if degree == 0 and n != "entry"]:
        view.add_edge("entry", name)
    found = networkx.immediate_dominators(view, "entry")
    return {name: found[name] for name in view.nodes if name != "entry"}


def critical_path(graph: Graph, weight: Callable[[Op], float]) -> tuple[list[Op], float]:
    """The chain of dependent ops with the largest total weight, and that total.

    Args:
        weight: a number for each op, zero or more (for instance its predicted time in ms).
    """
    best: dict[Op, float] = {}
    came_from: dict[Op, Op | None] = {}
    for op in topological_order(graph):
        producers = [value.producer for value in _reads(op) if value.producer is not None]
        before = max(producers, key=lambda p: best[p], default=None)
        best[op] = weight(op) + (best[before] if before is not None else 0.0)
        came_from[op] = before
    if not best:
        return [], 0.0
    last: Op | None = max(best, key=lambda op: best[op])
    total, path = best[last] if last is not None else 0.0, []
    while last is not None:
        path.append(last)
        last = came_from[last]
    return path[::-1], total


def partition(graph: Graph, group_of: Callable[[Op], Hashable]) -> list[list[Op]]:
    """Ops grouped by key, groups in an order in which they can run one after another.

    Raises InputError when two groups depend on each other, naming them: such groups
    are not convex.
    """
    groups: dict[Hashable, list[Op]] = {}
    for op in topological_order(graph):
        groups.setdefault(group_of(op), []).append(op)
    owner = {op: key for key, ops in groups.items() for op in ops}
    view = networkx.DiGraph()
    view.add_nodes_from(groups)
    for op, key in owner.items():
        for value in _reads(op):
            if value.producer is not None and owner[value.producer] != key:
                view.add_edge(owner[value.producer], key)
    try:
        return [groups[key] for key in networkx.topological_sort(view)]
    except networkx.NetworkXUnfeasible:
        cycle: Sequence[tuple[Hashable, Hashable]] = networkx.find_cycle(view)
        names = " -> ".join(str(groups[source][0].name) for source, _ in cycle)
        raise InputError(
            f"the groups of {names} depend on each other", why="groups run one after another"
        ) from None
