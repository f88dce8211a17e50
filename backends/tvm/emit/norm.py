"""Emissions of normalisations and softmax."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import te, tirx
from tvm.ir import Expr

from plait.backends.tvm.emit.cpu.rows import Element, Row, row_map
from plait.backends.tvm.emit.expressions import number
from plait.backends.tvm.emit.reduce import count_of, reduce_axes
from plait.backends.tvm.emit.table import Arguments, Emitter, Kind, emit
from plait.ir import Value
from plait.ir.ops import nn
from plait.ir.types import ShapedType


def _accumulator(dtype: str) -> str:
    """The type in which sums of elements are held."""
    return "float32" if dtype in ("float16", "bfloat16") else dtype


def _cast(dtype: str, x: Expr) -> Expr:
    return x if str(x.ty.dtype) == dtype else tirx.Cast(dtype, x)


def _guarded_power(x: Expr, largest: Expr, dtype: str, guarded: bool) -> Expr:
    """e^(x - largest); zero where `guarded` and x is absent."""
    wide = _accumulator(dtype)
    found = tirx.exp(_cast(wide, x) - _cast(wide, largest))
    # The largest of a row that holds nothing is the lowest number itself.
    return tirx.Select(x > tirx.min_value(dtype), found, number(0, wide)) if guarded else found


def _guarded_divisor(total: Expr, guarded: bool) -> Expr:
    """What the powers of a row are divided by: one where the row holds nothing."""
    dtype = str(total.ty.dtype)
    return tirx.Select(total == number(0, dtype), number(1, dtype), total) if guarded else total


def softmax(
    emitter: Emitter,
    x: te.Tensor,
    axis: int,
    kind: ShapedType,
    *,
    guarded: bool = False,
    value: Value | None = None,
) -> te.Tensor:
    """e^x / sum(e^x) along an axis, the largest element taken out first.

    Where `guarded`, the lowest number and minus infinity count as absent elements: they
    get zero, and a row of nothing else is all zeros.  Half precision is computed in f32.

    Args:
        value: what `x` is, where it comes from outside of the kernel.
    """
    dtype = emitter.dtype(kind)
    wide = _accumulator(dtype)

    def row_softmax(row: Row) -> Element:
        def here(column: Expr) -> Expr:
            return x(*row.place, column)

        largest = row.fold(here, tirx.max, tirx.min_value(dtype))
        powers = row.kept(lambda column: _guarded_power(here(column), largest, dtype, guarded))
        factor = row.scalar(number(1, wide) / _guarded_divisor(row.total(powers), guarded))
        return lambda column: powers(column) * factor

    if (found := row_map(emitter, x, kind, axis, row_softmax, "softmax", value)) is not None:
        return found
    rest = [a for a in range(kind.rank) if a != axis]

    def outside(i: Sequence[Expr]) -> list[Expr]:
        return [i[a] for a in rest]

    largest = reduce_axes(emitter, kind, (axis,), lambda *i: x(*i), te.max, "largest")

    def power(*i: Expr) -> Expr:
        return _guarded_power(x(*i), largest(*outside(i)), dtype, guarded)

    shape = emitter.shape(kind.shape)
    powers = te.compute(shape, power, name="powers")
    total = reduce_axes(emitter, kind, (axis,), lambda *i: powers(*i), te.sum, "total")

    def at(*i: Expr) -> Expr:
        return _cast(dtype, powers(*i) / _guarded_divisor(total(*outside(i)), guarded))

    return te.compute(shape, at, name="softmax")


@emit(nn.Softmax, kind=Kind.CONTRACTION)
def _softmax(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    kind = op.x.type
    return softmax(emitter, args.x, op.axis % kind.rank, kind, value=op.x)


@emit(nn.LogSoftmax, kind=Kind.CONTRACTION)
def _log_softmax(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    kind = op.x.type
    axis = op.axis % kind.rank
    dtype = emitter.dtype(kind)
    wide = _accumulator(dtype)

    def row_log_softmax(row: Row) -> Element:
        def here(column: Expr) -> Expr:
            return args.x(*row.place, column)

        largest = row.fold(here, tirx.max, tirx.min_value(dtype))
        total = row.total(lambda column: tirx.exp(here(column) - largest))
        offset = row.scalar(tirx.log(total))
        return lambda column: here(column) - largest - offset

    found = row_map(emitter, args.x, kind, axis, row_log_softmax, "log_softmax", op.x)
    if found is not None:
        return found
    rest = [a for a in range(kind.rank) if a != axis]
    largest = reduce_axes(emitter, kind, (axis,), lambda *i: args.x(*i), te.max, "largest")

    def centred(*i: Expr) -> Expr:
        return _cast(wide, args.x(*i)) - _cast(wide, largest(*(i[a] for a in rest)))

    total = reduce_axes(emitter, kind, (axis,), lambda *i: tirx.exp(centred(*i)), te.sum, "total")
    return te.compute(
        emitter.shape(kind.shape),
        lambda *i: _cast(dtype, centred(*i) - tirx.log(total(*(i[a] for a in rest)))),
        name="log_softmax",
    )


@emit(nn.BatchNorm, kind=Kind.ELEMENTWISE)
def _batch_norm(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    kind = op.x.type
    epsilon = number(op.epsilon, emitter.dtype(kind))

    def at(*i: Expr) -> Expr:
        c = i[1]
        result = (args.x(*i) - args.mean(c)) / tirx.sqrt(args.variance(c) + epsilon)
        return _affine(result, args, (c,))

    return te.compute(emitter.shape(kind.shape), at, name="batch_norm")


def _affine(result: Expr, args: Arguments, place: Sequence[Expr]) -> Expr:
    if args.scale is not None:
        result = result * args.scale(*place)
    return result if args.bias is None else result + args.bias(*place)


def _normalised(
    emitter: Emitter,
    x: te.Tensor,
    kind: ShapedType,
    axes: Sequence[int],
    epsilon: float,
    finish: Any,
    name: str,
) -> te.Tensor:
    """(x - mean) / sqrt(variance + epsilon) over `axes`, then `finish(indices, value)`.

    The variance is the mean squared distance from the mean, not the difference of
    two means, which would cancel.
    """
    dtype = emitter.dtype(kind)
    gone = {axis % kind.rank for axis in axes}
    count = count_of(emitter, kind, axes, dtype)

    def outside(i: Sequence[Expr]) -> list[Expr]:
        return [index for axis, index in enumerate(i) if axis not in gone]

    total = reduce_axes(emitter, kind, axes, lambda *i: x(*i), te.sum, "total")

    def distance(*i: Expr) -> Expr:
        return x(*i) - total(*outside(i)) / count

    spread = reduce_axes(emitter, kind, axes, lambda *i: distance(*i) * distance(*i), te.sum, "spread")

    def at(*i: Expr) -> Expr:
        deviation = tirx.sqrt(spread(*outside(i)) / count + number(epsilon, dtype))
        return finish(i, distance(*i) / deviation)

    return te.compute(emitter.shape(kind.shape), at, name=name)


@emit(nn.LayerNorm, kind=Kind.CONTRACTION)
def _layer_norm(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    kind = op.x.type
    axes = tuple(range(kind.rank - op.axes, kind.rank))
    count = count_of(emitter, kind, axes, emitter.dtype(kind))

    def row_norm(row: Row) -> Element:
        def here(column: Expr) -> Expr:
            return args.x(*row.place, column)

        mean = row.scalar(row.total(here) / count)
        spread = row.total(lambda column: (here(column) - mean) * (here(column) - mean))
        epsilon = number(op.epsilon, "float32")
        factor = row.scalar(number(1, "float32") / tirx.sqrt(spread / count + epsilon))
        return lambda column: (here(column) - mean) * factor

    if op.axes == 1:
        rows = row_map(emitter, args.x, kind, axes[0], row_norm, "normalised", op.x)
        if rows is not None:
            return te.compute(rows.shape, lambda *i: _affine(rows(*i), args, i[-1:]), name="layer_norm")
    return _normalised(
        emitter, args.x, kind, axes, op.epsilon, lambda i, y: _affine(y, args, i[-op.axes :]), "layer_norm"
    )


@emit(nn.RmsNorm, kind=Kind.CONTRACTION)
def _rms_norm(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    kind = op.x.type
    dtype = emitter.dtype(kind)
    axis = kind.rank - 1
    count = count_of(emitter, kind, (axis,), dtype)

    def scaled(result: Expr, i: Sequence[Expr]) -> Expr:
        return result if args.scale is None else result * args.scale(i[-1])

    def row_norm(row: Row) -> Element:
        def here(column: Expr) -> Expr:
            return args.x(*row.place, column)

        square = row.total(lambda column: here(column) * here(column))
        epsilon = number(op.epsilon, dtype)
        factor = row.scalar(number(1, dtype) / tirx.sqrt(square / count + epsilon))
        return lambda column: here(column) * factor

    rows = row_map(emitter, args.x, kind, axis, row_norm, "normalised", op.x)
    if rows is not None:
        return te.compute(rows.shape, lambda *i: scaled(rows(*i), i), name="rms_norm")
    square = reduce_axes(emitter, kind, (axis,), lambda *i: args.x(*i) * args.x(*i), te.sum, "square")

    def at(*i: Expr) -> Expr:
        return scaled(args.x(*i) / tirx.sqrt(square(*i[:-1]) / count + number(op.epsilon, dtype)), i)

    return te.compute(emitter.shape(kind.shape), at, name="rms_norm")


@emit(nn.InstanceNorm, kind=Kind.CONTRACTION)
def _instance_norm(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    kind = op.x.type
    axes = tuple(range(2, kind.rank))
    return _normalised(
        emitter, args.x, kind, axes, op.epsilon, lambda i, y: _affine(y, args, (i[1],)), "instance_norm"
    )


@emit(nn.GroupNorm, kind=Kind.CONTRACTION)
def _group_norm(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    """Channels split into [group, channel of the group] for the statistics."""
    kind = op.x.type
    dtype = emitter.dtype(kind)
    size = kind.shape[1] // op.groups
    split = kind.with_shape((kind.shape[0], op.groups, size, *kind.shape[2:]))
    axes = tuple(range(2, split.rank))
    count = count_of(emitter, split, axes, dtype)
    width = emitter.dim(size)

    def member(*i: Expr) -> Expr:
        return args.x(i[0], i[1] * width + i[2], *i[3:])

    total = reduce_axes(emitter, split, axes, member, te.sum, "total")

    def distance(*i: Expr) -> Expr:
        return member(*i) - total(i[0], i[1]) / count

    spread = reduce_axes(emitter, split, axes, lambda *i: distance(*i) * distance(*i), te.sum, "spread")

    def at(*i: Expr) -> Expr:
        group = tirx.floordiv(i[1], width)
        mean = total(i[0], group) / count
        deviation = tirx.sqrt(spread(i[0], group) / count + number(op.epsilon, dtype))
        return _affine((args.x(*i) - mean) / deviation, args, (i[1],))

    return te.compute(emitter.shape(kind.shape), at, name="group_norm")


@emit(nn.LocalResponseNorm, kind=Kind.CONTRACTION)
def _local_response_norm(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    kind = op.x.type
    dtype = emitter.dtype(kind)
    channels = emitter.read_dim(kind.shape[1])
    over = emitter.axis(op.size, "neighbour")
    # As many neighbours in front as behind; of an even size, the larger half is in front.
    before = op.size // 2

    def square(*i: Expr) -> Expr:
        channel = i[1] + over.var - before
        inside = tirx.all(channel >= 0, channel < channels)
        x = tirx.if_then_else(inside, args.x(i[0], channel, *i[2:]), number(0, dtype))
        return te.sum(x * x, axis=over)

    squares = te.compute(emitter.shape(kind.shape), square, name="squares")

    def at(*i: Expr) -> Expr:
        base = number(op.k, dtype) + squares(*i) * number(op.alpha / op.size, dtype)
        return args.x(*i) / tirx.power(base, number(op.beta, dtype))

    return te.compute(emitter.shape(kind.shape), at, name="local_response_norm")
