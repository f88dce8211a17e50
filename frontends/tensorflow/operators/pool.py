"""Pooling."""

from __future__ import annotations

from typing import Any

from plait.frontends.tensorflow.call import Call
from plait.frontends.tensorflow.operand import Operand
from plait.frontends.tensorflow.operators.conv import (
    channels_last_data,
    compact,
    from_layout,
    in_layout,
    spatial_sizes,
    window_pads,
)
from plait.frontends.tensorflow.registry import lowers
from plait.ir.ops import core, nn


@lowers("MaxPool", "AvgPool", "MaxPool3D", "AvgPool3D")
def pooling(call: Call) -> Operand:
    """Windows over the spatial axes; means divide by the elements inside of the input."""
    window, stride = _per_axis(call, "ksize"), _per_axis(call, "strides")
    return _pooled(call, window, stride)


@lowers("MaxPoolV2")
def pooling_by_inputs(call: Call) -> Operand:
    inner = slice(1, -1) if channels_last_data(call) else slice(2, None)
    return _pooled(call, call.ints(1, "the window")[inner], call.ints(2, "the strides")[inner])


def _per_axis(call: Call, name: str) -> tuple[int, ...]:
    given = call.integers(name)
    batch, channels = given[0], given[-1] if channels_last_data(call) else given[1]
    if batch != 1 or channels != 1:
        raise call.unsupported(f"pooling with {name} {list(given)}, over the batch or the channels,")
    return given[1:-1] if channels_last_data(call) else given[2:]


def _pooled(call: Call, window: tuple[int, ...], stride: tuple[int, ...]) -> Operand:
    spatial = len(window)
    make: Any = nn.MaxPool2d if call.op_type.startswith("Max") else nn.AvgPool2d
    if spatial not in (2, 3):
        raise call.unsupported(f"pooling over {spatial} axes")
    pads = window_pads(call, spatial_sizes(call, 0), window, stride, (1,) * spatial)
    x = in_layout(call, 0)
    if spatial == 2:
        return from_layout(call, call.emit(make(x, kernel=window, stride=stride, pad=compact(pads))))
    # a window over three axes is one over the last two, then one over the first: the largest
    # element and the mean over the elements inside of the input both come out of that
    n, c, depth, height, width = x.shaped.shape
    flat = call.reshape(x, (n, c * depth, height, width))
    inner = (pads[1], pads[2], pads[4], pads[5])
    y = call.step(make(flat, kernel=window[1:], stride=stride[1:], pad=compact(inner)))
    rows, columns = y.shaped.shape[2:]
    y = call.reshape(y, (n, c, depth, rows * columns))
    outer = (pads[0], 0, pads[3], 0)
    y = call.step(make(y, kernel=(window[0], 1), stride=(stride[0], 1), pad=compact(outer)))
    whole = (n, c, y.shaped.shape[2], rows, columns)
    return from_layout(call, call.emit(core.Reshape(y, out=y.shaped.with_shape(whole))))
