"""Coverage of the DGL frontend: every convolution, readout and heterograph layer against DGL itself.

Each layer is lowered once from one example graph and compiled once for the CPU; that one
executable, and the interpreter, are then compared with DGL on two graphs of other node and
edge counts.  Weights and graphs are random and seeded.

Run: python bench/coverage_dgl.py [LAYER ...] [--json PATH] [--interpret]; all by default.
"""

from __future__ import annotations

import argparse
import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dgl
import dgl.nn.pytorch as dglnn
import numpy as np
import torch
from common import write_results
from rich.console import Console
from torch import nn

import plait
from plait.frontends.dgl import graph_arguments, lower_dgl

RELATIVE, ABSOLUTE = 1e-4, 1e-4
#: (nodes, edges) of the example and of the two graphs that are compared.
EXAMPLE, COMPARED = (11, 37), ((17, 60), (29, 83))
WIDTH, HEADS, EDGE_WIDTH, KINDS = 8, 2, 5, 3
console = Console(highlight=False, width=170)

Inputs = tuple[Any, ...]


@dataclass(frozen=True)
class Case:
    """One layer: how to build it, and its inputs on a graph."""

    layer: str
    build: Callable[[], nn.Module]
    inputs: Callable[[dgl.DGLGraph], Inputs]
    graphs: Callable[[int, int], dgl.DGLGraph]
    group: str = "convolution"
    note: str = ""


# -- graphs and features ---------------------------------------------------------------------
def looped(nodes: int, edges: int) -> dgl.DGLGraph:
    """A random graph in which every node has an edge to itself."""
    return dgl.add_self_loop(dgl.rand_graph(nodes, edges - nodes))


def neighboured(nodes: int, edges: int) -> dgl.DGLGraph:
    """A random graph in which every node has edges from three different nodes, itself among them.

    The third root of the third moment, which PNA takes, is ill-conditioned where the
    moment is zero but for rounding, and with two messages it always is: there even
    DGL's float32 and float64 differ by more than the tolerance.
    """
    every = torch.arange(nodes)
    extra = edges // 3
    sources = torch.cat([*((every + k) % nodes for k in (0, 1, 3)), torch.randint(0, nodes, (extra,))])
    return dgl.graph((sources, torch.cat([every.repeat(3), torch.randint(0, nodes, (extra,))])))


def batched(nodes: int, edges: int) -> dgl.DGLGraph:
    """A batch of graphs of different sizes; the larger the total, the more."""
    parts = [looped(k, 3 * k + edges % 5) for k in range(3, 3 + nodes // 5)]
    return dgl.batch(parts)


def relations(nodes: int, edges: int) -> dgl.DGLGraph:
    """Users who follow users and play games, and developers who make games."""
    games, makers = nodes // 2 + 1, 3
    ends = {
        ("user", "follows", "user"): (nodes, nodes, edges),
        ("user", "plays", "game"): (nodes, games, edges // 2),
        ("developer", "makes", "game"): (makers, games, edges // 3),
    }
    data = {
        kind: (torch.randint(0, a, (count,)), torch.randint(0, b, (count,)))
        for kind, (a, b, count) in ends.items()
    }
    return dgl.heterograph(data, {"user": nodes, "game": games, "developer": makers})


def block(nodes: int, edges: int) -> dgl.DGLGraph:
    """Edges from all nodes to the first half of them."""
    half = nodes // 2
    chosen = torch.randint(0, half, (edges,))
    chosen[:half] = torch.arange(half)
    graph = dgl.graph((torch.randint(0, nodes, (edges,)), chosen), num_nodes=nodes)
    return dgl.to_block(graph, torch.arange(half), include_dst_in_src=True)


def nodes(graph: dgl.DGLGraph, width: int = WIDTH) -> torch.Tensor:
    """Node features."""
    return torch.randn(graph.num_nodes(), width)


def edges(graph: dgl.DGLGraph, *shape: int) -> torch.Tensor:
    """Edge features."""
    return torch.randn(graph.num_edges(), *shape)


def weights(graph: dgl.DGLGraph, *shape: int) -> torch.Tensor:
    """Positive edge weights."""
    return torch.rand(graph.num_edges(), *shape) + 0.1


def kinds(graph: dgl.DGLGraph) -> torch.Tensor:
    """A type for each edge."""
    return torch.randint(0, KINDS, (graph.num_edges(),))


def node_kinds(graph: dgl.DGLGraph) -> torch.Tensor:
    """A type for each node."""
    return torch.randint(0, KINDS, (graph.num_nodes(),))


def adjacency(graph: dgl.DGLGraph) -> torch.Tensor:
    """The dense adjacency matrix, which the Dense layers take in place of a graph."""
    return graph.adj_external(transpose=True).to_dense()


def conv(
    layer: str, build: Callable[[], nn.Module], inputs: Callable[[dgl.DGLGraph], Inputs], **options: Any
) -> Case:
    """A layer on a homogeneous graph; `inputs` are those behind the graph."""
    graphs = options.pop("graphs", looped)
    return Case(layer, build, lambda g: (g, *inputs(g)), graphs, **options)


class GINClassifier(nn.Module):
    """Graph isomorphism network with sum pooling of each layer (Xu et al., 2019)."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            dglnn.GINConv(nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)), "sum")
            for _ in range(3)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(3))
        self.pool = dglnn.SumPooling()
        self.read = nn.ModuleList(nn.Linear(width, classes) for _ in range(4))

    def forward(self, graph: dgl.DGLGraph, feat: torch.Tensor) -> torch.Tensor:
        hidden = [feat]
        for layer, norm in zip(self.layers, self.norms, strict=True):
            hidden.append(torch.relu(norm(layer(graph, hidden[-1]))))
        scores = [read(self.pool(graph, h)) for read, h in zip(self.read, hidden, strict=True)]
        return torch.stack(scores).sum(0)


class TypedFeatures(nn.Module):
    """HeteroGraphConv on features by node type, with its results as a tuple."""

    def __init__(self, make: Callable[[], nn.Module], aggregate: str = "sum") -> None:
        super().__init__()
        self.conv = dglnn.HeteroGraphConv(
            {name: make() for name in ("follows", "plays", "makes")}, aggregate=aggregate
        )

    def forward(self, graph: dgl.DGLGraph, features: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        found = self.conv(graph, features)
        return found["user"], found["game"]


def typed(name: str, make: Callable[[], nn.Module], aggregate: str = "sum") -> Case:
    """A layer for each relation of a heterograph."""

    def inputs(graph: dgl.DGLGraph) -> Inputs:
        return graph, {kind: torch.randn(graph.num_nodes(kind), WIDTH) for kind in graph.ntypes}

    label = f"HeteroGraphConv of {name}, {aggregate}"
    return Case(label, lambda: TypedFeatures(make, aggregate), inputs, relations, "heterograph")


def mlp(width: int = WIDTH, out: int = WIDTH) -> nn.Module:
    """Two linear layers."""
    return nn.Sequential(nn.Linear(width, 16), nn.ReLU(), nn.Linear(16, out))


def cases() -> list[Case]:
    """All layers, each with sensible arguments."""
    w, h, e = WIDTH, HEADS, EDGE_WIDTH
    plain = lambda g: (nodes(g),)  # noqa: E731
    weighted = lambda g: (nodes(g), weights(g))  # noqa: E731
    with_edges = lambda g: (nodes(g), edges(g, e))  # noqa: E731
    found = [
        conv("GraphConv", lambda: dglnn.GraphConv(w, 16), plain),
        conv("GraphConv right, edge_weight", lambda: dglnn.GraphConv(w, 4, norm="right"),
             lambda g: (nodes(g), None, weights(g))),
        conv("EdgeWeightNorm", lambda: dglnn.EdgeWeightNorm("both"), lambda g: (weights(g),)),
        conv("RelGraphConv", lambda: dglnn.RelGraphConv(w, 6, KINDS), lambda g: (nodes(g), kinds(g))),
        conv("RelGraphConv basis, norm", lambda: dglnn.RelGraphConv(w, 6, KINDS, "basis", 2, layer_norm=True),
             lambda g: (nodes(g), kinds(g), weights(g, 1))),
        conv("RelGraphConv bdd", lambda: dglnn.RelGraphConv(w, 6, KINDS, "bdd", 2),
             lambda g: (nodes(g), kinds(g))),
        conv("GATConv", lambda: dglnn.GATConv(w, 4, h, residual=True), plain),
        conv("GATConv edge_weight", lambda: dglnn.GATConv(w, 4, h),
             lambda g: (nodes(g), weights(g))),
        conv("GATv2Conv", lambda: dglnn.GATv2Conv(w, 4, h, residual=True), plain),
        conv("EGATConv", lambda: dglnn.EGATConv(w, e, 6, 4, h), with_edges),
        conv("EdgeGATConv", lambda: dglnn.EdgeGATConv(w, e, 4, h), with_edges),
        conv("TAGConv", lambda: dglnn.TAGConv(w, 6, k=2), plain),
        conv("TAGConv edge_weight", lambda: dglnn.TAGConv(w, 6, k=2), weighted),
        conv("EdgeConv", lambda: dglnn.EdgeConv(w, 6), plain),
        conv("EdgeConv batch_norm", lambda: dglnn.EdgeConv(w, 6, batch_norm=True), plain),
        *(conv(f"SAGEConv {kind}", lambda kind=kind: dglnn.SAGEConv(w, 6, kind), plain)  # type: ignore[misc]
          for kind in ("mean", "pool", "gcn", "lstm")),
        conv("SAGEConv mean, edge_weight", lambda: dglnn.SAGEConv(w, 12, "mean"), weighted),
        conv("SGConv", lambda: dglnn.SGConv(w, 6, k=2), plain),
        conv("SGConv edge_weight", lambda: dglnn.SGConv(w, 6, k=2), weighted),
        conv("APPNPConv", lambda: dglnn.APPNPConv(k=3, alpha=0.2), plain),
        *(conv(f"GINConv {kind}", lambda kind=kind: dglnn.GINConv(mlp(), kind, learn_eps=True), plain)  # type: ignore[misc]
          for kind in ("sum", "max", "mean")),
        conv("GINEConv", lambda: dglnn.GINEConv(mlp()), lambda g: (nodes(g), edges(g, w))),
        conv("GatedGraphConv", lambda: dglnn.GatedGraphConv(w, 10, 3, 1), plain),
        conv("GatedGraphConv edge types", lambda: dglnn.GatedGraphConv(w, 10, 2, KINDS),
             lambda g: (nodes(g), kinds(g))),
        conv("GMMConv", lambda: dglnn.GMMConv(w, 6, 3, 2), lambda g: (nodes(g), edges(g, 3))),
        conv("ChebConv", lambda: dglnn.ChebConv(w, 6, 3),
             lambda g: (nodes(g), torch.full((g.batch_size,), 1.9)), graphs=batched),
        conv("AGNNConv", lambda: dglnn.AGNNConv(), plain),
        conv("NNConv", lambda: dglnn.NNConv(w, 6, nn.Linear(e, w * 6), "mean"), with_edges),
        Case("DenseGraphConv", lambda: Dense(dglnn.DenseGraphConv(w, 6)),
             lambda g: (g, adjacency(g), nodes(g)), looped, note="dense adjacency"),
        Case("DenseSAGEConv", lambda: Dense(dglnn.DenseSAGEConv(w, 6)),
             lambda g: (g, adjacency(g), nodes(g)), looped, note="dense adjacency"),
        Case("DenseChebConv", lambda: Dense(dglnn.DenseChebConv(w, 6, 3), 1.9),
             lambda g: (g, adjacency(g), nodes(g)), looped, note="dense adjacency"),
        conv("AtomicConv", lambda: dglnn.AtomicConv(
            torch.tensor([12.0, 12.0]), torch.tensor([0.0, 2.0]), torch.tensor([4.0, 4.0]),
            torch.tensor([6.0, 8.0])),
             lambda g: (torch.tensor([6.0, 8.0])[torch.randint(0, 2, (g.num_nodes(), 1))], weights(g, 1))),
        conv("CFConv", lambda: dglnn.CFConv(w, e, 10, 6), with_edges),
        conv("DotGatConv", lambda: dglnn.DotGatConv(w, 4, h), plain),
        conv("TWIRLSConv", lambda: dglnn.TWIRLSConv(w, 4, 16, prop_step=4), plain),
        conv("TWIRLSUnfoldingAndAttention",
             lambda: dglnn.TWIRLSUnfoldingAndAttention(4, 2.0, 0.5, True), plain),
        conv("GCN2Conv", lambda: dglnn.GCN2Conv(w, layer=1, alpha=0.5), lambda g: (nodes(g), nodes(g))),
        conv("GCN2Conv edge_weight", lambda: dglnn.GCN2Conv(w, layer=1, project_initial_features=False),
             lambda g: (nodes(g), nodes(g), weights(g))),
        conv("HGTConv", lambda: dglnn.HGTConv(w, 4, h, KINDS, KINDS),
             lambda g: (nodes(g), node_kinds(g), kinds(g))),
        conv("GroupRevRes", lambda: dglnn.GroupRevRes(dglnn.GraphConv(w // 2, w // 2), 2), plain),
        conv("EGNNConv", lambda: dglnn.EGNNConv(w, 10, 6, e),
             lambda g: (nodes(g), torch.randn(g.num_nodes(), 3), edges(g, e))),
        conv("PNAConv", lambda: dglnn.PNAConv(
            w, w, ["mean", "min", "std", "moment3"],
            ["identity", "amplification", "attenuation"], 2.5), plain, graphs=neighboured),
        conv("PNAConv 2 towers", lambda: dglnn.PNAConv(
            w, w, ["mean", "max", "min", "std", "var", "moment3", "moment4", "moment5"],
            ["identity", "amplification", "attenuation"], 2.5, num_towers=2), plain, graphs=neighboured),
        conv("PNAConv edge_feat",
             lambda: dglnn.PNAConv(w, w, ["mean", "max"], ["identity"], 2.5, edge_feat_size=e), with_edges),
        conv("DGNConv", lambda: dglnn.DGNConv(
            w, w, ["dir1-av", "dir1-dx", "sum", "mean"], ["identity", "amplification"], 2.5),
             lambda g: (nodes(g), None, torch.randn(g.num_nodes(), 3))),
        conv("GraphConv on a block", lambda: dglnn.GraphConv(w, 16),
             lambda g: (torch.randn(g.num_src_nodes(), w),), graphs=block, group="block"),
        conv("SAGEConv on a block", lambda: dglnn.SAGEConv(w, 6, "pool"),
             lambda g: (torch.randn(g.num_src_nodes(), w),), graphs=block, group="block"),
        conv("GATConv on a block", lambda: dglnn.GATConv(w, 4, h),
             lambda g: (torch.randn(g.num_src_nodes(), w),), graphs=block, group="block"),
    ]  # fmt: skip
    pooled: list[tuple[str, Callable[[], nn.Module]]] = [
        ("SumPooling", dglnn.SumPooling),
        ("AvgPooling", dglnn.AvgPooling),
        ("MaxPooling", dglnn.MaxPooling),
        ("SortPooling", lambda: dglnn.SortPooling(4)),
        ("GlobalAttentionPooling", lambda: dglnn.GlobalAttentionPooling(nn.Linear(w, 1), nn.Linear(w, 6))),
        ("Set2Set", lambda: dglnn.Set2Set(w, 2, 1)),
        ("WeightAndSum", lambda: dglnn.WeightAndSum(w)),
        ("SetTransformerEncoder", lambda: dglnn.SetTransformerEncoder(w, 2, 4, 16)),
        ("SetTransformerDecoder", lambda: dglnn.SetTransformerDecoder(w, 2, 4, 16, 1, 2)),
        ("GIN classifier", lambda: GINClassifier(w, 3)),
    ]
    found += [Case(name, build, lambda g: (g, nodes(g)), batched, "readout") for name, build in pooled]
    found += [
        typed("GraphConv", lambda: dglnn.GraphConv(w, 6, allow_zero_in_degree=True)),
        typed("GraphConv", lambda: dglnn.GraphConv(w, 6, allow_zero_in_degree=True), "mean"),
        typed("SAGEConv", lambda: dglnn.SAGEConv(w, 6, "mean"), "max"),
        typed("GATConv", lambda: dglnn.GATConv(w, 4, 2, allow_zero_in_degree=True), "stack"),
    ]
    return found


class Dense(nn.Module):
    """A layer that takes an adjacency matrix; the graph only says how many nodes there are."""

    def __init__(self, layer: nn.Module, *options: Any) -> None:
        super().__init__()
        self.layer, self.options = layer, options

    def forward(self, graph: dgl.DGLGraph, adjacency: torch.Tensor, feat: torch.Tensor) -> torch.Tensor:
        return self.layer(adjacency, feat, *self.options)


# -- measuring ---------------------------------------------------------------------------------
def _dynamic(case: Case) -> dict[str, dict[int, Any]] | None:
    return {"adjacency": {0: "N", 1: "N"}} if isinstance(case.build(), Dense) else None


def named(lowered: Any, model: nn.Module, inputs: Inputs) -> dict[str, Any]:
    """The arguments of a call by name."""
    bound = inspect.signature(model.forward).bind(*inputs)
    given: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        if isinstance(value, dgl.DGLGraph):
            given |= graph_arguments(value, lowered, name=name)
        elif isinstance(value, dict):
            given |= {f"{name}.{key}": item for key, item in value.items()}
        elif value is not None:
            given[name] = value
    wanted = {value.name for value in lowered.inputs}
    return {name: value for name, value in given.items() if name in wanted}


def copied(inputs: Inputs) -> Inputs:
    """The inputs with tensors of their own: GroupRevRes frees what it is given."""
    return tuple(value.clone() if isinstance(value, torch.Tensor) else value for value in inputs)


def worst_error(results: Any, expected: Any) -> float:
    """Largest |a - b| / (ABSOLUTE + RELATIVE * |b|): at most 1 when the results agree."""
    got = results if isinstance(results, (tuple, list)) else (results,)
    want = expected if isinstance(expected, (tuple, list)) else (expected,)
    worst = 0.0
    for a, b in zip(got, want, strict=True):
        a, b = np.asarray(a.detach()), np.asarray(b.detach())
        if a.shape != b.shape:
            return float("inf")
        worst = max(worst, float(np.max(np.abs(a - b) / (ABSOLUTE + RELATIVE * np.abs(b)), initial=0.0)))
    return worst


def measure(case: Case, seed: int, compiled: bool) -> dict[str, Any]:
    """Lower, compile and compare one layer; a failure is a row with its message."""
    torch.manual_seed(seed)
    dgl.seed(seed)
    row: dict[str, Any] = {"layer": case.layer, "group": case.group, "covered": False}
    model = case.build().eval()
    example = case.inputs(case.graphs(*EXAMPLE))
    others = [case.inputs(case.graphs(*sizes)) for sizes in COMPARED]
    with torch.no_grad():
        expected = [model(*copied(inputs)) for inputs in others]
    start = time.perf_counter()
    try:
        lowered = lower_dgl(model, example, dynamic=_dynamic(case), name="main")
        row["lower_s"] = time.perf_counter() - start
        row["ops"] = len(lowered)
        row["message_ops"] = sum(op.opname.startswith("message.") for op in lowered.walk())
        row["round_trip"] = plait.parse(str(lowered)) == lowered
        calls = [named(lowered, model, inputs) for inputs in others]
        row["interpreter_error"] = max(
            worst_error(plait.interpret(lowered, call), want)
            for call, want in zip(calls, expected, strict=True)
        )
        if compiled:
            start = time.perf_counter()
            executable = plait.compile(lowered, target="cpu", isolate=False, cache=False)
            row["cpu_compile_s"] = time.perf_counter() - start
            row["cpu_error"] = max(
                worst_error(executable(**call), want) for call, want in zip(calls, expected, strict=True)
            )
    except plait.PlaitError as error:
        row["reason"] = str(error)
        return row
    row["covered"] = max(row["interpreter_error"], row.get("cpu_error", 0.0)) <= 1.0
    if not row["covered"]:
        row["reason"] = "results differ"
    return row


#: Layers that are not in the cases, with arguments to build them.
UNBUILT: dict[str, tuple[int, ...]] = {
    "CuGraphGATConv": (WIDTH, 4, HEADS),
    "CuGraphRelGraphConv": (WIDTH, 6, KINDS),
    "CuGraphSAGEConv": (WIDTH, 6),
}


def refusal(name: str) -> str:
    """Why a layer has no case: what DGL says where it refuses to build it."""
    if name in UNBUILT:
        try:
            getattr(dglnn, name)(*UNBUILT[name])
        except ImportError as error:
            return f"DGL cannot build it: {type(error).__name__}: {error}"
    return "has no case"


def untried(tried: list[Case]) -> list[dict[str, Any]]:
    """A row for each convolution of DGL that has no case here."""
    names = {case.layer.split()[0] for case in tried}
    return [
        {"layer": name, "group": "convolution", "covered": False, "reason": refusal(name)}
        for name in dglnn.conv.__all__
        if name not in names
    ]


def one_line(row: dict[str, Any]) -> str:
    """A row for the terminal; errors are in units of the tolerance."""
    if "reason" in row:
        return f"[red]{row['layer']}[/]: {row['reason'].splitlines()[0]}"
    return (
        f"{row['layer']}: {row['ops']} ops, {row['message_ops']} of messages; error/tolerance interpreter "
        f"{row['interpreter_error']:.3f} cpu {row.get('cpu_error', float('nan')):.3f}"
    )


def main() -> None:
    """Measure all layers and print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("layers", nargs="*", help="names of layers; by default all")
    options.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "coverage_dgl.json")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--interpret", action="store_true", help="leave out the compiled code")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    selected = [case for case in cases() if not chosen.layers or case.layer in chosen.layers]
    rows = []
    for case in selected:
        rows.append(measure(case, chosen.seed, not chosen.interpret))
        console.print(one_line(rows[-1]))
    if not chosen.layers:
        rows += untried(selected)
    covered = [row for row in rows if row["covered"]]
    if not chosen.layers and not chosen.interpret:
        counts = {"layers": len(rows), "covered": len(covered)}
        write_results(chosen.json, "coverage_dgl", {"seed": chosen.seed, **counts, "rows": rows})
    console.print(f"{len(covered)} of {len(rows)} layers agree with DGL {dgl.__version__}")


if __name__ == "__main__":
    main()
