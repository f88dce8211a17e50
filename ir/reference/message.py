"""Reference semantics of message passing on edge lists."""

from __future__ import annotations

from collections.abc import Callable

import torch

from plait.ir.errors import InputError
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


#: How the ops of an edge are combined, but for the dot product.
COMBINE: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "dot": torch.mul,
}


def ends(graph: EdgeList, side: str) -> torch.Tensor:
    """The node at one end of each edge, as i64."""
    return (graph.src if side == "src" else graph.dst).to(torch.int64)


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
    return x.index_select(0, ends(graph, op.side))


@reference(message.Sddmm)
def sddmm(op: message.Sddmm, args: MixedArgs, ctx: Context) -> torch.Tensor:
    """Both operands on the edges, combined element by element; the dot product sums after that."""
    graph, *operands = args
    sides = (op.left_side, op.right_side)
    left, right = (
        x if side == "edge" else x.index_select(0, ends(graph, side))
        for x, side in zip(operands, sides, strict=True)
    )
    found = COMBINE[op.combine](left, right)
    return found.sum(-1, keepdim=True) if op.combine == "dot" else found


@reference(message.Aggregate)
def aggregate(op: message.Aggregate, args: MixedArgs, ctx: Context) -> torch.Tensor:
    """Weighted source rows reduced at the destinations."""
    graph, x, weight = args
    rows = x.index_select(0, graph.src)
    if weight is not None:
        rows = rows * weight.reshape(*weight.shape, *(1,) * (rows.dim() - weight.dim()))
    return segments(rows, ends(graph, "dst"), ctx.size(op.graph.graph_type.nodes), op.reduce)


@reference(message.SegmentReduce)
def segment_reduce(op: message.SegmentReduce, args: MixedArgs, ctx: Context) -> torch.Tensor:
    """Edge rows reduced at the destinations."""
    graph, x = args
    return segments(x, ends(graph, "dst"), ctx.size(op.graph.graph_type.nodes), op.reduce)


@reference(message.EdgeSoftmax)
def edge_softmax(op: message.EdgeSoftmax, args: MixedArgs, ctx: Context) -> torch.Tensor:
    """Softmax within the edges of each node, with the largest score taken out first."""
    graph: EdgeList
    score: torch.Tensor
    graph, score = args
    groups = ends(graph, op.group)
    count = ctx.size(op.graph.graph_type.ends(op.group))
    largest = segments(score.detach(), groups, count, "max")
    powers = (score - largest.index_select(0, groups)).exp()
    return powers / segments(powers, groups, count, "sum").index_select(0, groups)


@reference(message.Degree)
def degree(op: message.Degree, args: MixedArgs, ctx: Context) -> torch.Tensor:
    """Edges at each node."""
    (graph,) = args
    count = ctx.size(op.graph.graph_type.ends(op.side))
    return torch.bincount(ends(graph, op.side), minlength=count).to(torch.float32)


@reference(message.Reverse)
def reverse(op: message.Reverse, args: MixedArgs, ctx: Context) -> EdgeList:
    """Sources and destinations exchanged."""
    (graph,) = args
    return EdgeList(graph.dst, graph.src)


@reference(message.SelfLoops)
def self_loops(op: message.SelfLoops, args: MixedArgs, ctx: Context) -> EdgeList:
    """Each node's own number behind both ends."""
    (graph,) = args
    nodes = torch.arange(ctx.size(op.graph.graph_type.nodes), dtype=graph.src.dtype, device=graph.src.device)
    return EdgeList(torch.cat([graph.src, nodes]), torch.cat([graph.dst, nodes]))


@reference(message.FromSegments)
def from_segments(op: message.FromSegments, args: MixedArgs, ctx: Context) -> EdgeList:
    """The number of each row, and that of its segment."""
    (lengths,) = args
    rows = ctx.size(op.out.edges)
    total = int(lengths.sum())
    if total != rows or (lengths < 0).any():
        raise InputError(
            f"segments of {op.lengths} hold {total} rows",
            where=str(op.result),
            why=f"the graph {op.out} has {rows}",
            remedy="pass lengths of segments that cover all rows",
        )
    segments_of = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
    numbers = torch.arange(rows, dtype=lengths.dtype, device=lengths.device)
    return EdgeList(numbers, segments_of.to(lengths.dtype))
