"""Emissions of ops that create or move elements without arithmetic."""

from __future__ import annotations

from typing import Any

from tvm import te, tirx
from tvm.ir import Expr

from plait.backends.tvm.emit import minifloat
from plait.backends.tvm.emit.expressions import element, number, size_of
from plait.backends.tvm.emit.table import Arguments, Emitter, Kind, emit
from plait.ir.ops import core


@emit(core.Full, kind=Kind.CREATION)
def _full(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    kind = op.result.type
    pattern = minifloat.pattern_of(op.value, kind.dtype) if kind.dtype.is_minifloat else op.value
    value = number(pattern, emitter.dtype(kind))
    return te.compute(emitter.shape(kind.shape), lambda *i: value, name="full")


@emit(core.Iota, kind=Kind.CREATION)
def _iota(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    kind = op.result.type
    dtype = emitter.dtype(kind)
    axis = op.axis % kind.rank

    def at(*i: Expr) -> Expr:
        return number(op.start, dtype) + tirx.Cast(dtype, i[axis]) * number(op.step, dtype)

    return te.compute(emitter.shape(kind.shape), at, name="iota")


@emit(core.DimValue, kind=Kind.CREATION)
def _dim_value(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    value = emitter.read_dim(op.dim)
    return te.compute((), lambda: value, name="dim_value")


@emit(core.Reshape, kind=Kind.VIEW)
def _reshape(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    """Row-major order is kept, so the builder turns it into a view; no kernel runs this."""
    raise AssertionError("views are built without kernels")


@emit(core.Broadcast, kind=Kind.ELEMENTWISE)
def _broadcast(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    shape = emitter.shape(op.result.type.shape)
    return te.compute(shape, lambda *i: element(args.x, i, shape), name="broadcast")


@emit(core.Transpose, kind=Kind.INJECTIVE)
def _transpose(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    place = {axis: index for index, axis in enumerate(op.permutation)}

    def at(*i: Expr) -> Expr:
        return args.x(*(i[place[axis]] for axis in range(len(i))))

    return te.compute(emitter.shape(op.result.type.shape), at, name="transpose")


@emit(core.Concat, kind=Kind.INJECTIVE)
def _concat(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    axis = op.axis % op.result.type.rank
    starts: list[Any] = [0]
    for value in op.xs:
        starts.append(starts[-1] + value.type.shape[axis])
    offsets = [emitter.dim(start) for start in starts]

    def at(*i: Expr) -> Expr:
        pieces = [
            x(*i[:axis], i[axis] - start, *i[axis + 1 :])
            for x, start in zip(args.xs, offsets[:-1], strict=True)
        ]
        result = pieces[-1]
        for piece, stop in reversed(list(zip(pieces[:-1], offsets[1:-1], strict=True))):
            # A Select would read all pieces, some of them out of bounds.
            result = tirx.if_then_else(i[axis] < stop, piece, result)
        return result

    return te.compute(emitter.shape(op.result.type.shape), at, name="concat")


@emit(core.Slice, kind=Kind.INJECTIVE)
def _slice(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    rank = op.result.type.rank
    steps = op.steps or (1,) * len(op.axes)
    where = {
        axis % rank: (emitter.dim(start), step)
        for axis, start, step in zip(op.axes, op.starts, steps, strict=True)
    }

    def at(*i: Expr) -> Expr:
        places = []
        for axis, index in enumerate(i):
            start, step = where.get(axis, (emitter.dim(0), 1))
            places.append(index * step + start if axis in where else index)
        return args.x(*places)

    for start in op.starts:
        emitter.read_dim(start)
    return te.compute(emitter.shape(op.result.type.shape), at, name="slice")


@emit(core.Pad, kind=Kind.INJECTIVE)
def _pad(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    kind = op.x.type
    sizes = [emitter.read_dim(dim) for dim in kind.shape]
    value = number(op.value, emitter.dtype(kind))

    def at(*i: Expr) -> Expr:
        inside, places = [], []
        for index, before, after, size in zip(i, op.before, op.after, sizes, strict=True):
            place = index - before if before else index
            if before or after:
                if op.mode == "edge":
                    place = te.max(te.min(place, size - 1), tirx.IntImm("int64", 0))
                elif op.mode == "reflect":
                    place = tirx.abs(place)
                    place = (size - 1) - tirx.abs((size - 1) - place)
                else:
                    inside += [place >= 0] if before else []
                    inside += [place < size] if after else []
            places.append(place)
        read = args.x(*places)
        return tirx.if_then_else(tirx.all(*inside), read, value) if inside else read

    return te.compute(emitter.shape(op.result.type.shape), at, name="pad")


@emit(core.Flip, kind=Kind.INJECTIVE)
def _flip(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    kind = op.x.type
    axes = {axis % kind.rank for axis in op.axes}
    sizes = [emitter.read_dim(dim) if axis in axes else None for axis, dim in enumerate(kind.shape)]

    def at(*i: Expr) -> Expr:
        return args.x(
            *(index if size is None else size - 1 - index for index, size in zip(i, sizes, strict=True))
        )

    return te.compute(emitter.shape(kind.shape), at, name="flip")


@emit(core.Roll, kind=Kind.INJECTIVE)
def _roll(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    kind = op.x.type
    shifts: dict[int, int] = {axis % kind.rank: shift for axis, shift in zip(op.axes, op.shifts, strict=True)}
    sizes = {axis: emitter.read_dim(kind.shape[axis]) for axis in shifts}

    def at(*i: Expr) -> Expr:
        places = list(i)
        for axis, shift in shifts.items():
            size = size_of(sizes[axis])
            if size is None:
                places[axis] = tirx.floormod(i[axis] - shift, sizes[axis])
            else:
                # Not by a remainder: TVM's simplifier gets that wrong when all axes are one loop.
                place = i[axis] - shift % size
                places[axis] = tirx.Select(place < 0, place + size, place)
        return args.x(*places)

    return te.compute(emitter.shape(kind.shape), at, name="roll")


@emit(core.Triangle, kind=Kind.ELEMENTWISE)
def _triangle(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    kind = op.x.type
    zero = number(0, emitter.dtype(kind))

    def at(*i: Expr) -> Expr:
        distance = i[-1] - i[-2]
        kept = distance >= op.diagonal if op.upper else distance <= op.diagonal
        return tirx.Select(kept, args.x(*i), zero)

    return te.compute(emitter.shape(kind.shape), at, name="triangle")
