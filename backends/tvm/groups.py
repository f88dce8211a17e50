"""Kernels of groups: emission, names, and one tensor function for all groups that compute the same."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tvm import te, tirx

from plait.backends.targets import Target
from plait.backends.tuning import Choice
from plait.backends.tvm.emit import EMISSIONS, Arguments, Emitter, Source, Stage
from plait.backends.tvm.layouts import Layouts
from plait.backends.tvm.partition import Group, reads
from plait.backends.tvm.toolchain import compile_error
from plait.ir import Constant, Graph, Op, PlaitError, Value

Key = tuple[Any, ...]
EmitProgress = Callable[[str, int, int, Sequence[Op]], None]


@dataclass
class KernelFunction:
    """One kernel before scheduling, and every place that calls it.

    Attributes:
        name: unique in the module, an identifier of C.
        function: its TIR.
        sites: the ops that each call computes.
        method: how it is computed, in a few words; decided when it is scheduled.
    """

    name: str
    function: tirx.PrimFunc
    stage: Stage
    outputs: list[tuple[list[Any], str]]
    sites: list[list[Op]] = field(default_factory=list)
    method: str = ""
    pointer: Any = None  # its global variable in the module

    @property
    def is_extern(self) -> bool:
        """Whether it was written as loops instead of tensor expressions."""
        return any(isinstance(tensor.op, te.ExternOp) for tensor in self.stage.outputs)

    @property
    def text(self) -> str:
        """Its TIR as it is now."""
        return str(self.function.script())

    def variables(self) -> set[tirx.Var]:
        """The dims that its shapes are made of."""
        found: set[tirx.Var] = set()
        for tensor in (*self.stage.inputs, *self.stage.outputs):
            for dim in tensor.shape:
                found.update(tirx.analysis.undefined_vars(dim))
        return found


@dataclass
class GroupCode:
    """The kernels of a distinct group: where they read and where its results come from."""

    slots: list[Value]
    kernels: list[KernelFunction]
    results: list[Source]

    def resolve(self, source: Source, group: Group) -> Value | None:
        """The value that a placeholder stands for where `group` is computed; None inside the group."""
        if source.value is None:
            return None
        if source.value in self.slots:
            return reads(group.ops)[self.slots.index(source.value)]
        return source.value  # a constant that a quantised type refers to


class GroupEmitter:
    """Emits groups, each distinct one once.

    Args:
        choices: how the products of groups are computed, by `structure`.

    Attributes:
        kernels: all kernels so far, in order of first use.
    """

    def __init__(
        self,
        graph: Graph,
        target: Target,
        layouts: Layouts,
        progress: EmitProgress | None = None,
        choices: Mapping[str, Choice] | None = None,
    ) -> None:
        self._choices = choices or {}
        self._progress = progress
        self.kernels: list[KernelFunction] = []
        self._graph = graph
        self._target = target
        self._layouts = layouts
        self._codes: dict[Key, GroupCode] = {}
        self._names: set[str] = {"main"}

    def code(self, group: Group) -> GroupCode:
        """The kernels of a group.  Raises CompileError naming the ops where TVM refuses them."""
        slots = reads(group.ops)
        key = self._key(group, slots)
        code = self._codes.get(key)
        if code is None:
            if self._progress is not None:
                self._progress("emit", len(self._codes), 0, group.ops)
            try:
                code = self._emit(group, slots)
            except PlaitError:
                raise
            except Exception as error:
                raise compile_error(error, group.ops, "express") from error
            self._codes[key] = code
        for kernel in code.kernels:
            kernel.sites.append(group.ops)
        return code

    def structure(self, group: Group) -> str:
        """A hash of ops, types and layouts, not of names: groups that share it have the same kernels."""
        return hashlib.sha256(repr(self._key(group, reads(group.ops))).encode()).hexdigest()[:24]

    def fresh(self, base: str) -> str:
        """`base`, or that with a number behind it where the name is taken."""
        name, count = base, 1
        while name in self._names:
            count += 1
            name = f"{base}_{count}"
        self._names.add(name)
        return name

    def _key(self, group: Group, slots: list[Value]) -> Key:
        """Equal for groups whose kernels are the same text."""
        place = {value: f"in{i}" for i, value in enumerate(slots)}
        parts: list[Any] = [(str(v.type), isinstance(v, Constant), self._layouts.get(v)) for v in slots]
        for index, op in enumerate(group.ops):
            operands = tuple(place[v] for v in op.operands)
            fields = tuple(
                str(getattr(op, spec.name)) for spec in op.schema.attributes if _is_stated(op, spec.name)
            )
            present = tuple(getattr(op, spec.name) is None for spec in op.schema.operands)
            parts.append((op.opname, operands, present, fields, tuple(str(v.type) for v in op.results)))
            place.update({v: f"op{index}.{k}" for k, v in enumerate(op.results)})
        parts += [self._layouts.get(value) for value in group.sink.results]
        return tuple(parts)

    def _emit(self, group: Group, slots: list[Value]) -> GroupCode:
        choice = self._choices.get(self.structure(group)) if self._choices else None
        emitter = Emitter(self._target, self._graph.constants, self._layouts, choice)
        inside: dict[Value, Any] = {}

        def lookup(value: Value) -> Any:
            return inside[value] if value in inside else emitter.placeholders(value)

        outputs: list[te.Tensor] = []
        for op in group.ops:
            found = EMISSIONS[type(op)].function(op, Arguments(op, lookup), emitter)
            outputs = list(found) if isinstance(found, tuple) else [found]
            inside.update(zip(op.results, outputs, strict=True))
        results = emitter.close(outputs, group.sink.results)
        base = _base_name(group)
        kernels = []
        for stage in emitter.stages:
            name = self.fresh(f"{base}_{stage.suffix}" if stage.suffix else base)
            function = te.create_prim_func([*stage.inputs, *stage.scalars, *stage.outputs], "int64")
            function = function.with_attr("global_symbol", name)
            types = [(list(tensor.shape), str(tensor.dtype)) for tensor in stage.outputs]
            kernels.append(KernelFunction(name, function, stage, types))
        self.kernels += kernels
        return GroupCode(slots, kernels, results)


def _base_name(group: Group) -> str:
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
    return identifier("_".join(words[:6]))


def identifier(name: str) -> str:
    """A name as an identifier of C."""
    text = re.sub(r"\W", "_", name)
    return text if re.match(r"[A-Za-z_]", text) else f"v{text}"


__all__ = ["EmitProgress", "GroupCode", "GroupEmitter", "KernelFunction", "identifier"]


def _is_stated(op: Op, attribute: str) -> bool:
    """Whether an attribute takes part in the hash of a group.

    `requantize` says nothing at its default, and hashes of before it came are in tuning databases.
    """
    return attribute != "requantize" or getattr(op, attribute) != "real"
