"""Rules: normalisations."""

from __future__ import annotations

from collections.abc import Sequence

from plait.frontends.pytorch.builder import Builder
from plait.frontends.pytorch.registry import register
from plait.ir.ops import core, nn
from plait.ir.value import Value

_MACHINE_EPSILON = {"f64": 2.0**-52, "f32": 2.0**-23, "f16": 2.0**-10, "bf16": 2.0**-7}


def _like(build: Builder, value: Value | None, x: Value) -> Value | None:
    """A parameter in the element type of the input, for models in mixed precision."""
    return None if value is None else build.cast(value, build.kind(x).dtype)


@register("aten.batch_norm.default")
def batch_norm(
    build: Builder,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value | None,
    variance: Value | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = False,
) -> Value:
    if training or mean is None or variance is None:
        build.refuse("statistics of the batch itself, as in training mode")
    return build.emit(
        nn.BatchNorm(
            x,
            build.cast(mean, build.kind(x).dtype),
            build.cast(variance, build.kind(x).dtype),
            _like(build, weight, x),
            _like(build, bias, x),
            epsilon=eps,
        )
    )


@register("aten._native_batch_norm_legit_no_training.default")
def native_batch_norm(
    build: Builder,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value,
    variance: Value,
    momentum: float,
    eps: float,
) -> tuple[Value, None, None]:
    # the saved statistics serve the gradient only
    return batch_norm(build, x, weight, bias, mean, variance, False, momentum, eps), None, None


@register("aten.layer_norm.default")
def layer_norm(
    build: Builder,
    x: Value,
    normalized_shape: Sequence[int],
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = False,
) -> Value:
    return build.emit(
        nn.LayerNorm(
            x, _like(build, weight, x), _like(build, bias, x), axes=len(normalized_shape), epsilon=eps
        )
    )


@register("aten.native_layer_norm.default")
def native_layer_norm(
    build: Builder,
    x: Value,
    normalized_shape: Sequence[int],
    weight: Value | None,
    bias: Value | None,
    eps: float,
) -> tuple[Value, None, None]:
    return layer_norm(build, x, normalized_shape, weight, bias, eps), None, None


@register("aten.group_norm.default")
def group_norm(
    build: Builder,
    x: Value,
    num_groups: int,
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = False,
) -> Value:
    kind = build.kind(x)
    if kind.rank == 2:  # [N, C]: one element per channel
        x = build.reshape(x, (*kind.shape, 1))
    norm = nn.GroupNorm(x, _like(build, weight, x), _like(build, bias, x), groups=num_groups, epsilon=eps)
    return build.reshape(build.emit(norm), kind.shape)


@register("aten.native_group_norm.default")
def native_group_norm(
    build: Builder,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    n: object,
    c: object,
    hw: object,
    group: int,
    eps: float,
) -> tuple[Value, None, None]:
    return group_norm(build, x, group, weight, bias, eps), None, None


@register("aten.instance_norm.default")
def instance_norm(
    build: Builder,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value | None,
    variance: Value | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = False,
) -> Value:
    if not use_input_stats:
        return batch_norm(build, x, weight, bias, mean, variance, False, momentum, eps)
    return build.emit(nn.InstanceNorm(x, _like(build, weight, x), _like(build, bias, x), epsilon=eps))


@register("aten.rms_norm.default")
def rms_norm(
    build: Builder,
    x: Value,
    normalized_shape: Sequence[int],
    weight: Value | None = None,
    eps: float | None = None,
) -> Value:
    dtype = build.kind(x).dtype
    epsilon = _MACHINE_EPSILON[dtype.name] if eps is None else eps
    if len(normalized_shape) == 1:
        return build.emit(nn.RmsNorm(x, _like(build, weight, x), epsilon=epsilon))
    axes = tuple(range(-len(normalized_shape), 0))
    power = build.emit(core.Mean(build.mul(x, x), axes=axes, keepdims=True))
    normal = build.mul(x, build.emit(core.Rsqrt(build.add(power, epsilon))))
    return normal if weight is None else build.mul(normal, weight)
