"""Groups of nodes that stand for one op of the IR: batch, layer and group normalisation, and GELU.

Keras writes these out in arithmetic.  A group is recognised at its last node; what
the other nodes were lowered to is removed when nothing else reads it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from plait.frontends.tensorflow.operand import Item, Operand
from plait.ir import Value
from plait.ir.ops import nn

if TYPE_CHECKING:
    from plait.frontends.tensorflow.call import Call
    from plait.frontends.tensorflow.registry import Rule

_ADD, _TRANSPARENT = ("Add", "AddV2"), ("Identity", "StopGradient")


class Graph:
    """Questions about the nodes in front of a node.

    Args:
        nodes: nodes by name.
        values: what edges carry.
    """

    def __init__(self, nodes: Mapping[str, Any], values: Mapping[str, Item]) -> None:
        self._nodes, self._values = nodes, values

    def source(self, edge: str) -> str:
        """The edge that an edge hands on, through nodes that change nothing."""
        node = self._nodes.get(edge.partition(":")[0])
        while node is not None and node.op in _TRANSPARENT:
            edge = node.input[0]
            node = self._nodes.get(edge.partition(":")[0])
        return edge.removesuffix(":0")

    def inputs(self, edge: str, *op_types: str) -> list[str] | None:
        """The inputs of the node that computes an edge, where it is one of these ops."""
        node = self._nodes.get(self.source(edge).partition(":")[0])
        return (
            [str(i) for i in node.input if not i.startswith("^")]
            if node is not None and node.op in op_types
            else None
        )

    def pairs(self, edge: str, *op_types: str) -> list[tuple[str, str]]:
        """The two inputs of a commutative node in both orders; empty where it is another one."""
        found = self.inputs(edge, *op_types)
        return [] if found is None or len(found) != 2 else [(found[0], found[1]), (found[1], found[0])]

    def same(self, left: str, right: str) -> bool:
        return self.source(left) == self.source(right)

    def operand(self, edge: str) -> Operand | None:
        """What an edge carries, where that is a tensor."""
        item = self._values.get(edge) or self._values.get(edge.removesuffix(":0"))
        return item if isinstance(item, Operand) else None

    def numbers(self, edge: str) -> np.ndarray | None:
        operand = self.operand(edge)
        return None if operand is None else operand.array

    def scalar(self, edge: str) -> float | None:
        """The number that an edge carries."""
        array = self.numbers(edge)
        return float(str(np.float32(array.reshape(())))) if array is not None and array.size == 1 else None


def match_pattern(node: Any, nodes: Mapping[str, Any], values: Mapping[str, Item]) -> Rule | None:
    """A rule for the group of nodes that ends in `node`; None where there is none."""
    if node.op in _ADD:
        graph = Graph(nodes, values)
        return _batch_norm(graph, node.name) or _sample_norm(graph, node.name)
    return _gelu(Graph(nodes, values), node.name) if node.op == "Mul" else None


# -- batch normalisation ----------------------------------------------------------------
def _batch_norm(graph: Graph, edge: str) -> Rule | None:
    """x * m + (offset - mean * m), with m = rsqrt(variance + epsilon) * scale."""
    for scaled, shift in graph.pairs(edge, *_ADD):
        for x, factor in graph.pairs(scaled, "Mul"):
            statistics = _statistics(graph, factor)
            if statistics is None:
                continue
            variance, epsilon, scale = statistics
            rest = _shift(graph, shift, factor)
            if rest is None:
                continue
            mean, offset = rest
            parameters = [graph.operand(edge) if edge else None for edge in (mean, variance, scale, offset)]
            operand = graph.operand(x)
            if operand is not None and operand.rank >= 2 and _channelwise(parameters, operand):
                return _batch_norm_rule(operand, parameters, epsilon)
    return None


def _batch_norm_rule(x: Operand, parameters: Sequence[Operand | None], epsilon: float) -> Rule:
    def rule(call: Call) -> Operand:
        mean, variance, scale, bias = (None if p is None else _vector(call, p) for p in parameters)
        assert mean is not None
        assert variance is not None
        value = call.builder.first(x, call.name) if x.rank > 2 else call.builder.value(x, call.name)
        y = call.emit(nn.BatchNorm(value, mean, variance, scale, bias, epsilon=epsilon))
        return Operand.of_first(y) if x.rank > 2 else Operand.of(y)

    return rule


def _vector(call: Call, parameter: Operand) -> Value:
    """A known parameter as a constant of one axis."""
    assert parameter.array is not None
    return call.builder.derived(parameter, "vector", parameter.array.reshape(-1))


def _statistics(graph: Graph, factor: str) -> tuple[str, float, str] | None:
    """Variance, epsilon and scale of rsqrt(variance + epsilon) * scale; the scale may be missing."""
    for root, scale in [*graph.pairs(factor, "Mul"), (factor, "")]:
        inside = graph.inputs(root, "Rsqrt")
        if inside is None:
            continue
        for variance, epsilon in graph.pairs(inside[0], *_ADD):
            number = graph.scalar(epsilon)
            if number is not None and graph.numbers(variance) is not None:
                return variance, number, scale
    return None


def _shift(graph: Graph, shift: str, factor: str) -> tuple[str, str] | None:
    """Mean and offset of offset - mean * factor, or of -mean * factor."""
    difference = graph.inputs(shift, "Sub")
    if difference is not None:
        for mean, m in graph.pairs(difference[1], "Mul"):
            if graph.same(m, factor):
                return mean, difference[0]
    for negative, m in graph.pairs(shift, "Mul"):
        mean_input = graph.inputs(negative, "Neg")
        if mean_input is not None and graph.same(m, factor):
            return mean_input[0], ""
    return None


def _channelwise(parameters: Sequence[Operand | None], x: Operand) -> bool:
    """Whether all parameters are known vectors along the last axis."""
    channels = x.shape[-1]
    return all(
        p is None or (p.array is not None and p.array.size == channels and p.shape[-1:] == (channels,))
        for p in parameters
    )


# -- layer and group normalisation --------------------------------------------------------
def _sample_norm(graph: Graph, edge: str) -> Rule | None:
    """x * m + (-mean * m + offset), with m = rsqrt(variance + epsilon) * scale."""
    for scaled, shift in graph.pairs(edge, *_ADD):
        for x, factor in graph.pairs(scaled, "Mul"):
            x_operand = graph.operand(x)
            if x_operand is None or x_operand.numbers is not None:
                continue
            for root, scale in graph.pairs(factor, "Mul"):
                for moved, offset in graph.pairs(shift, *_ADD):
                    found = _sample_statistics(graph, x, root, moved, factor)
                    scale_operand, offset_operand = graph.operand(scale), graph.operand(offset)
                    if found is None or scale_operand is None or offset_operand is None:
                        continue
                    epsilon, axes = found
                    rule = _layer_norm(
                        x_operand, scale_operand, offset_operand, epsilon, axes
                    ) or _group_norm(graph, x, scale_operand, offset_operand, epsilon, axes)
                    if rule is not None:
                        return rule
    return None


def _layer_norm(x: Operand, scale: Operand, offset: Operand, epsilon: float, axes: set[int]) -> Rule | None:
    """Layer normalisation, where the statistics are those of the last axis."""
    if x.only_first or axes != {x.rank - 1} or not _channelwise([scale, offset], x):
        return None

    def rule(call: Call) -> Operand:
        value = call.builder.value(x, call.name)
        made = nn.LayerNorm(value, _vector(call, scale), _vector(call, offset), epsilon=epsilon)
        return Operand.of(call.emit(made))

    return rule


def _group_norm(
    graph: Graph, edge: str, scale: Operand, offset: Operand, epsilon: float, axes: set[int]
) -> Rule | None:
    """Group normalisation, where [B, ..., G * C] is split into [B, ..., G, C] for the statistics."""
    split, inputs = graph.operand(edge), graph.inputs(edge, "Reshape")
    whole = graph.operand(inputs[0]) if inputs is not None else None
    if split is None or whole is None or split.rank < 4 or whole.shape[:-1] != split.shape[:-2]:
        return None
    groups, each = split.shape[-2:]
    shape = (*(1,) * (split.rank - 2), groups, each)
    if axes != {*range(1, split.rank)} - {split.rank - 2} or not isinstance(groups, int):
        return None
    if any(parameter.array is None or parameter.shape != shape for parameter in (scale, offset)):
        return None

    def rule(call: Call) -> Operand:
        x = call.builder.first(whole, call.name)
        parameters = _vector(call, scale), _vector(call, offset)
        y = call.emit(nn.GroupNorm(x, *parameters, groups=groups, epsilon=epsilon))
        return Operand(call.name, whole.element, split.shape, rows=Operand.of_first(y))

    return rule


def _sample_statistics(
    graph: Graph, x: str, root: str, moved: str, factor: str
) -> tuple[float, set[int]] | None:
    """Epsilon and axes, where `root` is rsqrt of the variance of x over them and `moved` -mean * factor."""
    inside = graph.inputs(root, "Rsqrt")
    if inside is None:
        return None
    for variance, epsilon in graph.pairs(inside[0], *_ADD):
        number, spread = graph.scalar(epsilon), graph.inputs(variance, "Mean")
        axes = _axes(graph, spread[1], x) if spread is not None else None
        if number is None or spread is None or axes is None:
            continue
        for deviating, mean in graph.pairs(spread[0], "SquaredDifference"):
            mean_input = graph.inputs(mean, "Mean")
            if mean_input is None or not graph.same(deviating, x) or not graph.same(mean_input[0], x):
                continue
            if _axes(graph, mean_input[1], x) != axes:
                continue
            for negative, m in graph.pairs(moved, "Mul"):
                of = graph.inputs(negative, "Neg")
                if of is not None and graph.same(of[0], mean) and graph.same(m, factor):
                    return number, axes
    return None


def _axes(graph: Graph, edge: str, x: str) -> set[int] | None:
    """The axes of x that an edge lists, counted from the front; None where they are unknown."""
    numbers, operand = graph.numbers(edge), graph.operand(x)
    if numbers is None or operand is None:
        return None
    return {int(axis) % operand.rank for axis in numbers.reshape(-1)}


# -- GELU -------------------------------------------------------------------------------
def _gelu(graph: Graph, edge: str) -> Rule | None:
    """0.5 * x * erfc(-x * sqrt(1/2)), or 0.5 * x * (1 + tanh(sqrt(2/pi) * (x + 0.044715 * x^3)))."""
    for half, rest in graph.pairs(edge, "Mul"):
        for number, x in graph.pairs(half, "Mul"):
            operand = graph.operand(x)
            if graph.scalar(number) != 0.5 or operand is None or not operand.element.is_float:
                continue
            if _is_erfc(graph, rest, x):
                return _gelu_rule(operand, "none")
            if _is_tanh(graph, rest, x):
                return _gelu_rule(operand, "tanh")
    return None


def _gelu_rule(x: Operand, approximate: Any) -> Rule:
    def rule(call: Call) -> Operand:
        if x.only_first:
            return Operand.of_first(
                call.emit(nn.Gelu(call.builder.first(x, call.name), approximate=approximate))
            )
        return Operand.of(call.emit(nn.Gelu(call.builder.value(x, call.name), approximate=approximate)))

    return rule


def _near(number: float | None, wanted: float) -> bool:
    return number is not None and math.isclose(number, wanted, rel_tol=1e-6)


def _is_erfc(graph: Graph, edge: str, x: str) -> bool:
    inside = graph.inputs(edge, "Erfc")
    for negative, factor in graph.pairs(inside[0], "Mul") if inside is not None else ():
        of = graph.inputs(negative, "Neg")
        if of is not None and graph.same(of[0], x) and _near(graph.scalar(factor), math.sqrt(0.5)):
            return True
    return False


def _is_tanh(graph: Graph, edge: str, x: str) -> bool:
    for one, tanh in graph.pairs(edge, *_ADD):
        inside = graph.inputs(tanh, "Tanh")
        if graph.scalar(one) != 1.0 or inside is None:
            continue
        for factor, polynomial in graph.pairs(inside[0], "Mul"):
            if not _near(graph.scalar(factor), math.sqrt(2.0 / math.pi)):
                continue
            for plain, cubic in graph.pairs(polynomial, *_ADD):
                if graph.same(plain, x) and _is_cubic(graph, cubic, x):
                    return True
    return False


def _is_cubic(graph: Graph, edge: str, x: str) -> bool:
    for factor, cube in graph.pairs(edge, "Mul"):
        power = graph.inputs(cube, "Pow")
        if not _near(graph.scalar(factor), 0.044715) or power is None:
            continue
        if graph.same(power[0], x) and graph.scalar(power[1]) == 3.0:
            return True
    return False
