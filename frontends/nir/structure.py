"""A NIR graph as one flat list of primitives and edges: nested graphs opened, everything checked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from plait.frontends.nir.primitives import PRIMITIVES, Primitive
from plait.ir import LoweringError
from plait.ir.errors import did_you_mean

#: Names of the graphs around a node, outermost first, and its own.
Path = tuple[str, ...]
Edge = tuple[Path, Path]


@dataclass(frozen=True, eq=False)
class Node:
    """One primitive.

    Attributes:
        path: its place in the nested graphs.
        kind: its class in the package `nir`.
        source: the NIR node.
    """

    path: Path
    kind: str
    source: Any

    @property
    def label(self) -> str:
        """Its path, dotted; on one line, as names and locations are."""
        whole = ".".join(self.path)
        return whole if whole.isprintable() else repr(whole)[1:-1]

    @property
    def primitive(self) -> Primitive:
        return PRIMITIVES[self.kind]

    def array(self, field_name: str) -> np.ndarray:
        """A tensor field as an array."""
        return np.asarray(_detached(getattr(self.source, field_name)))


@dataclass
class Network:
    """The primitives of a NIR graph in the order of its nodes, and its edges.

    Attributes:
        where: the file it comes from, for messages.
        nodes: by path; Input and Output nodes of nested graphs are among them.
        edges: from the output of a primitive to the input of another, in order.
    """

    where: str
    nodes: dict[Path, Node] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)

    def outer(self, kind: str) -> list[Node]:
        """The Input or Output nodes of the outermost graph."""
        return [node for node in self.nodes.values() if node.kind == kind and len(node.path) == 1]

    def sources(self, path: Path) -> list[Path]:
        """What feeds a node, in the order of the edges; several are added."""
        return [source for source, target in self.edges if target == path]

    def error(
        self, what: str, path: Path | None = None, *, why: str | None = None, remedy: str | None = None
    ) -> LoweringError:
        """A LoweringError about the graph, or one of its nodes, for `raise network.error(...)`."""
        place = self.where
        if path is not None:
            node = self.nodes.get(path)
            place += f": node '{'.'.join(path)}'" + (f" ({node.kind})" if node is not None else "")
        return LoweringError(what, where=place, why=why, remedy=remedy)


def read_network(graph: Any, where: str) -> Network:
    """Open nested graphs and check nodes and edges.

    Raises:
        LoweringError: nodes of unknown kinds (all at once), an edge to no node or given twice,
            a nested graph whose port is not clear, an Input that is fed or an Output that feeds,
            a node that nothing feeds, or no Output.
    """
    network = Network(where)
    unknown: list[str] = []
    for path, source in walk(graph):
        kind = type(source).__name__
        if kind in PRIMITIVES:
            network.nodes[path] = Node(path, kind, source)
        elif kind != "NIRGraph":
            unknown.append(f"'{'.'.join(path)}' is {kind}{did_you_mean(kind, PRIMITIVES)}")
    if unknown:
        raise network.error(
            f"{len(unknown)} node{'s' * (len(unknown) > 1)} of no kind that NIR defines",
            why="; ".join(unknown),
            remedy=f"the kinds are {', '.join(PRIMITIVES)} and NIRGraph",
        )
    _add_edges(network, graph, ())
    _check_ports(network)
    return network


def walk(graph: Any, prefix: Path = ()) -> Iterator[tuple[Path, Any]]:
    """All nodes with their paths, nested graphs in front of what they hold."""
    for name, node in graph.nodes.items():
        path = (*prefix, str(name))
        yield path, node
        if type(node).__name__ == "NIRGraph":
            yield from walk(node, path)


def _add_edges(network: Network, graph: Any, prefix: Path) -> None:
    for source, target in graph.edges:
        edge = (
            _port(network, graph, prefix, str(source), "Output"),
            _port(network, graph, prefix, str(target), "Input"),
        )
        if edge in network.edges:
            raise network.error(
                f"edge '{source}' -> '{target}' is given twice",
                prefix or None,
                why="edges into one node are added, and NIR counts each once",
                remedy="remove one of them",
            )
        network.edges.append(edge)
    for name, node in graph.nodes.items():
        if type(node).__name__ == "NIRGraph":
            _add_edges(network, node, (*prefix, str(name)))


def _port(network: Network, graph: Any, prefix: Path, name: str, kind: str) -> Path:
    """The primitive that an edge end names: a node, the only port of a nested graph, or `graph.port`."""
    if name in graph.nodes:
        node = graph.nodes[name]
        if type(node).__name__ != "NIRGraph":
            return (*prefix, name)
        ports = [str(key) for key, inner in node.nodes.items() if type(inner).__name__ == kind]
        if len(ports) != 1:
            raise network.error(
                f"an edge names nested graph '{name}', which has {len(ports)} {kind} nodes",
                prefix or None,
                why="the edge does not say which one it means" if ports else "the edge has nowhere to go",
                remedy=f"write the edge with '{name}.{ports[0]}'" if ports else f"add an {kind} node to it",
            )
        return (*prefix, name, ports[0])
    for key, node in graph.nodes.items():
        inner = name[len(key) + 1 :]
        if type(node).__name__ == "NIRGraph" and name.startswith(f"{key}.") and inner in node.nodes:
            return (*prefix, str(key), inner)
    raise network.error(
        f"an edge names node '{name}', which is not there{did_you_mean(name, map(str, graph.nodes))}",
        prefix or None,
        why="both ends of an edge are nodes of the graph that holds it",
        remedy=f"the nodes are {', '.join(map(str, graph.nodes)) or 'none'}",
    )


def _check_ports(network: Network) -> None:
    fed = {target for _, target in network.edges}
    feeding = {source for source, _ in network.edges}
    for path, node in network.nodes.items():
        outermost = len(path) == 1
        if node.kind == "Input" and outermost and path in fed:
            raise network.error("an Input is fed by an edge", path, remedy="remove the edge into it")
        if node.kind == "Output" and outermost and path in feeding:
            raise network.error("an Output feeds another node", path, remedy="remove the edge out of it")
        if path not in fed and not (node.kind == "Input" and outermost):
            raise network.error(
                "nothing feeds the node",
                path,
                why="only Input nodes of the outermost graph take values from outside",
                remedy="add an Input node and an edge from it, or build the NIRGraph with type_check=True, "
                "which does so",
            )
    if not network.outer("Output"):
        raise network.error(
            "the graph has no Output node", remedy="add one, with an edge into it from what is wanted"
        )


def _detached(value: Any) -> Any:
    """A torch tensor without its gradient, anything else as it is."""
    return value.detach().cpu() if hasattr(value, "detach") else value
