"""The walk over a model: scopes, folding, rules, function bodies and branches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx

from plait.frontends.onnx import operators  # noqa: F401  # registers the rules
from plait.frontends.onnx.builder import Builder
from plait.frontends.onnx.call import Call
from plait.frontends.onnx.expand import Body, has_schema_body, model_functions, schema_body
from plait.frontends.onnx.folding import fold
from plait.frontends.onnx.inputs import Dynamic, lower_inputs
from plait.frontends.onnx.load import Source
from plait.frontends.onnx.operand import Operand
from plait.frontends.onnx.places import has_origin, names_read, node_label, node_location, node_name
from plait.frontends.onnx.registry import canonical_domain, find_rule
from plait.frontends.onnx.report import Unsupported, new_report, unsupported_error
from plait.frontends.report import UnsupportedForm
from plait.ir import Graph, InputError, Loc, LoweringError, Value, VerifyError

#: How many nodes functions and unrolled loops may add to those of the model.
NODE_LIMIT = 100_000


@dataclass
class Scope:
    """Names in sight: values of a graph or function body, and its attribute parameters.

    Attributes:
        values: operands by ONNX name.
        parent: the scope around a branch; functions have none.
        opsets: operator set version by domain.
        attributes: what `ref_attr_name` refers to inside a function.
        prefix: put in front of names; the caller's name inside a function.
        loc: the caller's location inside a function.
    """

    values: dict[str, Operand]
    opsets: dict[str, int]
    parent: Scope | None = None
    attributes: dict[str, onnx.AttributeProto] = field(default_factory=dict)
    prefix: str = ""
    loc: Loc | None = None

    def find(self, name: str) -> Operand | None:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.values:
                return scope.values[name]
            scope = scope.parent
        return None


def lower_model(source: Source, inputs: Mapping[str, np.ndarray], dynamic: Dynamic, name: str) -> Graph:
    """Lower a checked model; see `plait.frontends.onnx.lower_onnx`."""
    return _Lowering(source).run(inputs, dynamic, name)


class _Lowering:
    def __init__(self, source: Source) -> None:
        self.source = source
        self.functions = model_functions(source.model)
        self._entered: list[tuple[str, str, str]] = []
        self._walked = 0

    def run(self, inputs: Mapping[str, np.ndarray], dynamic: Dynamic, name: str) -> Graph:
        self._reject_unsupported()
        model = self.source.model.graph
        graph = Graph(name)
        types = lower_inputs(graph, self.source, inputs, dynamic)
        sparse = (tensor.values.name for tensor in model.sparse_initializer)
        self.builder = Builder(graph, [*types, *(tensor.name for tensor in model.initializer), *sparse])
        scope = Scope({}, self.source.opsets)
        for port, kind in types.items():
            scope.values[port] = Operand.of(graph.add_input(self.builder.reserved[port], kind))
        self._initialisers(model, scope)
        self._walk_reporting(model.node, scope)
        results: list[Value] = []
        for info in model.output:
            operand = scope.find(info.name)
            assert operand is not None  # the checker requires it
            results.append(self.builder.value(operand, info.name))
        graph.set_outputs(results)
        self.builder.remove_dead()
        return graph

    def _initialisers(self, graph: onnx.GraphProto, scope: Scope) -> None:
        for sparse in graph.sparse_initializer:
            array, element = self.source.dense(sparse)
            scope.values[sparse.values.name] = Operand(str(sparse.values.name), element, array)
        for tensor in graph.initializer:
            array, element = self.source.tensor(tensor)
            scope.values[tensor.name] = Operand(str(tensor.name), element, array)

    # -- what has no lowering ---------------------------------------------------------
    def _reject_unsupported(self) -> None:
        found: dict[tuple[str, str, int], Unsupported] = {}
        self._scan(self.source.model.graph.node, self.source.opsets, found, set())
        if found:
            raise unsupported_error(found.values(), self.source.file)

    def _scan(
        self,
        nodes: Iterable[onnx.NodeProto],
        opsets: dict[str, int],
        found: dict[tuple[str, str, int], Unsupported],
        entered: set[tuple[str, str, str]],
    ) -> None:
        for node in nodes:
            domain = canonical_domain(node.domain)
            version = opsets.get(domain, 1)
            function = (domain, str(node.op_type), str(node.overload))
            if function in self.functions:
                if function not in entered:
                    entered.add(function)
                    body = self.functions[function]
                    self._scan(body.nodes, body.opsets, found, entered)
                continue
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    self._scan(attribute.g.node, opsets, found, entered)
            if find_rule(domain, node.op_type, version) is None and not has_schema_body(
                domain, node.op_type, version
            ):
                key = (domain, str(node.op_type), version)
                entry = found.setdefault(key, Unsupported(node.op_type, domain, version))
                entry.nodes.append(node_label(node))

    # -- the walk -----------------------------------------------------------------------
    def _walk_reporting(self, nodes: Iterable[onnx.NodeProto], scope: Scope) -> None:
        """Lower the nodes of the model; those in unsupported forms are all reported together.

        What reads the result of one of them is passed over.
        """
        forms: list[UnsupportedForm] = []
        absent: set[str] = set()
        for index, node in enumerate(nodes):
            if absent.isdisjoint(names_read(node)):
                try:
                    self._walk((node,), scope, index)
                    continue
                except UnsupportedForm as form:
                    forms.append(form)
            absent.update(name for name in node.output if name)
        if len(forms) == 1:
            raise forms[0]
        if forms:
            report = new_report()
            report.add_forms(forms)
            raise report.error("the model", self.source.file)

    def _walk(self, nodes: Iterable[onnx.NodeProto], scope: Scope, first: int = 0) -> None:
        for index, node in enumerate(nodes, first):
            self._walked += 1
            if self._walked > NODE_LIMIT + len(self.source.model.graph.node):
                raise LoweringError(
                    f"more than {NODE_LIMIT} nodes come from functions and loops",
                    where=f"{self.source.file}: node '{node_label(node)}'",
                    why="those that enter one another multiply the nodes of the model",
                    remedy="export a smaller part of the model",
                )
            node = _resolved(node, scope)
            loc = node_location(node, self.source.file, index)
            if scope.loc is not None and not has_origin(node):
                loc = scope.loc
            self.builder.loc = loc
            results = self._node(node, scope, loc)
            for name, result in zip(node.output, results, strict=False):
                if name and result is not None:
                    operand = Operand.of(result) if isinstance(result, Value) else result
                    if not operand.name:
                        operand.name = str(name)
                    scope.values[name] = operand

    def _node(self, node: onnx.NodeProto, scope: Scope, loc: Loc) -> Sequence[Value | Operand | None]:
        domain = canonical_domain(node.domain)
        key = (domain, str(node.op_type), str(node.overload))
        call = self._call(node, scope)
        if key in self.functions:
            if key in self._entered:
                raise call.error(
                    f"function {key[1]} calls itself",
                    why=f"the calls are {' -> '.join(name for _, name, _ in (*self._entered, key))}",
                    remedy="functions of ONNX are not recursive; correct the model",
                )
            self._entered.append(key)
            results = self._enter(self.functions[key], node, call, loc)
            self._entered.pop()
            return results
        try:
            folded = fold(call)
            if folded is not None:
                return folded
            rule = find_rule(domain, call.op_type, call.version)
            if rule is not None:
                made = rule(call)
                if made is not None:
                    return [made] if isinstance(made, (Value, Operand)) else made
        except LoweringError:
            raise
        except (VerifyError, InputError) as error:
            raise call.error(error.what, why=error.why, remedy=error.remedy) from error
        except (ValueError, LookupError, ArithmeticError, TypeError, AttributeError, MemoryError) as error:
            raise call.error(
                "its inputs do not fit the operator",
                why=str(error),
                remedy="run onnx.checker.check_model(model, full_check=True)",
            ) from error
        body = schema_body(node, scope.opsets, call.inputs)
        if body is None:
            raise call.unsupported(f"this form of {call.op_type}")
        found: dict[tuple[str, str, int], Unsupported] = {}
        self._scan(body.nodes, body.opsets, found, set())
        for entry in found.values():
            entry.note = f"in the function body of {call.op_type} node '{call.label}'"
        if found:
            raise unsupported_error(found.values(), self.source.file)
        return self._enter(body, node, call, loc)

    def _call(self, node: onnx.NodeProto, scope: Scope) -> Call:
        domain = canonical_domain(node.domain)
        inputs: list[Operand | None] = []
        for name in node.input:
            operand = scope.find(name) if name else None
            if name and operand is None:
                raise LoweringError(
                    f"value '{name}' is read before it is made",
                    where=f"{self.source.file}: node '{node_label(node)}' ({node.op_type})",
                    why="an operator that this lowering leaves without that output, or a broken model",
                    remedy="check the model; optional outputs such as masks and indices may be unsupported",
                )
            inputs.append(operand)
        attributes = {a.name: self._attribute(a) for a in node.attribute}
        name = node_name(node)
        return Call(
            node,
            scope.opsets.get(domain, 1),
            inputs,
            attributes,
            self.builder,
            (f"{scope.prefix}.{name}" if scope.prefix else name, node_label(node), self.source.file),
            lambda graph, operands: self._subgraph(graph, operands, scope, node_label(node)),
        )

    def _attribute(self, attribute: onnx.AttributeProto) -> Any:
        """An attribute as a Python value; tensors become operands."""
        if attribute.type == onnx.AttributeProto.TENSOR:
            array, element = self.source.tensor(attribute.t)
            return Operand("", element, array)
        if attribute.type == onnx.AttributeProto.SPARSE_TENSOR:
            array, element = self.source.dense(attribute.sparse_tensor)
            return Operand("", element, array)
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            return value.decode()
        if attribute.type == onnx.AttributeProto.STRINGS:
            return [item.decode() for item in value]
        return value

    def _enter(self, body: Body, node: onnx.NodeProto, call: Call, loc: Loc) -> list[Operand | None]:
        """Lower a function body in the place of a node."""
        given = {attribute.name: attribute for attribute in node.attribute}
        pairs = zip(body.inputs, call.inputs, strict=False)
        inner = Scope(
            {name: operand for name, operand in pairs if operand is not None},
            body.opsets,
            attributes={**body.defaults, **given},
            prefix=call.name,
            loc=loc,
        )
        absent = {name for name in body.inputs if name not in inner.values}
        self._walk([_without(inner_node, absent) for inner_node in body.nodes], inner)
        return [inner.find(name) for name in body.outputs]

    def _subgraph(
        self, graph: onnx.GraphProto, operands: Sequence[Operand], scope: Scope, label: str
    ) -> list[Operand]:
        """Lower a subgraph of a node; it sees the names around it."""
        inner = replace(scope, values={}, parent=scope)
        inner.values.update((info.name, given) for info, given in zip(graph.input, operands, strict=False))
        self._initialisers(graph, inner)
        self._walk(graph.node, inner)
        results = []
        for info in graph.output:
            operand = inner.find(info.name)
            if operand is None:
                raise LoweringError(
                    f"output '{info.name}' of subgraph '{graph.name}' is not made",
                    where=f"{self.source.file}: node '{label}'",
                    why="no node of the subgraph or around it has such an output",
                    remedy="run onnx.checker.check_model(model, full_check=True)",
                )
            results.append(operand)
        return results


def _resolved(node: onnx.NodeProto, scope: Scope) -> onnx.NodeProto:
    """The node with references to attribute parameters of the function replaced by what was given."""
    if not any(attribute.ref_attr_name for attribute in node.attribute):
        return node
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.ClearField("attribute")
    for attribute in node.attribute:
        if not attribute.ref_attr_name:
            copy.attribute.append(attribute)
        elif attribute.ref_attr_name in scope.attributes:
            copy.attribute.append(scope.attributes[attribute.ref_attr_name])
            copy.attribute[-1].name = attribute.name
    return copy


def _without(node: onnx.NodeProto, absent: set[str]) -> onnx.NodeProto:
    """The node with inputs that the caller left out written as left out."""
    if not absent.intersection(node.input):
        return node
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.ClearField("input")
    copy.input.extend("" if name in absent else name for name in node.input)
    return copy
