"""Emissions of convolutions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import te, tirx
from tvm.ir import Expr

from plait.backends.targets import CpuTarget
from plait.backends.tvm.emit.cpu.dot import (
    STEP,
    DotOperands,
    dot_operands,
    place_in_elements,
    whole_words,
    words,
)
from plait.backends.tvm.emit.cpu.product import Product
from plait.backends.tvm.emit.cpu.reader import Place
from plait.backends.tvm.emit.cpu.tiles import chosen_tile, packing, streams_weights
from plait.backends.tvm.emit.cpu.window import integer_window
from plait.backends.tvm.emit.cpu.writer import element_bits
from plait.backends.tvm.emit.expressions import number
from plait.backends.tvm.emit.images import depthwise_window, transformed
from plait.backends.tvm.emit.quant import contraction_finish, operand
from plait.backends.tvm.emit.table import Arguments, Emitter, Kind, emit
from plait.backends.tvm.emit.weights import RealWeight, is_weight_only, real_weight
from plait.ir import IntLike, QuantType
from plait.ir.ops import nn
from plait.ir.ops.common import pads_of


def padded(
    emitter: Emitter, x: te.Tensor, kind: Any, pads: Sequence[tuple[int, int]], fill: Expr, name: str = "pad"
) -> te.Tensor:
    """`x` with `fill` around its trailing axes; `x` itself where there is nothing to add."""
    if not any(before or after for before, after in pads):
        return x
    lead = kind.rank - len(pads)
    sizes = emitter.shape(kind.shape[lead:])
    shape = [*kind.shape[:lead], *(b + dim + a for dim, (b, a) in zip(kind.shape[lead:], pads, strict=True))]

    def at(*i: Expr) -> Expr:
        places, inside = list(i[:lead]), []
        for index, (before, after), size in zip(i[lead:], pads, sizes, strict=True):
            place = index - before if before else index
            inside += [place >= 0] if before else []
            inside += [place < size] if before or after else []
            places.append(place)
        return tirx.if_then_else(tirx.all(*inside), x(*places), fill)

    return te.compute(emitter.shape(shape), at, name=name)


@emit(nn.Conv1d, nn.Conv2d, nn.Conv3d, kind=Kind.CONTRACTION)
def _convolution(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    from plait.backends.tvm.gpu.convolution import convolution

    on_tensor_cores = convolution(op, args, emitter)
    if on_tensor_cores is not None:
        return on_tensor_cores
    x = operand(emitter, op.x)
    kind = op.x.type
    spatial = op.spatial
    pads = pads_of(op, op.pad, spatial)
    # The border of a quantised input stands for zero, which its zero point stores.
    zero = kind.zero_point if isinstance(kind, QuantType) else 0
    if isinstance(zero, str):
        raise op.error(
            f"the zero point of {op.x} is @{zero}", why="a border needs one number for all channels"
        )
    border = number(zero, emitter.dtype(kind))
    channels_out, channels_in = op.w.type.shape[:2]
    per_group = channels_out // op.groups
    width_in, width_out = emitter.read_dim(channels_in), emitter.read_dim(per_group)
    finish = contraction_finish(op, args, emitter, channel=1)
    weight = _filters(op, emitter)
    if is_weight_only(op.x, op.w):
        finish = _behind_scale(real_weight(emitter, op.w, 0, op.x), finish)

    depthwise = channels_in == 1 and per_group == 1
    if (
        isinstance(emitter.target, CpuTarget)
        and emitter.packs(op.w)
        and not depthwise
        and weight.same_for_all
    ):
        tiled = None if isinstance(op.w.type, QuantType) else transformed(op, args, emitter, pads)
        dots = _dots(op, emitter)
        if tiled is None:
            tiled = _tiled(op, args, emitter, border, x.centred, weight.same, pads, dots)
        if tiled is not None:
            shape = emitter.shape(op.result.type.shape)

            def finished(*i: Expr) -> Expr:
                total = tiled(*i)
                return finish(i, total if dots is None else dots.corrected(total, i[1]))

            return te.compute(shape, finished, name="conv_result")
    if depthwise and not is_weight_only(op.x, op.w):
        if isinstance(kind, QuantType):
            found = integer_window(op, args, emitter, pads, x.centred, weight.element)
        else:
            found = depthwise_window(op, args, emitter, pads)
        if found is not None:
            shape = emitter.shape(op.result.type.shape)
            return te.compute(shape, lambda *i: finish(i, found(*i)), name="conv_result")
    source = padded(emitter, args.x, kind, pads, border)
    axes = [emitter.axis(channels_in, "c")]
    axes += [emitter.axis(size, f"k{i}") for i, size in enumerate(op.w.type.shape[2:])]
    c, window = axes[0].var, [axis.var for axis in axes[1:]]

    def read(n: Expr, group: Expr, c: Expr, places: Sequence[Expr], window: Sequence[Expr]) -> Expr:
        channel = group * width_in + c if op.groups > 1 else c
        where = [p * s + k * d for p, s, k, d in zip(places, op.stride, window, op.dilation, strict=True)]
        return x.centred(source(n, channel, *where))

    def term(*i: Expr) -> Expr:
        group = tirx.floordiv(i[1], width_out)
        place = (i[1], c, *window)
        return te.sum(read(i[0], group, c, i[2:], window) * weight.element(args.w(*place), place), axis=axes)

    shape = emitter.shape(op.result.type.shape)
    sums = te.compute(shape, term, name="depthwise" if depthwise else "conv")
    return te.compute(shape, lambda *i: finish(i, sums(*i)), name="conv_result")


@dataclass(frozen=True)
class _Filters:
    """How elements of a convolution's weight are read.

    Attributes:
        element: from a stored element and its place.
        same_for_all: whether the place does not matter.
    """

    element: Callable[[Expr, tuple[Expr, ...]], Expr]
    same_for_all: bool

    def same(self, stored: Expr) -> Expr:
        """An element, where the place does not matter."""
        return self.element(stored, ())


def _filters(op: Any, emitter: Emitter) -> _Filters:
    if is_weight_only(op.x, op.w):
        real = real_weight(emitter, op.w, 0, op.x)
        return _Filters(real.element, real.factored and not isinstance(op.w.type.zero_point, str))
    w = operand(emitter, op.w)
    return _Filters(lambda x, place: w.centred(x, place[0] if place else None), not w.zero_point_per_channel)


def _behind_scale(real: RealWeight, finish: Callable[[Place, Expr], Expr]) -> Callable[[Place, Expr], Expr]:
    """What follows the sums, after the scale of the weight where that is left to them."""
    return lambda i, total: finish(i, real.scaled(total, i[1]))


def _dots(op: Any, emitter: Emitter) -> DotOperands | None:
    """How a convolution is summed in words of four channels; None where it is not.

    Channels that do not fill words are filled up, those of several groups are not.
    """
    channels, *kernel = op.w.type.shape[1:]
    if op.groups > 1 and channels % STEP:
        return None
    terms = whole_words(channels) * STEP * math.prod(kernel)
    return dot_operands(emitter, op.x, op.w, terms)


def _tiled(
    op: Any,
    args: Arguments,
    emitter: Emitter,
    border: Expr,
    centred: Callable[[Expr], Expr],
    decode: Callable[[Expr], Expr],
    pads: Sequence[tuple[int, int]],
    dots: DotOperands | None,
) -> te.Tensor | None:
    """The sums [n, channels, pixels...] as a product: pixels are its rows, channels its columns.

    None where no vector of channels lies inside a group.
    """
    assert isinstance(emitter.target, CpuTarget)
    kind, result = op.x.type, op.result.type
    channels_out, channels_in, *kernel = op.w.type.shape
    per_group = channels_out // op.groups
    fill = -int(channels_in) % STEP if dots is not None else 0
    x = _channels_last(emitter, args.x, kind, pads, border, fill)
    zeros = [tirx.IntImm("int64", 0)] * kind.rank
    dtype = str(centred(x(*zeros)).ty.dtype)
    pixels: IntLike = 1
    for dim in (kind.shape[0], *result.shape[2:]):
        pixels = pixels * dim
    tile, rows_first = chosen_tile(
        emitter,
        pixels,
        int(per_group),
        int(channels_in) * math.prod(map(int, kernel)),
        bits=element_bits(dtype),
        divides=int(per_group) if op.groups > 1 else None,
        kept=0 if dots is None else dots.kept,
    )
    if op.groups > 1 and per_group % tile.lanes:
        return None
    blocks = -(-int(per_group) // tile.lanes)
    depth = (*kernel, channels_in)
    if dots is not None:
        depth = (*kernel, whole_words(channels_in))

    def arranged(array: np.ndarray) -> np.ndarray:
        last = np.moveaxis(array, 1, -1)
        return words(last) if dots is not None else last

    key, kept = ("channels last", None) if dots is None else ("channels last, words", "int32")
    layout = packing(tile.lanes, key, groups=op.groups, arrange=arranged, dtype=kept)
    weight = emitter.packed(op.w, (blocks * op.groups, *depth, tile.lanes), layout)

    def element(row: Place, block: Expr, depth: Place) -> Expr:
        *window, c = depth
        channel = tirx.floordiv(block, blocks) * channels_in + c if op.groups > 1 else c
        where = [p * s + k * d for p, s, k, d in zip(row[1:], op.stride, window, op.dilation, strict=True)]
        return x(row[0], *where, channel)

    def left(b: Place, row: Place, block: Expr, depth: Place) -> Expr:
        if dots is not None:
            return dots.left_word(lambda k: element(row, block, place_in_elements(depth, k)))
        return centred(element(row, block, depth))

    def right(b: Place, block: Expr, depth: Place, lane: Expr) -> Expr:
        found = weight(block, *depth, lane)
        return found if dots is not None else decode(found)

    shape = emitter.shape(result.shape)
    start = tuple(zeros[: len(depth)])

    def stand_in(*i: Expr) -> Expr:
        return left((), (i[0], *i[2:]), zeros[0], start) * right((), zeros[0], start, zeros[0])

    sums = te.compute(shape, stand_in, name="conv")
    emitter.products[sums.op] = Product(
        sums=sums,
        tile=tile,
        batch=[],
        rows=[shape[0], *shape[2:]],
        columns=shape[1],
        depth=emitter.shape(depth),
        left=left,
        right=right,
        place=lambda b, row, column: (row[0], column, *row[1:]),
        stored=[x] if x.op.name == "pad" else [],
        rows_first=rows_first,
        dots=dots is not None,
        zeros=(0, 0) if dots is None else dots.summed,
        fetched=lambda b, block, depth, lane: weight(block, *depth, lane),
        streams=streams_weights(pixels, int(per_group), int(channels_in) * math.prod(map(int, kernel))),
    )
    return sums


def _channels_last(
    emitter: Emitter, x: te.Tensor, kind: Any, pads: Sequence[tuple[int, int]], border: Expr, fill: int = 0
) -> te.Tensor:
    """`x` [n, c, pixels...] as [n, pixels..., c] with a border around the pixels and behind the channels."""
    sizes = emitter.shape(kind.shape[2:])
    shape = [
        kind.shape[0],
        *(b + d + a for d, (b, a) in zip(kind.shape[2:], pads, strict=True)),
        kind.shape[1] + fill,
    ]

    def at(*i: Expr) -> Expr:
        where, inside = [], [i[-1] < emitter.dim(kind.shape[1])] if fill else []
        for index, (before, after), size in zip(i[1:-1], pads, sizes, strict=True):
            place = index - before if before else index
            inside += [place >= 0] if before else []
            inside += [place < size] if before or after else []
            where.append(place)
        found = x(i[0], i[-1], *where)
        return tirx.if_then_else(tirx.all(*inside), found, border) if inside else found

    bordered = fill or any(before or after for before, after in pads)
    return te.compute(emitter.shape(shape), at, name="pad" if bordered else "channels_last")


@emit(nn.ConvTranspose2d, nn.ConvTranspose3d, kind=Kind.CONTRACTION)
def _conv_transpose(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    """A sum over the window, of the inputs whose step lands on the pixel."""
    kind, result = op.x.type, op.result.type
    dtype = emitter.dtype(kind)
    x, w = operand(emitter, op.x), operand(emitter, op.w)
    per_group_in = kind.shape[1] // op.groups
    width_in, width_out = emitter.read_dim(per_group_in), emitter.read_dim(op.w.type.shape[1])
    sizes = [emitter.read_dim(dim) for dim in kind.shape[2:]]
    pads = pads_of(op, op.pad, op.spatial)
    axes = [emitter.axis(per_group_in, "c")]
    axes += [emitter.axis(size, f"k{i}") for i, size in enumerate(op.w.type.shape[2:])]
    c, window = axes[0].var, [axis.var for axis in axes[1:]]

    def at(*i: Expr) -> Expr:
        group, channel = tirx.floordiv(i[1], width_out), tirx.floormod(i[1], width_out)
        places, inside = [], []
        for p, k, s, d, (before, _), size in zip(
            i[2:], window, op.stride, op.dilation, pads, sizes, strict=True
        ):
            position = p + before - k * d
            place = tirx.floordiv(position, s)
            inside += [position >= 0, place < size]
            if s > 1:
                inside.append(tirx.floormod(position, s) == 0)
            places.append(place)
        source = group * width_in + c
        pixel = tirx.if_then_else(tirx.all(*inside), args.x(i[0], source, *places), number(0, dtype))
        return te.sum(x.centred(pixel) * w.centred(args.w(source, channel, *window)), axis=axes)

    shape = emitter.shape(result.shape)
    sums = te.compute(shape, at, name="conv_transpose")
    finish = contraction_finish(op, args, emitter, channel=1)
    return te.compute(shape, lambda *i: finish(i, sums(*i)), name="conv_transpose_result")
