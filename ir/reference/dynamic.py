"""Reference semantics of ops whose result size depends on values."""

from __future__ import annotations

from math import prod

import torch

from plait.ir.ops import core, nn
from plait.ir.reference.table import Args, Context, reference


@reference(core.Nonzero)
def nonzero(op: core.Nonzero, args: Args, ctx: Context) -> torch.Tensor:
    """Indices in row-major order."""
    found = args[0].nonzero()
    ctx.bind(op, found.shape[0])
    return found


@reference(core.BindDim)
def bind_dim(op: core.BindDim, args: Args, ctx: Context) -> torch.Tensor:
    """The operand itself."""
    ctx.bind(op, int(args[0]))
    return args[0]


@reference(core.Unique)
def unique(op: core.Unique, args: Args, ctx: Context) -> tuple[torch.Tensor, ...]:
    """Distinct rows of a matrix that has a row for each element or slice."""
    (x,) = args
    parts = x.reshape(-1) if op.axis is None else x.movedim(op.axis, 0)
    slices = parts.shape[1:]
    rows = parts.reshape(parts.shape[0], prod(slices))
    find = torch.unique_consecutive if op.consecutive else torch.unique
    # torch compares neither rows of booleans nor rows without elements.
    numbers = rows.to(torch.uint8) if rows.dtype == torch.bool else rows
    if rows.numel():
        distinct, place, counts = find(numbers, return_inverse=True, return_counts=True, dim=0)
    else:  # rows without elements are all equal
        groups = min(rows.shape[0], 1)
        distinct, place = numbers[:groups], torch.zeros(rows.shape[0], dtype=torch.int64, device=x.device)
        counts = torch.full((groups,), rows.shape[0], dtype=torch.int64, device=x.device)
    numbering = torch.arange(rows.shape[0], device=x.device)
    first = torch.full_like(counts, rows.shape[0]).scatter_reduce(0, place, numbering, "amin")
    if not op.sorted and not op.consecutive:
        order = first.argsort()
        place = order.argsort()[place]
        distinct, counts, first = distinct[order], counts[order], first[order]
    values = distinct.to(x.dtype).reshape(distinct.shape[0], *slices)
    ctx.bind(op, values.shape[0])
    if op.axis is None:
        return values, first, place.reshape(x.shape), counts
    return values.movedim(0, op.axis), first, place, counts


@reference(nn.NonMaxSuppression)
def non_max_suppression(op: nn.NonMaxSuppression, args: Args, ctx: Context) -> torch.Tensor:
    """The best box of those left is kept, and those that overlap it are dropped."""
    boxes, scores = args
    corners = _corners(boxes, op.center_point_box)
    kept: list[tuple[int, int, int]] = []
    for image in range(scores.shape[0]):
        for label in range(scores.shape[1]):
            points = scores[image, label]
            left = points.argsort(descending=True, stable=True)
            if op.score_threshold is not None:
                left = left[points[left] > op.score_threshold]
            found: list[int] = []
            while left.numel() and len(found) < op.max_output_boxes_per_class:
                best, left = left[0], left[1:]
                found.append(int(best))
                left = left[_overlap(corners[image][best], corners[image][left]) <= op.iou_threshold]
            kept += [(image, label, box) for box in found]
    ctx.bind(op, len(kept))
    return torch.tensor(kept, dtype=torch.int64, device=boxes.device).reshape(-1, 3)


def _corners(boxes: torch.Tensor, centred: bool) -> torch.Tensor:
    """Boxes as the lower and the upper corner, [..., 4]."""
    first, second = boxes[..., :2], boxes[..., 2:]
    if centred:
        first, second = first - second / 2, first + second / 2
    return torch.cat([torch.minimum(first, second), torch.maximum(first, second)], -1)


def _overlap(box: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Intersection over union of a box with each of others; 0 where both are empty."""
    low, high = torch.maximum(box[:2], others[:, :2]), torch.minimum(box[2:], others[:, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    union = (box[2:] - box[:2]).prod(-1) + (others[:, 2:] - others[:, :2]).prod(-1) - shared
    return torch.where(union > 0, shared / union, torch.zeros_like(union))
