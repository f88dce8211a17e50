"""Emissions of competition and plasticity: an item for each sample, and for each output channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import te, tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from plait.backends.tvm.emit.expressions import number
from plait.backends.tvm.emit.loops import item_loops, local, serial, when, whole
from plait.backends.tvm.emit.table import Arguments, Emitter, Kind, emit
from plait.ir import Value
from plait.ir.ops import spike
from plait.ir.ops.common import pads_of


class _Image:
    """An operand [N, C, H, W], read in whatever order it lies in memory."""

    def __init__(self, emitter: Emitter, value: Value) -> None:
        self.tensor, self.channels_last = emitter.stored(value)

    def read(self, buffer: Any, n: Expr, c: Expr, y: Expr, x: Expr) -> Expr:
        return buffer[n, y, x, c] if self.channels_last else buffer[n, c, y, x]


def _index(value: Expr) -> Expr:
    return tirx.Cast("int64", value)


def _small(value: Expr) -> Expr:
    return tirx.Cast("int32", value)


@emit(spike.Winners, kind=Kind.ALONE)
def _winners(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    """A sample lists its neurons that fire, then takes the best of the list again and again."""
    batch, channels, height, width = emitter.shape(op.times.shaped.shape)
    times, levels = _Image(emitter, op.times), _Image(emitter, op.potential)

    def place(index: Expr) -> tuple[Expr, Expr, Expr]:
        whole_index = _index(index)
        return (
            tirx.floordiv(whole_index, height * width),
            tirx.floormod(tirx.floordiv(whole_index, width), height),
            tirx.floormod(whole_index, width),
        )

    def compete(sample: Expr, ins: Sequence[Any], outs: Sequence[Any]) -> None:
        count, listed = local("int32"), outs[1]
        count[0] = number(0, "int32")
        extents = (height, width, channels) if times.channels_last else (channels, height, width)
        with serial(0, extents[0]) as i, serial(0, extents[1]) as j, serial(0, extents[2]) as k:
            c, y, x = (k, i, j) if times.channels_last else (i, j, k)
            with when(_small(times.read(ins[0], sample, c, y, x)) < op.steps):
                index = _small((c * height + y) * width + x)
                T.buffer_store(listed, index, [sample, _index(count[0])])
                count[0] = count[0] + 1
        with serial(0, op.count) as slot:
            best, since, level = local("int32"), local("int32"), local("float32")
            best[0], since[0], level[0] = number(0, "int32"), number(op.steps, "int32"), number(0, "float32")
            with serial(0, _index(count[0])) as at:
                index = listed[sample, at]
                with when(index >= 0):
                    time = _small(times.read(ins[0], sample, *place(index)))
                    potential = levels.read(ins[1], sample, *place(index))
                    equal = tirx.all(potential == level[0], index < best[0])
                    larger = tirx.all(time == since[0], tirx.any(potential > level[0], equal))
                    with when(tirx.any(time < since[0], larger)):
                        since[0], level[0], best[0] = time, potential, index
            found = since[0] < op.steps
            winner = place(best[0])
            fields = (number(0, "int32"), since[0], *map(_small, winner))
            for field, (value, nobody) in enumerate(zip(fields, (-1, op.steps, 0, 0, 0), strict=True)):
                told = tirx.Select(found, value, number(nobody, "int32"))
                T.buffer_store(outs[0], told, [sample, slot, whole(field)])
            with when(found), serial(0, _index(count[0])) as at:
                index = listed[sample, at]
                with when(index >= 0):
                    c, y, x = place(index)
                    near = [
                        tirx.all(a - b <= op.radius, b - a <= op.radius) for a, b in zip((y, x), winner[1:])
                    ]
                    with when(tirx.any(c == winner[0], tirx.all(*near))):
                        T.buffer_store(listed, number(-1, "int32"), [sample, at])

    table = emitter.shape(op.result.shaped.shape)
    found, _ = item_loops(
        emitter,
        batch,
        compete,
        [times.tensor, levels.tensor],
        [(table, "int32"), ([batch, channels * height * width], "int32")],
        "winners",
    )
    return found


@emit(spike.Stdp, kind=Kind.ALONE)
def _stdp(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    """An output channel looks for itself among the winners, sample after sample."""
    shape = emitter.shape(op.w.shaped.shape)
    samples, slots, _ = emitter.shape(op.winners.shaped.shape)
    times = _Image(emitter, op.times)
    height, width = emitter.shape(op.times.shaped.shape[2:])
    (top, _), (left, _) = pads_of(op, op.pad, 2)
    lower, upper = number(op.lower, "float32"), number(op.upper, "float32")

    def learn(channel: Expr, ins: Sequence[Any], outs: Sequence[Any]) -> None:
        weights, fired, winners, rates = ins
        with serial(0, shape[1]) as c, serial(0, shape[2]) as i, serial(0, shape[3]) as j:
            T.buffer_store(outs[0], weights[channel, c, i, j], [channel, c, i, j])
        with serial(0, samples) as sample, serial(0, slots) as slot:

            def field(k: int, sample: Expr = sample, slot: Expr = slot) -> Expr:
                return winners[sample, slot, whole(k)]

            with when(tirx.all(field(0) >= 0, _index(field(2)) == channel)):
                rule, post = local("int64"), local("int32")
                rule[0], post[0] = _index(field(0)), field(1)
                row, column = local("int64"), local("int64")
                row[0] = _index(field(3)) * op.stride[0] - top
                column[0] = _index(field(4)) * op.stride[1] - left
                with serial(0, shape[2]) as i, serial(0, shape[3]) as j:
                    y, x = row[0] + i, column[0] + j
                    inside = tirx.all(y >= 0, y < height, x >= 0, x < width)
                    with serial(0, shape[1]) as c:
                        # Outside, and where it is silent, an input comes too late.
                        pre = local("int32")
                        pre[0] = number(op.steps, "int32")
                        with when(inside):
                            pre[0] = tirx.min(_small(times.read(fired, sample, c, y, x)), op.steps)
                        old = outs[0][channel, c, i, j]
                        change = tirx.Select(
                            pre[0] <= post[0], rates[rule[0], whole(0)], rates[rule[0], whole(1)]
                        )
                        if op.stabilize:
                            change = change * (old - lower) * (upper - old)
                        new = tirx.min(tirx.max(old + change, lower), upper)
                        T.buffer_store(outs[0], new, [channel, c, i, j])

    operands = [args.w, times.tensor, args.winners, args.rates]
    (found,) = item_loops(emitter, shape[0], learn, operands, [(shape, "float32")], "stdp")
    return found


__all__: list[str] = []
