"""Lowering: walks a captured program and applies the rule of each operator."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch.export.graph_signature import InputKind
from torch.fx import GraphModule, Node

from plait.frontends.pytorch.arguments import output_names
from plait.frontends.pytorch.aten.dynamic import BINDS_SIZES
from plait.frontends.pytorch.aten.scalar import whole_number_rule
from plait.frontends.pytorch.aten.strided import READS_STORAGE
from plait.frontends.pytorch.builder import Builder, add_constant
from plait.frontends.pytorch.capture import Captured
from plait.frontends.pytorch.control import ControlFlow
from plait.frontends.pytorch.dtypes import constant_array, element_type
from plait.frontends.pytorch.naming import Namer, target_name
from plait.frontends.pytorch.registry import Refusal, find_rule
from plait.frontends.pytorch.report import Report
from plait.frontends.pytorch.state import (
    INITIAL,
    NEXT,
    mutated_buffers,
    order_of_outputs,
    rename_output,
    written_names,
)
from plait.frontends.pytorch.symbols import SymbolTable, UnknownSize
from plait.ir import types as t
from plait.ir.dims import Dim
from plait.ir.errors import LoweringError, VerifyError
from plait.ir.graph import Graph
from plait.ir.ops import core
from plait.ir.region import Region
from plait.ir.types import ShapedType, TensorType
from plait.ir.value import Value

#: Arguments that say where or how a tensor is stored, which the IR leaves to later stages.
_STORAGE_ARGUMENTS = frozenset(
    ("layout", "device", "pin_memory", "memory_format", "non_blocking", "requires_grad", "copy")
)
#: Checks that torch inserts and that hold by the types of the graph.
_CHECKS = (
    "aten._assert", "aten.sym_constrain_range", "aten._functional_assert", "aten._linalg_check_errors",
)  # fmt: skip


class _Missing:
    """Marks the result of an operator that is in the report."""


_MISSING = _Missing()


class Lowering:
    """One run: from a captured program to a graph."""

    def __init__(self, captured: Captured, name: str, model: str) -> None:
        self._captured = captured
        self._program = captured.program
        self._model = model
        self._graph = Graph(name)
        self._symbols = SymbolTable(captured.symbols)
        self._builder = Builder(self._graph)
        self._report = Report()
        self._namer = Namer(
            node
            for module in self._program.graph_module.modules()
            if isinstance(module, GraphModule)
            for node in module.graph.nodes
        )
        self._control = ControlFlow(self._builder, self._symbols, self._lower_module)
        self._initial: set[Value] = set()
        self._numbers: dict[str, Value] = {}  # whole numbers read from tensors, by torch's symbol
        self._stored: dict[tuple[Any, ...], Value] = {}  # constants by storage: tied weights are one constant

    def run(self) -> Graph:
        """Lower all.  Raises LoweringError with every unsupported operator at once."""
        for dim, (low, high) in self._captured.ranges.items():
            self._graph.declare_dim(dim, low, high)
        environment = self._parameters()
        outputs = self._lower_nodes(self._program.graph_module, environment)
        if self._report:
            raise self._report.error(self._model)
        self._graph.set_outputs(self._outputs(outputs))
        _remove_unused(self._graph.body, self._graph)
        for constant in list(self._graph.constants.values()):
            if not constant.users and constant not in self._initial:
                self._graph.remove_constant(constant)
        draws = sum(isinstance(op, core.Random) for op in self._graph.walk())
        if draws:
            warnings.warn(
                f"{self._model} draws random numbers in {draws} place{'s' * (draws > 1)}: the graph fixes "
                "their seeds, so that every run draws the same (for dropout, call model.eval() first)",
                stacklevel=3,
            )
        return self._graph

    # -- parameters and constants ----------------------------------------------------
    def _parameters(self) -> dict[Node, Any]:
        """Inputs and constants by node; buffers that the program writes follow the inputs of the user."""
        program = self._program
        nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
        names = iter(self._captured.input_names)
        environment: dict[Node, Any] = {}
        stored: list[tuple[Node, str]] = []
        for spec in program.graph_signature.input_specs:
            node = nodes.get(getattr(spec.arg, "name", ""))
            if spec.kind == InputKind.USER_INPUT:
                name = next(names)
                if node is not None:
                    environment[node] = self._input(node, name)
            elif node is not None:
                stored.append((node, str(spec.target)))
        nodes_by_target = {target: node for node, target in stored}
        states = mutated_buffers(program)
        for target in states:
            node, tensor = nodes_by_target[target], self._tensor(target)
            name = self._graph.free_name(target)
            environment[node] = self._graph.add_input(name, self._type_of(tensor))
            self._initial.add(self._graph.add_constant(name + INITIAL, constant_array(tensor)))
        for node, target in stored:
            if node.users and target not in states:
                environment[node] = self._constant(target)
        return environment

    def _input(self, node: Node, name: str) -> Any:
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor):
            return value if value is not None else (node.args[0] if node.args else None)
        return self._graph.add_input(self._graph.free_name(name), self._type_of(value))

    def _tensor(self, target: str) -> torch.Tensor:
        """A parameter, buffer or lifted constant of the program."""
        found = self._program.state_dict.get(target)
        if found is None:
            found = self._program.constants.get(target)
        if not isinstance(found, torch.Tensor):
            raise LoweringError(
                f"'{target}' of {self._model} is {type(found).__name__}, not a tensor",
                why="constants of a graph are tensors",
                remedy="pass plain tensors, parameters and buffers",
            )
        return found

    def _constant(self, target: str) -> Value:
        tensor = self._tensor(target)
        key = (
            tensor.untyped_storage().data_ptr(),
            tensor.storage_offset(),
            tuple(tensor.shape),
            tensor.stride(),
            tensor.dtype,
        )
        if tensor.numel() and key in self._stored:
            return self._stored[key]
        constant = add_constant(self._graph, target, constant_array(tensor))
        self._stored[key] = constant
        return constant

    def _type_of(self, value: torch.Tensor) -> TensorType:
        return TensorType(element_type(value.dtype), self._symbols.shape(value.shape))

    # -- nodes ----------------------------------------------------------------------------
    def _lower_nodes(self, module: GraphModule, environment: dict[Node, Any]) -> Sequence[Any]:
        """Lower the nodes of one module and return its outputs."""
        for node in module.graph.nodes:
            if node.op == "output":
                found = self._resolve(node.args[0], environment)
                return found if isinstance(found, (list, tuple)) else (found,)
            if node.op == "get_attr":
                environment[node] = self._attribute(module, str(node.target))
            elif node.op == "call_function":
                environment[node] = self._lower_node(node, environment)
        return ()

    def _attribute(self, module: GraphModule, target: str) -> Any:
        found: Any = module
        for part in target.split("."):
            found = getattr(found, part)
        if isinstance(found, torch.Tensor):
            return add_constant(self._graph, target, constant_array(found))
        return found

    def _lower_node(self, node: Node, environment: dict[Node, Any]) -> Any:
        name = target_name(node.target)
        if name.startswith(_CHECKS):
            return None
        loc = self._namer.location(node)
        try:
            value = node.meta.get("val")
            self._bind_numbers(self._namer.name(node), value, loc)
            arguments = self._resolve(list(node.args), environment)
            options = {
                key: self._resolve(argument, environment)
                for key, argument in node.kwargs.items()
                if key not in _STORAGE_ARGUMENTS
            }
            if isinstance(value, (bool, torch.SymBool)) and not _holds(Value, arguments):
                return value
            if isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool):
                try:
                    return self._symbols.size(value)
                except UnknownSize:
                    if not _holds(Value, arguments):
                        raise
            if _holds(_Missing, [arguments, list(options.values())]):
                if find_rule(name) is None and node.target is not operator.getitem:
                    self._report.add(name, loc)
                return _MISSING
            if node.target is operator.getitem:
                return arguments[0][arguments[1]]
            control = self._control.rule(name)
            if control is not None:
                self._builder.start(self._namer.name(node), loc, ())
                return tuple(control(*arguments, **options))
            read = whole_number_rule(name) if isinstance(value, (torch.SymInt, torch.SymBool)) else None
            rule = read or find_rule(name)
            if rule is None:
                self._report.add(name, loc)
                return _MISSING
            if name in READS_STORAGE and not _whole_storage(node.args[0]):
                raise Refusal("the elements of a tensor that is itself a view, by their place in memory")
            counts = self._bind_sizes(name, value)
            self._builder.start(self._namer.name(node), loc, self._result_types(value), counts)
            result = rule(self._builder, *arguments, **options)
            values = result if isinstance(result, (tuple, list)) else (result,)
            self._builder.finish([each for each in values if isinstance(each, Value)])
            self._check(name, values, loc)
            if isinstance(value, torch.SymInt) and isinstance(result, Value):
                self._numbers[str(value.node.expr)] = result
            return result
        except (Refusal, UnknownSize) as refusal:
            self._report.add(name, loc, str(refusal))
        except VerifyError as error:
            self._report.add(name, loc, f"the ops of its lowering do not fit: {error.what}; {error.why}")
        except TypeError as error:
            if "argument" not in str(error):
                raise
            self._report.add(name, loc, f"called in a form that its rule does not know: {error}")
        return _MISSING

    def _lower_module(self, module: GraphModule, arguments: Sequence[Any]) -> Sequence[Any]:
        """Lower a nested graph where the builder stands; its parameters are the arguments."""
        parameters = [node for node in module.graph.nodes if node.op == "placeholder"]
        return self._lower_nodes(module, dict(zip(parameters, arguments, strict=True)))

    def _resolve(self, argument: Any, environment: dict[Node, Any]) -> Any:
        """An fx argument with nodes replaced by what they lowered to."""
        if isinstance(argument, Node):
            found, size = environment[argument], argument.meta.get("val")
            if isinstance(found, Value) and isinstance(size, torch.SymInt):
                # a number read from a tensor is a dim as soon as a size is made of it
                return found if self._symbols.unbound((size,)) else self._symbols.size(size)
            return found
        if isinstance(argument, (list, tuple)):
            return type(argument)(self._resolve(item, environment) for item in argument)
        if isinstance(argument, torch.dtype):
            return element_type(argument)
        return argument

    def _bind_numbers(self, name: str, value: Any, loc: Any) -> None:
        """Make dims of those numbers read from tensors that the sizes of a result are computed from."""
        for symbol in self._unbound(value):
            if symbol in self._numbers:
                self._builder.start(name, loc, ())
                number = self._builder.cast(self._numbers[symbol], t.i64)
                dim = self._builder.declare_count(symbol)
                self._builder.emit(core.BindDim(number, count=dim))
                self._symbols.symbols[symbol] = dim

    def _unbound(self, value: Any) -> list[str]:
        values = value if isinstance(value, (tuple, list)) else (value,)
        shapes = [each.shape for each in values if isinstance(each, torch.Tensor)]
        return list(dict.fromkeys(symbol for shape in shapes for symbol in self._symbols.unbound(shape)))

    def _bind_sizes(self, name: str, value: Any) -> tuple[Dim, ...]:
        """Declare a dim for each size that only the run of an operator shows."""
        if name not in BINDS_SIZES:
            return ()
        unbound = self._unbound(value)
        found = {symbol: self._builder.declare_count(symbol) for symbol in unbound}
        self._symbols.symbols.update(found)
        return tuple(found.values())

    def _result_types(self, value: Any) -> tuple[TensorType, ...]:
        values = value if isinstance(value, (tuple, list)) else (value,)
        return tuple(self._type_of(each) for each in values if isinstance(each, torch.Tensor))

    def _check(self, name: str, values: Sequence[Any], loc: Any) -> None:
        """Raise when a rule built another type than torch computed: the rule is wrong."""
        tensors = [each for each in values if isinstance(each, Value)]
        for value, wanted in zip(tensors, self._builder.results, strict=False):
            kind = value.type
            agrees = (
                isinstance(kind, ShapedType)
                and kind.dtype == wanted.dtype
                and kind.rank == wanted.rank
                and all(
                    a == b or not (isinstance(a, int) and isinstance(b, int))
                    for a, b in zip(kind.shape, wanted.shape, strict=True)
                )
            )
            if not agrees:
                raise LoweringError(
                    f"the lowering rule of {name} built {kind}",
                    where=loc.readable(),
                    why=f"torch computes {wanted}",
                    remedy="correct the rule, or register another with replace=True",
                )

    # -- results ------------------------------------------------------------------------------
    def _outputs(self, values: Sequence[Any]) -> list[Value]:
        """Results of the user, then the next values of buffers and of inputs that are written."""
        program = self._program
        written = written_names(program, self._captured.input_names)
        names = dict(zip((p for p in order_of_outputs(program) if p not in written), output_names(program)))
        self._builder.start("output", self._namer.location(program.graph.output_node()), ())
        found = []
        for position in order_of_outputs(program):
            if values[position] is None:
                continue
            value = self._output(values[position])
            name = written[position] + NEXT if position in written else names.get(position)
            if name is not None:
                rename_output(self._graph, value, name)
            found.append(value)
        return found

    def _output(self, value: Any) -> Value:
        """A result as a tensor: numbers and sizes become scalars of the type torch.as_tensor gives."""
        if isinstance(value, Value):
            return value
        if isinstance(value, (bool, float)):
            return self._builder.full(value, t.boolean if isinstance(value, bool) else t.f32)
        if isinstance(value, torch.SymBool):
            return self._control.predicate(value)
        if isinstance(value, (int, Dim)):
            return self._builder.size(value, t.i64)
        raise LoweringError(
            f"{self._model} returns {value!r}, a {type(value).__name__}",
            why="outputs of a graph are tensors",
            remedy="return tensors, numbers and None only",
        )


def _whole_storage(node: Any) -> bool:
    """Whether a tensor lies in memory from its start, row after row."""
    value = node.meta.get("val") if isinstance(node, Node) else None
    return isinstance(value, torch.Tensor) and value.is_contiguous() and value.storage_offset() == 0


def _holds(kind: type, argument: Any) -> bool:
    """Whether an argument, or a list in it, holds something of a class."""
    if isinstance(argument, (list, tuple)):
        return any(_holds(kind, item) for item in argument)
    return isinstance(argument, kind)


def _remove_unused(region: Region, graph: Graph) -> None:
    """Erase ops that nothing reads, inside regions too."""
    for op in reversed(list(region)):
        if op.pure and not any(value.users for value in op.results):
            graph.erase(op)
        else:
            for inner in op.regions:
                _remove_unused(inner, graph)
