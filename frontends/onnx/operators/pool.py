"""Pooling."""

from __future__ import annotations

from collections.abc import Callable

from plait.frontends.onnx.call import Call
from plait.frontends.onnx.operators.conv import compact, window, window_pads
from plait.frontends.onnx.registry import lowers
from plait.ir import Op, Value
from plait.ir.ops import core, nn

Pair = tuple[int, int]
#: (x, kernel, stride, pads, dilation) over the last two axes -> the pooling op
Pool2d = Callable[[Value, Pair, Pair, tuple[int, ...], Pair], Op]


@lowers("MaxPool")
def max_pool(call: Call) -> Value:
    if call.wants(1):
        raise call.unsupported(
            "the index output of MaxPool", remedy="export the model without pooling indices"
        )
    ceil = bool(call.integer("ceil_mode", 0))

    def pool(x: Value, kernel: Pair, stride: Pair, pads: tuple[int, ...], dilation: Pair) -> Op:
        return nn.MaxPool2d(x, kernel=kernel, stride=stride, pad=pads, dilation=dilation, ceil=ceil)

    return _pooled(call, pool)


@lowers("AveragePool")
def average_pool(call: Call) -> Value:
    ceil, count_pad = bool(call.integer("ceil_mode", 0)), bool(call.integer("count_include_pad", 0))
    if any(step != 1 for step in call.integers("dilations") or ()):
        raise call.unsupported("a dilated AveragePool")

    def pool(x: Value, kernel: Pair, stride: Pair, pads: tuple[int, ...], dilation: Pair) -> Op:
        return nn.AvgPool2d(x, kernel=kernel, stride=stride, pad=pads, ceil=ceil, count_pad=count_pad)

    return _pooled(call, pool)


def _pooled(call: Call, pool: Pool2d) -> Value:
    """Pooling over 1, 2 or 3 axes by 2-D pooling.

    1-D is 2-D with height one.  3-D is separable: rows and columns first, then depth,
    since the largest element and the counted elements of a box are those of its sides.
    """
    x = call.value(0)
    spatial = call.rank(0) - 2
    kernel = call.integers("kernel_shape")
    if kernel is None or len(kernel) != spatial:
        raise call.error(f"kernel_shape {kernel} does not fit an input of rank {call.rank(0)}")
    stride, dilation = window(call, spatial, "strides"), window(call, spatial, "dilations")
    pads = window_pads(call, call.shape(0)[2:], kernel, stride, dilation)
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
    n, c, *sizes = call.shape(0)
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
    return call.emit(core.Mean(x, axes=tuple(range(2, call.rank(0))), keepdims=True))


@lowers("GlobalMaxPool")
def global_max_pool(call: Call) -> Value:
    return call.emit(core.Max(call.value(0), axes=tuple(range(2, call.rank(0))), keepdims=True))
