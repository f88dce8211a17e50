"""Emissions of convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import te, tirx
from tvm.ir import Expr

from plait.backends.targets import CpuTarget
from plait.backends.tvm.emit.contraction import choose_rows, packing, tile_attributes
from plait.backends.tvm.emit.expressions import number
from plait.backends.tvm.emit.quant import contraction_finish, operand
from plait.backends.tvm.emit.table import Arguments, Emitter, Kind, emit
from plait.ir import QuantType
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
    x, w = operand(emitter, op.x), operand(emitter, op.w)
    kind = op.x.type
    spatial = op.spatial
    pads = pads_of(op, op.pad, spatial)
    # The border of a quantised input stands for zero, which its zero point stores.
    zero = kind.zero_point if isinstance(kind, QuantType) else 0
    if isinstance(zero, str):
        raise op.error(
            f"the zero point of {op.x} is @{zero}", why="a border needs one number for all channels"
        )
    source = padded(emitter, args.x, kind, pads, number(zero, emitter.dtype(kind)))
    channels_out, channels_in = op.w.type.shape[:2]
    per_group = channels_out // op.groups
    width_in, width_out = emitter.read_dim(channels_in), emitter.read_dim(per_group)
    finish = contraction_finish(op, args, emitter, channel=1)

    def read(n: Expr, group: Expr, c: Expr, places: Sequence[Expr], window: Sequence[Expr]) -> Expr:
        channel = group * width_in + c if op.groups > 1 else c
        where = [p * s + k * d for p, s, k, d in zip(places, op.stride, window, op.dilation, strict=True)]
        return x.centred(source(n, channel, *where))

    axes = [emitter.axis(channels_in, "c")]
    axes += [emitter.axis(size, f"k{i}") for i, size in enumerate(op.w.type.shape[2:])]
    c, window = axes[0].var, [axis.var for axis in axes[1:]]
    depthwise = channels_in == 1 and per_group == 1
    if (
        isinstance(emitter.target, CpuTarget)
        and emitter.packs(op.w)
        and not depthwise
        and not w.zero_point_per_channel
    ):
        tiled = _tiled(op, emitter, w.centred, read, axes, c, window, per_group)
        if tiled is not None:
            return te.compute(
                emitter.shape(op.result.type.shape), lambda *i: finish(i, tiled(i)), name="conv_result"
            )

    def term(*i: Expr) -> Expr:
        group = tirx.floordiv(i[1], width_out)
        return te.sum(
            read(i[0], group, c, i[2:], window) * w.centred(args.w(i[1], c, *window), i[1]), axis=axes
        )

    shape = emitter.shape(op.result.type.shape)
    sums = te.compute(shape, term, name="depthwise" if depthwise else "conv")
    return te.compute(shape, lambda *i: finish(i, sums(*i)), name="conv_result")


def _tiled(
    op: Any,
    emitter: Emitter,
    decode: Any,
    read: Any,
    axes: list[Any],
    c: Expr,
    window: list[Expr],
    per_group: int,
) -> Any:
    """The sums as [n, blocks of channels, image rows..., strips, tile, lanes], and how a result reads them.

    Pixels of one image row are the rows of the product, channels its columns.
    """
    assert isinstance(emitter.target, CpuTarget)
    *outer, width = op.result.type.shape[2:]
    plan = choose_rows(emitter.target, width, per_group, lanes_divide=op.groups > 1)
    tile = plan.tile
    if op.groups > 1 and per_group % tile.lanes:
        return None
    blocks = -(-per_group // tile.lanes)
    weight = emitter.packed(
        op.w, (blocks * op.groups, *op.w.type.shape[1:], tile.lanes), packing(tile, op.groups)
    )
    last = emitter.dim(width) - 1

    def accumulate(*i: Expr) -> Expr:
        n, block, places, (strip, inner, lane) = i[0], i[1], list(i[2:-3]), i[-3:]
        row = strip * tile.rows + inner
        if not plan.exact:
            row = te.min(row, last)
        places.append(row)
        group = tirx.floordiv(block, blocks)
        return te.sum(read(n, group, c, places, window) * decode(weight(block, c, *window, lane)), axis=axes)

    rank = op.result.type.rank
    sums = te.compute(
        emitter.shape((op.x.type.shape[0], blocks * op.groups, *outer, plan.strips, tile.rows, tile.lanes)),
        accumulate,
        name="accumulate",
        attrs=tile_attributes(tile, rank - 1, 1),
    )

    def at(i: Sequence[Expr]) -> Expr:
        strip, inner = tirx.floordiv(i[-1], tile.rows), tirx.floormod(i[-1], tile.rows)
        block, lane = tirx.floordiv(i[1], tile.lanes), tirx.floormod(i[1], tile.lanes)
        return sums(i[0], block, *i[2:-1], strip, inner, lane)

    return at


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
