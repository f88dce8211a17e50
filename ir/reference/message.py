"""Reference semantics of message passing on edge lists."""

from __future__ import annotations

import torch

from plait.ir.ops import message
from plait.ir.reference.table import Context, MixedArgs, reference
from plait.ir.reference.tensors import EdgeList

SCATTER = {"max": "amax", "min": "amin"}


def segments(rows: torch.Tensor, groups: torch.Tensor, count: int, reduce: str) -> torch.Tensor:
    """Rows [E, ...] reduced into `count` groups; an empty group is zero."""
    zeros = rows.new_zeros((count, *rows.shape[1:]))
    if reduce in SCATTER:
        picks = groups.reshape(-1, *(1,) * (rows.dim() - 1)).expand_as(rows)
        return zeros.scatter_reduce(0, picks, rows, SCATTER[reduce], include_self=False)
    total = zeros.index_add(0, groups, rows)
    if reduce == "sum":
        return total
    members = torch.bincount(groups, minlength=count).clamp(min=1).to(rows.dtype)
    return total / members.reshape(-1, *(1,) * (rows.dim() - 1))


def nodes_of(
    op: message.Aggregate | message.SegmentReduce | message.EdgeSoftmax | message.Degree, ctx: Context
) -> int:
    """Number of nodes of the op's graph."""
    return ctx.size(op.graph.graph_type.nodes)


@reference(message.FromEdges)
def from_edges(op: message.FromEdges, args: MixedArgs, ctx: Context) -> EdgeList:
    """Rows 0 and 1 of the edge index."""
    (index,) = args
    return EdgeList(index[0], index[1])


@reference(message.Gather)
def gather(op: message.Gather, args: MixedArgs, ctx: Context) -> torch.Tensor:
    """Node rows at one end of each edge."""
    graph: EdgeList
    x: torch.Tensor
    graph, x = args
    return x.index_select(0, graph.src if op.side == "src" else graph.dst)


@reference(message.Aggregate)
def aggregate(op: message.Aggregate, args: MixedArgs, ctx: Context) -> torch.Tensor:
    """Weighted source rows reduced at the destinations."""
    graph, x, weight = args
    rows = x.index_select(0, graph.src)
    if weight is not None:
        rows = rows * weight.reshape(*weight.shape, *(1,) * (rows.dim() - weight.dim()))
    return segments(rows, graph.dst.to(torch.int64), nodes_of(op, ctx), op.reduce)


@reference(message.SegmentReduce)
def segment_reduce(op: message.SegmentReduce, args: MixedArgs, ctx: Context) -> torch.Tensor:
    """Edge rows reduced at the destinations."""
    graph, x = args
    return segments(x, graph.dst.to(torch.int64), nodes_of(op, ctx), op.reduce)


@reference(message.EdgeSoftmax)
def edge_softmax(op: message.EdgeSoftmax, args: MixedArgs, ctx: Context) -> torch.Tensor:
    """Softmax within the edges of each node, with the largest score taken out first."""
    graph: EdgeList
    score: torch.Tensor
    graph, score = args
    groups = (graph.dst if op.group == "dst" else graph.src).to(torch.int64)
    count = nodes_of(op, ctx)
    largest = segments(score.detach(), groups, count, "max")
    powers = (score - largest.index_select(0, groups)).exp()
    return powers / segments(powers, groups, count, "sum").index_select(0, groups)


@reference(message.Degree)
def degree(op: message.Degree, args: MixedArgs, ctx: Context) -> torch.Tensor:
    """Edges at each node."""
    (graph,) = args
    ends = graph.src if op.side == "src" else graph.dst
    return torch.bincount(ends.to(torch.int64), minlength=nodes_of(op, ctx)).to(torch.float32)
