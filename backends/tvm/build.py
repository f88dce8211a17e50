"""A graph as a Relax module: one tensor function for each distinct kernel, and `main`, which calls them.

`main` takes the values of all symbolic dims, the inputs and the constants, and
returns the outputs.  A kernel is named after the first ops that use it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tvm_ffi
from tvm import relax, te, tirx

from plait.backends.targets import Target
from plait.backends.tvm.emit import EMISSIONS, Arguments, Emitter, Source, Stage
from plait.backends.tvm.partition import Group, Partition, reads
from plait.backends.tvm.shapes import components, to_shape
from plait.backends.tvm.toolchain import compile_error
from plait.ir import Constant, Graph, IntLike, Op, PlaitError, Value
from plait.ir.ops import core

Key = tuple[Any, ...]


@dataclass
class KernelFunction:
    """One kernel before scheduling, and every place that calls it.

    Attributes:
        name: unique in the module, an identifier of C.
        function: its TIR.
        sites: the ops that each call computes.
    """

    name: str
    function: tirx.PrimFunc
    stage: Stage
    outputs: list[tuple[list[Any], str]]
    sites: list[list[Op]] = field(default_factory=list)
    pointer: Any = None  # its global variable in the module

    @property
    def is_extern(self) -> bool:
        """Whether it was written as loops instead of tensor expressions."""
        return any(isinstance(tensor.op, te.ExternOp) for tensor in self.stage.outputs)

    @property
    def text(self) -> str:
        """Its TIR as it is now."""
        return str(self.function.script())


@dataclass
class GroupCode:
    """The kernels of a distinct group: where they read and where its results come from."""

    slots: list[Value]
    kernels: list[KernelFunction]
    results: list[Source]


@dataclass
class Module:
    """A graph as TVM sees it.

    Attributes:
        relax_module: kernels and `main`.
        parameters: arrays that `main` takes after the inputs, in order, laid out for the kernels.
        kernels: in order of first use.
        dims: names of the symbolic dims that `main` takes first.
    """

    relax_module: Any
    parameters: dict[str, np.ndarray]
    kernels: list[KernelFunction]
    dims: list[str]


def build_module(graph: Graph, parts: Partition, target: Target) -> Module:
    """Emit every group once and wire them up.  Raises CompileError naming the op where TVM refuses."""
    return _Builder(graph, target).build(parts)


class _Builder:
    def __init__(self, graph: Graph, target: Target) -> None:
        self.graph = graph
        self.target = target
        self.codes: dict[Key, GroupCode] = {}
        self.names: set[str] = {"main"}
        self.kernels: list[KernelFunction] = []
        self.dims = {name: tirx.Var(name, "int64") for name in graph.dims}
        self.parameters: dict[str, np.ndarray] = {}
        self._parameter_vars: dict[tuple[Value, str], relax.Var] = {}
        self._env: dict[tuple[Value, int], Any] = {}

    def build(self, parts: Partition) -> Module:
        emitted = [(step, self._code(step) if isinstance(step, Group) else None) for step in parts.steps]
        names = list(self.dims)
        shape_var = relax.Var("dims", relax.ShapeType(values=[self.dims[name] for name in names]))
        inputs = []
        for value in self.graph.inputs:
            for index, (shape, dtype) in enumerate(components(value.type)):
                suffix = f"_{index}" if len(components(value.type)) > 1 else ""
                var = relax.Var(_identifier(value.name + suffix), self._tensor(shape, dtype))
                self._env[value, index] = var
                inputs.append(var)
        self._declare_parameters(emitted)
        builder = relax.BlockBuilder()
        for kernel in self.kernels:
            kernel.pointer = builder.add_func(kernel.function, kernel.name)
        with builder.function("main", [shape_var, *inputs, *self._parameter_vars.values()]):
            with builder.dataflow():
                for step, code in emitted:
                    if code is None:
                        self._view(builder, step)
                    else:
                        assert isinstance(step, Group)
                        self._call(builder, step, code)
                results = [
                    self._read(value, index)
                    for value in self.graph.outputs
                    for index in range(len(components(value.type)))
                ]
                output = builder.emit_output(relax.Tuple(results))
            builder.emit_func_output(output)
        return Module(builder.finalize(), self.parameters, self.kernels, names)

    # -- groups ---------------------------------------------------------------------
    def _code(self, group: Group) -> GroupCode:
        slots = reads(group.ops)
        key = self._key(group, slots)
        code = self.codes.get(key)
        if code is None:
            try:
                code = self._emit(group, slots)
            except PlaitError:
                raise
            except Exception as error:
                raise compile_error(error, group.ops, "express") from error
            self.codes[key] = code
        for kernel in code.kernels:
            kernel.sites.append(group.ops)
        return code

    def _key(self, group: Group, slots: list[Value]) -> Key:
        """Equal for groups whose kernels are the same text."""
        place = {value: f"in{i}" for i, value in enumerate(slots)}
        parts: list[Any] = [(str(v.type), isinstance(v, Constant)) for v in slots]
        for index, op in enumerate(group.ops):
            operands = tuple(place[v] for v in op.operands)
            fields = tuple(str(getattr(op, spec.name)) for spec in op.schema.attributes)
            present = tuple(getattr(op, spec.name) is None for spec in op.schema.operands)
            parts.append((op.opname, operands, present, fields, tuple(str(v.type) for v in op.results)))
            place.update({v: f"op{index}.{k}" for k, v in enumerate(op.results)})
        return tuple(parts)

    def _emit(self, group: Group, slots: list[Value]) -> GroupCode:
        emitter = Emitter(self.target, self.graph.constants)
        inside: dict[Value, Any] = {}

        def lookup(value: Value) -> Any:
            return inside[value] if value in inside else emitter.placeholders(value)

        outputs: list[te.Tensor] = []
        for op in group.ops:
            found = EMISSIONS[type(op)].function(op, Arguments(op, lookup), emitter)
            outputs = list(found) if isinstance(found, tuple) else [found]
            inside.update(zip(op.results, outputs, strict=True))
        results = emitter.close(outputs)
        base = self._base_name(group)
        kernels = []
        for stage in emitter.stages:
            name = self._fresh(f"{base}_{stage.suffix}" if stage.suffix else base)
            function = te.create_prim_func([*stage.inputs, *stage.scalars, *stage.outputs], "int64")
            function = function.with_attr("global_symbol", name)
            types = [(list(tensor.shape), str(tensor.dtype)) for tensor in stage.outputs]
            kernels.append(KernelFunction(name, function, stage, types))
        self.kernels += kernels
        return GroupCode(slots, kernels, results)

    def _base_name(self, group: Group) -> str:
        """`conv1_add_relu`: the name of the anchor, then what follows it."""
        lead = group.anchor or next((op for op in group.ops if op.operands), group.ops[0])
        # An op that passes made of several goes by the first: conv1, not the relu whose place it took.
        words = [lead.loc.origins[0].path if len(lead.loc.origins) > 1 else lead.name]
        for op in group.ops[group.ops.index(lead) :]:
            kind = op.opname.rpartition(".")[2]
            if op is not lead and op.operands:
                words.append(kind)
            act = getattr(op, "act", "none")
            if act != "none":
                words.append(act)
        return _identifier("_".join(words[:6]))

    def _fresh(self, base: str) -> str:
        name, count = base, 1
        while name in self.names:
            count += 1
            name = f"{base}_{count}"
        self.names.add(name)
        return name

    # -- main -----------------------------------------------------------------------
    def _tensor(self, shape: Sequence[IntLike], dtype: str) -> Any:
        return relax.TensorType(relax.ShapeExpr(to_shape(shape, self.dims)), dtype)

    def _declare_parameters(self, emitted: list[tuple[Group | Op, GroupCode | None]]) -> None:
        for step, code in emitted:
            if code is None:
                assert isinstance(step, Op)
                for value in step.operands:
                    if isinstance(value, Constant):
                        self._parameter(value, Source(value))
                continue
            assert isinstance(step, Group)
            for kernel in code.kernels:
                for source, tensor in zip(kernel.stage.sources, kernel.stage.inputs, strict=True):
                    found = self._resolve(source, step, code)
                    if isinstance(found, Constant):
                        self._parameter(found, source, tensor)
        for output in self.graph.outputs:
            if isinstance(output, Constant):
                self._parameter(output, Source(output))

    def _parameter(self, value: Constant, source: Source, tensor: te.Tensor | None = None) -> relax.Var:
        layout = source.packing.key if source.packing is not None else ""
        key = (value, layout)
        if key not in self._parameter_vars:
            name = f"{value.name}#{layout}" if layout else value.name
            array = source.packing.apply(value.data) if source.packing is not None else value.data
            kind = value.shaped
            if source.packing is not None:
                assert tensor is not None
                kind = kind.with_shape(tuple(int(dim) for dim in tensor.shape))
            self.parameters[name] = array
            dtype = components(value.type)[0][1]
            self._parameter_vars[key] = relax.Var(_identifier(name), self._tensor(kind.shape, dtype))
        return self._parameter_vars[key]

    def _resolve(self, source: Source, group: Group, code: GroupCode) -> Value | None:
        """The value that a placeholder stands for at one call site."""
        if source.value is None:
            return None
        if source.value in code.slots:
            return reads(group.ops)[code.slots.index(source.value)]
        return source.value  # a constant that a quantised type refers to

    def _read(self, value: Value, component: int = 0) -> Any:
        if isinstance(value, Constant):
            return self._parameter(value, Source(value))
        return self._env[value, component]

    def _call(self, builder: relax.BlockBuilder, group: Group, code: GroupCode) -> None:
        made: list[list[Any]] = []

        def fetch(source: Source, tensor: te.Tensor | None = None) -> Any:
            value = self._resolve(source, group, code)
            if value is None:
                return made[source.stage][source.component]
            if isinstance(value, Constant):
                return self._parameter(value, source, tensor)
            return self._env[value, source.component]

        for kernel in code.kernels:
            stage = kernel.stage
            arguments = [fetch(s, t) for s, t in zip(stage.sources, stage.inputs, strict=True)]
            mapping = {var: self.dims[var.name] for var in self._variables(stage)}
            types = [
                relax.TensorType(relax.ShapeExpr([_renamed(dim, mapping) for dim in shape]), dtype)
                for shape, dtype in kernel.outputs
            ]
            arguments += [self.dims[var.name] for var in stage.scalars]
            call = relax.call_tir(kernel.pointer, arguments, types if len(types) > 1 else types[0])
            result = builder.emit(call)
            made.append(
                [builder.emit(relax.TupleGetItem(result, k)) for k in range(len(types))]
                if len(types) > 1
                else [result]
            )
        for value, source in zip(group.sink.results, code.results, strict=True):
            self._env[value, 0] = fetch(source)

    def _variables(self, stage: Stage) -> set[tirx.Var]:
        found: set[tirx.Var] = set()
        for tensor in (*stage.inputs, *stage.outputs):
            for dim in tensor.shape:
                found.update(tirx.analysis.undefined_vars(dim))
        return found

    def _view(self, builder: relax.BlockBuilder, op: Group | Op) -> None:
        assert isinstance(op, Op)
        (result,), source = op.results, op.operands[0]
        if isinstance(op, core.Reshape) and result.shaped.shape != source.shaped.shape:
            shape = relax.ShapeExpr(to_shape(result.shaped.shape, self.dims))
            self._env[result, 0] = builder.emit(relax.op.reshape(self._read(source), shape))
        else:
            self._env[result, 0] = self._read(source)


def _renamed(dim: Any, mapping: dict[tirx.Var, tirx.Var]) -> Any:
    """A dim of a kernel in terms of the dims of `main`."""
    if not mapping:
        return dim
    return tvm_ffi.structural_map(dim, (tirx.Var, lambda var: mapping.get(var, var)), order="post")


def _identifier(name: str) -> str:
    text = re.sub(r"\W", "_", name)
    return text if re.match(r"[A-Za-z_]", text) else f"v{text}"
