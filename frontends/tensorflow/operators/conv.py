"""Convolutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from plait.frontends.tensorflow.call import Call
from plait.frontends.tensorflow.operand import Operand, Phases
from plait.frontends.tensorflow.registry import lowers
from plait.ir import Dim, IntLike, Value
from plait.ir.ops import core, nn

Pads = tuple[int, ...]


# -- layouts ----------------------------------------------------------------------------
def channels_last_data(call: Call) -> bool:
    """Whether the op reads NHWC (or NWC, NDHWC), which is the default of TensorFlow."""
    return not call.text("data_format", "NHWC").startswith("NC")


def in_layout(call: Call, index: int) -> Value:
    """Input `index` with channels behind the batch, whichever layout the op reads."""
    return call.first(index) if channels_last_data(call) else call.value(index)


def from_layout(call: Call, y: Value) -> Operand:
    """The result `y`, channels behind the batch, as the op gives it."""
    return Operand.of_first(y) if channels_last_data(call) else Operand.of(y)


def spatial_attribute(call: Call, name: str, spatial: int) -> tuple[int, ...]:
    """A per-axis attribute such as strides on the spatial axes; all ones where it is absent."""
    given = call.integers(name)
    if not given:
        return (1,) * spatial
    return given[1 : 1 + spatial] if channels_last_data(call) else given[2:]


def spatial_sizes(call: Call, index: int) -> tuple[IntLike, ...]:
    """The spatial dims of input `index`."""
    shape = call.shape(index)
    return shape[1:-1] if channels_last_data(call) else shape[2:]


# -- padding ----------------------------------------------------------------------------
def window_pads(
    call: Call,
    sizes: Sequence[IntLike],
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
) -> Pads:
    """Pads before each spatial axis, then after each, from `padding`.

    SAME pads so that the result has ceil(size / stride) elements; the odd one goes behind.
    """
    mode, spatial = call.text("padding", "VALID"), len(kernel)
    if mode == "VALID":
        return (0,) * (2 * spatial)
    if mode == "EXPLICIT":
        pairs = call.integers("explicit_paddings")
        inner = pairs[2:-2] if channels_last_data(call) else pairs[4:]
        return (*inner[0::2], *inner[1::2])
    before, after = [], []
    for size, k, s, step in zip(sizes, kernel, stride, dilation, strict=True):
        total = same_total(call, size, step * (k - 1) + 1, s)
        before.append(total // 2)
        after.append(total - total // 2)
    return (*before, *after)


def same_total(call: Call, size: IntLike, span: int, stride: int) -> int:
    """How many elements SAME adds along an axis, for a window of `span` elements."""
    if stride == 1:
        return span - 1
    rest = size % stride
    if isinstance(rest, int):  # ceil(size / s) * s - size is s - rest, or 0
        return max(0, span - stride if rest == 0 else span - rest) if span > 0 else 0
    raise call.error(
        f"SAME padding of a dim of {size} with stride {stride}",
        why="how much is padded depends on the value of the dim",
        remedy="fix the dim with inputs=, or pad explicitly in the model",
    )


def compact(pads: Pads) -> Any:
    """One pad per axis where both sides have the same."""
    half = len(pads) // 2
    return pads[:half] if pads[:half] == pads[half:] else pads


def require_known(call: Call, dims: Sequence[IntLike], word: str) -> tuple[int, ...]:
    """The dims, which must be numbers."""
    if any(isinstance(dim, Dim) for dim in dims):
        raise call.error(f"{word} is {list(map(str, dims))}", why="it has to be known at compile time")
    return tuple(int(dim) for dim in dims)  # type: ignore[arg-type]  # checked above


def turned_weights(
    call: Call, index: int, key: str, turn: Callable[[np.ndarray], np.ndarray], permutation: tuple[int, ...]
) -> Value:
    """Weights of input `index` in the order of the IR: `turn` on numbers, else a transpose."""
    operand = call.operand(index)
    if operand.array is not None:
        return call.builder.derived(operand, key, turn(operand.array))
    return call.transpose(call.value(index), permutation)


def _weights(call: Call, spatial: int) -> Value:
    """[*window, in, out] to [out, in, *window]."""
    order = (spatial + 1, spatial, *range(spatial))
    return turned_weights(call, 1, "convolution", lambda w: w.transpose(order), order)


# -- rules ------------------------------------------------------------------------------
_MAKES: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


@lowers("Conv2D", "Conv3D", "Conv")
def convolution(call: Call) -> Operand | Phases:
    spatial = call.rank(1) - 2
    phases = call.item(0)
    if isinstance(phases, Phases) and _undilated(call, spatial, phases):
        return phases.convolved(call, convolution)
    if spatial not in _MAKES or call.rank(0) != spatial + 2:
        raise call.unsupported(f"a convolution over {spatial} axes with {call.rank(0) - 2} spatial ones")
    kernel = require_known(call, call.shape(1)[:spatial], "the kernel")
    stride = spatial_attribute(call, "strides", spatial)
    dilation = spatial_attribute(call, "dilations", spatial)
    pads = window_pads(call, spatial_sizes(call, 0), kernel, stride, dilation)
    x = in_layout(call, 0)
    groups = _groups(call, x.shaped.shape[1], call.shape(1)[spatial])
    op = _MAKES[spatial](
        x, _weights(call, spatial), stride=stride, pad=compact(pads), dilation=dilation, groups=groups
    )
    return from_layout(call, call.emit(op))


def _undilated(call: Call, spatial: int, phases: Phases) -> bool:
    """Whether a convolution behind SpaceToBatchND may be a dilated one written out: the first one only."""
    return (
        phases.dilated is None
        and spatial == len(phases.blocks)
        and channels_last_data(call)
        and call.text("padding", "VALID") == "VALID"
        and set(spatial_attribute(call, "strides", spatial)) == {1}
        and set(spatial_attribute(call, "dilations", spatial)) == {1}
    )


def _groups(call: Call, channels: IntLike, per_group: IntLike) -> int:
    """TensorFlow states groups by the channels that the kernel expects."""
    if channels == per_group:
        return 1
    known, part = require_known(call, (channels, per_group), "the number of channels")
    if part < 1 or known % part:
        raise call.error(f"{known} channels do not split into groups of {part}")
    return known // part


@lowers("DepthwiseConv2dNative")
def depthwise_convolution(call: Call) -> Operand | Phases:
    """Each channel with its own `multiplier` filters: [h, w, channels, multiplier] weights."""
    phases = call.item(0)
    if isinstance(phases, Phases) and _undilated(call, 2, phases):
        return phases.convolved(call, depthwise_convolution)
    h, w, channels, multiplier = require_known(call, call.shape(1), "the kernel")
    stride = spatial_attribute(call, "strides", 2)
    dilation = spatial_attribute(call, "dilations", 2)
    pads = window_pads(call, spatial_sizes(call, 0), (h, w), stride, dilation)
    operand = call.operand(1)
    count = channels * multiplier
    if operand.array is not None:
        turned = operand.array.transpose(2, 3, 0, 1).reshape(count, 1, h, w)
        weights = call.builder.derived(operand, "depthwise", turned)
    else:
        weights = call.reshape(call.transpose(call.value(1), (2, 3, 0, 1)), (count, 1, h, w))
    op = nn.Conv2d(
        in_layout(call, 0),
        weights,
        stride=(stride[0], stride[1]),
        pad=compact(pads),
        dilation=(dilation[0], dilation[1]),
        groups=channels,
    )
    return from_layout(call, call.emit(op))


@lowers("Conv2DBackpropInput", "Conv3DBackpropInputV2")
def transposed_convolution(call: Call) -> Operand:
    """The gradient of a convolution by its input: inputs are the wanted shape, weights and gradient."""
    spatial = call.rank(1) - 2
    make: Any = getattr(nn, f"ConvTranspose{spatial}d", None)
    if make is None:
        raise call.unsupported(f"a transposed convolution over {spatial} axes")
    wanted = call.dims(0, "the shape of the result")
    target = wanted[1:-1] if channels_last_data(call) else wanted[2:]
    kernel = require_known(call, call.shape(1)[:spatial], "the kernel")
    stride = spatial_attribute(call, "strides", spatial)
    dilation = spatial_attribute(call, "dilations", spatial)
    pads = window_pads(call, target, kernel, stride, dilation)
    extra = []
    for axis, size in enumerate(spatial_sizes(call, 2)):
        both = pads[axis] + pads[spatial + axis]
        least = (size - 1) * stride[axis] - both + dilation[axis] * (kernel[axis] - 1) + 1
        extra.append(target[axis] - least)
    x = in_layout(call, 2)
    order = (spatial + 1, spatial, *range(spatial))
    weights = turned_weights(call, 1, "convolution", lambda w: w.transpose(order), order)
    op = make(
        x,
        weights,
        stride=stride,
        pad=compact(pads),
        output_pad=require_known(call, extra, "the output padding"),
        dilation=dilation,
    )
    return from_layout(call, call.emit(op))


@lowers("BiasAdd", "BiasAddV1")
def bias_add(call: Call) -> Operand:
    """A vector added along the channels."""
    if channels_last_data(call) or call.rank(0) <= 2:
        (x, b), wrap = call.aligned(0, 1)
        return wrap(call.emit(core.Add(x, b)))
    wide = (call.shape(1)[0], *(1,) * (call.rank(0) - 2))
    return Operand.of(call.emit(core.Add(call.value(0), call.reshape(call.value(1), wide))))
