"""Rules: results whose size depends on the data."""

from __future__ import annotations

from plait.frontends.pytorch.builder import Builder
from plait.frontends.pytorch.registry import register
from plait.ir import types as t
from plait.ir.dims import IntLike
from plait.ir.ops import core
from plait.ir.types import TensorType
from plait.ir.value import Value

#: Operators whose rules bind the sizes that torch leaves unknown.
BINDS_SIZES = frozenset(
    (
        "aten.nonzero.default", "aten.masked_select.default", "aten._unique2.default",
        "aten.index.Tensor", "aten._unsafe_index.Tensor",
        "aten.unique_dim.default", "aten.unique_consecutive.default",
    )
)  # fmt: skip


@register("aten.nonzero.default")
def nonzero(build: Builder, x: Value) -> Value:
    if 0 in build.kind(x).shape:  # the only size that torch knows in advance
        return build.full(0, build.out.dtype, build.out.shape)
    return build.emit(core.Nonzero(x, count=build.count()))


@register("aten.masked_select.default")
def masked_select(build: Builder, x: Value, mask: Value) -> Value:
    """Both operands are stretched to one shape."""
    shape = _joined(build.kind(x), build.kind(mask))
    count = build.count()
    flat = build.flatten(build.broadcast(mask, shape))
    places = build.reshape(build.emit(core.Nonzero(flat, count=count)), (count,))
    return build.emit(core.Take(build.flatten(build.broadcast(x, shape)), places, axis=0))


def _joined(left: TensorType, right: TensorType) -> tuple[IntLike, ...]:
    """The shape that two operands are stretched to; the verifier has the last word."""
    rank = max(left.rank, right.rank)
    pairs = zip(*((1,) * (rank - kind.rank) + kind.shape for kind in (left, right)), strict=True)
    return tuple(a if b == 1 else b for a, b in pairs)


def _unique(build: Builder, op: core.Unique, inverse: bool, counts: bool) -> tuple[Value, ...]:
    """torch returns the values, the inverse and the counts; those nobody asked for are empty."""
    values, _, places, numbers = build.emit_all(op)
    empty = TensorType(t.i64, (0,))
    return (
        values,
        places if inverse else build.full(0, empty.dtype, empty.shape),
        numbers if counts else build.full(0, empty.dtype, empty.shape),
    )


@register("aten._unique2.default")
def unique(
    build: Builder, x: Value, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False
) -> tuple[Value, ...]:
    """torch may give any order where none is asked for; the result is sorted always."""
    return _unique(build, core.Unique(x, count=build.count()), return_inverse, return_counts)


@register("aten.unique_dim.default")
def unique_dim(
    build: Builder,
    x: Value,
    dim: int,
    sorted: bool = True,
    return_inverse: bool = False,
    return_counts: bool = False,
) -> tuple[Value, ...]:
    axis = build.axis(dim, build.kind(x).rank)
    # torch gives the inverse and the counts whether asked or not
    return _unique(build, core.Unique(x, count=build.count(), axis=axis), True, True)


@register("aten.unique_consecutive.default")
def unique_consecutive(
    build: Builder,
    x: Value,
    return_inverse: bool = False,
    return_counts: bool = False,
    dim: int | None = None,
) -> tuple[Value, ...]:
    axis = None if dim is None else build.axis(dim, build.kind(x).rank)
    op = core.Unique(x, count=build.count(), axis=axis, consecutive=True)
    return _unique(build, op, return_inverse, return_counts)
