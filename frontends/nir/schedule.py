"""The order of the nodes within a step, and the edges that carry the output of the step before."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from plait.frontends.nir.structure import Edge, Network, Path


@dataclass(frozen=True)
class Schedule:
    """How one step runs.

    Attributes:
        order: all nodes, each behind what it reads in the same step.
        lagged: the edges that close a cycle; they carry the last output of their source.
    """

    order: tuple[Path, ...]
    lagged: frozenset[Edge]


def schedule(network: Network, stateful: Collection[Path], delayed: Collection[Path]) -> Schedule:
    """Order the nodes.

    An edge that leads back, in a depth-first walk from the Input nodes, closes a cycle.  It
    carries the last output of its source where that is a neuron or a delay, and otherwise the
    edges do that lead from neurons of the cycle to its source through stateless nodes: in
    lif -> w_rec -> lif, w_rec is applied to the spikes of the step before.

    Args:
        stateful: nodes that keep state.
        delayed: those Delay nodes that hold every element back by a step or more; what they put out
            does not depend on what they take in the same step, so they close no cycle.

    Raises:
        LoweringError: a cycle holds no neuron and no delay of a step or more.
    """
    live = [edge for edge in network.edges if edge[0] not in delayed]
    following = _adjacent(network, live)
    leading = _adjacent(network, [(target, source) for source, target in live])
    lagged: set[Edge] = set()
    for source, target in _back_edges(network, following):
        cycle = _reached(following, target) & _reached(leading, source)
        ends, seen = [(source, target)], set[Edge]()
        while ends:
            edge = ends.pop()
            if edge in seen:
                continue
            seen.add(edge)
            if edge[0] in stateful:
                lagged.add(edge)
            else:
                ends += [(before, edge[0]) for before in leading[edge[0]] if before in cycle]
    order = _sorted(network, [edge for edge in live if edge not in lagged])
    return Schedule(order, frozenset(lagged))


def _adjacent(network: Network, edges: Sequence[Edge]) -> dict[Path, list[Path]]:
    found: dict[Path, list[Path]] = {path: [] for path in network.nodes}
    for source, target in edges:
        found[source].append(target)
    return found


def _reached(following: Mapping[Path, Sequence[Path]], start: Path) -> set[Path]:
    found, todo = {start}, [start]
    while todo:
        fresh = [path for path in following[todo.pop()] if path not in found]
        found.update(fresh)
        todo += fresh
    return found


def _back_edges(network: Network, following: Mapping[Path, Sequence[Path]]) -> list[Edge]:
    """Edges to a node that the walk has entered and not left; a stack, since networks may be deep."""
    starts = [*(node.path for node in network.outer("Input")), *network.nodes]
    entered: set[Path] = set()
    open_nodes: set[Path] = set()
    found: list[Edge] = []
    for start in starts:
        if start in entered:
            continue
        entered.add(start)
        open_nodes.add(start)
        stack = [(start, iter(following[start]))]
        while stack:
            path, rest = stack[-1]
            target = next(rest, None)
            if target is None:
                open_nodes.discard(path)
                stack.pop()
            elif target in open_nodes:
                found.append((path, target))
            elif target not in entered:
                entered.add(target)
                open_nodes.add(target)
                stack.append((target, iter(following[target])))
    return found


def _sorted(network: Network, edges: Sequence[Edge]) -> tuple[Path, ...]:
    following = _adjacent(network, edges)
    waiting = dict.fromkeys(network.nodes, 0)
    for _, target in edges:
        waiting[target] += 1
    ready = [path for path in reversed(network.nodes) if not waiting[path]]
    order: list[Path] = []
    while ready:
        path = ready.pop()
        order.append(path)
        for target in reversed(following[path]):
            waiting[target] -= 1
            if not waiting[target]:
                ready.append(target)
    if len(order) < len(network.nodes):
        raise _stateless(network, following, {path for path, count in waiting.items() if count})
    return tuple(order)


def _stateless(network: Network, following: Mapping[Path, Sequence[Path]], stuck: set[Path]) -> Exception:
    """The error about one cycle among the nodes that could not be ordered."""
    cycle = next(path for path in network.nodes if path in stuck and _on_cycle(following, path))
    inside = [
        ".".join(path)
        for path in network.nodes
        if path in _reached(following, cycle) and cycle in _reached(following, path)
    ]
    return network.error(
        f"a cycle without a neuron or a delay of a step or more: {', '.join(inside)}",
        why="a cycle goes through the state of the last step, and none of these nodes has one",
        remedy="put a neuron (I, IF, LI, LIF, CubaLI, CubaLIF) or a Delay of at least dt into the cycle",
    )


def _on_cycle(following: Mapping[Path, Sequence[Path]], path: Path) -> bool:
    return any(path in _reached(following, target) for target in following[path])
