"""Exports of ops that create, move, gather and scatter elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from plait.backends.onnx.elements import tensor_of
from plait.backends.onnx.table import exports
from plait.backends.onnx.writer import Operand, Writer
from plait.ir import DType, IntLike, TensorType
from plait.ir import types as t
from plait.ir.dims import bounds
from plait.ir.ops import core, nn

_FIRST, _LAST = np.iinfo(np.int64).min, np.iinfo(np.int64).max
#: Sequences of up to this many numbers are stored instead of counted.
_STORED = 4096


@exports(core.Full)
def _full(op: Any, writer: Writer) -> str:
    kind: TensorType = op.out
    if not kind.shape:
        return writer.number(op.value, kind.dtype)
    one = TensorType(kind.dtype, (1,))
    value = tensor_of("", np.full((1,), op.value).astype(kind.dtype.numpy), one)
    return writer.node("ConstantOfShape", writer.vector(kind.shape), value=value)


@exports(core.Iota)
def _iota(op: Any, writer: Writer) -> str:
    kind: TensorType = op.out
    axis = op.axis % kind.rank
    size = kind.shape[axis]
    whole = isinstance(op.start, int) and isinstance(op.step, int)
    wide = t.i64 if whole else t.f64
    if isinstance(size, int) and size <= _STORED:
        steps = np.arange(size, dtype=wide.numpy)
        line = writer.array((steps * op.step + op.start).astype(kind.dtype.numpy), kind.dtype)
    else:
        zero, one = writer.number(0, t.i64), writer.number(1, t.i64)
        counted = writer.node("Range", zero, writer.scalar(size), one)
        if not whole:
            counted = writer.cast(counted, wide)
        if op.step != 1:
            counted = writer.node("Mul", counted, writer.number(op.step, wide))
        if op.start != 0:
            counted = writer.node("Add", counted, writer.number(op.start, wide))
        line = counted if kind.dtype == wide else writer.cast(counted, kind.dtype)
    if kind.rank == 1:
        return line
    upright = writer.node("Reshape", line, writer.ints([-1 if i == axis else 1 for i in range(kind.rank)]))
    return writer.node("Expand", upright, writer.vector(kind.shape))


@exports(core.DimValue)
def _dim_value(op: Any, writer: Writer) -> str:
    return writer.scalar(op.dim)


def _known_target(source: Sequence[IntLike], target: Sequence[IntLike], writer: Writer) -> list[int] | None:
    """A reshape target in numbers: 0 copies the dim at that place, one -1 is inferred.

    None where neither will do.
    """
    ranges = writer.graph.bounds()
    if any((bounds(dim, ranges)[0] or 0) < 1 for dim in target):
        return None  # with an empty tensor, -1 has no single meaning, and 0 copies
    found: list[int] = []
    for place, dim in enumerate(target):
        if isinstance(dim, int):
            found.append(dim)
        elif place < len(source) and source[place] == dim:
            found.append(0)
        elif -1 not in found:
            found.append(-1)
        else:
            return None
    return found


def reshaped(writer: Writer, x: Operand, source: Sequence[IntLike], target: Sequence[IntLike]) -> str:
    """`x`, of shape `source`, under another shape."""
    known = _known_target(source, target, writer)
    if known is not None:
        return writer.node("Reshape", x, writer.ints(known))
    return writer.node("Reshape", x, writer.vector(target), allowzero=1)


@exports(core.Reshape)
def _reshape(op: Any, writer: Writer) -> str:
    return reshaped(writer, op.x, op.x.shaped.shape, op.out.shape)


@exports(core.Broadcast)
def _broadcast(op: Any, writer: Writer) -> str:
    """Expand stretches both ways, so 1 stands for a dim that the operand has already."""
    source, target = op.x.shaped.shape, op.out.shape
    padded = (*(1,) * (len(target) - len(source)), *source)
    wanted = [
        1 if dim == have and not isinstance(dim, int) else dim
        for dim, have in zip(target, padded, strict=True)
    ]
    return writer.node("Expand", op.x, writer.vector(wanted))


@exports(core.Transpose)
def _transpose(op: Any, writer: Writer) -> str:
    return writer.node("Transpose", op.x, perm=list(op.permutation))


@exports(core.Concat)
def _concat(op: Any, writer: Writer) -> str:
    return writer.node("Concat", *op.xs, axis=op.axis)


def sliced(
    writer: Writer,
    x: Operand,
    axes: Sequence[int],
    starts: Sequence[IntLike],
    stops: Sequence[IntLike],
    steps: Sequence[int] = (),
) -> str:
    """x[start:stop:step] along axes."""
    return writer.node(
        "Slice",
        x,
        writer.vector(starts),
        writer.vector(stops),
        writer.ints(axes),
        writer.ints(steps) if steps else None,
    )


@exports(core.Slice)
def _slice(op: Any, writer: Writer) -> str:
    """Bounds that are a dim less a number count from its end."""
    sizes = [op.x.shaped.shape[axis] for axis in op.axes]

    def from_end(bound: IntLike, size: IntLike, at_end: int) -> IntLike:
        distance = bound - size
        if isinstance(bound, int) or not isinstance(distance, int):
            return bound
        return distance if distance < 0 else at_end

    starts = [from_end(start, size, _LAST) for start, size in zip(op.starts, sizes, strict=True)]
    stops = [from_end(stop, size, _LAST) for stop, size in zip(op.stops, sizes, strict=True)]
    return sliced(writer, op.x, op.axes, starts, stops, op.steps)


@exports(core.Pad)
def _pad(op: Any, writer: Writer) -> str:
    element: DType = op.x.shaped.dtype
    value = writer.number(op.value, element) if op.mode == "constant" and op.value else None
    return writer.node("Pad", op.x, writer.ints([*op.before, *op.after]), value, mode=op.mode)


@exports(core.Flip)
def _flip(op: Any, writer: Writer) -> str:
    count = len(op.axes)
    if not count:
        return writer.name(op.x)
    return sliced(writer, op.x, op.axes, [-1] * count, [_FIRST] * count, [-1] * count)


@exports(core.Roll)
def _roll(op: Any, writer: Writer) -> str:
    """The last elements in front of the first ones, axis by axis."""
    x = writer.name(op.x)
    for shift, axis in zip(op.shifts, op.axes, strict=True):
        size = op.x.shaped.shape[axis]
        start = (
            (size * max(1, abs(shift)) - shift) % size if not isinstance(size, int) else -shift % max(size, 1)
        )
        tail = sliced(writer, x, [axis], [start], [_LAST])
        x = writer.node("Concat", tail, sliced(writer, x, [axis], [0], [start]), axis=axis)
    return x


@exports(core.Triangle)
def _triangle(op: Any, writer: Writer) -> str:
    return writer.node("Trilu", op.x, writer.number(op.diagonal, t.i64), upper=int(op.upper))


@exports(core.Take)
def _take(op: Any, writer: Writer) -> str:
    return writer.node("Gather", op.x, op.indices, axis=op.axis)


@exports(nn.Embedding)
def _embedding(op: Any, writer: Writer) -> str:
    return writer.node("Gather", op.table, op.indices, axis=0)


@exports(core.GatherElements)
def _gather_elements(op: Any, writer: Writer) -> str:
    return writer.node("GatherElements", op.x, op.indices, axis=op.axis)


@exports(core.GatherND)
def _gather_nd(op: Any, writer: Writer) -> str:
    return writer.node("GatherND", op.x, writer.cast(op.indices, t.i64))


@exports(core.ScatterElements)
def _scatter_elements(op: Any, writer: Writer) -> str:
    return writer.node("ScatterElements", op.x, op.indices, op.updates, axis=op.axis, reduction=op.reduce)


@exports(core.ScatterND)
def _scatter_nd(op: Any, writer: Writer) -> str:
    return writer.node("ScatterND", op.x, writer.cast(op.indices, t.i64), op.updates, reduction=op.reduce)
