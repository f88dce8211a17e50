"""Arguments of a compiled DGL model from a DGLGraph."""

from __future__ import annotations

from typing import Any

from dgl.heterograph import DGLGraph

from plait.frontends.dgl.examples import Examples, read_graph
from plait.ir.errors import InputError, did_you_mean
from plait.ir.graph import Graph


def arguments_of(graph: DGLGraph, lowered: Graph, name: str) -> dict[str, Any]:
    """See `plait.frontends.dgl.graph_arguments`."""
    found = Examples()
    read_graph(found, name, graph)
    provided: dict[str, Any] = {
        slot.name: tuple(slot.tensor) if slot.kind == "topology" else slot.tensor for slot in found.slots
    }
    wanted = [value.name for value in lowered.inputs if f"{value.name}.".startswith(f"{name}.")]
    missing = next((each for each in wanted if each not in provided), None)
    if missing is not None:
        raise InputError(
            f"the graph has no '{missing}'{did_you_mean(missing, list(provided))}",
            where=f"call of @{lowered.name}",
            why=f"it provides {', '.join(provided)}",
            remedy="pass a graph with the types and features of the example",
        )
    return {each: provided[each] for each in wanted}
