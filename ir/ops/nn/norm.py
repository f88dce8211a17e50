"""nn: normalisations."""

from __future__ import annotations

from dataclasses import KW_ONLY

from plait.ir.dims import IntLike
from plait.ir.op import Op, abstract, op
from plait.ir.ops.common import dense, floating
from plait.ir.types import Shape, Type
from plait.ir.value import Value


def check_parameter(op: Op, value: Value | None, name: str, shape: Shape) -> None:
    """Raise unless an optional parameter has this shape and the element type of the input."""
    if value is not None and dense(op, value, name).shape != shape:
        raise op.error(f"{name} {value} is {value.type}", why=f"its shape is [{','.join(map(str, shape))}]")


@op("nn.batch_norm")
class BatchNorm(Op):
    """(x - mean) / sqrt(variance + epsilon) * scale + bias per channel (axis 1), with stored statistics."""

    x: Value
    mean: Value
    variance: Value
    scale: Value | None = None
    bias: Value | None = None
    _: KW_ONLY
    epsilon: float = 1e-5

    def infer(self) -> tuple[Type, ...]:
        kind = floating(self, self.x, "x")
        if kind.rank < 2:
            raise self.error(f"{self.x} is {kind}", why="axis 1 holds the channels")
        for name in ("mean", "variance", "scale", "bias"):
            check_parameter(self, getattr(self, name), name, (kind.shape[1],))
        return (kind,)


@op("nn.layer_norm")
class LayerNorm(Op):
    """(x - mean) / sqrt(variance + epsilon) * scale + bias over the last `axes` axes (Ba et al. 2016)."""

    x: Value
    scale: Value | None = None
    bias: Value | None = None
    _: KW_ONLY
    axes: int = 1
    epsilon: float = 1e-5

    def infer(self) -> tuple[Type, ...]:
        kind = floating(self, self.x, "x")
        if not 1 <= self.axes <= kind.rank:
            raise self.error(f"axes {self.axes} exceeds the rank of {self.x} : {kind}")
        check_parameter(self, self.scale, "scale", kind.shape[-self.axes :])
        check_parameter(self, self.bias, "bias", kind.shape[-self.axes :])
        return (kind,)


@op("nn.rms_norm")
class RmsNorm(Op):
    """x / sqrt(mean(x^2) + epsilon) * scale over the last axis (Zhang & Sennrich 2019)."""

    x: Value
    scale: Value | None = None
    _: KW_ONLY
    epsilon: float = 1e-6

    def infer(self) -> tuple[Type, ...]:
        kind = floating(self, self.x, "x")
        if kind.rank < 1:
            raise self.error(f"{self.x} is a scalar")
        check_parameter(self, self.scale, "scale", kind.shape[-1:])
        return (kind,)


@abstract
class ChannelNorm(Op):
    """Base of norms over one sample with per-channel scale and bias (axis 1)."""

    x: Value
    scale: Value | None = None
    bias: Value | None = None

    def _check(self) -> tuple[Type, IntLike]:
        kind = floating(self, self.x, "x")
        if kind.rank < 3:
            raise self.error(f"{self.x} is {kind}", why="[N, C, ...] is wanted")
        check_parameter(self, self.scale, "scale", (kind.shape[1],))
        check_parameter(self, self.bias, "bias", (kind.shape[1],))
        return kind, kind.shape[1]


@op("nn.group_norm")
class GroupNorm(ChannelNorm):
    """Normalisation over each of `groups` groups of channels of a sample (Wu & He 2018)."""

    _: KW_ONLY
    groups: int
    epsilon: float = 1e-5

    def infer(self) -> tuple[Type, ...]:
        kind, channels = self._check()
        if self.groups < 1 or (isinstance(channels, int) and channels % self.groups):
            raise self.error(f"{channels} channels do not split into {self.groups} groups")
        return (kind,)


@op("nn.instance_norm")
class InstanceNorm(ChannelNorm):
    """Normalisation over the spatial axes of each channel of a sample (Ulyanov et al. 2016)."""

    _: KW_ONLY
    epsilon: float = 1e-5

    def infer(self) -> tuple[Type, ...]:
        return (self._check()[0],)


@op("nn.local_response_norm")
class LocalResponseNorm(Op):
    """x / (k + alpha/size * sum of x^2 over `size` neighbouring channels)^beta (Krizhevsky et al. 2012)."""

    x: Value
    _: KW_ONLY
    size: int
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 1.0

    def infer(self) -> tuple[Type, ...]:
        kind = floating(self, self.x, "x")
        if kind.rank < 3 or self.size < 1:
            raise self.error(
                f"{self.x} is {kind} and size {self.size}", why="[N, C, ...] and a size of 1 or more"
            )
        return (kind,)
