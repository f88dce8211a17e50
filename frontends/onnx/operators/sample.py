"""Sampling at positions that are data: grids, deformed windows, regions of interest."""

from __future__ import annotations

from typing import Literal, cast

import ml_dtypes

from plait.frontends.onnx.call import Call
from plait.frontends.onnx.operators.conv import require_known, window, window_pads
from plait.frontends.onnx.operators.index import indices_of
from plait.frontends.onnx.registry import lowers
from plait.ir import DType, IntLike, Op, TensorType, Value
from plait.ir import types as t
from plait.ir.ops import core, linalg, nn

Mode = Literal["nearest", "linear", "cubic"]
Padding = Literal["zeros", "border", "reflection"]
_MODES = {"bilinear": "linear", "bicubic": "cubic"}


@lowers("GridSample", since=16)
def grid_sample(call: Call) -> Value:
    x, mode = call.value(0), call.text("mode", "linear")
    return call.emit(
        nn.GridSample(
            x,
            call.cast(call.value(1), x.shaped.dtype),
            mode=cast(Mode, _MODES.get(mode, mode)),
            padding=cast(Padding, call.text("padding_mode", "zeros")),
            coordinates="align_corners" if call.integer("align_corners", 0) else "half_pixel",
        )
    )


class Arithmetic:
    """Emits the elementwise steps of one node; numbers take the element type of the other operand."""

    def __init__(self, call: Call, element: DType) -> None:
        self.call, self.element = call, element

    def value(self, x: Value | float | IntLike) -> Value:
        """A tensor as it is; a number or dim as a scalar."""
        if isinstance(x, Value):
            return x
        if isinstance(x, (int, float)):
            return self.call.full(float(x), self.element)
        return self.call.cast(self.call.step(core.DimValue(dim=x)), self.element)

    def __call__(self, make: type[Op], *operands: Value | float | IntLike) -> Value:
        """The result of an elementwise op."""
        return self.call.step(make(*(self.value(x) for x in operands)))

    def count(self, size: IntLike, step: float = 1.0, start: float = 0.0) -> Value:
        """start, start + step, ... of the element type."""
        return self.call.step(core.Iota(start=start, step=step, out=TensorType(self.element, (size,))))

    def clamp(self, x: Value, low: float | IntLike, high: float | IntLike) -> Value:
        """x limited to an interval."""
        return self(core.Minimum, self(core.Maximum, x, low), high)


def _pairs(call: Call, x: Value, y: Value) -> Value:
    """Columns and rows of equal shape as the last axis of a grid."""
    shape = (*x.shaped.shape, 1)
    return call.step(core.Concat((call.reshape(x, shape), call.reshape(y, shape)), axis=len(shape) - 1))


@lowers("DeformConv", since=19)
def deformed_convolution(call: Call) -> Value:
    """Dai et al. 2017: the window elements sampled at their moved places, then a product with the weights."""
    x, w, offset = call.value(0), call.value(1), call.value(2)
    if call.rank(0) != 4:
        raise call.unsupported(f"DeformConv over {call.rank(0) - 2} axes")
    batch, channels, height, width = call.shape(0)
    channels_out, per_group, *_ = call.shape(1)
    kernel = require_known(call, call.shape(1)[2:], "the kernel")
    stride, dilation = window(call, 2, "strides"), window(call, 2, "dilations")
    pads = window_pads(call, (height, width), kernel, stride, dilation)
    groups, moved = call.integer("group", 1), call.integer("offset_group", 1)
    rows, columns = call.shape(2)[2:]
    taps, go = kernel[0] * kernel[1], Arithmetic(call, x.shaped.dtype)
    offsets = call.reshape(offset, (batch * moved, kernel[0], kernel[1], 2, rows, columns))

    def places(axis: int) -> Value:
        """Source rows or columns [N * offset groups, taps * rows, columns]."""
        part = call.step(core.Slice(offsets, axes=(3,), starts=(axis,), stops=(axis + 1,)))
        part = call.reshape(part, (batch * moved, kernel[0], kernel[1], rows, columns))
        steps = go.count((rows, columns)[axis], stride[axis], -float(pads[axis]))
        inside = go.count(kernel[axis], float(dilation[axis]))
        window_shape = [1, 1, 1, 1]
        window_shape[axis] = kernel[axis]
        steps = call.reshape(steps, (rows, 1) if axis == 0 else (columns,))
        moved_by = go(core.Add, call.reshape(inside, window_shape), steps)
        return call.reshape(go(core.Add, part, moved_by), (batch * moved, taps * rows, columns))

    grid = _pairs(call, places(1), places(0))
    source = call.reshape(x, (batch * moved, channels // moved, height, width))
    sampled = call.step(nn.GridSample(source, grid, coordinates="pixels"))
    if call.has(4):
        mask = call.reshape(call.value(4), (batch * moved, 1, taps * rows, columns))
        sampled = go(core.Mul, sampled, mask)
    patches = call.reshape(sampled, (batch, groups, per_group * taps, rows * columns))
    weights = call.reshape(w, (groups, channels_out // groups, per_group * taps))
    y = call.step(linalg.Matmul(weights, patches))
    y = call.reshape(y, (batch, channels_out, rows, columns))
    if not call.has(3):
        return y
    return call.emit(core.Add(y, call.reshape(call.value(3), (channels_out, 1, 1))))


@lowers("RoiAlign", since=10)
def region_align(call: Call) -> Value:
    """He et al. 2017: each region cut into bins, each bin sampled at a grid of places."""
    x, rois = call.value(0), call.value(1)
    go = Arithmetic(call, x.shaped.dtype)
    regions, channels = call.shape(1)[0], call.shape(0)[1]
    size = (call.integer("output_height", 1), call.integer("output_width", 1))
    samples = call.integer("sampling_ratio", 0)
    # before operator set 16 there was no choice
    half = call.version >= 16 and call.text("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    scale = call.number_attribute("spatial_scale", 1.0)
    corners = go(core.Sub, go(core.Mul, rois, scale), 0.5 if half else 0.0)

    def corner(index: int) -> Value:
        return call.step(core.Slice(corners, axes=(1,), starts=(index,), stops=(index + 1,)))

    def extent(axis: int) -> tuple[Value, Value]:
        """Start and bin size [regions, 1] along rows (0) or columns (1)."""
        start, stop = corner(1 - axis), corner(3 - axis)
        length = go(core.Sub, stop, start)
        length = length if half else go(core.Maximum, length, 1.0)
        return start, go(core.Div, length, float(size[axis]))

    source = call.step(core.Take(x, indices_of(call, 2), axis=0))
    mode = call.text("mode", "avg")
    if samples == 0:
        if mode != "avg":
            raise call.unsupported("RoiAlign by mode max with sampling_ratio 0", "set sampling_ratio")
        rows, columns = (
            _bin_weights(go, extent(axis), size[axis], call.shape(0)[2 + axis]) for axis in (0, 1)
        )
        rows = call.reshape(rows, (regions, 1, size[0], call.shape(0)[2]))
        columns = call.reshape(call.transpose(columns, (0, 2, 1)), (regions, 1, call.shape(0)[3], size[1]))
        return call.emit(linalg.Matmul(call.step(linalg.Matmul(rows, source)), columns))
    places = []
    for axis in (0, 1):
        start, step = extent(axis)
        inside = go.count(size[axis] * samples, 1.0 / samples, 0.5 / samples)
        places.append(go(core.Add, start, go(core.Mul, step, inside)))
    lattice = (regions, channels, size[0], samples, size[1], samples)
    if mode == "max":
        largest = _largest_tap(go, source, places[0], places[1])
        return call.emit(core.Max(call.reshape(largest, lattice), axes=(3, 5)))
    sampled = _sampled(go, source, places[0], places[1])
    y_in, x_in = (_inside(go, p, n) for p, n in zip(places, call.shape(0)[2:], strict=True))
    rows_in = call.reshape(y_in, (*y_in.shaped.shape, 1))
    columns_in = call.reshape(x_in, (regions, 1, size[1] * samples))
    weights = call.reshape(go(core.Mul, rows_in, columns_in), (regions, 1, *sampled.shaped.shape[2:]))
    total = go(core.Mul, sampled, weights)
    return call.emit(core.Mean(call.reshape(total, lattice), axes=(3, 5)))


def _inside(go: Arithmetic, place: Value, size: IntLike) -> Value:
    """1 where a place lies within one element of the source, else 0."""
    low = go(core.Ge, place, -1.0)
    return go.call.cast(go(core.And, low, go(core.Le, place, size)), go.element)


def _sampled(go: Arithmetic, x: Value, rows: Value, columns: Value, mode: Mode = "linear") -> Value:
    """x [R, C, H, W] at all pairs of rows [R, h] and columns [R, w] -> [R, C, h, w], edges continued."""
    call = go.call
    regions, height = rows.shaped.shape
    width = columns.shaped.shape[1]
    shape = (regions, height, width)
    y = call.broadcast(call.reshape(rows, (regions, height, 1)), shape)
    x_ = call.broadcast(call.reshape(columns, (regions, 1, width)), shape)
    return call.step(nn.GridSample(x, _pairs(call, x_, y), mode=mode, padding="border", coordinates="pixels"))


def _largest_tap(go: Arithmetic, x: Value, rows: Value, columns: Value) -> Value:
    """The largest of the four weighted neighbours, which mode max takes in place of their sum."""
    call = go.call
    sides = []
    for place, size in zip((rows, columns), x.shaped.shape[2:], strict=True):
        inside = _inside(go, place, size)
        held = go.clamp(place, 0.0, size - 1)
        low = go(core.Floor, held)
        fraction = go(core.Sub, held, low)
        near = go(core.Mul, go(core.Sub, 1.0, fraction), inside)
        sides.append(((low, near), (go(core.Add, low, 1.0), go(core.Mul, fraction, inside))))
    found: Value | None = None
    for row, vertical in sides[0]:
        for column, horizontal in sides[1]:
            weight = go(
                core.Mul,
                call.reshape(vertical, (vertical.shaped.shape[0], 1, vertical.shaped.shape[1], 1)),
                call.reshape(horizontal, (horizontal.shaped.shape[0], 1, 1, horizontal.shaped.shape[1])),
            )
            term = go(core.Mul, _sampled(go, x, row, column, "nearest"), weight)
            found = term if found is None else go(core.Maximum, found, term)
    assert found is not None
    return found


def _bin_weights(go: Arithmetic, extent: tuple[Value, Value], bins: int, size: IntLike) -> Value:
    """The share [regions, bins, size] of each source row in the mean of a bin.

    A bin of b pixels has ceil(b) samples, more than half a pixel apart, of which at
    most 2 * size + 4 lie within a pixel of the source; counting starts at the first of those.
    """
    call = go.call
    start, step = extent
    regions = start.shaped.shape[0]
    samples = go(core.Ceil, step)
    spacing = go(core.Div, step, go(core.Maximum, samples, 1.0))
    first = go(core.Add, start, go(core.Mul, step, go.count(bins)))  # [regions, bins]
    skipped = go(core.Ceil, go(core.Sub, go(core.Div, go(core.Sub, -1.0, first), spacing), 0.5))
    number = go(
        core.Add,
        call.reshape(go(core.Maximum, skipped, 0.0), (regions, bins, 1)),
        go.count(2 * size + 4),
    )
    wide = (regions, 1, 1)
    offset = go(core.Mul, go(core.Add, number, 0.5), call.reshape(spacing, wide))
    place = go(core.Add, call.reshape(first, (regions, bins, 1)), offset)
    counted = call.cast(go(core.Lt, number, call.reshape(samples, wide)), go.element)
    weight = go(core.Mul, _inside(go, place, size), counted)
    weight = go(core.Div, weight, call.reshape(go(core.Maximum, samples, 1.0), wide))
    held = go.clamp(place, 0.0, size - 1)
    places = call.reshape(held, (*held.shaped.shape, 1))
    distance = go(core.Abs, go(core.Sub, places, go.count(size)))
    tent = go(core.Maximum, go(core.Sub, 1.0, distance), 0.0)
    return call.step(core.Sum(go(core.Mul, tent, call.reshape(weight, (*weight.shaped.shape, 1))), axes=(2,)))


@lowers("MaxRoiPool")
def region_pool(call: Call) -> Value:
    """Girshick 2015: the largest element of each bin of whole pixels; 0 where a bin holds none."""
    x, rois = call.value(0), call.value(1)
    go = Arithmetic(call, x.shaped.dtype)
    regions, (channels, height, width) = call.shape(1)[0], call.shape(0)[1:]
    size = call.integers("pooled_shape") or (1, 1)
    scale = call.number_attribute("spatial_scale", 1.0)

    def column(index: int) -> Value:
        return call.step(core.Slice(rois, axes=(1,), starts=(index,), stops=(index + 1,)))

    def rounded(index: int) -> Value:
        """A corner in whole pixels [regions, 1], halves away from zero."""
        return go(core.Floor, go(core.Add, go(core.Mul, column(index), scale), 0.5))

    def members(axis: int) -> Value:
        """Whether each row (0) or column (1) belongs to each bin: [regions, bins, size]."""
        start, stop = rounded(2 - axis), rounded(4 - axis)
        length = go(core.Maximum, go(core.Add, go(core.Sub, stop, start), 1.0), 1.0)
        step = go(core.Div, length, float(size[axis]))
        low = go(core.Floor, go(core.Mul, step, go.count(size[axis])))
        high = go(core.Ceil, go(core.Mul, step, go.count(size[axis], start=1.0)))
        shape = (regions, size[axis], 1)
        low, high = (call.reshape(go(core.Add, edge, start), shape) for edge in (low, high))
        place = go.count((height, width)[axis])
        return go(core.And, go(core.Ge, place, low), go(core.Lt, place, high))

    index = call.cast(call.reshape(column(0), (regions,)), t.i64)
    source = call.step(core.Take(x, index, axis=0))
    rows = call.reshape(members(0), (regions, 1, size[0], height, 1))
    columns = call.reshape(members(1), (regions, 1, 1, size[1], width))
    lowest = float(ml_dtypes.finfo(go.element.numpy).min)
    tall = call.reshape(source, (regions, channels, 1, height, width))
    by_rows = call.step(core.Max(go(core.Where, rows, tall, lowest), axes=(3,)))
    spread = call.reshape(by_rows, (regions, channels, size[0], 1, width))
    best = call.step(core.Max(go(core.Where, columns, spread, lowest), axes=(4,)))
    return call.emit(core.Where(go(core.Gt, best, lowest), best, go.value(0.0)))
