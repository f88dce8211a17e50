"""Lowered graphs back to NIR: constants, and the records in the location of the loop."""

from __future__ import annotations

from typing import Any

import numpy as np

from plait.frontends.nir.lowering import lower
from plait.frontends.nir.record import Record, decoded, read_records
from plait.frontends.nir.shapes import infer_shapes
from plait.frontends.nir.structure import Path, read_network
from plait.ir import Graph, InputError

#: What a kind takes its shape argument as.
_SHAPES = {"Input": "input_type", "Output": "output_type"}


def graph_to_nir(nir: Any, graph: Graph) -> Any:
    """See `plait.frontends.nir.to_nir`; `nir` is the package."""
    loop, records = read_records(graph)
    try:
        dt = float(records[0]["dt"])
        made = _assemble(nir, graph, records)
        first = loop.results[0].shaped.shape
        steps, batch = (size if isinstance(size, int) else None for size in first[:2])
        again = lower(made, "the NIR graph", steps, batch, dt, graph.name)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, AssertionError) as problem:
        raise InputError(
            f"the records of NIR in graph @{graph.name} are not whole",
            where=f"location of %{loop.results[0].name}",
            why=str(problem),
            remedy="lower the NIR graph again",
        ) from problem
    if again != graph:
        raise InputError(
            f"graph @{graph.name} is no longer what lower_nir made of its NIR graph",
            why="its ops have been rewritten since, and NIR has nodes for the original ones only",
            remedy="write the graph before passes run, or change the NIR graph; `plait.diff` with a graph "
            "that is lowered again shows what differs",
        )
    _complete(made)
    return made


def _assemble(nir: Any, graph: Graph, records: list[Record]) -> Any:
    """The NIR graph that the records tell of, with the numbers of the constants."""
    nodes: dict[Path, dict[str, Any]] = {(): {}}
    edges: dict[Path, list[tuple[str, str]]] = {(): []}
    metadata: dict[Path, dict[str, Any]] = {(): decoded(records[0].get("metadata", {}))}
    for record in records[1:]:
        if "edge" in record:
            source, target = record["edge"]
            edges[tuple(record.get("in", ()))].append((source, target))
            continue
        path = tuple(record["node"])
        held = decoded(record.get("metadata", {}))
        if record["kind"] == "NIRGraph":
            nodes[path], edges[path], metadata[path] = {}, [], held
            nodes[path[:-1]][path[-1]] = None  # keeps the place among its neighbours
        else:
            nodes[path[:-1]][path[-1]] = _node(nir, graph, record, held)
    for path in reversed(nodes):  # inner graphs come behind those around them
        made = nir.NIRGraph(nodes[path], edges[path], metadata=metadata[path], type_check=False)
        if not path:
            return made
        nodes[path[:-1]][path[-1]] = made
    raise AssertionError("the outermost graph is there")


def _node(nir: Any, graph: Graph, record: Record, metadata: dict[str, Any]) -> Any:
    kind = record["kind"]
    fields = {name: decoded(value) for name, value in record.get("settings", {}).items()}
    for name, constant in record.get("constants", {}).items():
        if constant not in graph.constants:
            raise InputError(
                f"graph @{graph.name} has no constant @{constant}",
                where=f"{name} of node '{'.'.join(record['node'])}'",
                why="the constant was renamed or removed after lowering",
                remedy="write the graph before passes run",
            )
        fields[name] = np.array(graph.constants[constant].data)
    if kind in _SHAPES:
        fields = {_SHAPES[kind]: np.array(fields["shape"], dtype=np.int64)}
    elif kind == "Flatten":
        fields["input_type"] = None
    elif kind.startswith("Conv"):
        fields.setdefault("bias", None)
    return getattr(nir, kind)(**fields, metadata=metadata)


def _complete(made: Any) -> None:
    """Fill in shapes that NIR infers from Input nodes and needs in files."""
    network = read_network(made, "the NIR graph")
    taken, given = infer_shapes(network)
    for path, node in network.nodes.items():
        source, shape = node.source, np.array(taken[path], dtype=np.int64)
        if source.input_type["input"] is not None and source.output_type["output"] is not None:
            continue
        source.input_type = {"input": shape}
        source.output_type = {"output": np.array(given[path], dtype=np.int64)}
        if node.kind == "Conv1d":
            source.input_shape = int(shape[1])
        elif node.kind == "Conv2d":
            source.input_shape = tuple(int(size) for size in shape[1:])
