"""Emissions of convolutions for tensor cores: the product of a matrix of windows and one of filters.

A row is a pixel of the result, the depth runs over the taps of the window and the channels
of the group.  Where channels lie innermost in memory the depth does so too, so that runs of channels
are copied at once; otherwise the taps do, which then lie near one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import te, tirx
from tvm.ir import Expr

from plait.backends.tvm.emit.conv import padded
from plait.backends.tvm.emit.expressions import number
from plait.backends.tvm.emit.quant import contraction_finish
from plait.backends.tvm.emit.table import Arguments, Emitter, Packing
from plait.backends.tvm.gpu.contraction import (
    CHUNK_ELEMENTS,
    centred,
    stored_zero,
    tensor_core_element,
    terms,
    zero_word,
)
from plait.backends.tvm.gpu.product import Operand, Product, State, narrow, run_length, total, unflatten
from plait.ir import Constant
from plait.ir.ops.common import pads_of

#: Bytes of the shortest asynchronous copy.
_WORD = 4


@dataclass(frozen=True)
class Windows:
    """Which elements of its input a convolution multiplies.

    Attributes:
        channels: of one group, and what they are filled up with.
        channels_last: whether channels lie innermost in memory.
    """

    op: Any
    shape: tuple[Expr, ...]
    channels: int
    taps: tuple[int, ...]
    pads: tuple[int, ...]
    padded: bool
    channels_last: bool

    @property
    def depth(self) -> int:
        return self.channels * int(np.prod(self.taps))

    def split(self, depth: Expr) -> tuple[Expr, tuple[Expr, ...]]:
        """Channel and tap at a place of the depth."""
        taps = [tirx.IntImm("int32", size) for size in self.taps]
        if self.channels_last:
            return tirx.truncmod(depth, self.channels), unflatten(tirx.truncdiv(depth, self.channels), taps)
        count = int(np.prod(self.taps))
        return tirx.truncdiv(depth, count), unflatten(tirx.truncmod(depth, count), taps)

    def join(self, channel: Expr, tap: Sequence[Expr]) -> Expr:
        """The place of the depth of a channel and a tap."""
        inner: Expr = tirx.IntImm("int64", 0)
        for size, index in zip(self.taps, tap, strict=True):
            inner = inner * size + index
        if self.channels_last:
            return inner * self.channels + channel
        return channel * int(np.prod(self.taps)) + inner

    def packing(self, width: int) -> Packing:
        """Filters as [output channel, depth], filled up with zeros to `width`."""

        def apply(array: np.ndarray) -> np.ndarray:
            rest = [(0, 0)] * (array.ndim - 2)
            array = np.pad(array, [(0, 0), (0, self.channels - array.shape[1]), *rest])
            ordered = np.moveaxis(array, 1, -1) if self.channels_last else array
            flat = np.zeros((array.shape[0], width), array.dtype)
            flat[:, : self.depth] = ordered.reshape(array.shape[0], -1)
            return flat

        key = f"filters,channels_last={self.channels_last},channels={self.channels},width={width}"
        return Packing(key, apply)


def _windows_operand(
    windows: Windows, tensor: te.Tensor, element: str, pixels: Sequence[Expr], fill: int
) -> Operand:
    """The matrix of windows over a stored input; `fill` is the word for absent elements."""
    batch_size, channels, *sizes = windows.shape
    op = windows.op
    pixel_count = narrow(total(sizes))

    def anchor(group: Expr, row: Expr) -> State:
        image, *places = unflatten(row, [batch_size, *pixels])
        first = image * narrow(total([channels, *sizes]))
        if op.groups > 1:
            first = first + group * windows.channels * (1 if windows.channels_last else pixel_count)
        starts = [
            place * step - before for place, step, before in zip(places, op.stride, windows.pads, strict=True)
        ]
        return (first, *starts)

    def locate(state: State, depth: Expr) -> tuple[Expr, Expr | None]:
        channel, tap = windows.split(depth)
        first, *starts = state
        inner: Expr = tirx.IntImm("int32", 0)
        inside: list[Expr] = []
        for start, index, spread, size in zip(starts, tap, op.dilation, sizes, strict=True):
            place = start + index * spread
            inner = inner * narrow(size) + place
            inside += [place >= 0, place < narrow(size)]
        if windows.channels_last:
            offset = first + inner * narrow(channels) + channel
        else:
            offset = first + channel * pixel_count + inner
        return offset, tirx.all(*inside) if windows.padded else None

    run = 1
    if windows.channels_last:
        run = run_length(CHUNK_ELEMENTS[element], channels, tirx.IntImm("int64", windows.channels))
    return Operand(tensor, run, True, anchor, locate, fill)


def _widened(
    emitter: Emitter, x: te.Tensor, kind: Any, pads: Sequence[tuple[int, int]], channels: int, fill: Expr
) -> te.Tensor:
    """An image of bytes as [n, pixels..., channels], with `fill` around the pixels and behind the channels.

    An image of three channels can be copied byte by byte only; of four, in words.
    """
    sizes = emitter.shape(kind.shape[2:])
    shape = [*(b + dim + a for dim, (b, a) in zip(kind.shape[2:], pads, strict=True))]

    def at(*i: Expr) -> Expr:
        inside = [i[-1] < emitter.dim(kind.shape[1])]
        where = []
        for index, (before, _), size in zip(i[1:-1], pads, sizes, strict=True):
            where.append(index - before)
            inside += [index >= before, index - before < size]
        return tirx.if_then_else(tirx.all(*inside), x(i[0], i[-1], *where), fill)

    return te.compute(emitter.shape((kind.shape[0], *shape, channels)), at, name="widened")


def convolution(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor | None:
    """A convolution on tensor cores, or None where its types, or groups of one channel, are not theirs."""
    element = tensor_core_element(emitter, op.x, op.w)
    outputs, channels, *taps = op.w.type.shape
    known = all(isinstance(size, int) for size in op.w.type.shape)
    if element is None or not known or (channels == 1 and outputs == op.groups):
        return None
    pads = pads_of(op, op.pad, op.spatial)
    shape = tuple(emitter.read_dim(dim) for dim in op.x.type.shape)
    fill = number(stored_zero(op.x.type), emitter.dtype(op.x.type))
    if element == "int8" and op.groups == 1 and channels % _WORD and isinstance(op.w, Constant):
        channels = -(-channels // _WORD) * _WORD
        stored = emitter.stage("widened", _widened(emitter, args.x, op.x.type, pads, channels, fill))
        shape = (shape[0], tirx.IntImm("int64", channels), *stored.shape[1:-1])
        windows = Windows(op, shape, channels, tuple(taps), (0,) * len(pads), False, True)

        def read(n: Expr, c: Expr, where: Sequence[Expr]) -> Expr:
            return stored(n, *where, c)
    else:
        stored, channels_last = emitter.stored(op.x)
        source = padded(emitter, args.x, op.x.type, pads, fill)
        starts = tuple(before for before, _ in pads)
        bordered = any(before or after for before, after in pads)
        windows = Windows(op, shape, channels, tuple(taps), starts, bordered, channels_last)

        def read(n: Expr, c: Expr, where: Sequence[Expr]) -> Expr:
            return source(n, c, *where)

    result_shape = [emitter.read_dim(dim) for dim in op.result.type.shape]
    pixels, per_group = result_shape[2:], outputs // op.groups
    found = terms(element, op.x, op.w)
    axes = [emitter.axis(channels, "c"), *(emitter.axis(size, f"k{i}") for i, size in enumerate(taps))]
    c, tap = axes[0].var, [axis.var for axis in axes[1:]]

    if isinstance(op.w, Constant):
        chunk = CHUNK_ELEMENTS[element]
        pitch = -(-windows.depth // chunk) * chunk
        filters = emitter.packed(op.w, (outputs, pitch), windows.packing(pitch))
        run = chunk

        def filter_offset(depth: Expr) -> Expr:
            return depth

        def filter_element(o: Expr) -> Expr:
            return filters(o, windows.join(c, tap))
    else:
        filters, pitch, run = args.w, windows.depth, 1

        def filter_offset(depth: Expr) -> Expr:
            channel, place = windows.split(depth)
            inner: Expr = tirx.IntImm("int32", 0)
            for size, index in zip(taps, place, strict=True):
                inner = inner * size + index
            return channel * int(np.prod(taps)) + inner

        def filter_element(o: Expr) -> Expr:
            return filters(o, c, *tap)

    def term(*i: Expr) -> Expr:
        channel = tirx.floordiv(i[1], per_group) * channels + c if op.groups > 1 else c
        where = [
            place * step + k * spread
            for place, step, k, spread in zip(i[2:], op.stride, tap, op.dilation, strict=True)
        ]
        x, w = read(i[0], channel, where), filter_element(i[1])
        return te.sum(found.left(x) * found.right(w), axis=axes)

    sums = te.compute(result_shape, term, name="conv")

    def place(group: Expr, row: Expr, column: Expr) -> tuple[Expr, ...]:
        image, *where = unflatten(row, [result_shape[0], *pixels])
        return (image, group * per_group + column if op.groups > 1 else column, *where)

    def right_anchor(group: Expr, column: Expr) -> State:
        return (((group * per_group + column) if op.groups > 1 else column) * pitch,)

    emitter.products[sums.op] = Product(
        sums,
        # Behind the depth of weights that are zero there, and of rows that do not exist, anything may stand.
        left=_windows_operand(
            windows, stored, element, pixels, zero_word(op.x.type) if windows.padded else found.fills[0]
        ),
        right=Operand(
            filters, run, True, right_anchor, lambda state, depth: (state[0] + filter_offset(depth), None)
        ),
        batch=tirx.IntImm("int64", op.groups),
        rows=total([result_shape[0], *pixels]),
        columns=tirx.IntImm("int64", per_group),
        depth=tirx.IntImm("int64", windows.depth),
        place=place,
        element=element,
        unsigned=found.unsigned,
        zeros=found.zeros,
    )
    finish = contraction_finish(op, args, emitter, channel=1)
    real = centred(emitter, op, sums, found.offset, 1)
    return te.compute(result_shape, lambda *i: finish(i, real(*i)), name="conv_result")


__all__ = ["convolution"]
