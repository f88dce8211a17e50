"""Rules: distances between rows."""

from __future__ import annotations

import math

import numpy as np

from plait.frontends.pytorch.builder import Builder
from plait.frontends.pytorch.registry import register
from plait.ir import types as t
from plait.ir.ops import core
from plait.ir.value import Value


def _norm(build: Builder, x: Value, p: float) -> Value:
    """The p-norm over the last axis: the number of elements that are not 0 for p of 0."""
    kind = build.kind(x)
    last = (kind.rank - 1,)
    dtype = kind.dtype
    if kind.shape[-1] == 0:
        return build.full(0, dtype, kind.shape[:-1])
    if p == 2:
        return build.emit(core.Sqrt(build.emit(core.Sum(build.mul(x, x), axes=last))))
    size = build.emit(core.Abs(x))
    if p == 0:
        some = build.cast(build.cast(size, t.boolean), dtype)
        return build.emit(core.Sum(some, axes=last))
    if p == 1:
        return build.emit(core.Sum(size, axes=last))
    if math.isinf(p):
        return build.emit(core.Max(size, axes=last))
    powers = build.emit(core.Sum(build.emit(core.Pow(size, build.full(p, dtype))), axes=last))
    return build.emit(core.Pow(powers, build.full(1.0 / p, dtype)))


@register("aten._cdist_forward.default", "aten.cdist.default", "aten._euclidean_dist.default")
def cdist(
    build: Builder, left: Value, right: Value, p: float = 2.0, compute_mode: int | None = None
) -> Value:
    """[..., P, M] and [..., R, M] -> [..., P, R]."""
    a, b = build.kind(left), build.kind(right)
    difference = build.sub(build.insert_axis(left, a.rank - 1), build.insert_axis(right, b.rank - 2))
    return build.broadcast(_norm(build, difference, p), build.out.shape)


@register("aten._pdist_forward.default", "aten.pdist.default")
def pdist(build: Builder, x: Value, p: float = 2.0) -> Value:
    """[N, M] -> [N (N - 1) / 2]: the distance of each row from each later one."""
    rows = build.kind(x).shape[0]
    if not isinstance(rows, int):
        build.refuse("pairs among a symbolic number of rows")
    if rows < 2:
        return build.full(0, build.out.dtype, build.out.shape)
    first, second = np.triu_indices(rows, 1)
    picked = [
        build.emit(core.Take(x, build.constant(name, index.astype(np.int64))))
        for name, index in (("first", first), ("second", second))
    ]
    return _norm(build, build.sub(picked[0], picked[1]), p)
