"""Cost of creation, movement and indexing: bytes, and comparisons where there are some."""

from __future__ import annotations

import math

from plait.ir.cost_rules.table import Cost, Sizes, cost_rule
from plait.ir.op import Op
from plait.ir.ops import core, message, nn


@cost_rule(core.Reshape, core.Broadcast, message.FromEdges)
def view(op: Op, sizes: Sizes) -> Cost:
    """The same memory under another type."""
    return Cost()


@cost_rule(
    core.Full, core.DimValue, core.Transpose, core.Concat, core.Pad, core.Flip, core.Roll, core.Triangle
)
def move(op: Op, sizes: Sizes) -> Cost:
    """Operands read and results written, without arithmetic."""
    return sizes.cost(op)


@cost_rule(core.Iota)
def iota(op: core.Iota, sizes: Sizes) -> Cost:
    """A multiplication and an addition for each element."""
    return sizes.cost(op, flops=2 * sizes.count(op.result))


@cost_rule(core.Slice)
def slice_(op: core.Slice, sizes: Sizes) -> Cost:
    """Only what is picked is read."""
    return Cost(bytes_read=sizes.written(op), bytes_written=sizes.written(op))


@cost_rule(core.Take, core.GatherElements, core.GatherND, nn.Embedding)
def pick(op: core.Take | core.GatherElements | core.GatherND | nn.Embedding, sizes: Sizes) -> Cost:
    """Only what is picked is read, and the indices."""
    return Cost(bytes_read=sizes.written(op) + sizes.bytes(op.indices), bytes_written=sizes.written(op))


@cost_rule(core.ScatterElements, core.ScatterND)
def scatter(op: core.ScatterElements | core.ScatterND, sizes: Sizes) -> Cost:
    """A copy; one FLOP for each update that is combined."""
    return sizes.cost(op, flops=0 if op.reduce == "none" else sizes.count(op.updates))


@cost_rule(core.TopK)
def top_k(op: core.TopK, sizes: Sizes) -> Cost:
    """About log2(k) comparisons an element, those of a heap of k."""
    steps = math.ceil(math.log2(max(sizes.dim(op.k), 2)))
    return sizes.cost(op, flops=steps * sizes.count(op.x), exact=False)


@cost_rule(core.Sort)
def sort(op: core.Sort, sizes: Sizes) -> Cost:
    """About log2(n) comparisons an element, those of a merge sort."""
    steps = math.ceil(math.log2(max(sizes.shape(op.x)[op.axis], 2)))
    return sizes.cost(op, flops=steps * sizes.count(op.x), exact=False)


@cost_rule(core.Random)
def random(op: core.Random, sizes: Sizes) -> Cost:
    """The work depends on the generator, so it is unknown; the bytes are not."""
    return sizes.cost(op, flops=None, exact=False)
