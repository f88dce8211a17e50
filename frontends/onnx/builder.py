"""Building the graph: names, constants, and IR values of operands."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, count

import numpy as np

from plait.frontends.nodes.builder import NodeBuilder
from plait.frontends.onnx.operand import Operand
from plait.frontends.onnx.places import readable
from plait.ir import Constant, Dim, Graph, Op, TensorType, Type, Value
from plait.ir.graph import NAME
from plait.ir.ops import core
from plait.ir.region import Region


class Builder(NodeBuilder[Operand]):
    """Adds ops and constants to a graph under readable names that are all different.

    Attributes:
        graph, loc: as for every `NodeBuilder`.
        reserved: the IR names of inputs and initialisers, by their ONNX names.
    """

    def __init__(self, graph: Graph, reserved: Iterable[str]) -> None:
        super().__init__(graph)
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
        names = [self.unique(hint) for _ in range(len(op.infer()))]
        region = self._regions[-1] if self._regions else None
        return self.graph.add(op, names=names, loc=self.loc, region=region)

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
            return self.dim_values(operand, hint)
        if numbers.ndim == 0 and operand.element.kind != "complex":
            scalar = numbers.item()
            return self.emit(core.Full(value=scalar, out=kind), operand.name or hint)
        name = self.reserved.get(operand.name)
        if name is None or name in self.graph.constants:
            name = self.unique(operand.name or f"{hint}.constant")
        # numpy makes a contiguous scalar one-dimensional
        return self.constant(np.ascontiguousarray(numbers).reshape(numbers.shape), name, kind)
