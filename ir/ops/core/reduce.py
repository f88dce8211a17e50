"""core: reductions and scans along axes."""

from __future__ import annotations

from dataclasses import KW_ONLY

from plait.ir.op import Op, abstract, op
from plait.ir.ops.common import dense, floating, normalise_axes, normalise_axis, numeric
from plait.ir.types import Shape, TensorType, Type, boolean, i64
from plait.ir.value import Value


def reduced_shape(op: Op, shape: Shape, axes: tuple[int, ...], keepdims: bool) -> Shape:
    """Shape after reducing `axes`: they become 1 with `keepdims`, else they go."""
    gone = set(normalise_axes(op, axes, len(shape)))
    if keepdims:
        return tuple(1 if i in gone else dim for i, dim in enumerate(shape))
    return tuple(dim for i, dim in enumerate(shape) if i not in gone)


@abstract
class Reduction(Op):
    """Base of reductions over `axes`."""

    x: Value
    _: KW_ONLY
    axes: tuple[int, ...]
    keepdims: bool = False

    def infer(self) -> tuple[Type, ...]:
        kind = numeric(self, self.x, "x")
        return (kind.with_shape(reduced_shape(self, kind.shape, self.axes, self.keepdims)),)


@abstract
class BooleanReduction(Reduction):
    """Base of logical reductions."""

    def infer(self) -> tuple[Type, ...]:
        kind = dense(self, self.x, "x")
        if kind.dtype != boolean:
            raise self.error(f"{self.x} is {kind}", why="it must be boolean")
        return (kind.with_shape(reduced_shape(self, kind.shape, self.axes, self.keepdims)),)


@op("core.sum")
class Sum(Reduction):
    """Sum over axes."""


@op("core.mean")
class Mean(Reduction):
    """Arithmetic mean over axes."""

    def infer(self) -> tuple[Type, ...]:
        floating(self, self.x, "x")
        return super().infer()


@op("core.max")
class Max(Reduction):
    """Largest element over axes."""


@op("core.min")
class Min(Reduction):
    """Smallest element over axes."""


@op("core.prod")
class Prod(Reduction):
    """Product over axes."""


@op("core.any")
class Any(BooleanReduction):
    """Whether any element over axes is true."""


@op("core.all")
class All(BooleanReduction):
    """Whether all elements over axes are true."""


@abstract
class ArgReduction(Op):
    """Base of index reductions over one axis; the result is i64."""

    x: Value
    _: KW_ONLY
    axis: int
    keepdims: bool = False

    def infer(self) -> tuple[Type, ...]:
        kind = numeric(self, self.x, "x")
        return (TensorType(i64, reduced_shape(self, kind.shape, (self.axis,), self.keepdims)),)


@op("core.argmax")
class ArgMax(ArgReduction):
    """Index of the largest element along an axis, the first of equals."""


@op("core.argmin")
class ArgMin(ArgReduction):
    """Index of the smallest element along an axis, the first of equals."""


@abstract
class RunningReduction(Op):
    """Base of running reductions along an axis."""

    x: Value
    _: KW_ONLY
    axis: int

    def infer(self) -> tuple[Type, ...]:
        kind = numeric(self, self.x, "x")
        normalise_axis(self, self.axis, kind.rank)
        return (kind,)


@op("core.cumsum")
class CumSum(RunningReduction):
    """Running sum along an axis: y[i] = x[0] + ... + x[i]."""


@op("core.cumprod")
class CumProd(RunningReduction):
    """Running product along an axis: y[i] = x[0] * ... * x[i]."""
