"""What a lowered graph tells of its NIR source beside the ops: text in the location of its loop.

The first origin of the `core.scan` reads `nir.NIRGraph`.  Each origin behind it is a record, a
Python literal, in the order of the source:

    {'dt': 0.0001}
    {'node': ['lif'], 'kind': 'LIF', 'constants': {'tau': 'lif.tau', ...}}
    {'node': ['conv'], 'kind': 'Conv2d', 'constants': {...}, 'settings': {'stride': ...}}
    {'edge': ['conv', 'lif']}                      # and 'in': ['inner'] for a nested graph

Constants are named; all their numbers are in the graph.  Locations are part of the text form, so
that a graph that was printed and parsed, or saved and loaded, keeps the records.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

import numpy as np

from plait.frontends.nir.fields import shape_of
from plait.frontends.nir.structure import Network, Path, walk
from plait.ir import Constant, Graph, InputError, Loc, Origin
from plait.ir.ops import core

#: The first origin of the loop.
MARK = "nir.NIRGraph"

Record = dict[str, Any]


def write_records(
    graph: Any, network: Network, constants: Mapping[Path, Mapping[str, Constant]], dt: float
) -> Loc:
    """The location of the loop of a lowered graph.

    Raises:
        LoweringError: metadata or a setting that is neither number, text, array, list nor dict.
    """
    records: list[Record] = [{"dt": dt, **_metadata(network, graph, ())}]
    records += [_edge((), edge) for edge in graph.edges]
    for path, source in walk(graph):
        kind = type(source).__name__
        record: Record = {"node": list(path), "kind": kind}
        if kind == "NIRGraph":
            records.append({**record, **_metadata(network, source, path)})
            records += [_edge(path, edge) for edge in source.edges]
            continue
        node = network.nodes[path]
        if held := constants.get(path):
            record["constants"] = {name: constant.name for name, constant in held.items()}
        settings = {name: getattr(source, name) for name in node.primitive.settings}
        if kind in ("Input", "Output"):
            port = kind.lower()
            settings["shape"] = list(shape_of(network, node, getattr(source, f"{port}_type"), port))
        if settings:
            record["settings"] = {name: _encoded(network, path, name, v) for name, v in settings.items()}
        records.append({**record, **_metadata(network, source, path)})
    return Loc((Origin(MARK), *(Origin(repr(record)) for record in records)))


def read_records(graph: Graph) -> tuple[core.Scan, list[Record]]:
    """The loop of a lowered graph and its records.  Raises InputError where there are none."""
    for op in graph.ops:
        if isinstance(op, core.Scan) and op.loc.origins and op.loc.origins[0].path == MARK:
            try:
                return op, [ast.literal_eval(origin.path) for origin in op.loc.origins[1:]]
            except (ValueError, SyntaxError) as problem:
                raise InputError(
                    f"a record of NIR in graph @{graph.name} cannot be read",
                    where=f"location of %{op.results[0].name}",
                    why=str(problem),
                    remedy="lower the NIR graph again",
                ) from None
    raise InputError(
        f"graph @{graph.name} does not come from NIR",
        why="only the loop of what lower_nir made names nodes and edges in its location",
        remedy="lower a nir.NIRGraph, or keep the locations of the graph",
    )


def decoded(value: Any) -> Any:
    """The Python value of an encoded one."""
    if not isinstance(value, tuple):
        return value
    word, *rest = value
    if word == "array":
        return np.array(rest[1], dtype=rest[0]).reshape(rest[2])
    if word == "float":
        return float(rest[0])
    if word == "dict":
        return {name: decoded(item) for name, item in rest[0].items()}
    items = [decoded(item) for item in rest[0]]
    return tuple(items) if word == "tuple" else items


def _edge(prefix: Path, edge: Any) -> Record:
    record: Record = {"edge": [str(end) for end in edge]}
    return {**record, "in": list(prefix)} if prefix else record


def _metadata(network: Network, source: Any, path: Path) -> Record:
    metadata = getattr(source, "metadata", None)
    if not isinstance(metadata, dict) or not metadata:
        return {}
    return {"metadata": _encoded(network, path, "metadata", metadata)}


def _encoded(network: Network, path: Path, name: str, value: Any) -> Any:
    """A literal for a value: containers become tuples that start with a word, so that each is told apart."""
    if isinstance(value, (np.ndarray, np.generic)):
        if value.dtype.kind in "biufU":
            numbers = value.reshape(-1).tolist()
            exact = [repr(n) if isinstance(n, float) else n for n in numbers]
            return (
                ("array", str(value.dtype), exact, tuple(value.shape)) if value.shape else _plain(numbers[0])
            )
    elif isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return ("dict", {key: _encoded(network, path, f"{name}.{key}", v) for key, v in value.items()})
    elif isinstance(value, (list, tuple)):
        word = "tuple" if isinstance(value, tuple) else "list"
        return (word, [_encoded(network, path, name, item) for item in value])
    elif value is None or isinstance(value, (bool, int, float, str, bytes)):
        return _plain(value)
    raise network.error(
        f"{name} holds {type(value).__module__}.{type(value).__qualname__}",
        path or None,
        why="what is written back is numbers, text, arrays, lists and dicts of them",
        remedy="remove the entry, or make it text",
    )


def _plain(value: Any) -> Any:
    """A scalar; what is no finite number is spelt, since literals cannot hold it."""
    return ("float", repr(value)) if isinstance(value, float) and not np.isfinite(value) else value
