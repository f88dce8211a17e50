"""The torch operators that a traced DGL model calls in place of DGL's kernels.

A topology is one integer tensor [2, E]: row 0 holds the source of each edge, row 1 its
destination.  Node counts are numbers, so that torch.export keeps them symbolic.
Lowering turns each operator into an op of the message family (`plait.frontends.dgl.rules`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.library import custom_op

_ROW = {"src": 0, "dst": 1}
_COMBINE: dict[str, Callable[..., Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "dot": torch.mul,
}
_REDUCE = {"sum": "sum", "mean": "mean", "max": "amax", "min": "amin"}


def _picks(groups: Tensor, rows: Tensor) -> Tensor:
    return groups.to(torch.int64).reshape(-1, *(1,) * (rows.dim() - 1)).expand_as(rows)


@custom_op("plait::gather", mutates_args=())
def gather(topology: Tensor, x: Tensor, side: str) -> Tensor:
    """Rows of `x` at the `src` or `dst` end of each edge: [E, ...]."""
    return x.index_select(0, topology[_ROW[side]])


@gather.register_fake
def _(topology: Tensor, x: Tensor, side: str) -> Tensor:
    return x.new_empty((topology.shape[1], *x.shape[1:]))


@custom_op("plait::segment_reduce", mutates_args=())
def segment_reduce(topology: Tensor, nodes: int, x: Tensor, reduce: str) -> Tensor:
    """Rows of the edges reduced at their destinations: [nodes, ...]; zero without edges."""
    zeros = x.new_zeros((nodes, *x.shape[1:]))
    return zeros.scatter_reduce(0, _picks(topology[1], x), x, _REDUCE[reduce], include_self=False)


@segment_reduce.register_fake
def _(topology: Tensor, nodes: int, x: Tensor, reduce: str) -> Tensor:
    return x.new_empty((nodes, *x.shape[1:]))


@custom_op("plait::aggregate", mutates_args=())
def aggregate(topology: Tensor, nodes: int, x: Tensor, weight: Tensor | None, reduce: str) -> Tensor:
    """Source rows, weighted per edge, reduced at the destinations: [nodes, ...]."""
    rows = x.index_select(0, topology[0])
    if weight is not None:
        rows = rows * weight.reshape(*weight.shape, *(1,) * (rows.dim() - weight.dim()))
    return segment_reduce(topology, nodes, rows, reduce)


@aggregate.register_fake
def _(topology: Tensor, nodes: int, x: Tensor, weight: Tensor | None, reduce: str) -> Tensor:
    return x.new_empty((nodes, *x.shape[1:]))


@custom_op("plait::sddmm", mutates_args=())
def sddmm(
    topology: Tensor, left: Tensor, right: Tensor, left_side: str, right_side: str, combine: str
) -> Tensor:
    """Two tensors combined on each edge; `dot` sums over the last dim and keeps it."""
    a, b = (
        x if side == "edge" else x.index_select(0, topology[_ROW[side]])
        for x, side in ((left, left_side), (right, right_side))
    )
    found: Tensor = _COMBINE[combine](a, b)
    return found.sum(-1, keepdim=True) if combine == "dot" else found


@sddmm.register_fake
def _(topology: Tensor, left: Tensor, right: Tensor, left_side: str, right_side: str, combine: str) -> Tensor:
    tail = tuple(torch.broadcast_shapes(left.shape[1:], right.shape[1:]))
    tail = (*tail[:-1], 1) if combine == "dot" else tail
    return left.new_empty((topology.shape[1], *tail))


@custom_op("plait::edge_softmax", mutates_args=())
def edge_softmax(topology: Tensor, nodes: int, score: Tensor, group: str) -> Tensor:
    """Softmax of scores among the edges that share an end."""
    ends = topology[_ROW[group]]
    picks = _picks(ends, score)
    zeros = score.new_zeros((nodes, *score.shape[1:]))
    largest = zeros.scatter_reduce(0, picks, score, "amax", include_self=False)
    powers = (score - largest.index_select(0, ends)).exp()
    return powers / zeros.scatter_add(0, picks, powers).index_select(0, ends)


@edge_softmax.register_fake
def _(topology: Tensor, nodes: int, score: Tensor, group: str) -> Tensor:
    return torch.empty_like(score)


@custom_op("plait::degree", mutates_args=())
def degree(topology: Tensor, nodes: int, side: str) -> Tensor:
    """Edges at each node, in the integer type of the topology."""
    return torch.bincount(topology[_ROW[side]], minlength=nodes).to(topology.dtype)


@degree.register_fake
def _(topology: Tensor, nodes: int, side: str) -> Tensor:
    return topology.new_empty((nodes,))


@custom_op("plait::edge_ends", mutates_args=())
def edge_ends(topology: Tensor, nodes: int, side: str) -> Tensor:
    """The number of the node at one end of each edge: [E]."""
    return topology[_ROW[side]].clone()


@edge_ends.register_fake
def _(topology: Tensor, nodes: int, side: str) -> Tensor:
    return topology.new_empty((topology.shape[1],))


@custom_op("plait::reverse", mutates_args=())
def reverse(topology: Tensor) -> Tensor:
    """The topology with every edge turned round."""
    return topology.flip(0)


@reverse.register_fake
def _(topology: Tensor) -> Tensor:
    return torch.empty_like(topology)


@custom_op("plait::self_loops", mutates_args=())
def self_loops(topology: Tensor, nodes: int) -> Tensor:
    """The topology with an edge from each node to itself behind the others."""
    loops = torch.arange(nodes, dtype=topology.dtype, device=topology.device)
    return torch.cat([topology, loops.expand(2, -1)], 1)


@self_loops.register_fake
def _(topology: Tensor, nodes: int) -> Tensor:
    return topology.new_empty((2, topology.shape[1] + nodes))


@custom_op("plait::from_segments", mutates_args=())
def from_segments(lengths: Tensor, rows: int) -> Tensor:
    """Memberships of `rows` rows in segments of these lengths: an edge from each row to its segment."""
    numbers = torch.arange(len(lengths), device=lengths.device)
    ends = torch.repeat_interleave(numbers, lengths.to(torch.int64), output_size=rows)
    return torch.stack([torch.arange(rows, device=lengths.device), ends]).to(lengths.dtype)


@from_segments.register_fake
def _(lengths: Tensor, rows: int) -> Tensor:
    return lengths.new_empty((2, rows))
