"""Normalisations."""

from __future__ import annotations

from collections.abc import Sequence

from plait.frontends.onnx.call import Call
from plait.frontends.onnx.operand import Operand
from plait.frontends.onnx.registry import lowers
from plait.ir import Value
from plait.ir import dims as d
from plait.ir.ops import core, nn
from plait.ir.types import Shape


@lowers("BatchNormalization", since=7)
def batch_norm(call: Call) -> Sequence[Value]:
    """In training mode by the statistics of the batch, with the running ones as further outputs."""
    if not call.integer("spatial", 1):
        raise call.unsupported(
            "BatchNormalization with spatial=0", remedy="export the model for operator set 9 or later"
        )
    x, scale, bias, mean, variance = (call.value(i) for i in range(5))
    element, epsilon = x.shaped.dtype, call.number_attribute("epsilon", 1e-5)
    scale, bias = call.cast(scale, element), call.cast(bias, element)
    if not call.integer("training_mode", 0):
        mean, variance = call.cast(mean, element), call.cast(variance, element)
        return [call.emit(nn.BatchNorm(x, mean, variance, scale, bias, epsilon=epsilon))]
    rank = x.shaped.rank
    axes = (0, *range(2, rank))
    centre = call.step(core.Mean(x, axes=axes, keepdims=True))
    distance = call.step(core.Sub(x, centre))
    spread = call.step(core.Mean(call.step(core.Mul(distance, distance)), axes=axes))
    middle = call.reshape(centre, (x.shaped.shape[1],))
    y = call.emit(nn.BatchNorm(x, middle, spread, scale, bias, epsilon=epsilon))
    momentum = call.number_attribute("momentum", 0.9)

    def running(old: Value, new: Value) -> Value:
        new = call.cast(new, old.shaped.dtype)
        kept = call.step(core.Mul(old, call.scalar_like(momentum, old)))
        return call.step(core.Add(kept, call.step(core.Mul(new, call.scalar_like(1 - momentum, new)))))

    return [y, running(mean, middle), running(variance, spread)]


@lowers("LayerNormalization", since=17)
@lowers("LayerNormalization", domain="com.microsoft")
def layer_norm(call: Call) -> Value | None:
    if call.wants(1) or call.wants(2):
        return None  # mean and deviation are outputs of the function body
    return normalised(call, call.value(0), call.optional(1), call.optional(2))


def normalised(call: Call, x: Value, scale: Value | None, bias: Value | None) -> Value:
    """Layer norm from the `axis` attribute on; parameters of other shapes are applied afterwards."""
    rank = x.shaped.rank
    axis = call.axis(-1, rank)
    shape, epsilon = x.shaped.shape[axis:], call.number_attribute("epsilon", 1e-5)
    if fits(scale, shape) and fits(bias, shape):
        return call.emit(nn.LayerNorm(x, scale, bias, axes=rank - axis, epsilon=epsilon))
    y = call.step(nn.LayerNorm(x, axes=rank - axis, epsilon=epsilon))
    if scale is not None:
        y = call.step(core.Mul(y, scale))
    return y if bias is None else call.emit(core.Add(y, bias))


def fits(value: Value | None, shape: Shape) -> bool:
    """Whether an optional parameter is absent or has this shape."""
    return value is None or value.shaped.shape == shape


@lowers("RMSNormalization", since=23)
@lowers("SimplifiedLayerNormalization")
@lowers("SimplifiedLayerNormalization", domain="com.microsoft")
def rms_norm(call: Call) -> Value:
    x, scale = call.value(0), call.optional(1)
    shape, epsilon = call.shape(0), call.number_attribute("epsilon", 1e-5)
    axis = call.axis(-1, len(shape))
    if axis == len(shape) - 1 and fits(scale, shape[axis:]):
        return call.emit(nn.RmsNorm(x, scale, epsilon=epsilon))
    flat = call.reshape(x, (*shape[:axis], d.product(shape[axis:])))
    y = call.reshape(call.step(nn.RmsNorm(flat, epsilon=epsilon)), shape)
    return y if scale is None else call.emit(core.Mul(y, scale))


@lowers("InstanceNormalization", since=6)
def instance_norm(call: Call) -> Value:
    epsilon = call.number_attribute("epsilon", 1e-5)
    return call.emit(nn.InstanceNorm(call.value(0), call.value(1), call.value(2), epsilon=epsilon))


@lowers("GroupNormalization", since=18)
def group_norm(call: Call) -> Value:
    """Scale and bias are per group in opset 18 to 20, per channel from 21 on."""
    x, channels, groups = call.value(0), call.shape(0)[1], call.integer("num_groups", 1)
    scale, bias = call.value(1), call.value(2)
    if call.version < 21:
        wide = (groups, channels // groups)
        scale, bias = (
            call.reshape(call.broadcast(call.reshape(v, (groups, 1)), wide), (channels,))
            for v in (scale, bias)
        )
    epsilon = call.number_attribute("epsilon", 1e-5)
    return call.emit(nn.GroupNorm(x, scale, bias, groups=groups, epsilon=epsilon))


@lowers("LRN")
def local_response_norm(call: Call) -> Value | Operand:
    x, size = call.value(0), call.integer("size", 1)

    def norm(value: Value) -> nn.LocalResponseNorm:
        return nn.LocalResponseNorm(
            value,
            size=size,
            alpha=call.number_attribute("alpha", 1e-4),
            beta=call.number_attribute("beta", 0.75),
            k=call.number_attribute("bias", 1.0),
        )

    if size % 2:
        return call.emit(norm(x))
    # an even window has its odd channel behind in ONNX and in front in the IR
    mirrored = call.step(norm(call.step(core.Flip(x, axes=(1,)))))
    return call.emit(core.Flip(mirrored, axes=(1,)))
