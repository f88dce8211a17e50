"""The walk over a graph: scopes, folding, rules and function bodies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from plait.frontends.registry import load_extensions
from plait.frontends.report import Report, UnsupportedForm
from plait.frontends.tensorflow import operators  # noqa: F401  # registers the rules
from plait.frontends.tensorflow.attributes import attribute_value, output_count
from plait.frontends.tensorflow.builder import Builder
from plait.frontends.tensorflow.call import Call
from plait.frontends.tensorflow.folding import fold, folds_dims
from plait.frontends.tensorflow.inputs import lower_input
from plait.frontends.tensorflow.operand import Item, Operand
from plait.frontends.tensorflow.patterns import match_pattern
from plait.frontends.tensorflow.places import readable
from plait.frontends.tensorflow.registry import find_rule, supported_operators
from plait.frontends.tensorflow.source import Source
from plait.ir import Graph, InputError, Loc, LoweringError, Value, VerifyError


@dataclass
class Scope:
    """A graph or a function body under lowering.

    Attributes:
        nodes: its nodes by name.
        values: what edges carry, by the names that inputs use.
        prefix: put in front of node names; the caller's scope inside of a function.
        loc: the caller's location inside of a function.
    """

    nodes: Mapping[str, Any]
    values: dict[str, Item]
    prefix: str = ""
    loc: Loc | None = None


class Lowering:
    """One run over a source.

    Attributes:
        source: the source.
        builder: where ops go.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.builder = Builder(Graph())

    def run(self, name: str) -> Graph:
        """The graph of the source."""
        self._reject_unsupported()
        graph = Graph(name)
        self.builder = Builder(graph)
        scope = Scope(self.source.nodes, {})
        for port in self.source.ports:
            kind = lower_input(graph, port)
            value = graph.add_input(graph.free_name(readable(port.name)), kind)
            scope.values[port.node] = Operand.of(value)
        scope.values.update(self.source.captures)
        items = self._walk_reporting(scope, self.source.results)
        results = []
        for item, result in zip(items, self.source.results, strict=True):
            if not isinstance(item, Operand):
                raise LoweringError(
                    f"result '{result}' is no tensor",
                    where=self.source.label,
                    why="a graph returns tensors",
                    remedy="return the stacked tensor of a list and the value of a variable",
                )
            results.append(self.builder.value(item, readable(result)))
        graph.set_outputs(results)
        self.builder.remove_dead()
        return graph

    # -- what has no lowering ---------------------------------------------------------
    def _reject_unsupported(self) -> None:
        load_extensions()
        report = _new_report()
        given = {port.node for port in self.source.ports} | set(self.source.captures)
        self._scan(self.source.nodes, self.source.results, given, report, set())
        if report:
            raise report.error(self.source.label)

    def _scan(
        self,
        nodes: Mapping[str, Any],
        results: Iterable[str],
        given: set[str],
        report: Report,
        entered: set[str],
    ) -> None:
        for node in nodes.values():
            if node.op.startswith("Assign") and node.op.endswith("VariableOp"):
                loc = self.source.places.location(node.name)
                reason = "it changes a variable, and variables are constants of the graph"
                report.add(str(node.op), f"'{node.name}' ({loc.readable()})", reason)
        constants: set[str] = set()
        for node in needed_nodes(nodes, results, given):
            inputs = [edge.partition(":")[0] for edge in node.input if not edge.startswith("^")]
            if node.op in ("Const", "ReadVariableOp") or (inputs and constants.issuperset(inputs)):
                constants.add(node.name)  # computed while lowering, by TensorFlow where no rule does it
            for name in called_functions(node):
                if name in self.source.functions and name not in entered:
                    entered.add(name)
                    body = self.source.functions[name]
                    arguments = {argument.name for argument in body.signature.input_arg}
                    inner = {inner.name: inner for inner in body.node_def}
                    self._scan(inner, body.ret.values(), arguments, report, entered)
            if find_rule(node.op) is None and not folds_dims(node.op) and node.name not in constants:
                loc = self.source.places.location(node.name)
                report.add(str(node.op), f"'{node.name}' ({loc.readable()})")

    # -- the walk -----------------------------------------------------------------------
    def _walk_reporting(self, scope: Scope, results: Sequence[str]) -> list[Item]:
        """Lower what `results` need; nodes in unsupported forms are all reported together.

        What reads the result of one of them is passed over.
        """
        forms: list[UnsupportedForm] = []
        absent: set[str] = set()
        for node in needed_nodes(scope.nodes, results, scope.values):
            if absent.isdisjoint(edge.lstrip("^").partition(":")[0] for edge in node.input):
                try:
                    self._lower_node(node, scope)
                    continue
                except UnsupportedForm as form:
                    forms.append(form)
            absent.add(node.name)
        if len(forms) == 1:
            raise forms[0]
        if forms:
            report = _new_report()
            report.add_forms(forms)
            raise report.error(self.source.label)
        return [self._find(scope, name) for name in results]

    def walk(self, scope: Scope, results: Sequence[str]) -> list[Item]:
        """Lower what `results` need; returns what these edges carry."""
        for node in needed_nodes(scope.nodes, results, scope.values):
            self._lower_node(node, scope)
        return [self._find(scope, name) for name in results]

    def _lower_node(self, node: Any, scope: Scope) -> None:
        path = str(node.name)
        if scope.prefix and path.partition("/")[0] != scope.prefix.partition("/")[0]:
            path = f"{scope.prefix}/{path}"
        self.builder.loc = self.source.places.location(path, scope.loc)
        attributes = {
            name: attribute_value(attribute, path)
            for name, attribute in node.attr.items()
            if not name.startswith("_")
        }
        self._store(node, self._node(node, attributes, path, scope), attributes, scope)

    def _find(self, scope: Scope, name: str) -> Item:
        item = scope.values.get(name)
        if item is None and name.endswith(":0"):
            item = scope.values.get(name[:-2])
        if item is None:
            raise LoweringError(
                f"value '{name}' is read but not made",
                where=self.source.label,
                why="a rule leaves that output of its op out, or the graph is damaged",
                remedy="outputs such as batch statistics exist in training only",
            )
        return item

    def _store(
        self, node: Any, items: Sequence[Item | None], attributes: Mapping[str, Any], scope: Scope
    ) -> None:
        """Keep outputs under the names that graphs (`node:1`) and function bodies (`node:out:0`) use."""
        for index, item in enumerate(items):
            if item is not None:
                scope.values[node.name if index == 0 else f"{node.name}:{index}"] = item
        definition = self.definition(node.op)
        position = 0
        for argument in definition.output_arg if definition is not None else ():
            count = output_count(argument, attributes)
            for index in range(count):
                if position + index < len(items):
                    item = items[position + index]
                    if item is not None:
                        scope.values[f"{node.name}:{argument.name}:{index}"] = item
            position += count

    def _node(
        self, node: Any, attributes: Mapping[str, Any], path: str, scope: Scope
    ) -> Sequence[Item | None]:
        inputs = [self._find(scope, name) for name in node.input if not name.startswith("^")]
        names = (self.source.places.name(path), path)
        call = Call(str(node.op), inputs, attributes, names, self)
        try:
            folded = fold(call)
            if folded is not None:
                return folded
            rule = match_pattern(node, scope.nodes, scope.values) or find_rule(call.op_type)
            if rule is not None:
                made = rule(call)
                if made is not None:
                    return (
                        [_item(part) for part in made] if isinstance(made, (list, tuple)) else [_item(made)]
                    )
        except LoweringError:
            raise
        except (VerifyError, InputError) as error:
            raise call.error(error.what, why=error.why, remedy=error.remedy) from error
        except (ValueError, LookupError, ArithmeticError) as error:
            raise call.error(
                "its inputs do not fit the op", why=str(error), remedy="run the model once to see"
            ) from error
        raise call.unsupported(f"this form of {call.op_type}")

    # -- functions ------------------------------------------------------------------------
    def enter(self, name: str, arguments: Sequence[Item], call: Call) -> list[Item]:
        """Lower the body of a function in the place of `call`."""
        body = self.source.functions.get(name)
        if body is None:
            raise call.error(f"function '{name}' is not in the graph")
        values = {
            argument.name: item for argument, item in zip(body.signature.input_arg, arguments, strict=True)
        }
        prefix = call.label.rpartition("/")[0]
        scope = Scope({node.name: node for node in body.node_def}, values, prefix, self.builder.loc)
        loc = self.builder.loc
        found = self.walk(scope, [body.ret[argument.name] for argument in body.signature.output_arg])
        self.builder.loc = loc
        return found

    @staticmethod
    @lru_cache(maxsize=1024)
    def definition(op_type: str) -> Any:
        """The `OpDef` of an op; None for one that TensorFlow does not know."""
        from tensorflow.python.framework import op_def_registry

        return op_def_registry.get(op_type)


def _item(part: Any) -> Item | None:
    return Operand.of(part) if isinstance(part, Value) else part


def called_functions(node: Any) -> list[str]:
    """Names of the functions that a node calls."""
    names = [str(a.func.name) for a in node.attr.values() if a.HasField("func")]
    return names + [str(f.name) for a in node.attr.values() if a.HasField("list") for f in a.list.func]


def needed_nodes(nodes: Mapping[str, Any], results: Iterable[str], given: Iterable[str]) -> list[Any]:
    """The nodes that `results` need by data edges, each after those it reads."""
    known = set(given)
    order: dict[str, Any] = {}
    pending = [(name.partition(":")[0], False) for name in reversed(list(results))]
    while pending:
        name, entered = pending.pop()
        if name in order or name in known or name not in nodes:
            continue
        if entered:
            order[name] = nodes[name]
            continue
        pending.append((name, True))
        inputs = [edge.partition(":")[0] for edge in nodes[name].input if not edge.startswith("^")]
        pending += [(edge, False) for edge in reversed(inputs) if edge not in order and edge not in known]
    return list(order.values())


def _new_report() -> Report:
    return Report(supported_operators, "rule(call)", spelt=lambda op_type: f"tf::{op_type}")
