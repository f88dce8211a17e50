"""What cannot be lowered is said with its reason; DGL is as before afterwards."""

from __future__ import annotations

from typing import Any

import dgl
import dgl.nn.pytorch as dglnn
import pytest
import torch
from torch import nn

from plait.frontends.dgl import graph_arguments, holds_dgl_graph, lower_dgl
from plait.ir import InputError, LoweringError

WIDTH = 4


class Calls(nn.Module):
    """A module around a function of a graph and features."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, graph: dgl.DGLGraph, feat: torch.Tensor) -> Any:
        return self.function(graph, feat)


def pick_first(graph: dgl.DGLGraph, feat: torch.Tensor) -> Any:
    graph.ndata["h"] = feat
    graph.update_all(dgl.function.copy_u("h", "m"), lambda nodes: {"h": nodes.mailbox["m"][:, 0]})
    return graph.ndata["h"]


def some_edges(graph: dgl.DGLGraph, feat: torch.Tensor) -> Any:
    graph.ndata["h"] = feat
    graph.apply_edges(dgl.function.copy_u("h", "m"), edges=torch.tensor([0, 1]))
    return graph.edata["m"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Calls(pick_first), "picks some of its messages"),
        (Calls(some_edges), "apply_edges on some edges"),
        (Calls(lambda graph, feat: feat[graph.successors(0)]), "cannot be traced"),
        (Calls(lambda graph, feat: feat + graph.remove_self_loop().num_edges()), "remove_self_loop"),
        (dglnn.SAGEConv(WIDTH, 3, "lstm"), "a reduce function calls new_zeros on its messages"),
    ],
)
def test_refused(model: nn.Module, message: str) -> None:
    graph = dgl.add_self_loop(dgl.rand_graph(7, 12))
    with pytest.raises(LoweringError, match=message):
        lower_dgl(model.eval(), (graph, torch.randn(7, WIDTH)))


def test_as_many_nodes_as_edges() -> None:
    graph = dgl.graph((torch.arange(6), torch.arange(6)))
    model, inputs = dglnn.GraphConv(WIDTH, 3), (graph, torch.randn(6, WIDTH))
    with pytest.raises(LoweringError, match=r"6 rows, which are as many as E and as N"):
        lower_dgl(model, inputs)
    lowered = lower_dgl(model, inputs, dynamic={"feat": {0: "N"}})
    assert str(lowered.value("feat").type) == "f32[N,4]"


def test_inputs_that_do_not_fit() -> None:
    graph = dgl.rand_graph(5, 9)
    with pytest.raises(LoweringError, match="no DGLGraph among the inputs"):
        lower_dgl(nn.Linear(4, 4), (torch.randn(5, 4),))
    with pytest.raises(LoweringError, match="do not fit GraphConv.forward"):
        lower_dgl(dglnn.GraphConv(4, 4), (graph,))
    with pytest.raises(LoweringError, match="dynamic= names 'features'"):
        lower_dgl(dglnn.GraphConv(4, 4), (graph, torch.randn(5, 4)), dynamic={"features": {0: "N"}})


def test_arguments_that_a_graph_lacks() -> None:
    def held(graph: dgl.DGLGraph, feat: torch.Tensor) -> torch.Tensor:
        return feat + graph.ndata["h"]

    graph = dgl.rand_graph(5, 9)
    graph.ndata["h"] = torch.randn(5, 4)
    lowered = lower_dgl(Calls(held), (graph, torch.randn(5, 4)))
    assert set(graph_arguments(graph, lowered)) == {"graph.ndata.h"}
    with pytest.raises(InputError, match=r"the graph has no 'graph.ndata.h'"):
        graph_arguments(dgl.rand_graph(5, 9), lowered)


def test_dgl_is_as_before() -> None:
    kept = dgl.ops.gspmm, dgl.readout.broadcast_nodes, dglnn.EdgeWeightNorm.forward
    with pytest.raises(LoweringError):
        lower_dgl(dglnn.SAGEConv(WIDTH, 3, "lstm"), (dgl.rand_graph(5, 9), torch.randn(5, WIDTH)))
    assert kept == (dgl.ops.gspmm, dgl.readout.broadcast_nodes, dglnn.EdgeWeightNorm.forward)
    assert "len" not in vars(__import__("sys").modules["dgl.nn.pytorch.conv.graphconv"])


def test_graphs_are_found_among_inputs() -> None:
    graph = dgl.rand_graph(5, 9)
    assert holds_dgl_graph((graph, torch.ones(5)))
    assert holds_dgl_graph({"blocks": [dgl.to_block(graph)]})
    assert not holds_dgl_graph((torch.ones(5),))
    assert not holds_dgl_graph(None)
