"""Pooling."""

from __future__ import annotations

from collections.abc import Callable

from plait.frontends.onnx.call import Call
from plait.frontends.onnx.operators.conv import compact, window, window_pads
from plait.frontends.onnx.operators.index import indices_of
from plait.frontends.onnx.registry import lowers
from plait.ir import IntLike, Op, TensorType, Value
from plait.ir import dims as d
from plait.ir import types as t
from plait.ir.ops import core, nn

Pair = tuple[int, int]
#: (x, kernel, stride, pads, dilation) over the last two axes -> the pooling op
Pool2d = Callable[[Value, Pair, Pair, tuple[int, ...], Pair], Op]


@lowers("MaxPool")
def max_pool(call: Call) -> list[Value]:
    ceil = bool(call.integer("ceil_mode", 0))

    def pool(x: Value, kernel: Pair, stride: Pair, pads: tuple[int, ...], dilation: Pair) -> Op:
        return nn.MaxPool2d(x, kernel=kernel, stride=stride, pad=pads, dilation=dilation, ceil=ceil)

    largest = _pooled(call, call.value(0), pool)
    return [largest, _places(call, ceil)] if call.wants(1) else [largest]


def _places(call: Call, ceil: bool) -> Value:
    """Places in the whole operand; inside a channel they count in column-major order by storage_order."""
    kernel, stride, pads, dilation = _windows(call)
    batch, channels, *sizes = call.shape(0)
    place = call.step(
        nn.MaxPoolIndices(
            call.value(0), kernel=kernel, stride=stride, pad=compact(pads), dilation=dilation, ceil=ceil
        )
    )

    def number(dim: IntLike) -> Value:
        if isinstance(dim, int):
            return call.full(dim, t.i64)
        return call.step(core.DimValue(dim=dim))

    if call.integer("storage_order", 0) and len(sizes) > 1:
        rest, turned, step = place, call.full(0, t.i64), d.product(sizes)
        for size in reversed(sizes):
            step = step // size
            digit = call.step(core.Remainder(rest, number(size)))
            rest = call.step(core.FloorDiv(rest, number(size)))
            turned = call.step(core.Add(call.step(core.Mul(digit, number(step))), turned))
        place = turned
    planes = TensorType(t.i64, (batch, channels, *(1 for _ in sizes)))
    flat = call.step(core.Iota(out=TensorType(t.i64, (batch * channels,))))
    start = call.step(core.Mul(call.reshape(flat, planes.shape), number(d.product(sizes))))
    return call.emit(core.Add(place, start))


@lowers("AveragePool")
def average_pool(call: Call) -> Value:
    ceil, count_pad = bool(call.integer("ceil_mode", 0)), bool(call.integer("count_include_pad", 0))

    def pool(x: Value, kernel: Pair, stride: Pair, pads: tuple[int, ...], dilation: Pair) -> Op:
        return nn.AvgPool2d(
            x, kernel=kernel, stride=stride, pad=pads, dilation=dilation, ceil=ceil, count_pad=count_pad
        )

    return _pooled(call, call.value(0), pool)


@lowers("LpPool", since=2)
def power_pool(call: Call) -> Value:
    """(sum of |x|^p)^(1/p): the mean of the powers, with pads, times the size of the window."""
    kernel, stride, pads, dilation = _windows(call)
    powers = _power(call, call.value(0))
    spatial = len(kernel)
    before, after = pads[:spatial], pads[spatial:]
    count: tuple[IntLike, ...] | None = None
    if call.integer("ceil_mode", 0):
        # pads of zeros behind let the last windows be whole
        sizes = call.shape(0)[2:]
        behind = tuple(a + s - 1 for a, s in zip(after, stride, strict=True))
        powers = call.step(core.Pad(powers, before=(0, 0, *before), after=(0, 0, *behind)))
        count = tuple(
            d.minimum((n + b + a - step * (k - 1) - 1 + s - 1) // s + 1, (n + b - 1) // s + 1)
            for n, b, a, k, s, step in zip(sizes, before, after, kernel, stride, dilation, strict=True)
        )
        pads = (0,) * (2 * spatial)

    def pool(x: Value, kernel: Pair, stride: Pair, pads: tuple[int, ...], dilation: Pair) -> Op:
        return nn.AvgPool2d(x, kernel=kernel, stride=stride, pad=pads, dilation=dilation, count_pad=True)

    mean = _pooled(call, powers, pool, pads)
    if count is not None and count != mean.shaped.shape[2:]:
        axes = tuple(range(2, spatial + 2))
        mean = call.step(core.Slice(mean, axes=axes, starts=(0,) * spatial, stops=count))
    whole = 1
    for k in kernel:
        whole *= k
    return _root(call, call.step(core.Mul(mean, call.scalar_like(whole, mean))))


def _power(call: Call, x: Value) -> Value:
    """|x| to the power of the attribute p."""
    p = call.integer("p", 2)
    if p == 2:
        return call.step(core.Mul(x, x))
    magnitude = call.step(core.Abs(x))
    return magnitude if p == 1 else call.step(core.Pow(magnitude, call.scalar_like(p, x)))


def _root(call: Call, x: Value) -> Value:
    """The root of the attribute p."""
    p = call.integer("p", 2)
    if p == 1:
        return x
    return call.emit(core.Sqrt(x) if p == 2 else core.Pow(x, call.scalar_like(1.0 / p, x)))


def _windows(call: Call) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Kernel, stride, pads (all in front, then all behind) and dilation of each spatial axis."""
    spatial = call.rank(0) - 2
    kernel = call.integers("kernel_shape")
    if kernel is None or len(kernel) != spatial:
        raise call.error(f"kernel_shape {kernel} does not fit an input of rank {call.rank(0)}")
    stride, dilation = window(call, spatial, "strides"), window(call, spatial, "dilations")
    return kernel, stride, window_pads(call, call.shape(0)[2:], kernel, stride, dilation), dilation


def _pooled(call: Call, x: Value, pool: Pool2d, padded: tuple[int, ...] | None = None) -> Value:
    """Pooling over 1, 2 or 3 axes by 2-D pooling; `padded` are pads in place of the node's.

    1-D is 2-D with height one.  3-D is separable: rows and columns first, then depth,
    since the largest element and the counted elements of a box are those of its sides.
    """
    kernel, stride, pads, dilation = _windows(call)
    pads = pads if padded is None else padded
    spatial = len(kernel)
    before, after = pads[:spatial], pads[spatial:]

    def over(y: Value, first: int | None, second: int | None) -> Op:
        """2-D pooling with the windows of two spatial axes; None is a window of one."""

        def pair(values: tuple[int, ...], otherwise: int) -> Pair:
            a = otherwise if first is None else values[first]
            return a, otherwise if second is None else values[second]

        sides = (*pair(before, 0), *pair(after, 0))
        return pool(y, pair(kernel, 1), pair(stride, 1), compact(sides), pair(dilation, 1))

    if spatial == 2:
        return call.emit(over(x, 0, 1))
    n, c, *sizes = x.shaped.shape
    if spatial == 1:
        y = call.step(over(call.reshape(x, (n, c, 1, sizes[0])), None, 0))
        return call.emit(core.Reshape(y, out=y.shaped.with_shape((n, c, y.shaped.shape[3]))))
    if spatial != 3:
        raise call.unsupported(f"pooling over {spatial} axes")
    depth, height, width = sizes
    y = call.step(over(call.reshape(x, (n, c * depth, height, width)), 1, 2))
    rows, columns = y.shaped.shape[2:]
    y = call.step(over(call.reshape(y, (n, c, depth, rows * columns)), 0, None))
    return call.emit(core.Reshape(y, out=y.shaped.with_shape((n, c, y.shaped.shape[2], rows, columns))))


@lowers("GlobalAveragePool")
def global_average_pool(call: Call) -> Value:
    x = call.value(0)
    if call.rank(0) == 4:
        return call.emit(nn.AdaptiveAvgPool2d(x, size=(1, 1)))
    return call.emit(core.Mean(x, axes=_spatial(call), keepdims=True))


@lowers("GlobalMaxPool")
def global_max_pool(call: Call) -> Value:
    return call.emit(core.Max(call.value(0), axes=_spatial(call), keepdims=True))


@lowers("GlobalLpPool", since=2)
def global_power_pool(call: Call) -> Value:
    powers = _power(call, call.value(0))
    return _root(call, call.step(core.Sum(powers, axes=_spatial(call), keepdims=True)))


def _spatial(call: Call) -> tuple[int, ...]:
    return tuple(range(2, call.rank(0)))


@lowers("MaxUnpool", since=9)
def max_unpool(call: Call) -> Value:
    """Elements written at their places in a tensor of zeros of the size that was pooled.

    Places count the elements of that tensor; `output_shape` adds zeros behind it.
    """
    x, places = call.value(0), indices_of(call, 1)
    kernel, stride, pads, _ = _windows(call)
    spatial = len(kernel)
    batch, channels, *sizes = call.shape(0)
    inferred = tuple(
        (n - 1) * s - before - after + k
        for n, s, k, before, after in zip(sizes, stride, kernel, pads[:spatial], pads[spatial:], strict=True)
    )
    shape = (batch, channels, *inferred)
    count = d.product(call.shape(0))
    zeros = call.full(0, x.shaped.dtype, (d.product(shape),))
    flat = core.ScatterElements(zeros, call.reshape(places, (count,)), call.reshape(x, (count,)), axis=0)
    y = call.reshape(call.step(flat), shape)
    wanted = call.dims(2, "the output shape") if call.has(2) else shape
    after = tuple(a - b for a, b in zip(wanted, shape, strict=True))
    if all(extra == 0 for extra in after):
        return y
    if not all(isinstance(extra, int) and extra >= 0 for extra in after):
        raise call.unsupported(f"MaxUnpool from {list(map(str, shape))} to {list(map(str, wanted))}")
    behind = tuple(int(extra) for extra in after if isinstance(extra, int))
    return call.emit(core.Pad(y, before=(0,) * len(behind), after=behind))
