"""A Relax function while it is written: the dims, arrays and parameters that are known in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tvm_ffi
from tvm import relax, tirx

from plait.backends.tvm.groups import GroupCode, identifier
from plait.backends.tvm.layouts import Layouts, physical
from plait.backends.tvm.partition import Group
from plait.backends.tvm.shapes import components, to_shape
from plait.ir import Constant, IntLike, Op, Region, ShapedType, Type, Value
from plait.ir.graph import DimRange

ParameterKey = tuple[Constant, str]


@dataclass(frozen=True)
class Parameter:
    """A constant in the layout that kernels take."""

    name: str
    array: np.ndarray
    shape: tuple[IntLike, ...]
    dtype: str


@dataclass
class Plan:
    """What a region becomes: its steps, and what its function takes beside the region's parameters.

    Attributes:
        name: of the function.
        dims: names of the dims that are known where the region runs.
        captured: values from outside that it reads.
        parameters: constants that it, or a region inside, reads.
        slices: for the body of a scan, how each slice is read from its sequence.
    """

    region: Region
    name: str
    dims: list[str]
    captured: list[Value] = field(default_factory=list)
    steps: list[tuple[Group | Op, GroupCode | None, tuple[Plan, ...]]] = field(default_factory=list)
    parameters: dict[ParameterKey, Parameter] = field(default_factory=dict)
    slices: list[tuple[Group, GroupCode]] = field(default_factory=list)
    pointer: Any = None  # the global variable of its function


class Frame:
    """One function under construction.

    Attributes:
        builder: of the module.
        plan: of the function.
        ranges: of the dims of the graph.
        layouts: in which order values lie in memory.
        dims: the variable of each dim whose value is known.
    """

    def __init__(
        self, builder: relax.BlockBuilder, plan: Plan, ranges: Mapping[str, DimRange], layouts: Layouts
    ) -> None:
        self.builder = builder
        self.plan = plan
        self.ranges = ranges
        self.layouts = layouts
        self.dims = {name: tirx.Var(name, "int64") for name in plan.dims}
        self._env: dict[tuple[Value, int], Any] = {}
        self.shape_var = relax.Var("dims", relax.ShapeType(values=[self.dims[name] for name in plan.dims]))
        self._parameters = {
            key: relax.Var(identifier(made.name), self.tensor(made.shape, made.dtype))
            for key, made in plan.parameters.items()
        }

    # -- types ------------------------------------------------------------------------
    def shape(self, dims: Sequence[IntLike]) -> Any:
        """A shape as an expression over the dims of the function."""
        return relax.ShapeExpr(to_shape(dims, self.dims))

    def tensor(self, shape: Sequence[IntLike], dtype: str) -> Any:
        """The Relax type of an array."""
        return relax.TensorType(self.shape(shape), dtype)

    def types(self, types: Sequence[Type]) -> list[Any]:
        """The Relax types of all arrays that hold values of some types."""
        return [self.tensor(shape, dtype) for kind in types for shape, dtype in components(kind)]

    # -- values -----------------------------------------------------------------------
    def declare(self, value: Value) -> list[relax.Var]:
        """Variables of the function for the arrays of a value that it takes."""
        found = []
        parts = components(value.type)
        for index, (shape, dtype) in enumerate(parts):
            suffix = f"_{index}" if len(parts) > 1 else ""
            var = relax.Var(identifier(value.name + suffix), self.tensor(shape, dtype))
            self._env[value, index] = var
            found.append(var)
        return found

    @property
    def parameters(self) -> list[relax.Var]:
        """Variables of the constants that the function takes."""
        return list(self._parameters.values())

    def read(self, value: Value, component: int = 0, layout: str = "") -> Any:
        """An array of a value."""
        if isinstance(value, Constant):
            return self._parameters[value, layout]
        return self._env[value, component]

    def read_all(self, values: Sequence[Value]) -> list[Any]:
        """All arrays of some values."""
        return [self.read(value, index) for value in values for index in range(len(components(value.type)))]

    def write(self, value: Value, array: Any, component: int = 0) -> None:
        """Set an array of a value."""
        self._env[value, component] = array

    def write_all(self, values: Sequence[Value], arrays: Sequence[Any]) -> None:
        """Set all arrays of some values."""
        places = [(value, index) for value in values for index in range(len(components(value.type)))]
        self._env.update(zip(places, arrays, strict=True))

    def emit(self, expression: Any) -> Any:
        """A variable bound to an expression."""
        return self.builder.emit(expression)

    def items(self, pack: Any, first: int, count: int) -> list[Any]:
        """Some items of a tuple."""
        return [self.emit(relax.TupleGetItem(pack, first + k)) for k in range(count)]

    # -- steps ------------------------------------------------------------------------
    def call(self, group: Group, code: GroupCode) -> None:
        """Compute a group by its kernels."""
        made: list[list[Any]] = []

        def fetch(source: Any) -> Any:
            value = code.resolve(source, group)
            if value is None:
                return made[source.stage][source.component]
            return self.read(value, source.component, source.packing.key if source.packing else "")

        for kernel in code.kernels:
            stage = kernel.stage
            arguments = [fetch(source) for source in stage.sources]
            mapping = {var: self.dims[var.name] for var in kernel.variables()}
            types = [
                relax.TensorType(relax.ShapeExpr([_renamed(dim, mapping) for dim in shape]), dtype)
                for shape, dtype in kernel.outputs
            ]
            arguments += [self.dims[var.name] for var in stage.scalars]
            result = self.emit(
                relax.call_tir(kernel.pointer, arguments, types if len(types) > 1 else types[0])
            )
            made.append(self.items(result, 0, len(types)) if len(types) > 1 else [result])
        for value, source in zip(group.sink.results, code.results, strict=True):
            self.write(value, fetch(source))

    def view(self, op: Op) -> None:
        """Give the bytes of an operand the shape of the result."""
        (result,), source = op.results, op.operands[0]
        array = self.read(source)
        if isinstance(result.type, ShapedType):
            before = physical(self.layouts.get(source), source.shaped.shape)
            after = physical(self.layouts.get(result), result.shaped.shape)
            if before != after:
                array = self.emit(relax.op.reshape(array, self.shape(after)))
        self.write(result, array)


def _renamed(dim: Any, mapping: dict[tirx.Var, tirx.Var]) -> Any:
    """A dim of a kernel in terms of the dims of a function."""
    if not mapping:
        return dim
    return tvm_ffi.structural_map(dim, (tirx.Var, lambda var: mapping.get(var, var)), order="post")


__all__ = ["Frame", "Parameter", "ParameterKey", "Plan"]
