"""Shapes that an operator leaves partly open, and rearrangements that are a few ops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from plait.frontends.nodes.call import NodeCall
from plait.ir import IntLike, Value
from plait.ir import dims as d
from plait.ir.ops import core
from plait.ir.types import Shape

Call = NodeCall[Any]


def completed(source: Shape, wanted: Sequence[IntLike]) -> Shape:
    """The shape `wanted` for the elements of `source`; an entry of -1 takes what is left."""
    if -1 not in wanted:
        return tuple(wanted)
    free = list(wanted).index(-1)
    before, after = tuple(wanted[:free]), tuple(wanted[free + 1 :])
    return (*before, _left_over(source, (*before, *after)), *after)


def _left_over(source: Shape, known: Shape) -> IntLike:
    """The dim that completes `known`; dims on both sides cancel before the division."""
    above, below = list(source), []
    for dim in known:
        if dim in above:
            above.remove(dim)
        else:
            below.append(dim)
    total, divisor = d.product(above), d.product(below)
    return 0 if divisor == 0 else d.floor_div(total, divisor)


def tile(call: Call, x: Value, repeats: Sequence[IntLike]) -> Value:
    """Each axis repeated, as the result of the node: [d] -> [1, d] -> [r, d] -> [r * d]."""
    apart: list[IntLike] = []
    wide: list[IntLike] = []
    whole: list[IntLike] = []
    for dim, r in zip(x.shaped.shape, repeats, strict=True):
        if r != 1:
            apart.append(1)
            wide.append(r)
        apart.append(dim)
        wide.append(dim)
        whole.append(dim * r)
    y = call.broadcast(call.reshape(x, apart), wide)
    return call.emit(core.Reshape(y, out=y.shaped.with_shape(tuple(whole))))


def depth_to_space(call: Call, x: Value, block: int, *, behind: bool = False) -> Value:
    """[N, C * block², H, W] -> [N, C, H * block, W * block], as the result of the node.

    The block axes of the channels lie in front of the C ones, or behind them.
    """
    n, c, h, w = x.shaped.shape
    rest = c // (block * block)
    if behind:
        y = call.transpose(call.reshape(x, (n, rest, block, block, h, w)), (0, 1, 4, 2, 5, 3))
    else:
        y = call.transpose(call.reshape(x, (n, block, block, rest, h, w)), (0, 3, 4, 1, 5, 2))
    return call.emit(core.Reshape(y, out=y.shaped.with_shape((n, rest, h * block, w * block))))


def space_to_depth(call: Call, x: Value, block: int, *, behind: bool = False) -> Value:
    """[N, C, H, W] -> [N, C * block², H / block, W / block], the inverse of `depth_to_space`."""
    n, c, h, w = x.shaped.shape
    apart = call.reshape(x, (n, c, h // block, block, w // block, block))
    y = call.transpose(apart, (0, 1, 3, 5, 2, 4) if behind else (0, 3, 5, 1, 2, 4))
    shape = (n, c * block * block, h // block, w // block)
    return call.emit(core.Reshape(y, out=y.shaped.with_shape(shape)))
