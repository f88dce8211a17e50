"""What the body of a loop does with each of its arguments, read from its nodes without lowering them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from plait.frontends.tensorflow.call import Call

_TRANSPARENT = ("Identity", "StopGradient")


@dataclass(frozen=True)
class Outline:
    """The nodes of a function and what it returns.

    Attributes:
        nodes: nodes by name.
        arguments: the names of its arguments.
        results: the edges that it returns.
    """

    nodes: Mapping[str, Any]
    arguments: Sequence[str]
    results: Sequence[str]

    @staticmethod
    def of(call: Call, function: str) -> Outline:
        """The outline of a function of the graph that `call` is in."""
        body = call.lowering.source.functions.get(function)
        if body is None:
            raise call.error(f"function '{function}' is not in the graph")
        return Outline(
            {str(node.name): node for node in body.node_def},
            [str(argument.name) for argument in body.signature.input_arg],
            [str(body.ret[argument.name]) for argument in body.signature.output_arg],
        )

    def source(self, edge: str) -> str:
        """The edge that an edge hands on, through nodes that change nothing."""
        node = self.nodes.get(edge.partition(":")[0])
        while node is not None and node.op in _TRANSPARENT:
            edge = node.input[0]
            node = self.nodes.get(edge.partition(":")[0])
        return edge

    def producer(self, edge: str) -> Any:
        """The node that computes an edge; None for arguments."""
        return self.nodes.get(self.source(edge).partition(":")[0])

    def argument(self, edge: str) -> int | None:
        """The number of the argument that an edge hands on; None for others."""
        found = self.source(edge)
        return self.arguments.index(found) if found in self.arguments else None

    def unchanged(self, index: int) -> bool:
        """Whether a round hands argument `index` on as it is."""
        return self.argument(self.results[index]) == index

    def number(self, edge: str) -> int | None:
        """The whole number that a constant edge holds; None for others."""
        import tensorflow as tf

        node = self.producer(edge)
        if node is None or node.op != "Const":
            return None
        array = np.asarray(tf.make_ndarray(node.attr["value"].tensor))
        return int(array.reshape(())) if array.size == 1 and array.dtype.kind in "iu" else None

    def counts(self, index: int) -> bool:
        """Whether argument `index` grows by one each round."""
        node = self.producer(self.results[index])
        if node is None or node.op not in ("Add", "AddV2"):
            return False
        left, right = node.input[0], node.input[1]
        return (self.argument(left) == index and self.number(right) == 1) or (
            self.argument(right) == index and self.number(left) == 1
        )

    def readers(self, index: int) -> Iterator[tuple[Any, int]]:
        """The nodes that read argument `index`, or a copy of it, and the input they do it by."""
        for node in self.nodes.values():
            if node.op in _TRANSPARENT:
                continue
            for position, edge in enumerate(node.input):
                if not edge.startswith("^") and self.argument(edge) == index:
                    yield node, position

    def conjuncts(self, edge: str) -> list[Any]:
        """The nodes whose conjunction an edge is."""
        node = self.producer(edge)
        if node is not None and node.op == "LogicalAnd":
            return self.conjuncts(node.input[0]) + self.conjuncts(node.input[1])
        return [node]
