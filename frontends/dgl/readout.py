"""Readouts of batched graphs: reductions within segments of rows, and their inverses.

Rows of a batch lie graph after graph; `lengths` [G] says how many each graph has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from plait.frontends.dgl import operators
from plait.ir.errors import LoweringError

if TYPE_CHECKING:
    from plait.frontends.dgl.traced import Traced


def segment_reduce(seglen: torch.Tensor, value: torch.Tensor, reducer: str = "sum") -> torch.Tensor:
    """Rows [N, ...] reduced within segments: [G, ...]; an empty segment is zero."""
    members = operators.from_segments(seglen, value.shape[0])
    return operators.segment_reduce(members, seglen.shape[0], value, reducer)


def segment_softmax(seglen: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Softmax within segments, element by element: [N, ...]."""
    members = operators.from_segments(seglen, value.shape[0])
    return operators.edge_softmax(members, seglen.shape[0], value, "dst")


def segment_matmul(a: torch.Tensor, b: torch.Tensor, seglen_a: torch.Tensor) -> torch.Tensor:
    """Rows [N, K] times the matrix of their segment, out of [G, K, L]: [N, L]."""
    members = operators.from_segments(seglen_a, a.shape[0])
    return _rows_times(a, operators.gather(members, b, "dst"))


def gather_matmul(a: torch.Tensor, b: torch.Tensor, *, idx_b: torch.Tensor) -> torch.Tensor:
    """Rows [N, K] times the matrix that each names, out of [R, K, L]: [N, L]."""
    return _rows_times(a, b.index_select(0, idx_b))


def _rows_times(rows: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    return torch.bmm(rows.unsqueeze(1), matrices).squeeze(1)


def broadcast_nodes(graph: Traced, graph_feat: torch.Tensor, *, ntype: str | None = None) -> torch.Tensor:
    """The row of each node's graph: [G, ...] -> [N, ...]."""
    rows = graph._node_frames[graph.get_ntype_id(ntype)].num_rows
    return operators.gather(operators.from_segments(graph.batch_num_nodes(ntype), rows), graph_feat, "dst")


def broadcast_edges(graph: Traced, graph_feat: torch.Tensor, *, etype: Any = None) -> torch.Tensor:
    """The row of each edge's graph: [G, ...] -> [E, ...]."""
    rows = graph.relation_of(etype).edges
    return operators.gather(operators.from_segments(graph.batch_num_edges(etype), rows), graph_feat, "dst")


def topk_nodes(
    graph: Traced, feat: str, k: int, *, descending: bool = True, sortby: int | None = None, ntype: Any = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k nodes of each graph with the largest keys: features [G, k, D] and numbers [G, k]."""
    frame = graph._node_frames[graph.get_ntype_id(ntype)]
    return _top(frame[feat], graph.batch_num_nodes(ntype), k, descending, sortby)


def topk_edges(
    graph: Traced, feat: str, k: int, *, descending: bool = True, sortby: int | None = None, etype: Any = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k edges of each graph with the largest keys: features [G, k, D] and numbers [G, k]."""
    frame = graph._edge_frames[graph.get_etype_id(etype)]
    return _top(frame[feat], graph.batch_num_edges(etype), k, descending, sortby)


def _top(
    x: torch.Tensor, lengths: torch.Tensor, k: int, descending: bool, column: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows sorted by key, then by segment, and written to their place within it.

    Places behind the last row of a segment are zero, as DGL's are.
    """
    if column is None:
        raise LoweringError(
            "topk without sortby= cannot be traced",
            why="each feature would be sorted on its own",
            remedy="pass sortby=, the column to sort by",
        )
    count, rows = lengths.shape[0], x.shape[0]
    members = operators.from_segments(lengths, rows)
    segment = operators.edge_ends(members, count, "dst")
    starts = lengths.cumsum(0) - lengths
    by_key = torch.sort(x[:, column], stable=True, descending=descending)[1]
    by_segment = torch.sort(segment.index_select(0, by_key), stable=True)[1]
    order = by_key.index_select(0, by_segment)
    begins = operators.gather(members, starts, "dst")
    place = torch.arange(rows, dtype=lengths.dtype, device=x.device) - begins  # rows now lie by segment
    # Rows behind the k-th go to one more row, which is cut off.
    slot = torch.where(place < k, segment * k + place, count * k)
    chosen = x.index_select(0, order)
    features = x.new_zeros((count * k + 1, x.shape[1])).index_copy(0, slot, chosen)
    numbers = lengths.new_zeros((count * k + 1,)).index_copy(0, slot, order - begins)
    return features[: count * k].reshape(count, k, x.shape[1]), numbers[: count * k].reshape(count, k)
