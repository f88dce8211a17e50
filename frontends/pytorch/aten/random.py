"""Rules: random numbers.  Each draw has a seed of its own, so that a graph gives one result."""

from __future__ import annotations

from plait.frontends.pytorch.builder import Builder
from plait.frontends.pytorch.registry import register
from plait.ir import types as t
from plait.ir.dims import IntLike
from plait.ir.ops import core
from plait.ir.types import DType, TensorType
from plait.ir.value import Value


def _draw(build: Builder, kind: TensorType, normal: bool = False) -> Value:
    """Uniform numbers in [0, 1), or standard normal ones, under the number of draws before as seed."""
    seed = sum(isinstance(op, core.Random) for op in build.graph.ops)
    return build.emit(core.Random(distribution="normal" if normal else "uniform", seed=seed, out=kind))


@register("aten.rand.default", "aten.rand_like.default")
def rand(build: Builder, _: object, *, dtype: DType | None = None) -> Value:
    return _draw(build, build.out)


@register("aten.randn.default", "aten.randn_like.default")
def randn(build: Builder, _: object, *, dtype: DType | None = None) -> Value:
    return _draw(build, build.out, normal=True)


@register("aten.normal.float_float", "aten.normal_functional.default")
def normal(build: Builder, mean: object, std: object, *rest: object, **_: object) -> Value:
    """mean + std * a standard normal number; the functional form has a tensor of the shape in front."""
    centre, width = (std, rest[0]) if isinstance(mean, Value) else (mean, std)
    if not isinstance(centre, (int, float)) or not isinstance(width, (int, float)):
        build.refuse("a mean or deviation that is no number")
    return build.add(build.mul(_draw(build, build.out, normal=True), width), centre)


@register("aten.uniform.default")
def uniform(build: Builder, x: Value, low: float = 0.0, high: float = 1.0) -> Value:
    return build.add(build.mul(_draw(build, build.out), high - low), low)


@register("aten.randint.default", "aten.randint_like.default")
def randint(build: Builder, first: object, second: object, *_: object, dtype: DType | None = None) -> Value:
    return _integers(build, 0, first if isinstance(first, int) else second)


@register("aten.randint.low", "aten.randint_like.low_dtype")
def randint_between(
    build: Builder, first: object, second: object, third: object, *, dtype: DType | None = None
) -> Value:
    bounds = (second, third) if isinstance(first, Value) else (first, second)
    return _integers(build, *bounds)


def _integers(build: Builder, low: object, high: object) -> Value:
    """Whole numbers from low to high - 1."""
    if not isinstance(low, int) or not isinstance(high, int):
        build.refuse("bounds that depend on a size")
    drawn = _draw(build, TensorType(t.f64, build.out.shape))
    scaled = build.emit(core.Floor(build.mul(drawn, high - low)))
    return build.cast(build.add(scaled, low), build.out.dtype)


@register("aten.randperm.default")
def randperm(build: Builder, size: IntLike, *, dtype: DType | None = None) -> Value:
    """The order of as many random numbers."""
    drawn = _draw(build, TensorType(t.f64, (size,)))
    return build.cast(build.emit_all(core.Sort(drawn, axis=0))[1], build.out.dtype)


def _kept(build: Builder, shape: tuple[IntLike, ...], probability: object) -> Value:
    """True with a probability: a number, or one for each place."""
    drawn = _draw(build, TensorType(t.f32, shape))
    return build.emit(core.Lt(drawn, build.operand(probability, t.f32)))  # type: ignore[arg-type]  # a number or a tensor


@register("aten.bernoulli.default")
def bernoulli(build: Builder, x: Value) -> Value:
    return build.cast(_kept(build, build.out.shape, x), build.out.dtype)


@register("aten.bernoulli.p")
def bernoulli_with(build: Builder, x: Value, p: float) -> Value:
    return build.cast(_kept(build, build.out.shape, p), build.out.dtype)


@register("aten.native_dropout.default")
def native_dropout(build: Builder, x: Value, p: float, train: bool | None) -> tuple[Value, Value]:
    """In training, each element goes with probability p and the others grow to keep the mean."""
    kind = build.kind(x)
    if train is False or p == 0:
        return x, build.full(True, t.boolean, kind.shape)
    if p == 1:
        return build.full(0, kind.dtype, kind.shape), build.full(False, t.boolean, kind.shape)
    mask = _kept(build, kind.shape, 1.0 - p)
    grown = build.mul(x, 1.0 / (1.0 - p))
    return build.emit(core.Where(mask, grown, build.full(0, kind.dtype))), mask
