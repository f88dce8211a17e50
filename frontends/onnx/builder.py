"""Building the graph: names, constants, and IR values of operands."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from plait.frontends.onnx.operand import Operand
from plait.frontends.onnx.places import readable
from plait.ir import Constant, Dim, Graph, Loc, Op, QuantType, TensorType, Type, Value
from plait.ir import types as t
from plait.ir.graph import NAME
from plait.ir.ops import core


class Builder:
    """Adds ops and constants to a graph under readable names that are all different.

    Attributes:
        graph: the graph.
        loc: the location that ops get.
        reserved: the IR names of inputs and initialisers, by their ONNX names.
    """

    def __init__(self, graph: Graph, reserved: Iterable[str]) -> None:
        self.graph = graph
        self.loc = Loc()
        self._taken: set[str] = set()
        self._suffixes: dict[str, int] = {}
        self.reserved = {name: self._reserve(name) for name in reserved}

    def _reserve(self, name: str) -> str:
        """Keep a name of the model, unchanged where the IR allows it."""
        return self._distinct(name if NAME.fullmatch(name) else readable(name))

    def unique(self, hint: str) -> str:
        """A name like `hint` that was not handed out before."""
        return self._distinct(readable(hint))

    def _distinct(self, base: str) -> str:
        if not (base[0].isalnum() or base[0] == "_"):
            base = "v" + base
        name = base
        while name in self._taken:
            self._suffixes[base] = self._suffixes.get(base, 0) + 1
            name = f"{base}_{self._suffixes[base]}"
        self._taken.add(name)
        return name

    def add(self, op: Op, hint: str) -> Op:
        """Add an op; its results are named after `hint`, the first one exactly so where free."""
        count = len(op.infer())
        return self.graph.add(op, names=[self.unique(hint) for _ in range(count)], loc=self.loc)

    def emit(self, op: Op, hint: str) -> Value:
        """Add an op with one result and return that."""
        return self.add(op, hint).result

    def constant(self, array: np.ndarray, name: str, type: Type | None = None) -> Constant:
        """Add a constant under exactly `name`, which `unique` gave or the model reserved."""
        return self.graph.add_constant(name, array, type)

    def value(self, operand: Operand, hint: str) -> Value:
        """The IR value of an operand; known numbers become a constant, a fill or dim values once."""
        if operand.value is None:
            assert operand.numbers is not None
            operand.value = self._materialise(operand, hint)
        return operand.value

    def _materialise(self, operand: Operand, hint: str) -> Value:
        numbers, kind = operand.numbers, operand.type
        assert numbers is not None
        assert isinstance(kind, TensorType)
        if operand.symbolic:
            return self._dim_values(operand, hint)
        if numbers.ndim == 0 and operand.element != t.c64:
            scalar = numbers.item()
            return self.emit(core.Full(value=scalar, out=kind), operand.name or hint)
        name = self.reserved.get(operand.name)
        if name is None or name in self.graph.constants:
            name = self.unique(operand.name or f"{hint}.constant")
        return self.constant(np.ascontiguousarray(numbers), name, kind)

    def _dim_values(self, operand: Operand, hint: str) -> Value:
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

    def remove_dead(self) -> None:
        """Remove pure ops that nothing reads, then constants that nothing reads or refers to."""
        for op in reversed(self.graph.body):
            if op.pure and not any(value.users for value in op.results):
                self.graph.erase(op)
        referred: set[str] = set()
        for value in (*self.graph.values(), *self.graph.constants.values()):
            if isinstance(value.type, QuantType):
                referred.update(value.type.references)
        for constant in list(self.graph.constants.values()):
            if not constant.users and constant.name not in referred:
                self.graph.remove_constant(constant)
