"""Readouts of batches of any number of graphs, and heterographs."""

from __future__ import annotations

from typing import Any

import dgl
import dgl.function as fn
import dgl.nn.pytorch as dglnn
import pytest
import torch
from torch import nn

from .conftest import batched

WIDTH = 8


def features(graph: dgl.DGLGraph) -> tuple[Any, ...]:
    return graph, torch.randn(graph.num_nodes(), WIDTH)


class Classifier(nn.Module):
    """A graph isomorphism network with a readout."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            dglnn.GINConv(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()), "sum") for _ in range(2)
        )
        self.pool = pool

    def forward(self, graph: dgl.DGLGraph, feat: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            feat = layer(graph, feat)
        return self.pool(graph, feat)


@pytest.mark.parametrize(
    "pool",
    [
        dglnn.SumPooling(),
        dglnn.AvgPooling(),
        dglnn.MaxPooling(),
        dglnn.GlobalAttentionPooling(nn.Linear(WIDTH, 1)),
        dglnn.Set2Set(WIDTH, 2, 1),
        dglnn.SortPooling(3),
    ],
    ids=lambda pool: type(pool).__name__,
)
def test_readout(pool: nn.Module, check: Any) -> None:
    lowered = check(Classifier(pool), features, batched)
    assert [value.name for value in lowered.inputs] == ["graph", "graph.batch_num_nodes", "feat"]
    (result,) = lowered.outputs
    assert str(result.shaped.shape[0]) == "G"


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cpu", "a100"])
def test_classifier_compiled(target: str, check: Any) -> None:
    check(Classifier(dglnn.SumPooling()), features, batched, target=target)


def relations(nodes: int, edges: int) -> dgl.DGLGraph:
    """Users who follow users and play games."""
    games = nodes // 2
    kinds = {("user", "follows", "user"): (nodes, edges), ("user", "plays", "game"): (games, edges // 2)}
    data = {
        kind: (torch.randint(0, nodes, (count,)), torch.randint(0, ends, (count,)))
        for kind, (ends, count) in kinds.items()
    }
    return dgl.heterograph(data, {"user": nodes, "game": games})


def by_type(graph: dgl.DGLGraph) -> tuple[Any, ...]:
    return graph, {kind: torch.randn(graph.num_nodes(kind), WIDTH) for kind in graph.ntypes}


class Relations(nn.Module):
    """A layer for each edge type."""

    def __init__(self, make: Any, aggregate: str) -> None:
        super().__init__()
        self.conv = dglnn.HeteroGraphConv({name: make() for name in ("follows", "plays")}, aggregate)

    def forward(self, graph: dgl.DGLGraph, features: Any) -> tuple[torch.Tensor, torch.Tensor]:
        found = self.conv(graph, features)
        return found["user"], found["game"]


@pytest.mark.parametrize(
    ("make", "aggregate"),
    [
        (lambda: dglnn.GraphConv(WIDTH, 6, allow_zero_in_degree=True), "sum"),
        (lambda: dglnn.SAGEConv(WIDTH, 6, "mean"), "max"),
        (lambda: dglnn.GATConv(WIDTH, 4, 2, allow_zero_in_degree=True), "mean"),
    ],
    ids=["GraphConv", "SAGEConv", "GATConv"],
)
def test_relations(make: Any, aggregate: str, check: Any) -> None:
    lowered = check(Relations(make, aggregate), by_type, relations)
    assert str(lowered.value("graph.follows").type) == "graph<N_user, E_follows, coo, i64>"
    assert str(lowered.value("graph.plays").type) == "graph<N_game, E_plays, coo, i64, src=N_user>"


class MultiUpdate(nn.Module):
    """Messages along all edge types at once."""

    def forward(self, graph: dgl.DGLGraph, features: Any) -> tuple[torch.Tensor, torch.Tensor]:
        with graph.local_scope():
            graph.ndata["h"] = features
            both = fn.copy_u("h", "m"), fn.sum("m", "sum")
            graph.multi_update_all({"follows": both, "plays": both}, "sum")
            return graph.nodes["user"].data["sum"], graph.nodes["game"].data["sum"]


def test_multi_update_all(check: Any) -> None:
    check(MultiUpdate(), by_type, relations)
