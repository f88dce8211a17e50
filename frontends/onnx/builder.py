"""Building the graph: names, constants, and IR values of operands."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, count

import numpy as np

from plait.frontends.onnx.operand import Operand
from plait.frontends.onnx.places import readable
from plait.ir import Constant, Dim, Graph, Loc, Op, QuantType, TensorType, Type, Value
from plait.ir import types as t
from plait.ir.graph import NAME
from plait.ir.ops import core
from plait.ir.region import Region


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
        self._regions: list[Region] = []
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
        names = [self.unique(hint) for _ in range(len(op.infer()))]
        region = self._regions[-1] if self._regions else None
        return self.graph.add(op, names=names, loc=self.loc, region=region)

    def emit(self, op: Op, hint: str) -> Value:
        """Add an op with one result and return that."""
        return self.add(op, hint).result

    def declare_count(self, hint: str, high: int | None = None) -> Dim:
        """A dim of its own, 0 and above, for the number of elements or rounds that an op finds."""
        base = re.sub(r"\W", "_", f"n_{hint}")
        name = next(n for n in chain([base], (f"{base}_{i}" for i in count(1))) if n not in self.graph.dims)
        return self.graph.declare_dim(name, 0, high)

    # -- regions ------------------------------------------------------------------
    def region(self, types: Iterable[Type], hint: str) -> Region:
        """An empty region with parameters of these types."""
        names = [(self.graph.take_name(self.unique(hint)), kind) for kind in types]
        return Region([Value(name, kind) for name, kind in names])

    @contextmanager
    def inside(self, region: Region) -> Iterator[None]:
        """Put ops into a region; what it holds is discarded where an error ends the block."""
        loc = self.loc
        self._regions.append(region)
        try:
            yield
        except BaseException:
            self.discard(region)
            raise
        finally:
            self._regions.pop()
            self.loc = loc

    def discard(self, region: Region) -> None:
        """Remove all ops of a region that no op holds yet, and the dims that they bind."""
        region.set_results(())
        for op in reversed(region):
            for inner in op.regions:
                self.discard(inner)
            if op.bound_dim is not None:
                del self.graph.dims[op.bound_dim]
            self.graph.erase(op)

    def constant(self, array: np.ndarray, name: str, type: Type | None = None) -> Constant:
        """Add a constant under exactly `name`, which `unique` gave or the model reserved."""
        return self.graph.add_constant(name, array, type)

    def value(self, operand: Operand, hint: str) -> Value:
        """The IR value of an operand; known numbers become a constant, a fill or dim values.

        They do so once, and again where the first place lies in a region that is over.
        """
        if operand.value is None or (operand.home is not None and operand.home not in self._regions):
            assert operand.numbers is not None
            operand.value = None
            operand.value = self._materialise(operand, hint)
            kept = not isinstance(operand.value, Constant) and self._regions
            operand.home = self._regions[-1] if kept else None
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
        self._sweep(self.graph.body)
        referred: set[str] = set()
        for value in (*self.graph.values(), *self.graph.constants.values()):
            if isinstance(value.type, QuantType):
                referred.update(value.type.references)
        for constant in list(self.graph.constants.values()):
            if not constant.users and constant.name not in referred:
                self.graph.remove_constant(constant)

    def _sweep(self, region: Region) -> None:
        for op in reversed(region):
            if op.pure and not any(value.users for value in op.results):
                self.graph.erase(op)
            else:
                for inner in op.regions:
                    self._sweep(inner)
