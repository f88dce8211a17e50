"""What kernels of neurons that fire once have in common: the window of a place, and lateral inhibition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from plait.backends.tvm.emit.expressions import number
from plait.backends.tvm.emit.loops import local, serial, when, whole
from plait.ir.ops.common import pads_of


def window_place(op: Any, position: Sequence[Expr], place: Expr) -> tuple[Expr, Expr, Expr, Expr]:
    """Channel, row and column of input `place` of a window, and whether it lies inside the image.

    Args:
        position: row and column of the result.
        place: (channel, row, column) of the window, counted row-major.
    """
    kind = op.x.type
    rows, columns = op.w.type.shape[2:]
    (top, bottom), (left, right) = pads_of(op, op.pad, 2)
    inner = tirx.truncmod(place, rows * columns)
    row = position[0] * op.stride[0] + tirx.truncdiv(inner, columns) - top
    column = position[1] * op.stride[1] + tirx.truncmod(inner, columns) - left
    inside = []
    for index, size, before, after in (
        (row, kind.shape[2], top, bottom),
        (column, kind.shape[3], left, right),
    ):
        inside += [index >= 0] if before else []
        inside += [index < size] if before or after else []
    return (
        tirx.truncdiv(place, rows * columns),
        row,
        column,
        tirx.all(*inside) if inside else tirx.const(True, "bool"),
    )


def keep_earliest(
    outs: Sequence[Any], where: Callable[[Expr], Sequence[Expr]], channels: Expr | int, steps: int
) -> None:
    """Silence all channels of one place but that of the earliest spike; ties go to the largest potential.

    Args:
        outs: times and potentials.
        where: the indices of a channel of the place.
    """
    times, potentials = outs
    best, best_time, best_potential = local("int64"), local("int32"), local("float32")
    best[0], best_time[0], best_potential[0] = whole(0), number(steps, "int32"), number(0, "float32")
    with serial(0, channels) as channel:
        time = tirx.Cast("int32", times[tuple(where(channel))])
        potential = potentials[tuple(where(channel))]
        larger = tirx.all(time == best_time[0], time < steps, potential > best_potential[0])
        with when(tirx.any(time < best_time[0], larger)):
            best[0], best_potential[0], best_time[0] = channel, potential, time
    with serial(0, channels) as channel, when(channel != best[0]):
        T.buffer_store(times, tirx.const(steps, "uint8"), list(where(channel)))
        T.buffer_store(potentials, number(0, "float32"), list(where(channel)))


__all__ = ["keep_earliest", "window_place"]
