"""Sums of spikes on a CPU, image by image: gathers of weight rows, or counts of bits, that LLVM compiles.

    for each image, or row of a dense layer (in parallel)
        sums = kernel(spikes of the image, weights)      text of `plait.backends.llvm`
        result[image] = epilogue(sums)                   bias, activation, ... while the sums are in the cache

The kernel that gathers lists the spikes of an image first; where there are none it sets the sums to zero
and reads no weight.  The kernel that counts packs the spikes into words of 32 bits first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import te, tirx
from tvm.ir import Expr, StringImm, TensorLoad
from tvm.script.ir_builder import tirx as T

from plait.backends.llvm.increments import PlanesConv2d, planes_text
from plait.backends.llvm.native import kernel_text
from plait.backends.llvm.packing import bit_packing_text, pack_weight_bits
from plait.backends.llvm.specification import EventConv2d, PopcountConv2d
from plait.backends.tvm.emit.cpu.reader import Reader
from plait.backends.tvm.emit.cpu.writer import parallel, places, scratch, store_vectors
from plait.backends.tvm.emit.loops import product, whole
from plait.backends.tvm.emit.table import Emitter, Packing
from plait.ir import CompileError, Constant
from plait.ir.ops import spike
from plait.ir.ops.common import pads_of

#: Arrays of so many bytes come from the allocator, which aligns them to 64; smaller ones lie on the stack.
_ALIGNED_BYTES = 2048

_CHANNELS_LAST = (0, 2, 3, 1)

#: Writes the call of a kernel for one image, given the addresses of its spikes, of constants and of its sums.
Call = Callable[[Expr, Sequence[Expr], Expr], None]


@dataclass
class EventSums:
    """Sums of spikes times weights that a kernel in LLVM's language computes.

    Attributes:
        sums: stands for the sums, [n, o, y, x] or [rows..., o], in the epilogue.
        texts: functions in LLVM's language.
        call: writes the call for one image.
        images: extents of the axes that count images.
        spikes: bytes in memory, [n, y, x, c] or [rows..., inputs].
        constants: weights, and what else the kernel reads.
        lanes: f32 in a vector.
        method: says how they are computed.
    """

    sums: te.Tensor
    texts: Sequence[str]
    call: Call
    images: list[Expr]
    spikes: te.Tensor
    constants: Sequence[te.Tensor]
    lanes: int
    method: str

    @property
    def _order(self) -> tuple[int, ...]:
        """The axes of the sums in the order in which the kernel writes them."""
        rank = len(self.sums.shape)
        return _CHANNELS_LAST if rank - len(self.images) == 3 else tuple(range(rank))

    def write(self, read: Reader, result: te.Tensor, axes: Sequence[int], buffer: Any) -> None:
        """Write the loops; see `Product.write`."""
        count, shape, texts = len(self.images), self.sums.shape, list(self.texts)
        inner = [shape[axis] for axis in self._order[count:]]
        floats = str(buffer.dtype) == "float32"
        in_place = floats and tuple(axes) == self._order
        turned = floats and not in_place and tuple(axes) == tuple(range(len(shape)))
        if turned:
            *pixels, channels = map(int, inner)
            text, turn = planes_text(math.prod(pixels), channels, lanes=self.lanes)
            texts.append(text)
        imports = [T.attr(whole(0), "pragma_import_llvm", StringImm(text)) for text in texts]
        with T.frame_scope(imports), parallel(product(self.images)) as index:
            image = places(index, self.images)
            start = (*image, *[whole(0)] * len(inner))
            if not in_place:
                found = scratch("float32", [product(inner)])
            target = address(buffer[start]) if in_place else _whole_array(found, int(product(inner)))
            constants = [address(read(array(*[whole(0)] * len(array.shape)))) for array in self.constants]
            self.call(address(read(self.spikes(*start))), constants, target)
            if turned:
                T.evaluate(tirx.call_extern("void", turn, target, address(buffer[start])))

            def sum_at(place: Sequence[Expr]) -> Expr:
                if in_place or turned:
                    return buffer[tuple(place[axis] for axis in axes)]
                offset = whole(0)
                for extent, axis in zip(inner, self._order[count:], strict=True):
                    offset = offset * extent + place[axis]
                return found[offset]

            read.bind_function(self.sums, sum_at)
            self._finish(read, result, axes, buffer, image)

    def _finish(
        self, read: Reader, result: te.Tensor, axes: Sequence[int], buffer: Any, image: Sequence[Expr]
    ) -> None:
        """Store the epilogue of one image; in place there may be nothing to do."""
        count, shape = len(self.images), self.sums.shape
        fixed = dict(enumerate(image))
        loops = [axis for axis in axes if axis >= count]

        def place(inner: dict[int, Expr]) -> list[Expr]:
            return [fixed[axis] if axis < count else inner[axis] for axis in axes]

        sample = place({axis: whole(0) for axis in loops})
        element = read.element(result, sample)
        if isinstance(element, TensorLoad) and element.source.same_as(buffer):
            return
        *outer, last = loops
        extents = [shape[axis] for axis in outer]
        with T.serial(whole(0), product(extents)) as index:
            where = dict(zip(outer, places(index, extents), strict=True))

            def at(lane: Expr) -> list[Expr]:
                return place({**where, last: lane})

            def vector(first: Expr, limit: Expr | None) -> None:
                store_vectors(
                    buffer,
                    lambda lane: at(first + lane),
                    lambda lane: read.element(result, at(first + lane)),
                    first,
                    self.lanes,
                    limit,
                )

            steps = -(-int(shape[last]) // self.lanes)
            with T.serial(whole(0), whole(steps)) as step:
                divides = int(shape[last]) % self.lanes == 0
                vector(step * self.lanes, None if divides else shape[last])


def address(load: Any) -> Expr:
    """The address of an element that is read from an array."""
    return tirx.call_intrin("handle", "tirx.address_of", load)


def _whole_array(array: Any, size: int) -> Expr:
    """The address of an array of the kernel; an address of an element would leave of the array that one."""
    return tirx.tvm_access_ptr(str(array.dtype), array.data, whole(0), size, 3)


def _range(count: int) -> list[Expr]:
    """0 and `count` as arguments of a kernel: TVM narrows constants to 32 bits, but not what it loads."""
    bounds = T.alloc_buffer([2], "int64", layout=None)
    T.buffer_store(bounds, whole(0), [whole(0)])
    T.buffer_store(bounds, whole(count), [whole(1)])
    return [bounds[whole(0)], bounds[whole(1)]]


def gather_rows(op: Any, x: te.Tensor, emitter: Emitter) -> te.Tensor | None:
    """The sums by gathers of weight rows; None where weights are no constant of f32, or sizes unknown
    or beyond what event lists can hold."""
    sizes = _sizes(op)
    if sizes is None or emitter.dtype(op.w.type) != "float32":
        return None
    try:
        EventConv2d(**sizes)
    except CompileError:  # too large for event lists
        return None
    spikes, kind = _stored_image(op, x, emitter)
    spec = kind(**sizes)
    lanes = emitter.cpu.lanes
    text, workspace_bytes = kernel_text(spec, lanes=lanes)
    shape = spec.weight_shape
    weights = emitter.packed(op.w, shape, Packing("event_weights", lambda array: _by_tap(array, shape)))

    def call(first: Expr, constants: Sequence[Expr], sums: Expr) -> None:
        room = max(workspace_bytes, _ALIGNED_BYTES)
        workspace = T.alloc_buffer([room], "uint8", layout=None)
        arrays = [first, constants[0], sums, _whole_array(workspace, room)]
        T.evaluate(tirx.call_extern("void", spec.symbol, *arrays, *_range(1)))

    method = f"gather of weight rows by vectors of {lanes}, nothing for silent images"
    return _event_sums(op, spikes, emitter, [text], call, [weights], method)


def popcount(op: Any, x: te.Tensor, emitter: Emitter) -> te.Tensor:
    """The sums by counts of bits: low * n + (high - low) * p, n spikes of which p meet the higher weight.

    Raises:
        CompileError: weights are not constant, not f32, of more than two levels, or sizes are unknown.
    """
    check_levels(op)
    sizes = _sizes(op)
    if sizes is None or emitter.dtype(op.w.type) != "float32":
        raise _refusal(
            op,
            f"{op.x} is {op.x.type} and {op.w} is {op.w.type}",
            why="bits are counted for f32 weights and images of known size",
            remedy='choose kernel="dense", or fix the sizes',
        )
    spec = PopcountConv2d(**sizes, two_level=True)
    lanes = emitter.cpu.lanes
    text, _ = kernel_text(spec, lanes=lanes)
    packing, pack = bit_packing_text(spec.in_channels)
    shape = EventConv2d(**sizes).weight_shape

    def bits(array: np.ndarray) -> np.ndarray:
        return pack_weight_bits(_by_tap(array, shape) == _levels(array)[1]).view(np.int32)

    # Two layers may share this kernel, so that the levels are data.
    weights = emitter.packed(op.w, spec.weight_shape, Packing("event_bits", bits, "int32"))
    levels = emitter.packed(op.w, (2,), Packing("levels", _levels))
    pixels = spec.height * spec.width

    def call(first: Expr, constants: Sequence[Expr], sums: Expr) -> None:
        words = scratch("int32", [whole(pixels * spec.words)])
        packed = _whole_array(words, pixels * spec.words)
        T.evaluate(tirx.call_extern("void", pack, first, packed, *_range(pixels)))
        T.evaluate(tirx.call_extern("void", spec.symbol, packed, *constants, sums, *_range(1)))

    method = f"counts of bits by vectors of {lanes}"
    spikes = (
        stored_row(op, x, emitter) if isinstance(op, spike.SpikeLinear) else _channels_last(op, x, emitter)
    )
    return _event_sums(op, spikes, emitter, [text, packing], call, [weights, levels], method)


def check_levels(op: Any) -> None:
    """Raise CompileError unless the weights of an op are constants of two levels at most."""
    if not isinstance(op.w, Constant):
        raise _refusal(
            op,
            f"the weights {op.w} come in at run time",
            why='kernel="popcount" packs weights when it is compiled',
            remedy='make them constants, or choose kernel="dense"',
        )
    count = np.unique(op.w.data).size
    if count > 2:
        raise _refusal(
            op,
            f"the weights {op.w} have {count} distinct values",
            why='kernel="popcount" has one bit for a weight, which tells two levels apart',
            remedy='binarise the weights, or choose kernel="gather_rows" or "dense"',
        )


def _refusal(op: Any, what: str, *, why: str, remedy: str) -> CompileError:
    return CompileError(what, where=f"%{op.name} ({op.loc.readable()})", why=why, remedy=remedy)


def _levels(array: np.ndarray) -> np.ndarray:
    """The lower and the higher of two levels, which may be equal."""
    found = np.unique(array)
    if found.size > 2:
        raise CompileError(
            f"weights have {found.size} distinct values",
            where='a layer with kernel="popcount"',
            why="one bit for a weight tells two levels apart",
            remedy='binarise the weights, or choose kernel="gather_rows" or "dense"',
        )
    return np.asarray([found[0], found[-1]], array.dtype)


def _by_tap(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Weights [O, C, kh, kw], or [O, inputs], as [kh, kw, C, O]."""
    moved = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
    return np.ascontiguousarray(moved).reshape(shape)


def _sizes(op: Any) -> dict[str, Any] | None:
    """The sizes of an image, or of a row as an image of one pixel; None where one is unknown."""
    if not isinstance(op.w, Constant):
        return None
    outputs, channels, *kernel = map(int, op.w.shaped.shape)
    if isinstance(op, spike.SpikeLinear):
        return {"height": 1, "width": 1, "in_channels": channels, "out_channels": outputs, "kernel": (1, 1)}
    if not all(isinstance(size, int) for size in op.x.shaped.shape[2:]):
        return None
    height, width = map(int, op.x.shaped.shape[2:])
    pads = pads_of(op, op.pad, 2)
    even = _has_even_pads(op)
    if not even:  # the border is part of the map then
        height, width = height + sum(pads[0]), width + sum(pads[1])
    return {
        "height": height,
        "width": width,
        "in_channels": channels,
        "out_channels": outputs,
        "kernel": tuple(kernel),
        "stride": op.stride,
        "padding": (pads[0][0], pads[1][0]) if even else (0, 0),
    }


def _event_sums(
    op: Any,
    spikes: te.Tensor,
    emitter: Emitter,
    texts: Sequence[str],
    call: Call,
    constants: Sequence[te.Tensor],
    method: str,
) -> te.Tensor:
    """Sums that stand for those of a kernel, which the emitter writes."""
    shape = emitter.shape(op.result.type.shape)

    def stand_in(*i: Expr) -> Expr:
        found = tirx.Cast("float32", spikes(*[whole(0)] * len(spikes.shape)))
        for array in constants:
            found = found * tirx.Cast("float32", array(*[whole(0)] * len(array.shape)))
        return found

    sums = te.compute(shape, stand_in, name="sums_of_spikes")
    emitter.products[sums.op] = EventSums(
        sums=sums,
        texts=texts,
        call=call,
        images=shape[:-1] if isinstance(op, spike.SpikeLinear) else shape[:1],
        spikes=spikes,
        constants=constants,
        lanes=emitter.cpu.lanes,
        method=method,
    )
    return sums


def _stored_image(op: Any, x: te.Tensor, emitter: Emitter) -> tuple[te.Tensor, type[EventConv2d]]:
    """The spikes as an array, and the kernel that reads them as they lie."""
    if isinstance(op, spike.SpikeLinear):
        return stored_row(op, x, emitter), EventConv2d
    if op.x not in emitter.layouts and _has_even_pads(op):
        return emitter.stored(op.x)[0], PlanesConv2d
    return _channels_last(op, x, emitter), EventConv2d


def stored_row(op: Any, x: te.Tensor, emitter: Emitter) -> te.Tensor:
    """The spikes as [rows..., inputs] in memory."""
    if op.x not in emitter.layouts:
        return emitter.stored(op.x)[0]
    return emitter.stage("spikes", te.compute(x.shape, lambda *i: x(*i), name="spikes"))


def _has_even_pads(op: Any) -> bool:
    return all(before == after for before, after in pads_of(op, op.pad, 2))


def _channels_last(op: Any, x: te.Tensor, emitter: Emitter) -> te.Tensor:
    """The spikes as [n, y, x, c] in memory, with a border where that is not the same on both sides."""
    if emitter.layouts.get(op.x) == _CHANNELS_LAST and _has_even_pads(op):
        return emitter.stored(op.x)[0]
    n, c, h, w = x.shape
    (top, bottom), (left, right) = ((0, 0), (0, 0)) if _has_even_pads(op) else pads_of(op, op.pad, 2)

    def at(n: Expr, row: Expr, column: Expr, c: Expr) -> Expr:
        y, z = row - top, column - left
        if not (top or bottom or left or right):
            return x(n, c, y, z)
        inside = tirx.all(y >= 0, y < h, z >= 0, z < w)
        return tirx.if_then_else(inside, x(n, c, y, z), tirx.const(False, "bool"))

    moved = te.compute([n, h + (top + bottom), w + (left + right), c], at, name="channels_last")
    return emitter.stage("channels_last", moved)


__all__ = ["EventSums", "address", "check_levels", "gather_rows", "popcount", "stored_row"]
