"""Functions of DGL that act on a graph without being its methods, replaced while a model is traced."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from dgl.base import is_all

from plait.frontends.dgl import operators, passing, readout
from plait.frontends.dgl.layers import FORWARDS
from plait.frontends.dgl.traced import Traced, refuse


def _combine_and_reduce(g: Any, op: str, reduce_op: str, lhs_data: Any, rhs_data: Any) -> torch.Tensor:
    return passing.combine_and_reduce(g.relation, op, reduce_op, lhs_data, rhs_data)


def _combine(
    g: Any, op: str, lhs_data: Any, rhs_data: Any, lhs_target: str = "u", rhs_target: str = "v"
) -> torch.Tensor:
    return passing.combine(g.relation, op, lhs_data, rhs_data, lhs_target, rhs_target)


def _edge_softmax(graph: Any, logits: Any, eids: Any = None, norm_by: str = "dst") -> torch.Tensor:
    if eids is not None and not is_all(eids):
        refuse("edge_softmax over some edges", "the number of these depends on the data")
    relation = graph.relation
    count = relation.nodes if norm_by == "dst" else relation.sources
    return operators.edge_softmax(relation.topology, count, logits, norm_by)


def _reverse(g: Any, copy_ndata: bool = True, copy_edata: bool = False, **_: Any) -> Any:
    return g.reverse(copy_ndata, copy_edata)


def _add_self_loop(g: Any, *arguments: Any, **options: Any) -> Any:
    return g.add_self_loop(*arguments, **options)


def _remove_self_loop(g: Any, *arguments: Any, **options: Any) -> Any:
    return g.remove_self_loop()


#: By module and name; each takes a graph first and acts on traced ones only.
_ON_GRAPHS: dict[tuple[str, str], Callable[..., Any]] = {
    ("dgl.ops.spmm", "gspmm"): _combine_and_reduce,
    ("dgl.ops.sddmm", "gsddmm"): _combine,
    ("dgl.ops.edge_softmax", "edge_softmax"): _edge_softmax,
    ("dgl.readout", "broadcast_nodes"): readout.broadcast_nodes,
    ("dgl.readout", "broadcast_edges"): readout.broadcast_edges,
    ("dgl.readout", "topk_nodes"): readout.topk_nodes,
    ("dgl.readout", "topk_edges"): readout.topk_edges,
    ("dgl.transforms.functional", "reverse"): _reverse,
    ("dgl.transforms.functional", "add_self_loop"): _add_self_loop,
    ("dgl.transforms.functional", "remove_self_loop"): _remove_self_loop,
}
#: These take tensors; nothing else runs while a model is traced.
_ON_TENSORS: dict[tuple[str, str], Callable[..., Any]] = {
    ("dgl.ops.segment", "segment_reduce"): readout.segment_reduce,
    ("dgl.ops.segment", "segment_softmax"): readout.segment_softmax,
    ("dgl.ops.segment", "segment_mm"): readout.segment_matmul,
    ("dgl.ops.gather_mm", "gather_mm"): readout.gather_matmul,
}

_ABSENT = object()


def _dispatch(original: Callable[..., Any], traced: Callable[..., Any]) -> Callable[..., Any]:
    def call(graph: Any, *arguments: Any, **options: Any) -> Any:
        chosen = traced if isinstance(graph, Traced) else original
        return chosen(graph, *arguments, **options)

    return call


@contextlib.contextmanager
def intercepted(model: torch.nn.Module) -> Iterator[None]:
    """Within it, DGL's functions record operators where they are given traced graphs.

    A function is replaced in every module that holds it under its own name, for
    layers import functions by name.  `len` becomes symbolic in DGL and in the modules
    that define the layers of `model`, for Python's own makes a size constant.
    """
    changed: list[tuple[Any, str, Any]] = []

    def change(holder: Any, name: str, replacement: Any) -> None:
        changed.append((holder, name, vars(holder).get(name, _ABSENT)))
        setattr(holder, name, replacement)

    layers = {type(module).__module__ for module in model.modules()}
    holders = [module for module in list(sys.modules.values()) if hasattr(module, "__dict__")]
    for table, on_graphs in ((_ON_GRAPHS, True), (_ON_TENSORS, False)):
        for (module, name), function in table.items():
            original = vars(importlib.import_module(module))[name]
            replacement = _dispatch(original, function) if on_graphs else function
            for holder in holders:
                if vars(holder).get(name) is original:
                    change(holder, name, replacement)
    for name, holder in list(sys.modules.items()):
        if (name.startswith("dgl.nn.") or name in layers) and not name.startswith("torch."):
            change(holder, "len", _length)
    for layer, forward in FORWARDS.items():
        change(layer, "forward", _dispatch_method(layer.forward, forward))
    try:
        yield
    finally:
        for holder, name, original in reversed(changed):
            if original is _ABSENT:
                delattr(holder, name)
            else:
                setattr(holder, name, original)


def _length(value: Any) -> Any:
    """`len`, but the symbolic number of rows of tensors and edges."""
    if isinstance(value, torch.Tensor) and value.dim():
        return value.shape[0]
    return value.batch_size() if isinstance(value, (passing.Edges, passing.Nodes)) else len(value)


def _dispatch_method(original: Callable[..., Any], traced: Callable[..., Any]) -> Callable[..., Any]:
    def forward(self: Any, graph: Any, *arguments: Any, **options: Any) -> Any:
        return (traced if isinstance(graph, Traced) else original)(self, graph, *arguments, **options)

    return forward
