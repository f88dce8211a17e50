"""Message passing on a traced graph: DGL's built-in functions and user-defined ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import reduce as fold
from typing import TYPE_CHECKING, Any

import torch
from dgl.function import BuiltinFunction
from dgl.function.base import TargetCode
from dgl.function.message import BinaryMessageFunction

from plait.frontends.dgl import operators
from plait.frontends.dgl.mailbox import Mail
from plait.ir.errors import LoweringError

if TYPE_CHECKING:
    from plait.frontends.dgl.traced import Relation, Traced

#: Ends of an edge by DGL's letter.
SIDES = {"u": "src", "v": "dst", "e": "edge"}
_PYTHON: dict[str, Callable[..., torch.Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
}


# -- messages ---------------------------------------------------------------------------
def send(graph: Traced, function: Any) -> dict[str, torch.Tensor]:
    """The messages of all edges by name: tensors [E, ...]."""
    if not isinstance(function, BuiltinFunction):
        return dict(function(Edges(graph)))
    frames = {
        "u": graph._node_frames[0], "v": graph._node_frames[-1], "e": graph._edge_frames[0],
    }  # fmt: skip
    if isinstance(function, BinaryMessageFunction):
        left, right = TargetCode.CODE2STR[function.lhs], TargetCode.CODE2STR[function.rhs]
        found = combine(
            graph.relation,
            function.binary_op,
            frames[left][function.lhs_field],
            frames[right][function.rhs_field],
            left,
            right,
        )
        return {function.out_field: found}
    target = TargetCode.CODE2STR[function.target]
    return {function.out_field: at_edges(graph.relation, frames[target][function.in_field], target)}


def at_edges(relation: Relation, x: torch.Tensor, target: str) -> torch.Tensor:
    """Rows of `x`, of sources (u), destinations (v) or edges (e), on each edge."""
    return x if target == "e" else operators.gather(relation.topology, x, SIDES[target])


def combine(
    relation: Relation, operation: str, left: Any, right: Any, left_target: str, right_target: str
) -> torch.Tensor:
    """`left operation right` on each edge (DGL's gsddmm); dims behind the first broadcast."""
    if operation in ("copy_lhs", "copy_rhs"):
        chosen, target = (left, left_target) if operation == "copy_lhs" else (right, right_target)
        return at_edges(relation, chosen, target)
    left, right = _equal_rank(left, right)
    if not left.is_floating_point() or left.dtype != right.dtype:
        pair = at_edges(relation, left, left_target), at_edges(relation, right, right_target)
        found: torch.Tensor = (
            (pair[0] * pair[1]).sum(-1, keepdim=True) if operation == "dot" else _PYTHON[operation](*pair)
        )
        return found
    sides = SIDES[left_target], SIDES[right_target]
    return operators.sddmm(relation.topology, left, right, *sides, operation)


def _equal_rank(left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Axes of size 1 behind the first, so that both have one rank."""
    rank = max(left.dim(), right.dim())
    padded = (x.reshape(x.shape[0], *(1,) * (rank - x.dim()), *x.shape[1:]) for x in (left, right))
    return tuple(padded)  # type: ignore[return-value]  # a pair


# -- reduction ---------------------------------------------------------------------------
def combine_and_reduce(relation: Relation, operation: str, reduce: str, x: Any, edge: Any) -> torch.Tensor:
    """Messages `x operation edge` of sources and edges reduced at the destinations (DGL's gspmm)."""
    topology, nodes = relation.topology, relation.nodes
    if operation == "copy_rhs":
        return operators.segment_reduce(topology, nodes, edge, reduce)
    if operation == "copy_lhs":
        return operators.aggregate(topology, nodes, x, None, reduce)
    weight = _weight_of(x, edge) if operation == "mul" else None
    if weight is not None:
        return operators.aggregate(topology, nodes, x, weight, reduce)
    return operators.segment_reduce(topology, nodes, combine(relation, operation, x, edge, "u", "e"), reduce)


def _weight_of(x: torch.Tensor, edge: torch.Tensor) -> torch.Tensor | None:
    """`edge` without trailing axes of 1 where its others are the first of `x`; else None."""
    if x.dtype != edge.dtype or edge.dim() > x.dim():
        return None
    _, edge = _equal_rank(x, edge)
    rank = edge.dim()
    while rank > 1 and edge.shape[rank - 1] == 1:
        rank -= 1
    if tuple(edge.shape[1:rank]) != tuple(x.shape[1:rank]):
        return None
    return edge.reshape(edge.shape[:rank])


def pass_messages(
    graph: Traced, message: Any, reduce: Any, apply: Callable[..., Any] | None = None
) -> dict[str, torch.Tensor]:
    """New features of the destinations: messages sent, reduced, and handed to `apply`."""
    relation = graph.relation
    built_in = isinstance(reduce, BuiltinFunction)
    if built_in and isinstance(message, BuiltinFunction):
        if message.out_field != reduce.msg_field:
            raise LoweringError(
                f"the message '{message.out_field}' is reduced as '{reduce.msg_field}'",
                why="the field that a message function writes is the one that the reduce function reads",
            )
        found = {reduce.out_field: _built_in(graph, message, reduce.name)}
    elif built_in:
        messages = send(graph, message)[reduce.msg_field]
        found = {
            reduce.out_field: operators.segment_reduce(
                relation.topology, relation.nodes, messages, reduce.name
            )
        }
    else:
        mail = {name: Mail(relation, rows) for name, rows in send(graph, message).items()}
        results = reduce(Nodes(graph._node_frames[-1], mail))
        found = {name: _where_mail_arrived(relation, result) for name, result in results.items()}
    if apply is not None:
        found = {**apply(Nodes({**graph._node_frames[-1], **found}))}
    return found


def _built_in(graph: Traced, message: Any, reduce: str) -> torch.Tensor:
    relation = graph.relation
    frames = {"u": graph._node_frames[0], "e": graph._edge_frames[0], "v": graph._node_frames[-1]}
    if not isinstance(message, BinaryMessageFunction):
        target = TargetCode.CODE2STR[message.target]
        x = frames[target][message.in_field]
        copy = "copy_rhs" if target == "e" else "copy_lhs"
        return combine_and_reduce(relation, copy, reduce, x, x)
    left, right = TargetCode.CODE2STR[message.lhs], TargetCode.CODE2STR[message.rhs]
    a, b = frames[left][message.lhs_field], frames[right][message.rhs_field]
    if (left, right) == ("u", "e"):
        return combine_and_reduce(relation, message.binary_op, reduce, a, b)
    if (left, right, message.binary_op) == ("e", "u", "mul"):
        return combine_and_reduce(relation, "mul", reduce, b, a)
    rows = combine(relation, message.binary_op, a, b, left, right)
    return operators.segment_reduce(relation.topology, relation.nodes, rows, reduce)


def _where_mail_arrived(relation: Relation, result: Any) -> torch.Tensor:
    """A user-defined result; zero at nodes without messages, for which DGL does not call the function."""
    if not isinstance(result, torch.Tensor):
        raise LoweringError(
            "a reduce function returns its messages",
            why="there is one row for each node in its result",
            remedy="reduce them over dim 1 with sum, mean, max or min",
        )
    arrived = operators.degree(relation.topology, relation.nodes, "dst") > 0
    return torch.where(arrived.reshape(-1, *(1,) * (result.dim() - 1)), result, torch.zeros_like(result))


def across_relations(results: list[dict[str, Any]], reducer: Any) -> dict[str, Any]:
    """Results of several edge types that end at one node type, combined as `multi_update_all` does."""
    names = list(dict.fromkeys(name for result in results for name in result))
    found: dict[str, Any] = {}
    for name in names:
        values = [result[name] for result in results if name in result]
        if callable(reducer):
            found[name] = reducer(values)
        elif reducer in ("sum", "mean"):
            total = fold(torch.add, values)
            found[name] = total / len(values) if reducer == "mean" else total
        elif reducer in ("max", "min"):
            found[name] = fold(torch.maximum if reducer == "max" else torch.minimum, values)
        elif reducer == "stack":
            found[name] = torch.stack(values, 1)
        else:
            raise LoweringError(
                f"multi_update_all reduces with '{reducer}'", why="it is sum, mean, max, min or stack"
            )
    return found


# -- what user-defined functions see -----------------------------------------------------------
class Edges:
    """All edges, as DGL's EdgeBatch: features of both ends are gathered when they are read."""

    def __init__(self, graph: Traced) -> None:
        self._graph = graph
        relation = graph.relation
        self.src = _Gathered(relation, graph._node_frames[0], "u")
        self.dst = _Gathered(relation, graph._node_frames[-1], "v")
        self.data = graph._edge_frames[0]

    def edges(self) -> Any:
        """Sources, destinations and numbers of the edges."""
        return self._graph.all_edges(form="all")

    def batch_size(self) -> Any:
        """The number of edges."""
        return self._graph.relation.edges

    @property
    def canonical_etype(self) -> tuple[str, str, str]:
        return self._graph.canonical_etypes[0]


class _Gathered(Mapping[str, torch.Tensor]):
    """Features of the nodes at one end of each edge."""

    def __init__(self, relation: Relation, frame: Mapping[str, Any], target: str) -> None:
        self._relation, self._frame, self._target = relation, frame, target
        self._gathered: dict[str, torch.Tensor] = {}

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._gathered:
            self._gathered[name] = at_edges(self._relation, self._frame[name], self._target)
        return self._gathered[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._frame)

    def __len__(self) -> int:
        return len(self._frame)


class Nodes:
    """All nodes of a type, as DGL's NodeBatch, with the messages that a reduce function receives."""

    def __init__(self, data: Mapping[str, Any], mailbox: Mapping[str, Mail] | None = None) -> None:
        self.data = data
        self.mailbox = mailbox

    def batch_size(self) -> Any:
        """The number of nodes."""
        return getattr(self.data, "num_rows", None) or next(iter(self.data.values())).shape[0]
