"""Nodes and initialisers of a model while its graph is walked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper

from plait.backends.onnx.elements import code_of, element_of, tensor_of
from plait.backends.onnx.table import Inexpressible
from plait.ir import Constant, DType, Graph, IntLike, Op, Region, Value
from plait.ir.dims import Dim, symbols_of
from plait.ir.types import TensorType, dtype_of, i64

Operand = Value | str | None


@dataclass
class Body:
    """The nodes of a graph or of a subgraph, and the dims that were computed among them."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    dims: dict[IntLike, str] = field(default_factory=dict)


class Writer:
    """Adds nodes under names that are all different.

    Attributes:
        graph: the graph that is exported.
        opset: version of the operator set.
        body: where nodes go; a subgraph while a region is written.
        initializers: tensors by name.
        hint: what names of further nodes begin with.
        write_op: adds the nodes of an op.
    """

    def __init__(self, graph: Graph, opset: int, write_op: Callable[[Op], None]) -> None:
        self.graph = graph
        self.opset = opset
        self.prologue = Body()  # sizes of inputs, which all other nodes may read
        self.body = Body()
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.hint = "value"
        self.write_op = write_op
        self._written: set[Region] = set()
        self._bodies = [self.prologue, self.body]
        self._names: dict[Value, str] = {}
        self._taken: set[str] = {""}
        self._suffixes: dict[str, int] = {}
        self._numbers: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._symbols: dict[str, tuple[str, int]] = {}
        for value in graph.values():
            self._names[value] = self.fresh(value.name)
        for constant in graph.constants.values():
            self._names[constant] = self.fresh(constant.name)
        for value in graph.inputs:
            for axis, dim in enumerate(getattr(value.type, "shape", ())):
                if isinstance(dim, Dim):
                    self._learn(dim, self.name(value), axis)

    # -- names ------------------------------------------------------------------------
    def fresh(self, hint: str) -> str:
        """A name like `hint` that was not handed out before."""
        name = hint
        while name in self._taken:
            self._suffixes[hint] = self._suffixes.get(hint, 0) + 1
            name = f"{hint}_{self._suffixes[hint]}"
        self._taken.add(name)
        return name

    def name(self, operand: Operand) -> str:
        """The ONNX name of a value; constants become initialisers as they are named."""
        if operand is None:
            return ""
        if isinstance(operand, str):
            return operand
        name = self._names[operand]
        if isinstance(operand, Constant) and name not in self.initializers:
            self.initializers[name] = tensor_of(name, operand.data, operand.shaped)
        return name

    def code(self, given: Value | DType) -> int:
        """ONNX's number of the element type of a value."""
        return code_of(given if isinstance(given, DType) else element_of(given.type), self.opset)

    # -- nodes ------------------------------------------------------------------------
    def node(self, op_type: str, *operands: Operand, **attributes: Any) -> str:
        """Add a node with one result; its name.  Attributes that are None are left out."""
        return self.nodes(op_type, *operands, count=1, **attributes)[0]

    def nodes(self, op_type: str, *operands: Operand, count: int, **attributes: Any) -> tuple[str, ...]:
        """Add a node with `count` results; their names."""
        inputs = [self.name(operand) for operand in operands]
        while inputs and not inputs[-1]:
            inputs.pop()
        outputs = tuple(self.fresh(f"{self.hint}.{op_type.lower()}") for _ in range(count))
        given = {key: value for key, value in attributes.items() if value is not None}
        self.body.nodes.append(helper.make_node(op_type, inputs, outputs, name=outputs[0], **given))
        return outputs

    def bind(self, op: Op, names: Sequence[str], start: int) -> None:
        """Give results the names of the op's values, in the nodes from `start` on."""
        renamed: dict[str, str] = {}
        made = {output for node in self.body.nodes[start:] for output in node.output}
        for value, name in zip(op.results, names, strict=True):
            if name in made and name not in renamed:
                renamed[name] = self._names[value]
            else:
                final = helper.make_node(
                    "Identity", [name], [self._names[value]], name=self.fresh(f"{value.name}.identity")
                )
                self.body.nodes.append(final)
        for node in self.body.nodes[start:]:
            for names_of in (node.input, node.output):
                for place, name in enumerate(names_of):
                    names_of[place] = renamed.get(name, name)
            node.name = renamed.get(node.name, node.name)
        if op.bound_dim is not None:
            for value in op.results:
                for axis, dim in enumerate(getattr(value.type, "shape", ())):
                    if str(dim) == op.bound_dim:
                        self._symbols.setdefault(op.bound_dim, (self._names[value], axis))

    # -- numbers ----------------------------------------------------------------------
    def number(self, value: float | int | bool, element: DType, shape: tuple[int, ...] = ()) -> str:
        """An initialiser of one number."""
        return self.array(np.full(shape, value).astype(element.numpy), element)

    def array(self, array: np.ndarray, element: DType | None = None) -> str:
        """An initialiser, shared with equal ones."""
        element = element or dtype_of(array.dtype)
        key = (element.name, array.shape, np.ascontiguousarray(array).tobytes())
        if key not in self._numbers:
            name = self.fresh(f"{self.hint}.constant")
            self.initializers[name] = tensor_of(name, array, TensorType(element, tuple(array.shape)))
            self._numbers[key] = name
        return self._numbers[key]

    def ints(self, numbers: Sequence[int]) -> str:
        """An initialiser of 64-bit integers."""
        return self.array(np.asarray(list(numbers), np.int64).reshape(len(numbers)))

    def cast(self, operand: Operand, element: DType) -> str:
        """A value in another element type."""
        if isinstance(operand, Value) and operand.shaped.dtype == element:
            return self.name(operand)
        return self.node("Cast", operand, to=self.code(element))

    # -- dims -------------------------------------------------------------------------
    def vector(self, dims: Sequence[IntLike]) -> str:
        """An i64 vector of dim values, computed at run time where they are symbolic."""
        if all(isinstance(dim, int) for dim in dims):
            return self.ints([int(dim) for dim in dims])
        parts: list[str] = []
        known: list[int] = []
        for dim in dims:
            if isinstance(dim, int):
                known.append(dim)
                continue
            if known:
                parts.append(self.ints(known))
                known = []
            parts.append(self.dim(dim))
        if known:
            parts.append(self.ints(known))
        return parts[0] if len(parts) == 1 else self.node("Concat", *parts, axis=0)

    def dim(self, dim: IntLike) -> str:
        """The value of a dim as an i64 vector of one element."""
        if not isinstance(dim, Dim):
            return self.ints([dim])
        bodies = self._bodies if self._is_bound(dim) else self._bodies[:1]
        for body in bodies:
            if dim in body.dims:
                return body.dims[dim]
        current, hint = self.body, self.hint
        self.body, self.hint = bodies[-1], "dim"
        try:
            found = self._computed(dim)
        finally:
            self.body, self.hint = current, hint
        bodies[-1].dims[dim] = found
        return found

    def scalar(self, dim: IntLike) -> str:
        """The value of a dim as an i64 scalar."""
        if not isinstance(dim, Dim):
            return self.number(dim, i64)
        return self.node("Squeeze", self.dim(dim), self.ints([0]))

    def _is_bound(self, dim: Dim) -> bool:
        """Whether a dim takes its value from an op, so that it is known only after that."""
        inputs = {self._names[value] for value in self.graph.inputs}
        return any(self._symbols.get(name, ("", 0))[0] not in inputs for name in symbols_of(dim))

    def _learn(self, dim: Dim, source: str, axis: int) -> None:
        """Remember where a symbol can be read."""
        for name in dim.symbols():
            if dim == Dim.symbol(name):
                self._symbols[name] = (source, axis)

    def _computed(self, dim: Dim) -> str:
        total: str | None = None
        for monomial, coefficient in dim.terms.items():
            term: str | None = None
            for atom in monomial:
                factor = self._atom(atom)
                term = factor if term is None else self.node("Mul", term, factor)
            if term is None:
                term = self.ints([coefficient])
            elif coefficient != 1:
                term = self.node("Mul", term, self.ints([coefficient]))
            total = term if total is None else self.node("Add", total, term)
        assert total is not None  # a Dim has at least one term
        return total

    def _atom(self, atom: Any) -> str:
        if not atom.operator:
            return self._symbol(atom.name)
        left, right = self.dim(atom.left), self.dim(atom.right)
        if atom.operator in ("min", "max"):
            return self.node(atom.operator.capitalize(), left, right)
        rest = self.node("Mod", left, right)  # its sign is that of the divisor
        if atom.operator == "%":
            return rest
        return self.node("Div", self.node("Sub", left, rest), right)

    def _symbol(self, name: str) -> str:
        if name in self._symbols:
            source, axis = self._symbols[name]
            return self.node("Shape", source, start=axis, end=axis + 1)
        allowed = self.graph.dims[name]
        for value in self.graph.inputs:
            for axis, dim in enumerate(getattr(value.type, "shape", ())):
                if isinstance(dim, Dim) and dim.symbols() == {name}:
                    offset = dim.substitute({name: 0})
                    slope = dim.substitute({name: 1}) - offset
                    if dim == Dim.symbol(name) * slope + offset:
                        size = self.node("Shape", value, start=axis, end=axis + 1)
                        rest = self.node("Sub", size, self.dim(offset))
                        return self.node("Div", rest, self.dim(slope))
        if allowed.low == allowed.high:
            return self.ints([allowed.low])
        raise Inexpressible(f"no input shows the value of dim {name}")

    # -- regions --------------------------------------------------------------------
    def write(self, region: Region, arguments: Sequence[str] | None) -> None:
        """Add the ops of a region; its parameters stand for `arguments`, or keep their names."""
        if region in self._written:
            for op in region.walk():
                for value in (*op.results, *(param for inner in op.regions for param in inner.params)):
                    self._names[value] = self.fresh(value.name)
        self._written.add(region)
        if arguments is not None:
            self._names.update(zip(region.params, arguments, strict=True))
        for op in region:
            self.write_op(op)

    def open(self) -> None:
        """Begin a subgraph."""
        self.body = Body()
        self._bodies.append(self.body)

    def close(self) -> list[onnx.NodeProto]:
        """End a subgraph; its nodes."""
        nodes = self._bodies.pop().nodes
        self.body = self._bodies[-1]
        return nodes
