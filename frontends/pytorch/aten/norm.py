"""Rules: normalisations."""

from __future__ import annotations

from collections.abc import Sequence

from plait.frontends.pytorch.builder import Builder
from plait.frontends.pytorch.registry import register
from plait.ir import types as t
from plait.ir.dims import IntLike, product
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
    if training and mean is not None:
        build.refuse("running statistics that change in place, as in training mode")
    if mean is None or variance is None:
        return _by_batch(build, x, weight, bias, eps)[0]
    return _by_statistics(build, x, weight, bias, mean, variance, eps)


def _by_statistics(
    build: Builder,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value,
    variance: Value,
    eps: float,
) -> Value:
    """Batch norm by given statistics; [N, C] has one element per channel."""
    dtype = build.kind(x).dtype
    scale, shift = _like(build, weight, x), _like(build, bias, x)
    return build.emit(
        nn.BatchNorm(x, build.cast(mean, dtype), build.cast(variance, dtype), scale, shift, epsilon=eps)
    )


def _statistics(build: Builder, x: Value, axes: Sequence[int]) -> tuple[Value, Value]:
    """Mean and mean squared distance from it over axes, which stay as 1."""
    mean = build.emit(core.Mean(x, axes=tuple(axes), keepdims=True))
    distance = build.sub(x, mean)
    spread = build.emit(core.Mean(build.mul(distance, distance), axes=tuple(axes), keepdims=True))
    return mean, spread


def _inverse_deviation(build: Builder, spread: Value, eps: float) -> Value:
    return build.emit(core.Rsqrt(build.add(spread, eps)))


def _by_batch(
    build: Builder, x: Value, weight: Value | None, bias: Value | None, eps: float
) -> tuple[Value, Value, Value, Value]:
    """Batch norm by the statistics of the batch, then mean, 1 / deviation and variance of each channel."""
    kind = build.kind(x)
    mean, spread = _statistics(build, x, (0, *range(2, kind.rank)))
    mean, spread = (build.reshape(v, (kind.shape[1],)) for v in (mean, spread))
    y = _by_statistics(build, x, weight, bias, mean, spread, eps)
    return y, mean, _inverse_deviation(build, spread, eps), spread


def _running(build: Builder, x: Value, old: Value, new: Value, momentum: float, unbiased: bool) -> Value:
    """(1 - momentum) * old + momentum * new; a variance divides by the number of elements less one."""
    dtype = build.kind(old).dtype
    new = build.cast(new, dtype)
    if unbiased:
        shape = build.kind(x).shape
        count = build.size(product((shape[0], *shape[2:])), dtype)
        new = build.mul(new, build.div(count, build.sub(count, 1)))
    return build.add(build.mul(old, 1 - momentum), build.mul(new, momentum))


@register("aten._native_batch_norm_legit_no_training.default")
def native_batch_norm_no_training(
    build: Builder,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value,
    variance: Value,
    momentum: float,
    eps: float,
) -> tuple[Value, Value, Value]:
    """The saved statistics serve the gradient only, and are empty here."""
    none = build.full(0, build.kind(x).dtype, (0,))
    return _by_statistics(build, x, weight, bias, mean, variance, eps), none, none


@register("aten.native_batch_norm.default", "aten._native_batch_norm_legit.default")
def native_batch_norm(
    build: Builder,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value | None,
    variance: Value | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Value, Value, Value]:
    """Running statistics are updated in place by torch, which capture turns into results."""
    if training or mean is None or variance is None:
        return _by_batch(build, x, weight, bias, eps)[:3]
    return native_batch_norm_no_training(build, x, weight, bias, mean, variance, momentum, eps)


@register("aten._native_batch_norm_legit.no_stats")
def native_batch_norm_no_stats(
    build: Builder,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Value, Value, Value]:
    return _by_batch(build, x, weight, bias, eps)[:3]


@register("aten._native_batch_norm_legit_functional.default")
def native_batch_norm_functional(
    build: Builder,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value,
    variance: Value,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Value, Value, Value, Value, Value]:
    """With the new running statistics as the last two results."""
    if not training:
        found = native_batch_norm_no_training(build, x, weight, bias, mean, variance, momentum, eps)
        return (*found, mean, variance)
    y, middle, inverse, spread = _by_batch(build, x, weight, bias, eps)
    new_mean = _running(build, x, mean, middle, momentum, False)
    return y, middle, inverse, new_mean, _running(build, x, variance, spread, momentum, True)


@register("aten._batch_norm_with_update_functional.default")
def batch_norm_with_update(
    build: Builder,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value,
    variance: Value,
    momentum: float,
    eps: float,
) -> tuple[Value, Value, Value, Value, Value, Value]:
    """As above; the fourth result is memory that a backend reserves, which is none."""
    y, middle, inverse, new_mean, new_variance = native_batch_norm_functional(
        build, x, weight, bias, mean, variance, True, momentum, eps
    )
    return y, middle, inverse, build.full(0, t.u8, (0,)), new_mean, new_variance


@register("aten._batch_norm_no_update.default")
def batch_norm_no_update(
    build: Builder,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value,
    variance: Value,
    momentum: float,
    eps: float,
) -> tuple[Value, Value, Value, Value]:
    found = native_batch_norm_no_training(build, x, weight, bias, mean, variance, momentum, eps)
    return (*found, build.full(0, t.u8, (0,)))


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
) -> tuple[Value, Value, Value]:
    """With mean and 1 / deviation, which are removed where nothing reads them."""
    rank = build.kind(x).rank
    mean, spread = _statistics(build, x, range(rank - len(normalized_shape), rank))
    y = layer_norm(build, x, normalized_shape, weight, bias, eps)
    return y, mean, _inverse_deviation(build, spread, eps)


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
    n: IntLike,
    c: IntLike,
    hw: IntLike,
    group: int,
    eps: float,
) -> tuple[Value, Value, Value]:
    """With mean and 1 / deviation of each group, which are removed where nothing reads them."""
    rows = build.reshape(x, (n, group, c // group * hw))
    mean, spread = (build.reshape(v, (n, group)) for v in _statistics(build, rows, (2,)))
    y = group_norm(build, x, group, weight, bias, eps)
    return y, mean, _inverse_deviation(build, spread, eps)


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
    if mean is not None:
        build.refuse("running statistics that change in place, as in training mode")
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
