"""Adding ops, constants and states under the names and locations of NIR nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from plait.frontends.nir.structure import Network, Node, Path
from plait.ir import (
    Constant,
    DType,
    Graph,
    IntLike,
    Loc,
    LoweringError,
    Op,
    PlaitError,
    Region,
    TensorType,
    Type,
    Value,
)
from plait.ir import types as t
from plait.ir.ops import core


class Builder:
    """Adds ops to the graph, or to the region it is inside of.

    Attributes:
        graph: the graph.
        network: what is lowered.
        dt: the time step, in seconds.
        batch: the number of samples.
        constants: the constants of each node, by field.
    """

    def __init__(self, graph: Graph, network: Network, batch: IntLike, dt: float) -> None:
        self.graph, self.network, self.batch, self.dt = graph, network, batch, dt
        self.constants: dict[Path, dict[str, Constant]] = {}
        self._region: Region | None = None
        self._parameters: dict[tuple[Path, str, DType], Value] = {}
        self._kept: dict[tuple[Path, str], Value] = {}

    # -- ops ----------------------------------------------------------------------
    def add(self, node: Node, op: Op, hint: str = "") -> Op:
        """Add an op of a node; its results are named after the node and `hint`.

        Raises LoweringError, with the node, where the op is not valid.
        """
        name = f"{node.label}.{hint}" if hint else node.label
        try:
            return self.graph.add(op, name=name, loc=Loc.at(node.label), region=self._region)
        except LoweringError:
            raise
        except PlaitError as problem:
            why = problem.why or f"no {op.opname} computes it"
            raise self.network.error(problem.what, node.path, why=why, remedy=problem.remedy) from None

    def emit(self, node: Node, op: Op, hint: str = "") -> Value:
        """Add an op with one result and return that."""
        return self.add(node, op, hint).result

    def full(
        self, node: Node, number: float, element: DType, shape: Sequence[IntLike] = (), hint: str = "number"
    ) -> Value:
        """A tensor that holds one number."""
        return self.emit(node, core.Full(value=number, out=TensorType(element, tuple(shape))), hint)

    def cast(self, node: Node, x: Value, element: DType, hint: str) -> Value:
        """`x` in another element type; itself where it has it."""
        if x.shaped.dtype == element:
            return x
        return self.emit(node, core.Cast(x, out=TensorType(element, x.shaped.shape)), hint)

    def reshape(self, node: Node, x: Value, shape: Sequence[IntLike], hint: str = "") -> Value:
        """`x` under another shape; itself where it has it."""
        if x.shaped.shape == tuple(shape):
            return x
        return self.emit(node, core.Reshape(x, out=x.shaped.with_shape(tuple(shape))), hint)

    def total(self, node: Node, values: Sequence[Value]) -> Value:
        """The sum of what several edges bring."""
        whole = values[0]
        for value in values[1:]:
            whole = self.emit(node, core.Add(whole, value), "sum")
        return whole

    # -- parameters -----------------------------------------------------------------
    def parameter(self, node: Node, name: str, element: DType = t.f32) -> Value:
        """A parameter in an element type.

        The constant itself keeps the numbers and the element type of the NIR node, so that
        they can be written back; parameters are made outside of the loop.
        """
        key = (node.path, name, element)
        if key not in self._parameters:
            assert self._region is None, "parameters are made before the loop"
            self._parameters[key] = self.cast(node, self.constant(node, name), element, f"{name}.{element}")
        return self._parameters[key]

    def constant(self, node: Node, name: str) -> Constant:
        """The numbers of a parameter as the NIR node holds them."""
        held = self.constants.setdefault(node.path, {})
        if name in held:
            return held[name]
        array = np.array(node.array(name), order="C")
        try:
            constant = self.graph.add_constant(self.graph.free_name(f"{node.label}.{name}"), array)
        except (PlaitError, ValueError, KeyError, TypeError):
            raise self.network.error(
                f"{name} holds {array.dtype}", node.path, why="parameters are real numbers"
            ) from None
        held[name] = constant
        return constant

    def keep(self, node: Node, name: str, value: Value) -> None:
        """Remember what was made of a node's parameters outside of the loop."""
        self._kept[node.path, name] = value

    def kept(self, node: Node, name: str) -> Value:
        """What `keep` was given."""
        return self._kept[node.path, name]

    # -- regions ----------------------------------------------------------------------
    def region(self, params: Iterable[tuple[str, Type]]) -> Region:
        """An empty region with parameters of these names, where free, and types."""
        return Region([Value(self.graph.fresh_name(name), kind) for name, kind in params])

    @contextmanager
    def inside(self, region: Region) -> Iterator[None]:
        """Put ops into a region."""
        self._region = region
        try:
            yield
        finally:
            self._region = None

    def signal(self, shape: Sequence[int]) -> TensorType:
        """The type of a signal at one step: f32[B, *shape]."""
        return TensorType(t.f32, (self.batch, *shape))
