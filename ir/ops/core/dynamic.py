"""core: results whose size depends on the values of the operands.

The size is a dim of the graph that no input shows: the op names it in `count`
and gives it its value when it runs.  What reads the dim stands behind the op.

    %k = core.nonzero(%x) {count=K} : i64[K,2]
"""

from __future__ import annotations

from dataclasses import KW_ONLY

from plait.ir.dims import IntLike
from plait.ir.op import Op, abstract, op
from plait.ir.ops.common import dense, normalise_axis, symbol_of
from plait.ir.types import Shape, TensorType, Type, i64
from plait.ir.value import Value


@abstract
class Counted(Op):
    """An op that binds the dim `count` to a size which only its run shows."""

    _: KW_ONLY
    count: IntLike

    @property
    def bound_dim(self) -> str | None:
        return symbol_of(self, self.count)


@op("core.nonzero", pure=False)
class Nonzero(Counted):
    """Indices of the elements that are not zero, i64[count, rank] in row-major order."""

    x: Value

    def bound_limit(self) -> IntLike:
        return self.x.shaped.count

    def infer(self) -> tuple[Type, ...]:
        kind = dense(self, self.x, "x")
        symbol_of(self, self.count)
        return (TensorType(i64, (self.count, kind.rank)),)


@op("core.bind_dim", pure=False)
class BindDim(Counted):
    """A whole number made a dim: `count` takes the value of the scalar x, which is the result too.

    It is for sizes that a graph computes.  A number below 0 is refused when it runs.
    """

    x: Value

    def infer(self) -> tuple[Type, ...]:
        kind = dense(self, self.x, "x")
        if kind.dtype != i64 or kind.shape:
            raise self.error(f"operand x ({self.x}) is {kind}", why="it must be i64[]")
        symbol_of(self, self.count)
        return (kind,)


@op("core.unique", pure=False)
class Unique(Counted):
    """The distinct elements of x, or its distinct slices along `axis`.

    Slices compare in lexicographic order.  A NaN equals nothing.

    Attributes:
        axis: whose slices are compared; None compares elements.
        sorted: in ascending order, else in the order in which they first occur.
        consecutive: merge only equal neighbours, whatever comes later; they keep their order.

    Results: the `count` distinct elements (or slices, along `axis`); i64[count], where
    each occurs first; the place of each element (i64, shaped as x) or slice
    (i64[x.shape[axis]]) among them; i64[count], how often each occurs.
    """

    x: Value
    _: KW_ONLY
    axis: int | None = None
    sorted: bool = True
    consecutive: bool = False

    def bound_limit(self) -> IntLike:
        kind = self.x.shaped
        return kind.count if self.axis is None else kind.shape[self.axis]

    def infer(self) -> tuple[Type, ...]:
        kind = dense(self, self.x, "x")
        if kind.dtype.kind == "complex":
            raise self.error(f"operand x ({self.x}) is {kind}", why="complex numbers have no order")
        symbol_of(self, self.count)
        values: Shape = (self.count,)
        inverse = kind.shape
        if self.axis is not None:
            axis = normalise_axis(self, self.axis, kind.rank)
            if not kind.rank:
                raise self.error(f"operand x ({self.x}) is {kind}", why="a scalar has no axis")
            values = (*kind.shape[:axis], self.count, *kind.shape[axis + 1 :])
            inverse = (kind.shape[axis],)
        index = TensorType(i64, (self.count,))
        return TensorType(kind.dtype, values), index, TensorType(i64, inverse), index


__all__ = ["BindDim", "Counted", "Nonzero", "Unique"]
