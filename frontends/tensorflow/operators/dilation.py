"""SpaceToBatchND and BatchToSpaceND: dilated convolutions written out, and the ops on their own."""

from __future__ import annotations

from plait.frontends.tensorflow.call import Call
from plait.frontends.tensorflow.operand import Operand, Phases
from plait.frontends.tensorflow.registry import lowers
from plait.ir import IntLike
from plait.ir import dims as d
from plait.ir.ops import core

Pairs = tuple[tuple[IntLike, IntLike], ...]


def _pairs(call: Call, index: int, word: str) -> Pairs:
    flat = call.dims(index, word)
    return tuple(zip(flat[0::2], flat[1::2], strict=True))


@lowers("SpaceToBatchND")
def space_to_batch(call: Call) -> Phases:
    """Every block-th element along the spatial axes becomes an image of its own."""
    blocks, pads = call.ints(1, "the block"), _pairs(call, 2, "the paddings")
    made: list[Operand] = []

    def whole() -> Operand:
        if not made:
            made.append(_apart(call, blocks, pads))
        return made[0]

    return Phases(call.name, call.operand(0), blocks, pads, whole)


@lowers("BatchToSpaceND")
def batch_to_space(call: Call) -> Operand:
    """The inverse of SpaceToBatchND, followed by cropping; together with a convolution, its dilation."""
    blocks, crops = call.ints(1, "the block"), _pairs(call, 2, "the crops")
    phases = call.item(0)
    if isinstance(phases, Phases) and phases.dilated is not None and phases.blocks == blocks:
        pads = [
            (low - front, high - back) for (low, high), (front, back) in zip(phases.pads, crops, strict=True)
        ]
        known = [(a, b) for a, b in pads if isinstance(a, int) and isinstance(b, int) and min(a, b) >= 0]
        if len(known) == len(pads):
            return phases.dilated(known)
    return _together(call, blocks, crops)


def _numbers(call: Call, pairs: Pairs, word: str) -> list[tuple[int, int]]:
    known = [(a, b) for a, b in pairs if isinstance(a, int) and isinstance(b, int)]
    if len(known) != len(pairs):
        raise call.error(
            f"{word} are {[(str(a), str(b)) for a, b in pairs]}",
            why="they depend on dims, and have to be known at compile time",
            remedy="fix the spatial dims with inputs=",
        )
    return known


def _apart(call: Call, blocks: tuple[int, ...], pairs: Pairs) -> Operand:
    x, axis_of, wrap = call.held(0)
    rank, count = call.rank(0), len(blocks)
    before, after = [0] * rank, [0] * rank
    for axis, (low, high) in enumerate(_numbers(call, pairs, "the paddings")):
        before[axis_of(1 + axis)], after[axis_of(1 + axis)] = low, high
    if any(before) or any(after):
        x = call.step(core.Pad(x, before=tuple(before), after=tuple(after)))
    where = {axis_of(1 + axis): block for axis, block in enumerate(blocks)}
    apart: list[IntLike] = []
    inner: dict[int, int] = {}
    kept: list[int] = []
    for axis, dim in enumerate(x.shaped.shape):
        kept.append(len(apart))
        apart.append(d.floor_div(dim, where[axis]) if axis in where else dim)
        if axis in where:
            inner[axis] = len(apart)
            apart.append(where[axis])
    fronts = [inner[axis_of(1 + axis)] for axis in range(count)]
    y = call.transpose(call.reshape(x, apart), (*fronts, *kept))
    shape = [apart[position] for position in kept]
    shape[0] = d.product([*blocks, shape[0]])
    return wrap(call.emit(core.Reshape(y, out=y.shaped.with_shape(tuple(shape)))))


def _together(call: Call, blocks: tuple[int, ...], pairs: Pairs) -> Operand:
    x, axis_of, wrap = call.held(0)
    count, shape = len(blocks), x.shaped.shape
    where = {axis_of(1 + axis): axis for axis in range(count)}
    batch = d.floor_div(shape[0], d.product(blocks))
    y = call.reshape(x, (*blocks, batch, *shape[1:]))
    order: list[int] = []
    whole: list[IntLike] = []
    for axis in range(len(shape)):
        order.append(count + axis)
        dim = batch if axis == 0 else shape[axis]
        if axis in where:
            order.append(where[axis])
            dim = dim * blocks[where[axis]]
        whole.append(dim)
    y = call.reshape(call.transpose(y, order), whole)
    crops = _numbers(call, pairs, "the crops")
    cut = [(axis_of(1 + axis), a, b) for axis, (a, b) in enumerate(crops) if a or b]
    if not cut:
        return wrap(y)
    axes, lows = tuple(axis for axis, _, _ in cut), tuple(low for _, low, _ in cut)
    stops = tuple(whole[axis] - high for axis, _, high in cut)
    return wrap(call.emit(core.Slice(y, axes=axes, starts=lows, stops=stops)))
