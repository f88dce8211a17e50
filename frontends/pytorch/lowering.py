"""Lowering: walks a captured program and applies the rule of each operator."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import GraphModule, Node

from plait.frontends.pytorch.builder import Builder, add_constant
from plait.frontends.pytorch.capture import Captured
from plait.frontends.pytorch.dtypes import constant_array, element_type
from plait.frontends.pytorch.naming import Namer, target_name
from plait.frontends.pytorch.registry import Refusal, find_rule
from plait.frontends.pytorch.report import Report
from plait.frontends.pytorch.symbols import SymbolTable, UnknownSize
from plait.ir.errors import LoweringError, VerifyError
from plait.ir.graph import NAME, Graph
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
#: Calls of a part of the model with a mode set that has no effect on the result.
_TRANSPARENT_CALLS = ("wrap_with_set_grad_enabled",)


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
        self._modules: dict[str, GraphModule] = {}

    def run(self) -> Graph:
        """Lower all.  Raises LoweringError with every unsupported operator at once."""
        for dim, (low, high) in self._captured.ranges.items():
            self._graph.declare_dim(dim, low, high)
        environment = self._parameters()
        outputs = self._lower_nodes(self._program.graph_module, environment)
        if self._report:
            raise self._report.error(self._model)
        self._refuse_mutation()
        kinds = [spec.kind for spec in self._program.graph_signature.output_specs]
        kept = [v for v, kind in zip(outputs, kinds, strict=True) if kind == OutputKind.USER_OUTPUT]
        self._graph.set_outputs([self._output(value) for value in kept if value is not None])
        _remove_unused(self._graph)
        return self._graph

    # -- parameters and constants ----------------------------------------------------
    def _parameters(self) -> dict[Node, Any]:
        """Inputs and constants by node; equal storage makes one constant."""
        program = self._program
        nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
        names = iter(self._captured.input_names)
        environment: dict[Node, Any] = {}
        shared: dict[tuple[Any, ...], Value] = {}
        stored: list[tuple[Node, str]] = []
        for spec in program.graph_signature.input_specs:
            node = nodes.get(getattr(spec.arg, "name", ""))
            if spec.kind == InputKind.USER_INPUT:
                name = next(names)
                if node is not None:
                    environment[node] = self._input(node, name)
            elif node is not None:
                stored.append((node, str(spec.target)))
        for node, target in stored:
            if node.users:
                environment[node] = self._constant(target, shared)
        return environment

    def _input(self, node: Node, name: str) -> Any:
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor):
            return value if value is not None else (node.args[0] if node.args else None)
        if not node.users and not value.ndim and not NAME.fullmatch(name):
            return None
        return self._graph.add_input(name, self._type_of(value))

    def _constant(self, target: str, shared: dict[tuple[Any, ...], Value]) -> Value:
        tensor = self._program.state_dict.get(target)
        if tensor is None:
            tensor = self._program.constants.get(target)
        if not isinstance(tensor, torch.Tensor):
            raise LoweringError(
                f"'{target}' of {self._model} is {type(tensor).__name__}, not a tensor",
                why="constants of a graph are tensors",
                remedy="pass plain tensors, parameters and buffers",
            )
        key = (
            tensor.untyped_storage().data_ptr(),
            tensor.storage_offset(),
            tuple(tensor.shape),
            tensor.stride(),
            tensor.dtype,
        )
        if tensor.numel() and key in shared:
            return shared[key]
        constant = add_constant(self._graph, target, constant_array(tensor))
        shared[key] = constant
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
            if isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool):
                return self._symbols.size(value)
            if isinstance(value, (torch.SymBool, bool)):
                return None  # read only by checks
            arguments = self._resolve(list(node.args), environment)
            options = {
                key: self._resolve(argument, environment)
                for key, argument in node.kwargs.items()
                if key not in _STORAGE_ARGUMENTS
            }
            if _holds_missing(arguments) or _holds_missing(list(options.values())):
                if find_rule(name) is None and node.target is not operator.getitem:
                    self._report.add(name, loc)
                return _MISSING
            if node.target is operator.getitem:
                return arguments[0][arguments[1]]
            if name.endswith(_TRANSPARENT_CALLS):
                return self._call(arguments)
            rule = find_rule(name)
            if rule is None:
                self._report.add(name, loc)
                return _MISSING
            self._builder.start(self._namer.name(node), loc, self._result_types(value))
            result = rule(self._builder, *arguments, **options)
            values = result if isinstance(result, (tuple, list)) else (result,)
            self._builder.finish([each for each in values if isinstance(each, Value)])
            self._check(name, values, loc)
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

    def _call(self, arguments: Sequence[Any]) -> tuple[Any, ...]:
        """Lower a nested graph in place; its parameters are the arguments after it."""
        position = next(i for i, argument in enumerate(arguments) if isinstance(argument, GraphModule))
        module = arguments[position]
        parameters = [node for node in module.graph.nodes if node.op == "placeholder"]
        environment = dict(zip(parameters, arguments[position + 1 :], strict=True))
        return tuple(self._lower_nodes(module, environment))

    def _resolve(self, argument: Any, environment: dict[Node, Any]) -> Any:
        """An fx argument with nodes replaced by what they lowered to."""
        if isinstance(argument, Node):
            return environment[argument]
        if isinstance(argument, (list, tuple)):
            return type(argument)(self._resolve(item, environment) for item in argument)
        if isinstance(argument, torch.dtype):
            return element_type(argument)
        return argument

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
    def _refuse_mutation(self) -> None:
        signature = self._program.graph_signature
        mutated = {**signature.buffers_to_mutate, **signature.user_inputs_to_mutate}
        if mutated:
            names = ", ".join(sorted(set(map(str, mutated.values()))))
            raise LoweringError(
                f"{self._model} writes to {names} while it runs",
                why="a graph has no state: buffers are constants and inputs are read only",
                remedy="call model.eval() if these are running statistics; else pass the state as an input "
                "and return the new state",
            )

    def _output(self, value: Any) -> Value:
        if isinstance(value, Value):
            return value
        self._builder.start("output", self._namer.location(self._program.graph.output_node()), ())
        if isinstance(value, (int, float, bool)):
            raise LoweringError(
                f"{self._model} returns the number {value}",
                why="outputs of a graph are tensors",
                remedy="return tensors only",
            )
        return self._builder.size(value, element_type(torch.int64))


def _holds_missing(argument: Any) -> bool:
    if isinstance(argument, (list, tuple)):
        return any(_holds_missing(item) for item in argument)
    return argument is _MISSING


def _remove_unused(graph: Graph) -> None:
    """Erase ops and constants that nothing reads."""
    for op in reversed(list(graph.ops)):
        if op.pure and not any(value.users for value in op.results):
            graph.erase(op)
    for constant in list(graph.constants.values()):
        if not constant.users:
            graph.remove_constant(constant)
