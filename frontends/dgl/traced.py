"""The stand-in for a DGLGraph while a model is traced: topologies as tensors, symbolic counts.

DGL's own Python keeps working on it (scopes, views, node and edge types); everything
that would reach DGL's kernels records an operator of `plait.frontends.dgl.operators`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from dgl.base import ALL, DGLError, is_all
from dgl.heterograph import DGLBlock, DGLGraph

from plait.frontends.dgl import operators, passing
from plait.frontends.dgl.numbers import Degrees
from plait.ir.errors import LoweringError


@dataclass
class Relation:
    """The edges of one type: topology [2, E], numbers of source and destination nodes."""

    topology: torch.Tensor
    sources: int | torch.SymInt
    nodes: int | torch.SymInt
    metagraph: Any
    bipartite: bool

    @property
    def edges(self) -> int | torch.SymInt:
        return self.topology.shape[1]


@dataclass
class TracedIndex:
    """What a traced graph has in place of DGL's index of edges.

    Attributes:
        metagraph: DGL's graph of node and edge types, which does not depend on the edges.
        relations: one entry for each edge type.
        counts: number of nodes of each node type.
    """

    metagraph: Any
    relations: list[Relation]
    counts: list[Any]
    example: Any = field(repr=False)

    def number_of_etypes(self) -> int:
        return len(self.relations)

    def number_of_ntypes(self) -> int:
        return len(self.counts)

    def num_nodes(self, node_type: int) -> Any:
        return self.counts[node_type]

    def num_edges(self, edge_type: int) -> Any:
        return self.relations[edge_type].edges

    def is_metagraph_unibipartite(self) -> bool:
        return bool(self.example.is_metagraph_unibipartite())

    def is_pinned(self) -> bool:
        return False

    @property
    def dtype(self) -> str:
        return str(self.relations[0].topology.dtype).removeprefix("torch.")

    def get_relation_graph(self, edge_type: int) -> TracedIndex:
        relation = self.relations[edge_type]
        counts = [relation.sources, relation.nodes] if relation.bipartite else [relation.nodes]
        example = self.example.get_relation_graph(edge_type)
        return TracedIndex(relation.metagraph, [relation], counts, example)

    def changed(self, relation: Relation) -> TracedIndex:
        """The index with its only relation replaced."""
        return TracedIndex(self.metagraph, [relation], self.counts, self.example)

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__") or name in type(self).__annotations__:
            raise AttributeError(name)
        refuse(f"a query of the edges ({name})", "it depends on the edges of one graph")


def refuse(what: str, why: str, remedy: str = "compute it outside the model and pass it in") -> NoReturn:
    """Raise LoweringError about a use of the graph that cannot be traced."""
    raise LoweringError(f"{what} cannot be traced", why=why, remedy=remedy)


class TracedFrame(dict[str, Any]):
    """Features of the nodes or edges of one type, by name."""

    def __init__(self, rows: Any, features: Mapping[str, Any] = {}) -> None:
        super().__init__(features)
        self.num_rows = rows

    def clone(self) -> TracedFrame:
        return TracedFrame(self.num_rows, self)

    def to(self, device: Any, **options: Any) -> TracedFrame:
        return self


class Traced:
    """The part of a traced graph that replaces methods of DGLGraph; see `TracedGraph`."""

    _graph: TracedIndex
    _node_frames: list[TracedFrame]
    _edge_frames: list[TracedFrame]
    _batch_num_nodes: dict[str, torch.Tensor] | None
    _batch_num_edges: dict[Any, torch.Tensor] | None
    ntypes: list[str]
    canonical_etypes: list[tuple[str, str, str]]
    get_etype_id: Callable[[Any], int]
    get_ntype_id: Callable[[Any], int]

    def __init__(
        self, index: TracedIndex, ntypes: Any, etypes: Any, node_frames: Any, edge_frames: Any
    ) -> None:
        self._init(index, ntypes, etypes, node_frames, edge_frames)  # type: ignore[attr-defined]

    # -- what message passing asks for ------------------------------------------------
    @property
    def relation(self) -> Relation:
        """The only edge type.  Raises DGLError where there are several."""
        if len(self._graph.relations) != 1:
            raise DGLError("Edge type name must be specified if there are more than one edge types.")
        return self._graph.relations[0]

    def relation_of(self, edge_type: Any) -> Relation:
        """The edges of a type; of the only one for None."""
        return self._graph.relations[self.get_etype_id(edge_type)]

    def part(self, edge_type: Any) -> Traced:
        """The graph of one edge type, which shares its frames with this one."""
        if edge_type is None and len(self._graph.relations) == 1:
            return self
        return self[self.canonical_etypes[self.get_etype_id(edge_type)]]  # type: ignore[index,no-any-return]

    # -- degrees, ends and counts -------------------------------------------------------
    def in_degrees(self, v: Any = ALL, etype: Any = None) -> Any:
        relation = self.relation_of(etype)
        return self._degrees(operators.degree(relation.topology, relation.nodes, "dst"), v)

    def out_degrees(self, u: Any = ALL, etype: Any = None) -> Any:
        relation = self.relation_of(etype)
        return self._degrees(operators.degree(relation.topology, relation.sources, "src"), u)

    def _degrees(self, degrees: torch.Tensor, nodes: Any) -> Any:
        return Degrees(degrees) if is_all(nodes) else degrees[nodes]

    def all_edges(self, form: str = "uv", order: str = "eid", etype: Any = None) -> Any:
        relation = self.relation_of(etype)
        if order != "eid":
            refuse(f"edges(order='{order}')", "it sorts the edges of one graph")
        source = operators.edge_ends(relation.topology, relation.sources, "src")
        destination = operators.edge_ends(relation.topology, relation.nodes, "dst")
        if form == "uv":
            return source, destination
        count: Any = relation.edges
        numbers = torch.arange(count, dtype=relation.topology.dtype, device=self.device)
        return numbers if form == "eid" else (source, destination, numbers)

    @property
    def device(self) -> torch.device:
        return self._graph.relations[0].topology.device

    def to(self, device: Any, **options: Any) -> Traced:
        return self

    @property
    def batch_size(self) -> Any:
        return self.batch_num_nodes(self.ntypes[0]).shape[0]

    def batch_num_nodes(self, ntype: str | None = None) -> torch.Tensor:
        lengths = self._batch_num_nodes
        if lengths is None:
            refuse("the batch of a changed graph", "a part of a heterograph has no node counts of its own")
        return lengths[self.ntypes[self.get_ntype_id(ntype)]]

    def batch_num_edges(self, etype: Any = None) -> torch.Tensor:
        lengths = self._batch_num_edges
        if lengths is None:
            refuse("the batch of a changed graph", "the numbers of edges per graph are not known after it")
        return lengths[self.canonical_etypes[self.get_etype_id(etype)]]

    # -- frames -------------------------------------------------------------------------
    def _set_n_repr(self, node_type: int, u: Any, data: Mapping[str, Any]) -> None:
        _store(self._node_frames[node_type], u, data, "nodes")

    def _set_e_repr(self, edge_type: int, edges: Any, data: Mapping[str, Any]) -> None:
        _store(self._edge_frames[edge_type], edges, data, "edges")

    def _get_n_repr(self, node_type: int, u: Any) -> TracedFrame:
        return _rows_of(self._node_frames[node_type], u)

    def _get_e_repr(self, edge_type: int, edges: Any) -> TracedFrame:
        return _rows_of(self._edge_frames[edge_type], edges)

    # -- message passing ------------------------------------------------------------------
    def apply_edges(self, func: Any, edges: Any = ALL, etype: Any = None) -> None:
        if not is_all(edges):
            refuse("apply_edges on some edges", "the number of these depends on the data")
        part = self.part(etype)
        part._edge_frames[0].update(passing.send(part, func))

    def apply_nodes(self, func: Any, v: Any = ALL, ntype: str | None = None) -> None:
        if not is_all(v):
            refuse("apply_nodes on some nodes", "the number of these depends on the data")
        frame = self._node_frames[self.get_ntype_id(ntype)]
        frame.update(func(passing.Nodes(frame)))

    def update_all(
        self, message_func: Any, reduce_func: Any, apply_node_func: Any = None, etype: Any = None
    ) -> None:
        part = self.part(etype)
        found = passing.pass_messages(part, message_func, reduce_func, apply_node_func)
        part._node_frames[-1].update(found)

    def multi_update_all(
        self, etype_dict: Mapping[Any, Any], cross_reducer: Any, apply_node_func: Any = None
    ) -> None:
        arriving: dict[int, list[dict[str, Any]]] = {}
        ends: dict[int, str] = {}
        for edge_type, functions in etype_dict.items():
            number = self.get_etype_id(edge_type)
            kind = self.canonical_etypes[number][2]
            _, node_type = self._graph.metagraph.find_edge(number)
            found = passing.pass_messages(self.part(self.canonical_etypes[number]), *functions)
            arriving.setdefault(node_type, []).append(found)
            ends[node_type] = kind
        for node_type, results in arriving.items():
            frame = self._node_frames[node_type]
            frame.update(passing.across_relations(results, cross_reducer))
            if apply_node_func is not None:
                frame.update(apply_node_func(passing.Nodes(frame)))

    def send_and_recv(self, *arguments: Any, **options: Any) -> NoReturn:
        refuse("send_and_recv", "it passes messages on some edges only", "use update_all")

    def pull(self, *arguments: Any, **options: Any) -> NoReturn:
        refuse("pull", "it passes messages to some nodes only", "use update_all")

    def push(self, *arguments: Any, **options: Any) -> NoReturn:
        refuse("push", "it passes messages from some nodes only", "use update_all")

    # -- changed graphs ---------------------------------------------------------------------
    def reverse(self, copy_ndata: bool = True, copy_edata: bool = False) -> Traced:
        """The graph with every edge turned round."""
        relation = self.relation
        turned = Relation(
            operators.reverse(relation.topology),
            relation.nodes,
            relation.sources,
            relation.metagraph,
            relation.bipartite,
        )
        if relation.bipartite:
            refuse("reverse of a bipartite graph", "its node types would change places")
        made = self._with(turned, edges_kept=True)
        if not copy_ndata:
            made._node_frames = [TracedFrame(relation.nodes)]
        if not copy_edata:
            made._edge_frames = [TracedFrame(relation.edges)]
        return made

    def add_self_loop(self, edge_feat_names: Any = None, fill_data: float = 1.0, etype: Any = None) -> Traced:
        """The graph with an edge from each node to itself; these have the feature `fill_data`."""
        relation = self.relation
        if relation.bipartite:
            raise DGLError("add_self_loop does not support bipartite graphs")
        if not isinstance(fill_data, (int, float)):
            refuse(f"add_self_loop(fill_data={fill_data!r})", "a number is wanted")
        topology = operators.self_loops(relation.topology, relation.nodes)
        looped = Relation(topology, relation.sources, relation.nodes, relation.metagraph, False)
        made = self._with(looped, edges_kept=False)
        made._edge_frames = [TracedFrame(looped.edges)]
        for name, feature in self._edge_frames[0].items():
            if edge_feat_names is None or name in edge_feat_names:
                filling = feature.new_full((relation.nodes, *feature.shape[1:]), fill_data)
                made._edge_frames[0][name] = torch.cat([feature, filling])
        return made

    def remove_self_loop(self, etype: Any = None) -> NoReturn:
        refuse(
            "remove_self_loop",
            "the number of edges that are left depends on the data",
            "remove the loops before the call",
        )

    def _with(self, relation: Relation, edges_kept: bool) -> Traced:
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__)
        made._graph = self._graph.changed(relation)
        made._node_frames = [frame.clone() for frame in self._node_frames]
        made._edge_frames = [frame.clone() for frame in self._edge_frames]
        if not edges_kept:
            made._batch_num_edges = None
        return made


def _store(frame: TracedFrame, rows: Any, data: Mapping[str, Any], kind: str) -> None:
    if not is_all(rows):
        refuse(f"features of some {kind}", "rows are written at places that depend on the data")
    for name, feature in data.items():
        if feature.shape[0] != frame.num_rows:
            raise DGLError(f"Expect '{name}' to have one row for each of the {kind}.")
    frame.update({name: _tensor(feature) for name, feature in data.items()})


def _tensor(feature: Any) -> Any:
    return feature.tensor if isinstance(feature, Degrees) else feature


def _rows_of(frame: TracedFrame, rows: Any) -> TracedFrame:
    if is_all(rows):
        return frame
    return TracedFrame(rows.shape[0], {name: feature[rows] for name, feature in frame.items()})


class TracedGraph(Traced, DGLGraph):  # type: ignore[misc]
    """A DGLGraph whose edges are a tensor."""


class TracedBlock(Traced, DGLBlock):  # type: ignore[misc]
    """A DGLBlock (a bipartite graph whose first sources are its destinations) whose edges are a tensor."""


def stand_in(
    example: DGLGraph,
    relations: list[Relation],
    counts: list[Any],
    node_features: list[Mapping[str, torch.Tensor]],
    edge_features: list[Mapping[str, torch.Tensor]],
    lengths: tuple[dict[str, torch.Tensor], dict[Any, torch.Tensor]],
) -> Traced:
    """A traced graph with the node and edge types of `example`, edges and features from tensors."""
    made: Traced = object.__new__(TracedBlock if example.is_block else TracedGraph)
    made.__dict__.update(example.__dict__)
    made._graph = TracedIndex(example._graph.metagraph, relations, counts, example._graph)
    made._node_frames = [TracedFrame(n, f) for n, f in zip(counts, node_features, strict=True)]
    made._edge_frames = [TracedFrame(r.edges, f) for r, f in zip(relations, edge_features, strict=True)]
    made._batch_num_nodes, made._batch_num_edges = lengths
    return made


__all__ = ["Relation", "Traced", "TracedBlock", "TracedGraph", "TracedIndex", "stand_in"]
