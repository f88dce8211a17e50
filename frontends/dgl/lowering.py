"""Lowering of a traced DGL model: topologies become graph inputs, node markers vanish."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.fx import Node

from plait.frontends.dgl import rules as _rules  # noqa: F401  # registers the rules
from plait.frontends.dgl.examples import Slot, read_inputs
from plait.frontends.dgl.interception import intercepted
from plait.frontends.pytorch.arguments import Call
from plait.frontends.pytorch.capture import Captured, capture
from plait.frontends.pytorch.dtypes import element_type
from plait.frontends.pytorch.lowering import Lowering
from plait.ir.dims import Dim
from plait.ir.graph import Graph
from plait.ir.types import GraphType
from plait.ir.value import Value


def lower(
    model: torch.nn.Module, inputs: Any, dynamic: Mapping[str, Mapping[int, Any]] | None, name: str
) -> Graph:
    """See `plait.frontends.dgl.lower_dgl`."""
    found, arguments = read_inputs(model, inputs, dynamic)
    traced = _with_tensors(model, arguments)
    tensors = [slot.tensor for slot in found.slots]
    leaves = Call.bind(traced, {"tensors": tensors}).names
    axes = {leaf: dict(slot.dims) for leaf, slot in zip(leaves, found.slots, strict=True) if slot.dims}
    with intercepted(model):
        captured = capture(traced, {"tensors": tensors}, axes)
    captured.input_names[:] = [slot.name for slot in found.slots]
    return DGLLowering(captured, name, type(model).__name__, found.slots).run()


def _with_tensors(model: torch.nn.Module, arguments: Callable[[list[torch.Tensor]], Any]) -> torch.nn.Module:
    """The model with a `forward` that takes tensors; modules and parameters keep their paths."""
    traced: torch.nn.Module = object.__new__(type(model))
    traced.__dict__.update(model.__dict__)

    def forward(tensors: list[torch.Tensor]) -> Any:
        args, kwargs = arguments(tensors)
        return type(model).forward(traced, *args, **kwargs)

    traced.forward = forward
    return traced


class DGLLowering(Lowering):
    """One run for a traced DGL model."""

    def __init__(self, captured: Captured, name: str, model: str, slots: list[Slot]) -> None:
        super().__init__(captured, name, model)
        self._slots = {slot.name: slot for slot in slots}

    def run(self) -> Graph:
        """Lower all and drop dims that nothing has."""
        graph = super().run()
        used = {name for value in graph.values() for name in value.type.symbols}
        for dim in set(graph.dims) - used:
            del graph.dims[dim]
        return graph

    def _input(self, node: Node, name: str) -> Any:
        slot = self._slots[name]
        if not node.users:
            return None
        if slot.kind != "topology":
            return super()._input(node, name)
        sources = None if slot.sources is None else Dim.symbol(slot.sources)
        (edges,) = (Dim.symbol(dim[0]) for dim in slot.dims.values())
        index = element_type(slot.tensor.dtype)
        return self._graph.add_input(name, GraphType(Dim.symbol(slot.nodes), edges, "coo", index, sources))

    def _check(self, name: str, values: Any, loc: Any) -> None:
        if not any(isinstance(each, Value) and isinstance(each.type, GraphType) for each in values):
            super()._check(name, values, loc)
