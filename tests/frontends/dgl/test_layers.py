"""DGL's convolutions, lowered once and compared on two other graphs."""

from __future__ import annotations

from typing import Any

import dgl
import dgl.function as fn
import dgl.nn.pytorch as dglnn
import pytest
import torch
from torch import nn

import plait
from plait.frontends.dgl import lower_dgl

WIDTH = 8


def features(graph: dgl.DGLGraph) -> tuple[Any, ...]:
    return graph, torch.randn(graph.num_src_nodes(), WIDTH)


def with_edges(graph: dgl.DGLGraph) -> tuple[Any, ...]:
    return *features(graph), torch.randn(graph.num_edges(), 5)


def weighted(graph: dgl.DGLGraph) -> tuple[Any, ...]:
    return *features(graph), torch.rand(graph.num_edges()) + 0.1


def typed(graph: dgl.DGLGraph) -> tuple[Any, ...]:
    return *features(graph), torch.randint(0, 3, (graph.num_edges(),))


def block(nodes: int, edges: int, ends: int | None = None) -> dgl.DGLGraph:
    """Edges from all nodes to the first `ends` of them, by default half."""
    ends = ends or nodes // 2
    chosen = torch.cat([torch.arange(ends), torch.randint(0, ends, (edges - ends,))])
    graph = dgl.graph((torch.randint(0, nodes, (edges,)), chosen), num_nodes=nodes)
    return dgl.to_block(graph, torch.arange(ends))


LAYERS: list[tuple[str, Any, Any]] = [
    ("SAGEConv", lambda: dglnn.SAGEConv(WIDTH, 6, "pool"), features),
    ("GATv2Conv", lambda: dglnn.GATv2Conv(WIDTH, 4, 2), features),
    ("DotGatConv", lambda: dglnn.DotGatConv(WIDTH, 4, 2), features),
    ("EdgeConv", lambda: dglnn.EdgeConv(WIDTH, 6, batch_norm=True), features),
    ("NNConv", lambda: dglnn.NNConv(WIDTH, 6, nn.Linear(5, WIDTH * 6), "mean"), with_edges),
    ("EGATConv", lambda: dglnn.EGATConv(WIDTH, 5, 6, 4, 2), with_edges),
    ("SGConv", lambda: dglnn.SGConv(WIDTH, 6, k=2), weighted),
    ("RelGraphConv", lambda: dglnn.RelGraphConv(WIDTH, 6, 3), typed),
    ("GatedGraphConv", lambda: dglnn.GatedGraphConv(WIDTH, 10, 2, 3), typed),
    (
        "PNAConv",
        lambda: dglnn.PNAConv(WIDTH, 4, ["mean", "std", "moment3"], ["amplification"], 2.5),
        features,
    ),
]


@pytest.mark.parametrize(("build", "inputs"), [row[1:] for row in LAYERS], ids=[row[0] for row in LAYERS])
def test_layer(build: Any, inputs: Any, check: Any) -> None:
    torch.manual_seed(1)
    check(build(), inputs)


def test_graph_conv_is_message_ops(check: Any) -> None:
    lowered = check(dglnn.GraphConv(WIDTH, 4), features, target="cpu")
    assert [str(value) for value in lowered.inputs] == ["%graph", "%feat"]
    assert str(lowered.value("graph").type) == "graph<N, E, coo, i64>"
    names = [op.opname for op in lowered.ops]
    assert names.count("message.aggregate") == 1
    assert not any(name.startswith(("core.scatter", "core.take", "core.gather")) for name in names)
    assert lowered.value("aggregate").producer.loc.origins[0].file.endswith("graphconv.py")


def test_executable_takes_a_dgl_graph() -> None:
    model = dglnn.GraphConv(WIDTH, 4)
    graph = dgl.add_self_loop(dgl.rand_graph(9, 20))
    executable = plait.compile(lower_dgl(model, features(graph)), target="cpu", isolate=False, cache=False)
    other = dgl.add_self_loop(dgl.rand_graph(14, 50))
    given = torch.randn(14, WIDTH)
    with torch.no_grad():
        torch.testing.assert_close(executable(other, given), model(other, given), rtol=1e-4, atol=1e-5)
    with pytest.raises(plait.InputError, match="axis 0 is 9"):
        executable(other, given[:9])


def test_block(check: Any) -> None:
    lowered = check(dglnn.GATConv(WIDTH, 4, 2), features, block)
    assert str(lowered.value("graph").type) == "graph<N, E, coo, i64, src=M>"


class Sampled(nn.Module):
    """Two layers on two blocks, the second on the destinations of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(dglnn.SAGEConv(WIDTH, WIDTH, "mean") for _ in range(2))

    def forward(self, blocks: list[dgl.DGLGraph], x: torch.Tensor) -> torch.Tensor:
        for layer, part in zip(self.layers, blocks, strict=True):
            x = layer(part, x)
        return x


def test_blocks_share_the_count_between_them(check: Any) -> None:
    def blocks(nodes: int, edges: int) -> Any:
        last = block(nodes, edges)
        return [block(nodes, edges, last.num_src_nodes()), last]

    lowered = check(Sampled(), lambda parts: (parts, torch.randn(parts[0].num_src_nodes(), WIDTH)), blocks)
    first, last = (lowered.value(f"blocks.{i}").graph_type for i in range(2))
    assert last.ends("src") == first.ends("dst")


class UserFunctions(nn.Module):
    """User-defined message, reduce and apply functions, and features that the graph holds."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, graph: dgl.DGLGraph) -> tuple[torch.Tensor, torch.Tensor]:
        with graph.local_scope():
            graph.update_all(
                lambda edges: {"m": edges.src["h"] * edges.data["w"] - edges.dst["h"]},
                lambda nodes: {
                    "total": nodes.mailbox["m"].sum(1) + torch.max(nodes.mailbox["m"], dim=1)[0],
                    "spread": nodes.mailbox["m"].var(dim=1, unbiased=False),
                },
                lambda nodes: {"out": self.linear(nodes.data["total"]) + nodes.data["h"]},
            )
            spread = fn.copy_u("h", "m"), fn.mean("m", "average")
            graph.update_all(*spread)
            return graph.ndata["out"], graph.ndata["average"]


def test_user_functions_and_features_of_the_graph(check: Any) -> None:
    def graphs(nodes: int, edges: int) -> dgl.DGLGraph:
        graph = dgl.rand_graph(nodes, edges)  # some nodes have no edge
        graph.ndata["h"] = torch.randn(nodes, WIDTH)
        graph.edata["w"] = torch.rand(edges, 1)
        return graph

    lowered = check(UserFunctions(), lambda graph: (graph,), graphs)
    assert [value.name for value in lowered.inputs] == ["graph", "graph.ndata.h", "graph.edata.w"]


class Changed(nn.Module):
    """Convolutions on the turned graph and on the one with loops."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = dglnn.GraphConv(WIDTH, WIDTH, allow_zero_in_degree=True)

    def forward(self, graph: dgl.DGLGraph, x: torch.Tensor) -> torch.Tensor:
        source, destination = graph.edges()
        along = (x[source] * x[destination]).sum(-1)
        return self.conv(dgl.reverse(graph), x) + self.conv(dgl.add_self_loop(graph), x) + along.mean()


def test_changed_graphs_and_edge_ends(check: Any) -> None:
    names = [op.opname for op in check(Changed(), features, dgl.rand_graph).ops]
    assert {"message.reverse", "message.self_loops"} <= set(names)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cpu", "a100"])
def test_gat_compiled(target: str, check: Any) -> None:
    torch.manual_seed(1)
    check(dglnn.GATConv(WIDTH, 4, 2, residual=True), features, target=target)
