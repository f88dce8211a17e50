"""Emissions of pooling and resampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import te, tirx
from tvm.ir import Expr

from plait.backends.tvm.emit.conv import padded
from plait.backends.tvm.emit.expressions import number
from plait.backends.tvm.emit.images import window
from plait.backends.tvm.emit.quant import mean_of
from plait.backends.tvm.emit.table import Arguments, Emitter, Kind, emit
from plait.ir.ops import nn, quant
from plait.ir.ops.common import pads_of


def _covering(op: Any, pads: Sequence[tuple[int, int]], dilation: Sequence[int]) -> list[tuple[int, int]]:
    """Pads that let the last window lie inside, which rounding up can push past the end."""
    found = []
    sizes = zip(
        op.x.type.shape[2:], op.result.type.shape[2:], op.kernel, op.stride, dilation, pads, strict=True
    )
    for size, count, extent, stride, d, (before, after) in sizes:
        if op.ceil:
            if isinstance(size, int) and isinstance(count, int):
                after = max(after, (count - 1) * stride + d * (extent - 1) + 1 - size - before)
            else:
                after += stride - 1
        found.append((before, after))
    return found


@emit(nn.MaxPool2d, kind=Kind.CONTRACTION)
def _max_pool(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    kind = op.x.type
    dtype = emitter.dtype(kind)
    pads = _covering(op, pads_of(op, op.pad, 2), op.dilation)
    lowest = tirx.min_value(dtype)
    found = window(op, emitter, args.x, pads, lowest, lambda best, x, c, k: te.max(best, x), tuple(op.kernel))
    if found is not None:
        return found
    source = padded(emitter, args.x, kind, pads, lowest)
    ky, kx = emitter.axis(op.kernel[0], "ky"), emitter.axis(op.kernel[1], "kx")
    (sy, sx), (dy, dx) = op.stride, op.dilation
    return te.compute(
        emitter.shape(op.result.type.shape),
        lambda n, c, y, x: te.max(source(n, c, y * sy + ky * dy, x * sx + kx * dx), axis=[ky, kx]),
        name="max_pool",
    )


@emit(nn.AvgPool2d, kind=Kind.CONTRACTION)
def _avg_pool(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    kind = op.x.type
    dtype = emitter.dtype(kind)
    stated = pads_of(op, op.pad, 2)
    zero = number(0, dtype)
    sums = window(op, emitter, args.x, stated, zero, lambda total, x, c, k: total + x, tuple(op.kernel))
    source = padded(emitter, args.x, kind, _covering(op, stated, op.dilation), number(0, dtype))
    sizes = [emitter.read_dim(dim) for dim in kind.shape[2:]]
    shape = emitter.shape(op.result.type.shape)
    if sums is None:
        ky, kx = emitter.axis(op.kernel[0], "ky"), emitter.axis(op.kernel[1], "kx")
        (sy, sx), (dy, dx) = op.stride, op.dilation
        sums = te.compute(
            shape,
            lambda n, c, y, x: te.sum(source(n, c, y * sy + ky * dy, x * sx + kx * dx), axis=[ky, kx]),
            name="window_sum",
        )
    # Every window lies inside the input or counts its pads: the divisor is the same everywhere.
    uniform = not op.ceil and (op.count_pad or not any(op.pad))

    def first(place: Expr, axis: int) -> Expr:
        """The number of window elements in front of `place`, an offset from the start of the window."""
        step = op.dilation[axis]
        whole = place if step == 1 else tirx.floordiv(place + (step - 1), step)
        return te.max(te.min(whole, tirx.IntImm("int64", op.kernel[axis])), tirx.IntImm("int64", 0))

    def covered(place: Expr, axis: int) -> Expr:
        """How many elements of a window count along an axis."""
        before, after = stated[axis]
        start = place * op.stride[axis] - before
        if op.count_pad:
            return first(sizes[axis] + after - start, axis)
        return first(sizes[axis] - start, axis) - first(tirx.IntImm("int64", 0) - start, axis)

    def at(n: Expr, c: Expr, y: Expr, x: Expr) -> Expr:
        if uniform:
            return sums(n, c, y, x) * number(1.0 / (op.kernel[0] * op.kernel[1]), dtype)
        return sums(n, c, y, x) / tirx.Cast(dtype, covered(y, 0) * covered(x, 1))

    return te.compute(shape, at, name="avg_pool")


@emit(quant.AvgPool2d, kind=Kind.CONTRACTION)
def _quantised_avg_pool(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    """The stored integers of each window are added up; pads hold the zero point."""
    kind = op.x.type
    border = number(int(kind.zero_point), emitter.dtype(kind))
    source = padded(emitter, args.x, kind, pads_of(op, op.pad, 2), border)
    ky, kx = emitter.axis(op.kernel[0], "ky"), emitter.axis(op.kernel[1], "kx")
    sy, sx = op.stride

    def at(n: Expr, c: Expr, y: Expr, x: Expr) -> Expr:
        found = source(n, c, y * sy + ky, x * sx + kx)
        return te.sum(tirx.Cast("int32", found), axis=[ky, kx])

    total = te.compute(emitter.shape(op.result.type.shape), at, name="window_sum")
    return mean_of(total, kind, op.result.type, op.kernel[0] * op.kernel[1], emitter)


@emit(nn.AdaptiveAvgPool2d, kind=Kind.CONTRACTION)
def _adaptive_avg_pool(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    kind = op.x.type
    dtype = emitter.dtype(kind)
    shape = emitter.shape(op.result.type.shape)
    sizes = [emitter.read_dim(dim) for dim in kind.shape[2:]]
    divides = [isinstance(dim, int) and dim % n == 0 for dim, n in zip(kind.shape[2:], op.size, strict=True)]

    def start(place: Expr, axis: int) -> Expr:
        if divides[axis]:
            return place * (kind.shape[2 + axis] // op.size[axis])
        return tirx.floordiv(place * sizes[axis], op.size[axis])

    def length(place: Expr, axis: int) -> Expr:
        if divides[axis]:
            return tirx.IntImm("int64", kind.shape[2 + axis] // op.size[axis])
        stop = tirx.floordiv((place + 1) * sizes[axis] + (op.size[axis] - 1), op.size[axis])
        return stop - start(place, axis)

    # The widest window; narrower ones skip its end.
    widest = [
        dim // n if exact else (dim + n - 1) // n + 1
        for dim, n, exact in zip(kind.shape[2:], op.size, divides, strict=True)
    ]
    ky, kx = emitter.axis(widest[0], "ky"), emitter.axis(widest[1], "kx")

    def total(n: Expr, c: Expr, y: Expr, x: Expr) -> Expr:
        inside = [k.var < length(p, a) for k, p, a in ((ky, y, 0), (kx, x, 1)) if not divides[a]]
        read = args.x(n, c, start(y, 0) + ky, start(x, 1) + kx)
        return te.sum(
            tirx.if_then_else(tirx.all(*inside), read, number(0, dtype)) if inside else read, axis=[ky, kx]
        )

    # The sums in the order of memory, along whose last axis vectors run.
    order = emitter.layouts.get(op.x, (0, 1, 2, 3))
    sums = te.compute(
        [shape[axis] for axis in order],
        lambda *i: total(*(i[order.index(axis)] for axis in range(4))),
        name="window_sum",
    )
    return te.compute(
        shape,
        lambda *i: sums(*(i[axis] for axis in order)) / tirx.Cast(dtype, length(i[2], 0) * length(i[3], 1)),
        name="adaptive_avg_pool",
    )


def cubic_weights(t: Expr, dtype: str) -> list[Expr]:
    """Keys' cubic convolution weights (a = -0.75) of the four neighbours at fraction t."""
    a, one = -0.75, number(1, dtype)

    def near(d: Expr) -> Expr:
        return ((d * number(a + 2, dtype) - number(a + 3, dtype)) * d) * d + one

    def far(d: Expr) -> Expr:
        inner = (d * number(a, dtype) - number(5 * a, dtype)) * d + number(8 * a, dtype)
        return inner * d - number(4 * a, dtype)

    return [far(t + one), near(t), near(one - t), far(number(2, dtype) - t)]


@emit(nn.Resize2d, kind=Kind.ALONE)
def _resize(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    kind = op.x.type
    dtype, wide = emitter.dtype(kind), "float64"
    sources = [emitter.read_dim(dim) for dim in kind.shape[2:]]
    targets = [emitter.read_dim(dim) for dim in op.size]

    def position(index: Expr, axis: int) -> Expr:
        """Where a result index lies in the source, as a number."""
        i = tirx.Cast(wide, index)
        size, count = (tirx.Cast(wide, v[axis]) for v in (sources, targets))
        one, half = number(1, wide), number(0.5, wide)
        if op.coordinates == "align_corners":
            return i * tirx.Select(count > one, (size - one) / te.max(count - one, one), number(0, wide))
        if op.coordinates == "asymmetric":
            return i * (size / count)
        return (i + half) * (size / count) - half

    def inside(place: Expr, axis: int) -> Expr:
        return te.max(te.min(place, sources[axis] - 1), tirx.IntImm("int64", 0))

    def taps(index: Expr, axis: int) -> list[tuple[Expr, Expr]]:
        """Source places along an axis with their weights."""
        where = position(index, axis)
        if op.mode == "nearest":
            nearest = tirx.floor(where if op.coordinates == "asymmetric" else where + number(0.5, wide))
            return [(inside(tirx.Cast("int64", nearest), axis), number(1, dtype))]
        base = tirx.floor(where)
        t = tirx.Cast(dtype, where - base)
        first = tirx.Cast("int64", base)
        if op.mode == "linear":
            weights = [number(1, dtype) - t, t]
            return [(inside(first + k, axis), weight) for k, weight in enumerate(weights)]
        return [(inside(first + (k - 1), axis), weight) for k, weight in enumerate(cubic_weights(t, dtype))]

    def at(n: Expr, c: Expr, y: Expr, x: Expr) -> Expr:
        total: Expr | None = None
        columns = taps(x, 1)
        for row, vertical in taps(y, 0):
            for column, horizontal in columns:
                term = args.x(n, c, row, column) * (vertical * horizontal)
                total = term if total is None else total + term
        assert total is not None
        return total

    return te.compute(emitter.shape(op.result.type.shape), at, name="resize")
