"""Cost of normalisations, pooling and resampling."""

from __future__ import annotations

import math

from plait.ir.cost_rules.table import TRANSCENDENTAL, Cost, Sizes, cost_rule
from plait.ir.ops import nn


def affine(op: nn.BatchNorm | nn.LayerNorm | nn.GroupNorm | nn.InstanceNorm) -> int:
    """FLOPs per element of an optional scale and bias."""
    return (op.scale is not None) + (op.bias is not None)


@cost_rule(nn.BatchNorm)
def batch_norm(op: nn.BatchNorm, sizes: Sizes) -> Cost:
    """Subtract, multiply, scale, bias per element; add and rsqrt per channel."""
    per_channel = 2 * sizes.count(op.mean)
    return sizes.cost(op, flops=(2 + affine(op)) * sizes.count(op.x) + per_channel)


def by_rows(count: int, rows: int, extra: int) -> int:
    """Mean (1), variance (3), normalise (1) and `extra` per element.

    Each row adds four: two divisions for the mean and the variance, an addition and an rsqrt.
    """
    return (5 + extra) * count + 4 * rows


@cost_rule(nn.LayerNorm)
def layer_norm(op: nn.LayerNorm, sizes: Sizes) -> Cost:
    """Rows are the leading axes."""
    rows = math.prod(sizes.shape(op.x)[: -op.axes])
    return sizes.cost(op, flops=by_rows(sizes.count(op.x), rows, affine(op)))


@cost_rule(nn.GroupNorm)
def group_norm(op: nn.GroupNorm, sizes: Sizes) -> Cost:
    """Rows are the groups of each sample."""
    rows = sizes.shape(op.x)[0] * op.groups
    return sizes.cost(op, flops=by_rows(sizes.count(op.x), rows, affine(op)))


@cost_rule(nn.InstanceNorm)
def instance_norm(op: nn.InstanceNorm, sizes: Sizes) -> Cost:
    """Rows are the channels of each sample."""
    rows = math.prod(sizes.shape(op.x)[:2])
    return sizes.cost(op, flops=by_rows(sizes.count(op.x), rows, affine(op)))


@cost_rule(nn.RmsNorm)
def rms_norm(op: nn.RmsNorm, sizes: Sizes) -> Cost:
    """Square, sum and multiply per element, the scale; divide, add and rsqrt per row."""
    shape = sizes.shape(op.x)
    return sizes.cost(op, flops=(3 + (op.scale is not None)) * math.prod(shape) + 3 * math.prod(shape[:-1]))


@cost_rule(nn.LocalResponseNorm)
def local_response_norm(op: nn.LocalResponseNorm, sizes: Sizes) -> Cost:
    """Square, a sum over the window, multiply, add, power and divide per element."""
    per_element = op.size + 4 + 2 * TRANSCENDENTAL
    return sizes.cost(op, flops=per_element * sizes.count(op.x))


@cost_rule(nn.MaxPool2d)
def max_pool2d(op: nn.MaxPool2d, sizes: Sizes) -> Cost:
    """A comparison less than the window has elements."""
    return sizes.cost(op, flops=(math.prod(op.kernel) - 1) * sizes.count(op.result))


@cost_rule(nn.AvgPool2d)
def avg_pool2d(op: nn.AvgPool2d, sizes: Sizes) -> Cost:
    """An addition less than the window has elements, and a division."""
    return sizes.cost(op, flops=math.prod(op.kernel) * sizes.count(op.result))


@cost_rule(nn.AdaptiveAvgPool2d)
def adaptive_avg_pool2d(op: nn.AdaptiveAvgPool2d, sizes: Sizes) -> Cost:
    """As many FLOPs as the windows, which may overlap, have elements."""
    *lead, height, width = sizes.shape(op.x)
    covered = math.prod(lead)
    for size, count in zip((height, width), op.size, strict=True):
        covered *= sum(-(-(i + 1) * size // count) - i * size // count for i in range(count))
    return sizes.cost(op, flops=covered)


@cost_rule(nn.Resize2d)
def resize2d(op: nn.Resize2d, sizes: Sizes) -> Cost:
    """Separable: rows at the width of the source, then columns; t taps are t multiplies and t-1 adds.

    An axis that keeps its size costs nothing.
    """
    taps = {"nearest": 0, "linear": 2, "cubic": 4}[op.mode]
    *lead, height, width = sizes.shape(op.x)
    rows, columns = (sizes.dim(dim) for dim in op.size)
    each = max(2 * taps - 1, 0)
    elements = (rows * width if rows != height else 0) + (rows * columns if columns != width else 0)
    return sizes.cost(op, flops=each * math.prod(lead) * elements)


@cost_rule(nn.MaxPoolIndices)
def max_pool_indices(op: nn.MaxPoolIndices, sizes: Sizes) -> Cost:
    """A comparison for the largest element and one for its place, for each element of a window."""
    return sizes.cost(op, flops=2 * math.prod(op.kernel) * sizes.count(op.result))


@cost_rule(nn.Fold)
def fold(op: nn.Fold, sizes: Sizes) -> Cost:
    """An addition for each element of the operand."""
    return sizes.cost(op, flops=sizes.count(op.x))


@cost_rule(nn.GridSample)
def grid_sample(op: nn.GridSample, sizes: Sizes) -> Cost:
    """A multiply and an add for each tap and result element; weights, for each position and axis.

    The bytes count the whole source, of which positions may leave parts unread.
    """
    axes = sizes.shape(op.grid)[-1]
    taps = {"nearest": 1, "linear": 2, "cubic": 4}[op.mode]
    each = 2 * taps**axes if taps > 1 else 0
    weights = {"nearest": 4, "linear": 6, "cubic": 30}[op.mode]  # position, fraction, polynomials
    return sizes.cost(op, flops=each * sizes.count(op.result) + weights * sizes.count(op.grid), exact=False)
