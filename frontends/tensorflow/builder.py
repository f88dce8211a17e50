"""Building the graph: names, constants, layouts, and IR values of operands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from plait.frontends.nodes.builder import NodeBuilder
from plait.frontends.tensorflow.elements import channels_first, channels_last, keeps_order
from plait.frontends.tensorflow.operand import Operand
from plait.frontends.tensorflow.places import readable
from plait.ir import Constant, Graph, IntLike, Op, Region, Value
from plait.ir.ops import core


class Builder(NodeBuilder[Operand]):
    """Adds ops and constants to a graph under readable names that are all different.

    Attributes:
        graph, loc: as for every `NodeBuilder`.
        region: the region that ops go to.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.region = graph.body

    @contextmanager
    def inside(self, region: Region) -> Iterator[None]:
        """Ops go to another region for a while."""
        outer, self.region = self.region, region
        try:
            yield
        finally:
            self.region = outer

    def add(self, op: Op, hint: str) -> Op:
        return self.graph.add(op, name=readable(hint), loc=self.loc, region=self.region)

    def constant(self, array: np.ndarray, hint: str) -> Constant:
        """A constant under a name like `hint`."""
        dense = np.ascontiguousarray(array).reshape(array.shape)  # numpy gives a scalar an axis
        return self.graph.add_constant(self.graph.free_name(readable(hint)), dense)

    # -- operands as values ---------------------------------------------------------
    def value(self, operand: Operand, hint: str) -> Value:
        """The IR value in the layout of the source; made on demand, once."""
        if operand.value is None:
            if operand.rows is not None:
                source = self.value(operand.rows, hint)
                operand.value = self.reshape(source, operand.shape, hint)
            elif operand.first is not None:
                last = channels_last(operand.rank)
                operand.value = self.transpose(operand.first, last, f"{operand.first.name}.channels_last")
            else:
                operand.value = self._materialise(operand, hint)
        return operand.value

    def first(self, operand: Operand, hint: str) -> Value:
        """The IR value with the last axis moved behind the first; made on demand, once."""
        if operand.first is None:
            order = channels_first(operand.rank)
            if operand.value is None and operand.array is not None and operand.numbers is not None:
                operand.first = self.derived(operand, ("transpose", order), operand.numbers.transpose(order))
            else:
                value = self.value(operand, hint)
                operand.first = self.transpose(value, order, f"{value.name}.channels_first")
        return operand.first

    def derived(self, operand: Operand, key: object, array: np.ndarray) -> Value:
        """A constant computed from the numbers of an operand, made once for each `key`."""
        place = (id(self.graph), key)
        if place not in operand.constants:
            operand.constants[place] = self.constant(array, operand.name or "constant")
        return operand.constants[place]

    def transpose(self, x: Value, permutation: Sequence[int], hint: str) -> Value:
        """`x` with its axes in another order; a reshape where only axes of size 1 move."""
        shape = x.shaped.shape
        if list(permutation) == list(range(len(shape))):
            return x
        if keeps_order(shape, permutation):
            return self.reshape(x, [shape[axis] for axis in permutation], hint)
        return self.emit(core.Transpose(x, permutation=tuple(permutation)), hint)

    def reshape(self, x: Value, shape: Sequence[IntLike], hint: str) -> Value:
        """`x` under another shape; itself where it has it."""
        if x.shaped.shape == tuple(shape):
            return x
        return self.emit(core.Reshape(x, out=x.shaped.with_shape(tuple(shape))), hint)

    def _materialise(self, operand: Operand, hint: str) -> Value:
        numbers = operand.numbers
        assert numbers is not None
        if operand.symbolic:
            return self.dim_values(operand, hint)
        if numbers.ndim == 0 and operand.element.kind != "complex":
            return self.emit(core.Full(value=numbers.item(), out=operand.type), operand.name or hint)
        return self.derived(operand, "plain", numbers)
