"""A graph as a Relax module: one tensor function for each distinct kernel, and functions that call them.

`main` takes the values of the dims that inputs show, the inputs and the constants,
and returns the outputs.  A region becomes a function of its parameters, the dims
known where it runs, the values that it captures, and constants.  A kernel is named
after the first ops that use it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax

from plait.backends.targets import CpuTarget, Target
from plait.backends.tuning import known_choices
from plait.backends.tvm.control import scan_slices, write_control, write_host_call
from plait.backends.tvm.emit import EMISSIONS, Kind, Source
from plait.backends.tvm.frame import Frame, Parameter, ParameterKey, Plan
from plait.backends.tvm.gpu.layout import channels_last_values
from plait.backends.tvm.groups import EmitProgress, GroupCode, GroupEmitter, KernelFunction, identifier
from plait.backends.tvm.layouts import is_view
from plait.backends.tvm.partition import Group, Partition, partition_region
from plait.backends.tvm.shapes import components
from plait.ir import Constant, Graph, Op, Region, Value
from plait.ir.bind import bound_dims
from plait.ir.ops import core


@dataclass
class Module:
    """A graph as TVM sees it.

    Attributes:
        relax_module: kernels and functions.
        parameters: arrays that `main` takes after the inputs, in order, laid out for the kernels.
        kernels: in order of first use.
        dims: names of the symbolic dims that `main` takes first.
        empty_dims: names of the dims that may be 0.
    """

    relax_module: Any
    parameters: dict[str, np.ndarray]
    kernels: list[KernelFunction]
    dims: list[str]
    empty_dims: frozenset[str] = frozenset()


def build_module(
    graph: Graph, parts: Partition, target: Target, progress: EmitProgress | None = None
) -> Module:
    """Emit every group once and wire them up.

    Args:
        progress: called before each distinct group with "emit", the number of those before it, 0 (how
            many there are is not known), and its ops.

    Raises:
        CompileError: naming the op where TVM refuses.
    """
    return _Builder(graph, parts, target, progress).build(parts)


class _Builder:
    def __init__(self, graph: Graph, parts: Partition, target: Target, progress: EmitProgress | None) -> None:
        self.graph = graph
        self.layouts = {**parts.layouts, **channels_last_values(parts, target)}
        choices = known_choices(target) if isinstance(target, CpuTarget) else None
        self.groups = GroupEmitter(graph, target, self.layouts, progress, choices)
        self.parameters: dict[ParameterKey, Parameter] = {}
        self.builder = relax.BlockBuilder()

    def build(self, parts: Partition) -> Module:
        bound = bound_dims(self.graph)
        names = [name for name in self.graph.dims if name not in bound]
        main = Plan(self.graph.body, "main", names)
        self._plan(main, parts, set(self.graph.inputs))
        kernels = self.groups.kernels
        for kernel in kernels:
            kernel.pointer = self.builder.add_func(kernel.function, kernel.name)
        self._write(main)
        arrays = {made.name: made.array for made in main.parameters.values()}
        empty = frozenset(name for name, allowed in self.graph.dims.items() if allowed.low == 0)
        return Module(self.builder.finalize(), arrays, kernels, names, empty)

    # -- plans ------------------------------------------------------------------------
    def _plan(self, plan: Plan, parts: Partition, available: set[Value]) -> None:
        """Emit the kernels of a region and of those inside; `available` are arrays that it can read."""
        dims = list(plan.dims)
        for step in parts.steps:
            if isinstance(step, Group):
                code = self.groups.code(step)
                self._kernel_parameters(plan, step, code)
                plan.steps.append((step, code, ()))
                available.update(step.sink.results)
                continue
            inner = tuple(
                self._plan_region(step, spec.name, region, dims, available)
                for spec, region in zip(step.schema.regions, step.regions, strict=True)
            )
            for child in inner:
                plan.parameters.update(child.parameters)
            self._plain_parameters(plan, step.operands)
            plan.steps.append((step, None, inner))
            available.update(step.results)
            if step.bound_dim is not None:
                dims.append(step.bound_dim)
        self._plain_parameters(plan, plan.region.results)

    def _plan_region(self, op: Op, word: str, region: Region, dims: list[str], available: set[Value]) -> Plan:
        name = self.groups.fresh(identifier(f"{op.name}_{word}"))
        captured = [value for value in region.captured() if value in available]
        plan = Plan(region, name, list(dims), captured)
        if isinstance(op, core.Scan):
            plan.slices = [(group, self.groups.code(group)) for group in scan_slices(op)]
        self._plan(plan, partition_region(region, self.layouts), {*region.params, *captured})
        return plan

    def _kernel_parameters(self, plan: Plan, group: Group, code: GroupCode) -> None:
        for kernel in code.kernels:
            for source, tensor in zip(kernel.stage.sources, kernel.stage.inputs, strict=True):
                found = code.resolve(source, group)
                if isinstance(found, Constant):
                    shape = tuple(map(int, tensor.shape)) if source.packing is not None else None
                    self._parameter(plan, found, source, shape)

    def _plain_parameters(self, plan: Plan, values: tuple[Value, ...]) -> None:
        for value in values:
            if isinstance(value, Constant):
                self._parameter(plan, value, Source(value), None)

    def _parameter(self, plan: Plan, value: Constant, source: Source, packed: tuple[int, ...] | None) -> None:
        layout = source.packing.key if source.packing is not None else ""
        key = (value, layout)
        if key not in self.parameters:
            name = f"{value.name}#{layout}" if layout else value.name
            array = source.packing.apply(value.data) if source.packing is not None else value.data
            shape, dtype = components(value.type)[0]
            dtype = (source.packing and source.packing.dtype) or dtype
            self.parameters[key] = Parameter(name, array, packed or shape, dtype)
        plan.parameters[key] = self.parameters[key]

    # -- functions --------------------------------------------------------------------
    def _write(self, plan: Plan) -> None:
        """Add the function of a plan to the module, those of regions inside first."""
        for _, _, inner in plan.steps:
            for child in inner:
                self._write(child)
        frame = Frame(self.builder, plan, self.graph.dims, self.layouts)
        is_main = plan.region.owner is None
        inputs, sequences = self._inputs(frame)
        if is_main:
            variables = [frame.shape_var, *inputs, *frame.parameters]
        else:
            captured = [var for value in plan.captured for var in frame.declare(value)]
            variables = [*inputs, frame.shape_var, *captured, *frame.parameters]
        with self.builder.function(plan.name, variables):
            for (group, kernels), value in zip(plan.slices, sequences, strict=True):
                frame.call(group, kernels)
                frame.write(value, frame.read(group.sink.result))
            for step, code, inner in plan.steps:
                self._step(frame, step, code, inner)
            self.builder.emit_func_output(relax.Tuple(frame.read_all(plan.region.results)))
        plan.pointer = self.builder.get().get_global_var(plan.name)

    def _inputs(self, frame: Frame) -> tuple[list[relax.Var], list[Value]]:
        """Variables for the parameters of a region, and those parameters that are slices of sequences.

        The body of a scan takes the number of the round and the whole sequences
        in the place of their slices.
        """
        plan = frame.plan
        found: list[relax.Var] = []
        for number, (group, _) in enumerate(plan.slices):
            sequence, index = group.sink.operands
            found += frame.declare(sequence)
            if number == 0:
                (step,) = frame.declare(index)
            frame.write(index, step)
        if plan.slices:
            found.insert(0, step)
        split = len(plan.slices)
        for value in plan.region.params[split:]:
            found += frame.declare(value)
        return found, plan.region.params[:split]

    def _step(self, frame: Frame, step: Group | Op, code: GroupCode | None, inner: tuple[Plan, ...]) -> None:
        if isinstance(step, Group):
            assert code is not None
            frame.call(step, code)
            return
        kind = EMISSIONS[type(step)].kind
        if is_view(step, self.layouts):
            frame.view(step)
        elif kind is Kind.HOST:
            write_host_call(frame, step)
        else:
            write_control(frame, step, inner)


__all__ = ["KernelFunction", "Module", "build_module"]
