"""The DGL frontend: models on DGLGraphs to graphs that take any topology at run time.

    >>> graph = lower_dgl(model, (dgl_graph, features))
    >>> executable = plait.compile(graph, target="cpu")
    >>> executable(other_graph, other_features)

Importing this package does not import dgl or torch; lowering does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from plait.ir.graph import Graph

__all__ = ["graph_arguments", "holds_dgl_graph", "lower_dgl"]


def lower_dgl(
    model: torch.nn.Module,
    inputs: Any,
    *,
    dynamic: Mapping[str, Mapping[int, Any]] | None = None,
    name: str = "main",
) -> Graph:
    """Lower a model on DGL graphs to a graph.

    The topology is an input of graph type: `graph<N, E, coo, i64>` for a homogeneous
    graph, one `graph<N_user, E_plays, coo, i64, src=N_game>` for each edge type of a
    heterograph, and `graph<N, E, coo, i64, src=M>` for a block.  Inputs carry the names
    of the parameters of `forward`; edge types, features that the graph holds and
    numbers of nodes per graph of a batch follow as `graph.plays`, `graph.ndata.h` and
    `graph.batch_num_nodes`, as far as the model reads them.  `graph_arguments` makes
    these from a DGLGraph.

    A layer's check that every node has an incoming edge, and EdgeWeightNorm's that
    weights are positive, are no part of the graph: such nodes get what
    `allow_zero_in_degree=True` gives.

    Args:
        model: a module, lowered in the mode (training or evaluation) it is in.
        inputs: (graph, *features) in the order of `forward`, or a dict by parameter
            name.  Graphs are DGLGraphs or lists of blocks; features are tensors, or
            tuples or dicts of them.
        dynamic: symbolic axes of features by name, as for `lower_torch`.  The first
            axis needs none where its size is a count of the example graph: it is then N
            (nodes), E (edges), G (graphs of a batch) or M (source nodes of a block).
        name: name of the graph.

    Raises:
        LoweringError: torch cannot export the model, it asks what depends on the edges of
            one graph, a feature fits several counts, or operators have no lowering rule.
    """
    from plait.frontends.dgl.lowering import lower

    return lower(model, inputs, dynamic, name)


def holds_dgl_graph(inputs: Any) -> bool:
    """Whether a DGLGraph is among example inputs: by place, by name, or in a list of blocks."""
    if isinstance(inputs, Mapping):
        return any(map(holds_dgl_graph, inputs.values()))
    if isinstance(inputs, (tuple, list)):
        return any(map(holds_dgl_graph, inputs))
    return any(base.__module__ == "dgl.heterograph" for base in type(inputs).__mro__)


def graph_arguments(graph: Any, lowered: Graph, *, name: str = "graph") -> dict[str, Any]:
    """The inputs of a lowered graph that a DGLGraph provides, by name.

        >>> executable(**graph_arguments(batch, lowered), feat=features)

    Args:
        graph: a DGLGraph with the node and edge types of the example.
        lowered: what `lower_dgl` returned.
        name: the name of the parameter of `forward` that takes the graph.

    Raises:
        InputError: the lowered graph reads a feature or an edge type that `graph` lacks.
    """
    from plait.frontends.dgl.arguments import arguments_of

    return arguments_of(graph, lowered, name)
