"""Building the graph of a model that is a list of nodes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from plait.frontends.nodes.operand import NodeOperand
from plait.ir import Dim, Graph, Loc, Op, QuantType, Region, TensorType, Value
from plait.ir import types as t
from plait.ir.ops import core

O = TypeVar("O", bound=NodeOperand)


class NodeBuilder(ABC, Generic[O]):
    """Adds ops and constants to a graph under readable names that are all different.

    Attributes:
        graph: the graph.
        loc: the location that ops get.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.loc = Loc()

    @abstractmethod
    def add(self, op: Op, hint: str) -> Op:
        """Add an op; its results are named after `hint`, the first one exactly so where free."""

    @abstractmethod
    def value(self, operand: O, hint: str) -> Value:
        """The IR value of an operand; made on demand, once, where its numbers are known."""

    def emit(self, op: Op, hint: str) -> Value:
        """Add an op with one result and return that."""
        return self.add(op, hint).result

    def dim_values(self, operand: O, hint: str) -> Value:
        """Run-time code for numbers that hold dims, needed where an op reads them as data."""
        assert operand.numbers is not None
        one = TensorType(t.i64, (1,))
        parts: list[Value] = []
        for element in operand.numbers.flat:
            if isinstance(element, Dim):
                scalar = self.emit(core.DimValue(dim=element), f"{hint}.dim")
                parts.append(self.emit(core.Reshape(scalar, out=one), f"{hint}.dim"))
            else:
                parts.append(self.emit(core.Full(value=int(element), out=one), f"{hint}.dim"))
        value = parts[0] if len(parts) == 1 else self.emit(core.Concat(tuple(parts), axis=0), f"{hint}.dims")
        whole = TensorType(t.i64, tuple(operand.numbers.shape))
        if value.type != whole:
            value = self.emit(core.Reshape(value, out=whole), f"{hint}.dims")
        if operand.element != t.i64:
            out = TensorType(operand.element, whole.shape)
            value = self.emit(core.Cast(value, out=out), f"{hint}.dims")
        return value

    # -- cleaning -------------------------------------------------------------------
    def remove_dead(self) -> None:
        """Remove pure ops that nothing reads, then constants that nothing reads or refers to."""
        self.sweep(self.graph.body)
        referred: set[str] = set()
        for value in (*self.graph.values(), *self.graph.constants.values()):
            if isinstance(value.type, QuantType):
                referred.update(value.type.references)
        for constant in list(self.graph.constants.values()):
            if not constant.users and constant.name not in referred:
                self.graph.remove_constant(constant)

    def sweep(self, region: Region) -> None:
        """Remove pure ops that nothing reads from a region and those inside of it."""
        for op in reversed(region):
            if op.pure and not any(value.users for value in op.results):
                self.graph.erase(op)
                continue
            for inner in op.regions:
                self.sweep(inner)
