"""Rules: complex numbers and Fourier transforms.

Sums and products of complex numbers are ops of the IR; what else torch computes on them
is spelt out on their real and imaginary parts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from plait.frontends.pytorch.builder import Builder
from plait.frontends.pytorch.registry import register
from plait.ir import types as t
from plait.ir.dims import IntLike, product
from plait.ir.ops import core
from plait.ir.value import Value

Pair = tuple[Value, Value]

#: The scales of torch's transforms, by number: none, one over the root of the size, one over the size.
_UNSCALED, _BY_ROOT = 0, 1


# -- parts ---------------------------------------------------------------------------------
def parts(build: Builder, x: Value) -> Pair:
    """The real and imaginary part of a complex tensor."""
    return build.emit(core.Real(x)), build.emit(core.Imag(x))


def joined(build: Builder, pair: Pair) -> Value:
    return build.emit(core.Complex(*pair))


@register("aten.complex.default")
def complex_of(build: Builder, real: Value, imag: Value) -> Value:
    return joined(build, (real, imag))


@register("aten.polar.default")
def polar(build: Builder, size: Value, angle: Value) -> Value:
    cosine, sine = build.emit(core.Cos(angle)), build.emit(core.Sin(angle))
    return joined(build, (build.mul(size, cosine), build.mul(size, sine)))


@register("aten.real.default")
def real(build: Builder, x: Value) -> Value:
    return build.emit(core.Real(x)) if build.kind(x).dtype.kind == "complex" else x


@register("aten.imag.default")
def imag(build: Builder, x: Value) -> Value:
    return build.emit(core.Imag(x))


@register("aten.view_as_real.default", "aten.view_as_real_copy.default")
def view_as_real(build: Builder, x: Value) -> Value:
    """[...] -> [..., 2]."""
    rank = build.kind(x).rank
    return build.concat([build.insert_axis(part, rank) for part in parts(build, x)], rank)


@register("aten.view_as_complex.default", "aten.view_as_complex_copy.default")
def view_as_complex(build: Builder, x: Value) -> Value:
    """[..., 2] -> [...]."""
    last = build.kind(x).rank - 1
    first, second = (build.drop_axis(build.slice(x, last, i, i + 1), last) for i in range(2))
    return joined(build, (first, second))


@register(
    "aten._conj.default", "aten.conj.default", "aten._conj_physical.default", "aten.conj_physical.default",
    "aten._conj_copy.default",
)  # fmt: skip
def conjugate(build: Builder, x: Value) -> Value:
    if build.kind(x).dtype.kind != "complex":
        return x
    first, second = parts(build, x)
    return joined(build, (first, build.emit(core.Neg(second))))


def magnitude(build: Builder, x: Value) -> Value:
    """|x|, with the larger part taken out so that no square overflows."""
    first, second = (build.emit(core.Abs(part)) for part in parts(build, x))
    large, small = build.emit(core.Maximum(first, second)), build.emit(core.Minimum(first, second))
    dtype = build.kind(large).dtype
    empty = build.emit(core.Eq(large, build.full(0, dtype)))
    ratio = build.div(small, build.emit(core.Where(empty, build.full(1, dtype), large)))
    return build.mul(large, build.emit(core.Sqrt(build.add(build.mul(ratio, ratio), 1))))


def exponential(build: Builder, x: Value) -> Value:
    """e^re (cos im + i sin im)."""
    first, second = parts(build, x)
    return polar(build, build.emit(core.Exp(first)), second)


@register("aten.angle.default")
def angle(build: Builder, x: Value) -> Value:
    kind = build.kind(x)
    if kind.dtype.kind == "complex":
        first, second = parts(build, x)
        return build.emit(core.Atan2(second, first))
    dtype = build.out.dtype
    x = build.cast(x, dtype)
    below = build.emit(core.Lt(x, build.full(0, dtype)))
    whole = build.emit(core.Where(below, build.full(math.pi, dtype), build.full(0, dtype)))
    return build.emit(core.Where(build.emit(core.IsNan(x)), x, whole))


# -- transforms -------------------------------------------------------------------------------
def _scaled(build: Builder, pair: Pair, normalisation: int, size: IntLike) -> Pair:
    if normalisation == _UNSCALED:
        return pair
    dtype = build.kind(pair[0]).dtype
    if isinstance(size, int):
        power = -0.5 if normalisation == _BY_ROOT else -1.0
        factor = build.full(float(size) ** power, dtype)
    else:
        count = build.size(size, dtype)
        factor = build.emit(core.Rsqrt(count) if normalisation == _BY_ROOT else core.Reciprocal(count))
    return build.mul(pair[0], factor), build.mul(pair[1], factor)


def _transformed(build: Builder, pair: Pair, axes: Sequence[int], inverse: bool) -> Pair:
    for axis in axes:
        first, second = build.emit_all(core.Dft(*pair, axis=axis, inverse=inverse))
        pair = (first, second)
    return pair


def _size(build: Builder, x: Value, axes: Sequence[int]) -> IntLike:
    return product(build.kind(x).shape[axis] for axis in axes)


@register("aten._fft_c2c.default")
def complex_transform(
    build: Builder, x: Value, dim: Sequence[int], normalization: int, forward: bool
) -> Value:
    axes = [axis % build.kind(x).rank for axis in dim]
    pair = _transformed(build, parts(build, x), axes, not forward)
    return joined(build, _scaled(build, pair, normalization, _size(build, x, axes)))


@register("aten._fft_r2c.default")
def real_transform(build: Builder, x: Value, dim: Sequence[int], normalization: int, onesided: bool) -> Value:
    """The last axis first, of which half may do; the others are complex by then."""
    kind = build.kind(x)
    axes = [axis % kind.rank for axis in dim]
    first, second = build.emit_all(core.Dft(x, axis=axes[-1], onesided=onesided))
    pair = _transformed(build, (first, second), axes[:-1], False)
    return joined(build, _scaled(build, pair, normalization, _size(build, x, axes)))


@register("aten._fft_c2r.default")
def to_real_transform(
    build: Builder, x: Value, dim: Sequence[int], normalization: int, last_dim_size: IntLike
) -> Value:
    """The inverse of `real_transform`: the half of the last axis that is absent mirrors the other."""
    kind = build.kind(x)
    axes = [axis % kind.rank for axis in dim]
    first, second = _transformed(build, parts(build, x), axes[:-1], True)
    last = axes[-1]
    mirrored = last_dim_size - (last_dim_size // 2 + 1)
    first, second = (build.slice(part, last, 0, last_dim_size // 2 + 1) for part in (first, second))
    if mirrored != 0:
        tails = [
            build.emit(core.Flip(build.slice(part, last, 1, mirrored + 1), axes=(last,)))
            for part in (first, second)
        ]
        first = build.concat([first, tails[0]], last)
        second = build.concat([second, build.emit(core.Neg(tails[1]))], last)
    pair = _transformed(build, (first, second), [last], True)
    return _scaled(build, pair, normalization, _size(build, first, axes))[0]


@register("aten.hann_window.periodic")
def hann_window(build: Builder, length: IntLike, periodic: bool, *, dtype: t.DType | None = None) -> Value:
    """0.5 - 0.5 cos(2 pi i / n), with n the length, or one less where it is not periodic."""
    dtype = build.out.dtype
    if not isinstance(length, int):
        build.refuse("a window of a symbolic length")
    if length == 1:
        return build.full(1, dtype, (1,))
    places = build.iota(length, dtype, 0.0, 2 * math.pi / (length if periodic else length - 1))
    return build.sub(build.full(0.5, dtype), build.mul(build.emit(core.Cos(places)), 0.5))


@register("aten.hann_window.default")
def periodic_hann_window(build: Builder, length: IntLike, *, dtype: t.DType | None = None) -> Value:
    return hann_window(build, length, True)
