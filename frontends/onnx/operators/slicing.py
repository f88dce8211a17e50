"""Slices, splits and pads."""

from __future__ import annotations

from typing import Any

from plait.frontends.nodes import decide
from plait.frontends.onnx.call import Call
from plait.frontends.onnx.operand import Operand
from plait.frontends.onnx.registry import lowers
from plait.ir import Dim, IntLike, Value
from plait.ir.ops import core
from plait.ir.types import Shape


@lowers("Slice", until=9)
def slice_by_attributes(call: Call) -> Value | Operand:
    starts, stops = call.integers("starts") or (), call.integers("ends") or ()
    axes = call.integers("axes") or tuple(range(len(starts)))
    return _sliced(call, axes, starts, stops, (1,) * len(starts))


@lowers("Slice", since=10)
def slice_by_inputs(call: Call) -> Value | Operand:
    starts, stops = call.dims(1, "starts"), call.dims(2, "ends")
    axes = call.ints(3, "axes") if call.has(3) else tuple(range(len(starts)))
    steps = call.ints(4, "steps") if call.has(4) else (1,) * len(starts)
    return _sliced(call, axes, starts, stops, steps)


def _sliced(
    call: Call, axes: tuple[int, ...], starts: Shape, stops: Shape, steps: tuple[int, ...]
) -> Value | Operand:
    """numpy slicing; an axis with a negative step is reversed first and then sliced from its other end."""
    shape, ranges = call.shape(0), call.ranges
    flips: list[int] = []
    kept: list[tuple[int, IntLike, IntLike, int]] = []
    for given, start, stop, step in zip(axes, starts, stops, steps, strict=True):
        axis = call.normalise(given, len(shape))
        size = shape[axis]
        if step < 0:
            flips.append(axis)
            start, stop = _mirrored(start, size, ranges), _mirrored(stop, size, ranges)
        else:
            start, stop = _of_known_sign(call, start), _of_known_sign(call, stop)
        low = decide.clamp_index(start, size, call.ranges)
        high = decide.larger(decide.clamp_index(stop, size, call.ranges), low, call.ranges)
        if (low, high, abs(step)) != (0, size, 1):
            kept.append((axis, low, high, abs(step)))
    if not flips and not kept:
        return call.operand(0)
    x = call.value(0)
    if flips:
        flip = core.Flip(x, axes=tuple(flips))
        x = call.step(flip) if kept else call.emit(flip)
    if not kept:
        return x
    where, lows, highs, strides = (tuple(column) for column in zip(*kept, strict=True))
    steps_given: Any = strides if any(step != 1 for step in strides) else ()
    return call.emit(core.Slice(x, axes=where, starts=lows, stops=highs, steps=steps_given))


def _of_known_sign(call: Call, bound: IntLike) -> IntLike:
    """A bound whose sign does not depend on dim values, since negative ones count from the end.

    A bound such as N - 5 is taken as a position from the front: the range of N is
    narrowed to 5 and above, so that a smaller one is refused at run time.
    """
    if isinstance(bound, int) or decide.less(bound, 0, call.ranges) is not None:
        return bound
    graph, (name, *others) = call.builder.graph, sorted(bound.symbols())
    least = Dim.symbol(name) - bound
    if others or not isinstance(least, int):
        raise call.error(
            f"the slice bound {bound} is negative for some dim values and not for others",
            why="a negative bound counts from the end",
            remedy="fix the dims with inputs=",
        )
    graph.declare_dim(name, least, graph.dims[name].high)
    return bound


def _mirrored(bound: IntLike, size: IntLike, ranges: decide.Ranges) -> IntLike:
    """A bound of a backward slice as a bound of the reversed axis: position p becomes size - 1 - p."""
    if isinstance(bound, int) and bound < 0:
        # the end of the axis counts from -1: p = size + bound, so the mirrored one is -bound - 1
        return decide.smaller(-bound - 1, size, ranges)
    return decide.larger(size - 1 - bound, 0, ranges)


@lowers("Split", since=2)
def split(call: Call) -> list[Value | Operand | None]:
    """Sizes from the attribute (to opset 12) or the input, else equal parts with a smaller last one."""
    shape, axis = call.shape(0), call.axis(0, call.rank(0))
    count = call.integer("num_outputs", len(call.outputs))
    sizes: Shape | None = call.dims(1, "the sizes") if call.has(1) else call.integers("split")
    if sizes is None:
        whole = (shape[axis] + count - 1) // count
        sizes = (*(whole for _ in range(count - 1)), shape[axis] - whole * (count - 1))
    if len(sizes) == 1:
        return [call.operand(0)]
    x = call.value(0)
    parts: list[Value | Operand | None] = []
    start: IntLike = 0
    for size in sizes:
        parts.append(call.emit(core.Slice(x, axes=(axis,), starts=(start,), stops=(start + size,))))
        start = start + size
    return parts


@lowers("Pad", until=10)
def pad_by_attributes(call: Call) -> Value | Operand:
    pads = call.integers("pads") or ()
    return _padded(call, pads, tuple(range(call.rank(0))), call.number_attribute("value", 0.0))


@lowers("Pad", since=11)
def pad_by_inputs(call: Call) -> Value | Operand:
    value = float(call.number(2, "the value")) if call.has(2) else 0.0
    rank = call.rank(0)
    axes = tuple(call.normalise(a, rank) for a in call.ints(3, "axes")) if call.has(3) else tuple(range(rank))
    return _padded(call, call.ints(1, "the pads"), axes, value)


def _padded(call: Call, pads: tuple[int, ...], axes: tuple[int, ...], value: float) -> Value | Operand:
    """Negative pads crop first."""
    rank, count = call.rank(0), len(axes)
    before, after = [0] * rank, [0] * rank
    for position, axis in enumerate(axes):
        before[axis], after[axis] = pads[position], pads[position + count]
    mode: Any = call.text("mode", "constant")
    x = call.value(0)
    crop = [axis for axis in range(rank) if before[axis] < 0 or after[axis] < 0]
    if crop:
        shape = x.shaped.shape
        starts = tuple(max(-before[axis], 0) for axis in crop)
        stops = tuple(shape[axis] - max(-after[axis], 0) for axis in crop)
        x = call.step(core.Slice(x, axes=tuple(crop), starts=starts, stops=stops))
        before, after = [max(p, 0) for p in before], [max(p, 0) for p in after]
    if not any(before) and not any(after):
        return Operand.of(x) if crop else call.operand(0)
    if mode == "wrap":
        return _wrapped(call, x, before, after)
    return call.emit(core.Pad(x, before=tuple(before), after=tuple(after), mode=mode, value=value))


def _wrapped(call: Call, x: Value, before: list[int], after: list[int]) -> Value:
    """Each axis continued by its other end."""
    for axis, (low, high) in enumerate(zip(before, after, strict=True)):
        size = x.shaped.shape[axis]
        if not low and not high:
            continue
        if isinstance(size, int) and max(low, high) > size:
            raise call.unsupported(f"wrapping {max(low, high)} elements around an axis of {size}")
        parts = [x]
        if low:
            parts.insert(0, call.step(core.Slice(x, axes=(axis,), starts=(size - low,), stops=(size,))))
        if high:
            parts.append(call.step(core.Slice(x, axes=(axis,), starts=(0,), stops=(high,))))
        x = call.step(core.Concat(tuple(parts), axis=axis))
    return x
