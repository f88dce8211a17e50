"""Cost of ops whose result size depends on values, at the bound of that size."""

from __future__ import annotations

from math import log2

from plait.ir.cost_rules.table import Cost, Sizes, cost_rule
from plait.ir.ops import core, nn

#: FLOPs to compare two boxes: two corners (4), sides (2), areas (2 and 1), union (2), a division, a test.
_OVERLAP_FLOPS = 13


@cost_rule(core.Nonzero)
def nonzero(op: core.Nonzero, sizes: Sizes) -> Cost:
    """A test for each element, and a place for each index."""
    return sizes.cost(op, flops=2 * sizes.count(op.x), exact=False)


@cost_rule(core.BindDim)
def bind_dim(op: core.BindDim, sizes: Sizes) -> Cost:
    """The number is read."""
    return sizes.cost(op)


@cost_rule(core.Unique)
def unique(op: core.Unique, sizes: Sizes) -> Cost:
    """The comparisons of a sort; of neighbours only, where they alone are merged."""
    count = sizes.count(op.x)
    each = 1 if op.consecutive else max(1.0, log2(max(count, 1)))
    return sizes.cost(op, flops=round(count * each), exact=False)


@cost_rule(nn.NonMaxSuppression)
def non_max_suppression(op: nn.NonMaxSuppression, sizes: Sizes) -> Cost:
    """The sort of the scores, and each kept box against all others, a bound."""
    images, classes, boxes = sizes.shape(op.scores)
    kept = min(boxes, op.max_output_boxes_per_class)
    each = boxes * max(1.0, log2(max(boxes, 1))) + kept * boxes * _OVERLAP_FLOPS
    return sizes.cost(op, flops=round(images * classes * each), exact=False)
