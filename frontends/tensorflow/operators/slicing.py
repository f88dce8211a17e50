"""Slices, splits, pads and reversals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from plait.frontends.nodes import decide
from plait.frontends.tensorflow.call import Call
from plait.frontends.tensorflow.operand import Operand
from plait.frontends.tensorflow.registry import lowers
from plait.frontends.tensorflow.slices import Part, slice_parts
from plait.ir import IntLike, TensorType, Value
from plait.ir.ops import core


@lowers("StridedSlice")
def strided_slice(call: Call) -> Operand:
    """numpy slicing with its masks; a tensor with channels first keeps them where all axes stay."""
    if call.operand(1).numbers is None:
        return _picked_at_run_time(call)
    parts = slice_parts(call, call.rank(0))
    if any(part.new or part.pick for part in parts):
        y = _cut(call, call.value(0), [part for part in parts if not part.new], lambda axis: axis)
        kept = iter(y.shaped.shape)
        shape: list[IntLike] = []
        for part in parts:
            if part.new:
                shape.append(1)
                continue
            dim = next(kept)
            if not part.pick:
                shape.append(dim)
        return Operand.of(call.reshape(y, shape))
    x, axis_of, wrap = call.held(0)
    y = _cut(call, x, parts, axis_of)
    return call.operand(0) if y is x else wrap(y)


def _picked_at_run_time(call: Call) -> Operand:
    """x[i], x[:, i], x[..., i, j]: indices that the run computes; all other parts take everything."""
    x, rank = call.value(0), call.rank(0)
    starts = call.value(1)
    masks = {name: call.integer(f"{name}_mask") for name in ("begin", "end", "ellipsis", "shrink_axis")}
    count = call.shape(1)[0]
    if call.integer("new_axis_mask") or not isinstance(count, int):
        raise call.unsupported("a slice with bounds that are computed at run time, and new axes,")
    axis = 0
    for position in range(count):
        bit = 1 << position
        if masks["ellipsis"] & bit:
            axis = x.shaped.rank - (count - 1 - position)
        elif masks["shrink_axis"] & bit:
            part = call.step(core.Slice(starts, axes=(0,), starts=(position,), stops=(position + 1,)))
            x = call.step(core.Take(x, call.reshape(part, ()), axis=axis))
        elif masks["begin"] & bit and masks["end"] & bit:
            axis += 1
        else:
            raise call.error(
                f"axis {axis} of {rank} is sliced with bounds that are computed at run time",
                why="the size of the result would depend on them",
                remedy="use a slice of fixed size: tf.slice(x, begin, size) with a constant size",
            )
    return Operand.of(x)


def _cut(call: Call, x: Value, parts: Sequence[Part], axis_of: Any) -> Value:
    """`x` with a part of each axis; axes with a negative step are reversed first."""
    ranges = call.ranges
    flips: list[int] = []
    kept: list[tuple[int, IntLike, IntLike, int]] = []
    for position, part in enumerate(parts):
        axis = axis_of(position)
        size = x.shaped.shape[axis]
        if part.pick:
            assert part.start is not None
            low = part.start + size if _negative(call, part.start) else part.start
            kept.append((axis, low, low + 1, 1))
            continue
        start, stop, step = part.start, part.stop, part.step
        if step < 0:
            flips.append(axis)
            start = None if start is None else _mirrored(call, start, size)
            stop = None if stop is None else _mirrored(call, stop, size)
        low = 0 if start is None else decide.clamp_index(start, size, ranges)
        high = size if stop is None else decide.clamp_index(stop, size, ranges)
        high = decide.larger(high, low, ranges)
        if (low, high, abs(step)) != (0, size, 1):
            kept.append((axis, low, high, abs(step)))
    if flips:
        x = call.step(core.Flip(x, axes=tuple(flips)))
    if not kept:
        return x
    where, lows, highs, strides = (tuple(column) for column in zip(*kept, strict=True))
    steps: Any = strides if any(step != 1 for step in strides) else ()
    return call.emit(core.Slice(x, axes=where, starts=lows, stops=highs, steps=steps))


def _negative(call: Call, index: IntLike) -> bool:
    return bool(index < 0 if isinstance(index, int) else decide.less(index, 0, call.ranges))


def _mirrored(call: Call, bound: IntLike, size: IntLike) -> IntLike:
    """A bound of a reversed axis, counted from its other end."""
    front = bound + size if _negative(call, bound) else bound
    return decide.larger(size - 1 - front, 0, call.ranges)


@lowers("Slice")
def slice_by_size(call: Call) -> Operand:
    """From `begin`, `size` elements; -1 takes all that are left."""
    if call.operand(1).numbers is None:
        return _window_at_run_time(call)
    starts, sizes = call.dims(1, "the starts"), call.dims(2, "the sizes")
    parts = [
        Part(start=start, stop=None if size == -1 else start + size)
        for start, size in zip(starts, sizes, strict=True)
    ]
    x, axis_of, wrap = call.held(0)
    y = _cut(call, x, parts, axis_of)
    return call.operand(0) if y is x else wrap(y)


def _window_at_run_time(call: Call) -> Operand:
    """A slice of fixed size whose place the run computes."""
    x, starts = call.value(0), call.value(1)
    for axis, size in enumerate(call.dims(2, "the sizes")):
        if size == x.shaped.shape[axis]:
            continue
        if size == -1:
            raise call.error(f"axis {axis} is sliced from an index that the run computes to the end")
        part = call.step(core.Slice(starts, axes=(0,), starts=(axis,), stops=(axis + 1,)))
        counter = call.step(core.Iota(out=TensorType(starts.shaped.dtype, (size,))))
        x = call.step(core.Take(x, call.step(core.Add(counter, part)), axis=axis))
    return Operand.of(x)


@lowers("Split")
def split(call: Call) -> list[Operand]:
    """Equal parts; the axis is input 0."""
    count, shape = call.integer("num_split", 1), call.shape(1)
    axis = call.normalise(int(call.number(0, "the axis")), len(shape))
    part = shape[axis] // count
    return _parts(call, 1, axis, [part] * count)


@lowers("SplitV")
def split_by_sizes(call: Call) -> list[Operand]:
    """Parts of given sizes; one of -1 takes what is left."""
    axis = call.normalise(int(call.number(2, "the axis")), call.rank(0))
    sizes = list(call.dims(1, "the sizes"))
    if -1 in sizes:
        free = sizes.index(-1)
        known: IntLike = 0
        for index, size in enumerate(sizes):
            known = known + (size if index != free else 0)
        sizes[free] = call.shape(0)[axis] - known
    return _parts(call, 0, axis, sizes)


def _parts(call: Call, index: int, axis: int, sizes: Sequence[IntLike]) -> list[Operand]:
    x, axis_of, wrap = call.held(index)
    where = axis_of(axis)
    low: IntLike = 0
    found = []
    for size in sizes:
        found.append(wrap(call.emit(core.Slice(x, axes=(where,), starts=(low,), stops=(low + size,)))))
        low = low + size
    return found


@lowers("Pad", "PadV2", "MirrorPad")
def pad(call: Call) -> Operand:
    """Constants, or for MirrorPad the reflection without (REFLECT) or with (SYMMETRIC) the edge."""
    pads = call.array(1, "the paddings").reshape(-1, 2)
    x, axis_of, wrap = call.held(0)
    before, after = [0] * call.rank(0), [0] * call.rank(0)
    for axis, (low, high) in enumerate(pads.tolist()):
        before[axis_of(axis)], after[axis_of(axis)] = int(low), int(high)
    if not np.any(pads):
        return call.operand(0)
    if call.op_type == "MirrorPad" and call.text("mode", "REFLECT") == "SYMMETRIC":
        return wrap(_symmetric(call, x, before, after))
    if call.op_type == "MirrorPad":
        return wrap(call.emit(core.Pad(x, before=tuple(before), after=tuple(after), mode="reflect")))
    number = float(call.number(2, "the value")) if call.op_type == "PadV2" else 0.0
    return wrap(call.emit(core.Pad(x, before=tuple(before), after=tuple(after), value=number)))


def _symmetric(call: Call, x: Value, before: Sequence[int], after: Sequence[int]) -> Value:
    """Each axis joined with its reversed ends."""
    for axis, (low, high) in enumerate(zip(before, after, strict=True)):
        size = x.shaped.shape[axis]
        pieces = [x]
        if low:
            head = call.step(core.Slice(x, axes=(axis,), starts=(0,), stops=(low,)))
            pieces.insert(0, call.step(core.Flip(head, axes=(axis,))))
        if high:
            tail = call.step(core.Slice(x, axes=(axis,), starts=(size - high,), stops=(size,)))
            pieces.append(call.step(core.Flip(tail, axes=(axis,))))
        if len(pieces) > 1:
            x = call.step(core.Concat(tuple(pieces), axis=axis))
    return x


@lowers("ReverseV2")
def reverse(call: Call) -> Operand:
    axes = call.axes(1, call.rank(0))
    if not axes:
        return call.operand(0)
    x, axis_of, wrap = call.held(0)
    return wrap(call.emit(core.Flip(x, axes=tuple(sorted(axis_of(axis) for axis in axes)))))


@lowers("Roll")
def roll(call: Call) -> Operand:
    shifts = call.ints(1, "the shifts")
    x, axis_of, wrap = call.held(0)
    axes = tuple(axis_of(axis) for axis in call.axes(2, call.rank(0)))
    return wrap(call.emit(core.Roll(x, shifts=shifts, axes=axes)))


@lowers("MatrixBandPart")
def band_part(call: Call) -> Value:
    """The diagonals from `lower` below to `upper` above the main one; a negative count keeps all."""
    x = call.value(0)
    lower, upper = int(call.number(1, "num_lower")), int(call.number(2, "num_upper"))
    if lower >= 0:
        x = call.emit(core.Triangle(x, upper=True, diagonal=-lower))
    return call.emit(core.Triangle(x, diagonal=upper)) if upper >= 0 else x
