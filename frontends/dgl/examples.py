"""From the example inputs of a DGL model to tensors with named sizes, and back while it is traced."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from dgl.heterograph import DGLGraph

from plait.frontends.dgl.traced import Relation, stand_in
from plait.ir.errors import LoweringError

#: A tensor is an edge list, or has one row a node and carries nothing, or is data of the model.
Kind = Literal["topology", "nodes", "data"]


@dataclass(frozen=True)
class Slot:
    """One tensor that the model is exported with.

    Attributes:
        name: the name of the graph's input.
        dims: names of dynamic axes.
        sources, nodes: for a topology the dims of its node counts; `sources` is None
            where both ends of an edge are nodes of one kind.
    """

    name: str
    kind: Kind
    tensor: torch.Tensor
    dims: Mapping[int, Any]
    sources: str | None = None
    nodes: str = ""


@dataclass
class Examples:
    """The inputs of a model as tensors, and how to make the inputs again from others.

    Attributes:
        slots: the tensors in order.
        build: the arguments of `forward` from tensors in the order of the slots.
    """

    slots: list[Slot] = field(default_factory=list)
    #: Dims of sizes that features may have along their first axis, by size.
    rows: dict[int, set[str]] = field(default_factory=dict)
    #: Dims of node counts by node type, for features in dicts.
    by_type: dict[str, str] = field(default_factory=dict)

    def add(self, slot: Slot) -> int:
        """Append a tensor; its position."""
        self.slots.append(slot)
        return len(self.slots) - 1


Rebuild = Callable[[list[torch.Tensor]], Any]


def read_inputs(
    model: torch.nn.Module, inputs: Any, dynamic: Mapping[str, Mapping[int, Any]] | None
) -> tuple[Examples, Callable[[list[torch.Tensor]], tuple[tuple[Any, ...], dict[str, Any]]]]:
    """The tensors of a call, and a function that makes its arguments from such tensors.

    Raises:
        LoweringError: the inputs do not fit `forward`, there is no graph among them, or
            the size of a feature fits several counts.
    """
    bound = _bind(model, inputs)
    found = Examples()
    graphs: dict[str, Rebuild] = {}
    many = sum(isinstance(leaf, DGLGraph) for _, leaf in _leaves(bound.arguments)) > 1
    before: tuple[Any, str] | None = None
    for name, leaf in _leaves(bound.arguments):
        if isinstance(leaf, DGLGraph):
            suffix = f"_{len(graphs)}" if many else ""
            graphs[name] = read_graph(found, name, leaf, suffix, before)
            before = (leaf, f"N{suffix}")
    if not graphs:
        raise LoweringError(
            f"there is no DGLGraph among the inputs of {type(model).__name__}",
            remedy="pass inputs=(graph, *features)",
        )
    rebuild = {
        name: _rebuild(found, graphs, name, value, dict(dynamic or {}))
        for name, value in bound.arguments.items()
    }
    unknown = sorted(set(dynamic or {}) - {slot.name for slot in found.slots})
    if unknown:
        known = ", ".join(slot.name for slot in found.slots if slot.kind == "data")
        raise LoweringError(f"dynamic= names '{unknown[0]}'", why=f"the features of this call are {known}")

    def arguments(tensors: list[torch.Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        made = bound.signature.bind_partial()
        made.arguments.update({name: build(tensors) for name, build in rebuild.items()})
        return made.args, made.kwargs

    return found, arguments


def _bind(model: torch.nn.Module, inputs: Any) -> inspect.BoundArguments:
    signature = inspect.signature(model.forward)
    try:
        if isinstance(inputs, Mapping):
            return signature.bind(**inputs)
        return signature.bind(*(inputs if isinstance(inputs, (tuple, list)) else (inputs,)))
    except TypeError as error:
        raise LoweringError(
            f"the inputs do not fit {type(model).__name__}.forward{signature}",
            why=str(error),
            remedy="pass inputs= as a tuple (graph, *features), or a dict by parameter name",
        ) from None


def _leaves(arguments: Mapping[str, Any]) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []

    def visit(name: str, value: Any) -> None:
        if isinstance(value, (list, tuple)):
            for position, item in enumerate(value):
                visit(f"{name}.{position}", item)
        elif isinstance(value, Mapping):
            for key, item in value.items():
                visit(f"{name}.{_key(key)}", item)
        else:
            found.append((name, value))

    for name, value in arguments.items():
        visit(name, value)
    return found


def _key(key: Any) -> str:
    return ".".join(map(str, key)) if isinstance(key, tuple) else str(key)


# -- graphs -----------------------------------------------------------------------------------
def relation_names(graph: DGLGraph) -> list[str]:
    """A name for each edge type: the type's own where it is the only one so called."""
    types = graph.canonical_etypes
    plain = [edge_type for _, edge_type, _ in types]
    return [t[1] if plain.count(t[1]) == 1 else ".".join(t) for t in types]


def read_graph(
    found: Examples, name: str, graph: DGLGraph, suffix: str = "", before: tuple[Any, str] | None = None
) -> Rebuild:
    """Add the tensors of one graph; the function that makes its stand-in."""
    types = len(graph._node_frames)
    source_types = set(graph._srctypes_invmap.values())
    counts = [int(graph._graph.num_nodes(i)) for i in range(types)]
    dims = []
    for number, kind in enumerate(graph._ntypes):
        letter = "M" if graph.is_block and number in source_types else "N"
        plain = types == 1 or (graph.is_block and types == 2)
        dims.append(letter + ("" if plain else f"_{_word(kind)}") + suffix)
    if before is not None and graph.is_block and types == 2 and before[0].is_block:
        dims[0] = before[1]  # the sources of a block are the destinations of the block in front of it
    nodes = []
    for number, kind in enumerate(graph._ntypes):
        marker = torch.zeros(counts[number])
        nodes.append(found.add(Slot(f"{name}.nodes.{number}", "nodes", marker, {0: (dims[number], 1, None)})))
        found.rows.setdefault(counts[number], set()).add(dims[number])
        if number not in source_types or not graph.is_block:
            found.by_type[kind] = dims[number]
    relations, edge_dims = [], []
    names = relation_names(graph)
    for number, relation_name in enumerate(names):
        source, destination = graph._graph.metagraph.find_edge(number)
        part = graph._graph.get_relation_graph(number)
        ends = torch.stack(graph.all_edges(etype=graph.canonical_etypes[number]))
        edge_dims.append("E" + (f"_{_word(relation_name)}" if len(names) > 1 else "") + suffix)
        found.rows.setdefault(ends.shape[1], set()).add(edge_dims[-1])
        bipartite = bool(source != destination)
        slot = Slot(
            name if len(names) == 1 else f"{name}.{relation_name}",
            "topology",
            ends,
            {1: (edge_dims[-1], 0, None)},
            dims[source] if bipartite else None,
            dims[destination],
        )
        relations.append((found.add(slot), source, destination, part.metagraph, bipartite))
    frames = _read_frames(found, name, graph, dims, edge_dims, names)
    lengths = _read_lengths(found, name, graph, names, suffix)

    def rebuild(tensors: list[torch.Tensor]) -> Any:
        sizes = [tensors[position].shape[0] for position in nodes]
        made = [
            Relation(tensors[position], sizes[source], sizes[destination], metagraph, bipartite)
            for position, source, destination, metagraph, bipartite in relations
        ]
        features = [[{k: tensors[p] for k, p in frame.items()} for frame in part] for part in frames]
        batch = tuple({k: tensors[p] for k, p in part.items()} for part in lengths)
        return stand_in(graph, made, sizes, features[0], features[1], batch)  # type: ignore[arg-type]

    return rebuild


def _word(text: str) -> str:
    """A name as part of the name of a dim."""
    return "".join(c if c.isalnum() else "_" for c in text)


def _read_frames(
    found: Examples, name: str, graph: DGLGraph, dims: list[str], edge_dims: list[str], names: list[str]
) -> tuple[list[dict[str, int]], list[dict[str, int]]]:
    """Features that the graph holds itself, by type: positions by feature name."""
    frames: tuple[list[dict[str, int]], list[dict[str, int]]] = ([], [])
    sides = (
        ("ndata", graph._node_frames, graph._ntypes, dims, 1),
        ("edata", graph._edge_frames, names, edge_dims, 0),
    )
    for place, (word, held, kinds, rows, low) in zip(frames, sides, strict=True):
        for number, frame in enumerate(held):
            only = len(held) == 1
            prefix = f"{name}.{word}" if only else f"{name}.{word}.{kinds[number]}.{number}"
            place.append(
                {
                    key: found.add(
                        Slot(f"{prefix}.{key}", "data", frame[key], {0: (rows[number], low, None)})
                    )
                    for key in frame
                }
            )
    return frames


def _read_lengths(
    found: Examples, name: str, graph: DGLGraph, names: list[str], suffix: str
) -> tuple[dict[str, int], dict[Any, int]]:
    """Numbers of nodes and edges of each graph of a batch, by type."""
    lengths: tuple[dict[str, int], dict[Any, int]] = ({}, {})
    count = f"G{suffix}"
    size = int(graph.batch_size)
    if size > 1:
        found.rows.setdefault(size, set()).add(count)
    for kind in dict.fromkeys(graph._ntypes):
        tail = "" if len(graph._ntypes) == 1 else f".{kind}"
        held = graph.batch_num_nodes(kind)
        lengths[0][kind] = found.add(
            Slot(f"{name}.batch_num_nodes{tail}", "data", held, {0: (count, 1, None)})
        )
    for edge_type, relation_name in zip(graph.canonical_etypes, names, strict=True):
        tail = "" if len(names) == 1 else f".{relation_name}"
        held = graph.batch_num_edges(edge_type)
        lengths[1][edge_type] = found.add(
            Slot(f"{name}.batch_num_edges{tail}", "data", held, {0: (count, 1, None)})
        )
    return lengths


# -- features -----------------------------------------------------------------------------------
def _rebuild(
    found: Examples,
    graphs: Mapping[str, Rebuild],
    name: str,
    value: Any,
    dynamic: dict[str, Any],
    key: Any = None,
) -> Rebuild:
    """Add the tensors of one argument; the function that makes it again."""
    if name in graphs:
        return graphs[name]
    if isinstance(value, torch.Tensor):
        dims = dict(dynamic.get(name, {}))
        if 0 not in dims and value.dim():
            rows = _rows(found, name, value, key)
            dims.update({} if rows is None else {0: rows})
        position = found.add(Slot(name, "data", value, dims))
        return lambda tensors: tensors[position]
    if isinstance(value, (list, tuple)):
        items = [_rebuild(found, graphs, f"{name}.{i}", v, dynamic) for i, v in enumerate(value)]
        kind = type(value)
        return lambda tensors: kind(item(tensors) for item in items)
    if isinstance(value, Mapping):
        parts = {k: _rebuild(found, graphs, f"{name}.{_key(k)}", v, dynamic, k) for k, v in value.items()}
        return lambda tensors: {k: part(tensors) for k, part in parts.items()}
    return lambda tensors: value


def _rows(found: Examples, name: str, value: torch.Tensor, key: Any) -> Any:
    """The dim of the first axis of a feature: the count of the graph that it equals, or None."""
    size = int(value.shape[0])
    names = found.rows.get(size, set())
    if key in found.by_type and found.by_type[key] in names:
        names = {found.by_type[key]}
    if len(names) > 1:
        raise LoweringError(
            f"'{name}' has {size} rows, which are as many as {' and as '.join(sorted(names))}",
            why="each row of a feature belongs to a node, an edge or a graph",
            remedy=f"say which in dynamic={{'{name}': {{0: ...}}}}, or pass an example with other counts",
        )
    if not names:
        return None
    (dim,) = names
    return (dim, 0 if dim.startswith("E") else 1, None)
