"""Emission of the rank-order code.

On a CPU each sample is sorted by digits: the values above its minimum, as integers whose order is the
descending one, in three passes from the lowest digit to the highest; each pass keeps the order of equal
digits, so that equal values stay in the order of their index.  On a GPU each value counts those before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import te, tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from plait.backends.tvm.emit.cpu.writer import local, scratch
from plait.backends.tvm.emit.expressions import number
from plait.backends.tvm.emit.loops import coordinates, item_loops, product, serial, when, whole
from plait.backends.tvm.emit.table import Arguments, Emitter, Kind, emit
from plait.ir.ops import spike

#: Bits of each digit, the lowest first.
_DIGITS = (11, 11, 10)
_BUCKETS = 1 << max(_DIGITS)


@emit(spike.RankOrderCode, kind=Kind.ALONE)
def _rank_order_code(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    shape = emitter.shape(op.x.shaped.shape)
    if emitter.is_cpu:
        stored, channels_last = emitter.stored(op.x)
        order = (0, *range(2, len(shape)), 1) if len(shape) > 2 else tuple(range(len(shape)))
        (found,) = item_loops(
            emitter,
            shape[0],
            lambda sample, ins, outs: _sort_sample(op.steps, sample, ins[0], outs[0], shape, channels_last),
            [stored],
            [([shape[axis] for axis in order], "uint8")],
            "rank_order_code",
        )
        return emitter.view(found, tuple(order.index(axis) for axis in range(len(shape))))
    return _by_counting(op, args, emitter, shape)


def _sort_sample(
    steps: int, sample: Expr, x: Any, times: Any, shape: Sequence[Expr], channels_last: bool
) -> None:
    """Write the times of one sample, channels last; `x` has its channels last or second."""
    channels, places = shape[1], product(shape[2:])
    count = channels * places
    # Flat views: where a value lies, by its place in memory, is all that is needed.
    values = T.decl_buffer([shape[0] * count], "float32", data=x.data, layout=None)
    found = T.decl_buffer([shape[0] * count], "uint8", data=times.data, layout=None)
    first = sample * count
    lowest, above, same = local("float32", 1), local("int32", 1), local("float32", 1)
    keys = [scratch("uint32", [count]), scratch("uint32", [count])]
    where = [scratch("int32", [count]), scratch("int32", [count])]
    starts = scratch("int32", [whole(_BUCKETS * len(_DIGITS))])
    zero = whole(0)
    T.buffer_store(lowest, values[first], [zero])
    with serial(0, count) as i:
        T.buffer_store(lowest, tirx.min(lowest[zero], values[first + i]), [zero])
    T.buffer_store(same, lowest[zero], [zero])
    T.buffer_store(above, number(0, "int32"), [zero])
    with serial(0, _BUCKETS * len(_DIGITS)) as i:
        T.buffer_store(starts, number(0, "int32"), [i])

    # Equal values are ordered by index in C, H, W order, whatever the order in memory.
    with serial(0, channels) as channel, serial(0, places) as place:
        held = place * channels + channel
        value = values[first + (held if channels_last else channel * places + place)]
        with when(value > same[zero]):
            at = above[zero]
            key = local("uint32", 1)
            T.buffer_store(key, _descending(value), [zero])
            T.buffer_store(keys[0], key[zero], [at])
            T.buffer_store(where[0], tirx.Cast("int32", held), [at])
            for number_of_pass in range(len(_DIGITS)):
                bucket = number_of_pass * _BUCKETS + _digit(key[zero], number_of_pass)
                T.buffer_store(starts, starts[bucket] + 1, [bucket])
            T.buffer_store(above, at + 1, [zero])
        with when(tirx.Not(value > same[zero])):
            T.buffer_store(found, tirx.const(steps, "uint8"), [first + held])
    with when(above[zero] == 0), serial(0, count) as i:
        T.buffer_store(found, tirx.const(0, "uint8"), [first + i])
    with when(above[zero] > 0):
        for number_of_pass in range(len(_DIGITS)):
            source, target = number_of_pass % 2, 1 - number_of_pass % 2
            base = number_of_pass * _BUCKETS
            total = local("int32", 1)
            T.buffer_store(total, number(0, "int32"), [zero])
            with serial(0, 1 << _DIGITS[number_of_pass]) as bucket:
                counted = local("int32", 1)
                T.buffer_store(counted, starts[base + bucket], [zero])
                T.buffer_store(starts, total[zero], [base + bucket])
                T.buffer_store(total, total[zero] + counted[zero], [zero])
            with serial(0, tirx.Cast("int64", above[zero])) as i:
                bucket = base + _digit(keys[source][i], number_of_pass)
                at = local("int32", 1)
                T.buffer_store(at, starts[bucket], [zero])
                T.buffer_store(starts, at[zero] + 1, [bucket])
                T.buffer_store(keys[target], keys[source][i], [at[zero]])
                T.buffer_store(where[target], where[source][i], [at[zero]])
        # floor(i * steps / above) without a division: what is left over is carried on.
        ordered = where[len(_DIGITS) % 2]
        step, rest = local("int32", 1), local("int32", 1)
        T.buffer_store(step, number(0, "int32"), [zero])
        T.buffer_store(rest, number(0, "int32"), [zero])
        with serial(0, tirx.Cast("int64", above[zero])) as i:
            T.buffer_store(found, tirx.Cast("uint8", step[zero]), [first + tirx.Cast("int64", ordered[i])])
            T.buffer_store(rest, rest[zero] + steps, [zero])
            with T.While(rest[zero] >= above[zero]):
                T.buffer_store(rest, rest[zero] - above[zero], [zero])
                T.buffer_store(step, step[zero] + 1, [zero])


def _descending(value: Expr) -> Expr:
    """An unsigned integer that is the smaller, the larger a float is; both zeros are one."""
    bits = tirx.reinterpret("uint32", tirx.Select(value == 0, number(0, "float32"), value))
    sign = bits >> tirx.const(31, "uint32")
    ascending = tirx.Select(sign == 1, ~bits, bits | tirx.const(1 << 31, "uint32"))
    return ~ascending


def _digit(key: Expr, number_of_pass: int) -> Expr:
    shift = sum(_DIGITS[:number_of_pass])
    mask = (1 << _DIGITS[number_of_pass]) - 1
    return tirx.Cast("int32", (key >> tirx.const(shift, "uint32")) & tirx.const(mask, "uint32"))


def _by_counting(op: Any, args: Arguments, emitter: Emitter, shape: Sequence[Expr]) -> te.Tensor:
    """The place of a value is how many of its sample are larger, or equal and before it."""
    flat = te.compute(
        [shape[0], product(shape[1:])],
        lambda n, i: args.x(n, *coordinates(i, shape[1:])),
        name="flat",
    )
    values = emitter.stage("flat", flat)
    every = te.reduce_axis((whole(0), product(shape[1:])), name="r")
    lowest = emitter.stage(
        "lowest", te.compute([shape[0]], lambda n: te.min(values(n, every), axis=every), name="lowest")
    )
    other = te.reduce_axis((whole(0), product(shape[1:])), name="other")
    above = emitter.stage(
        "above",
        te.compute(
            [shape[0]],
            lambda n: te.sum(tirx.Cast("int32", values(n, other) > lowest(n)), axis=other),
            name="above",
        ),
    )

    def rank(item: Expr, ins: Sequence[Any], outs: Sequence[Any]) -> None:
        x, least, counts = ins
        sample, *place = coordinates(item, shape)
        index = tirx.floormod(item, product(shape[1:]))
        before = T.alloc_buffer([1], "int32", scope="local", layout=None)
        T.buffer_store(before, number(0, "int32"), [whole(0)])
        value = x[sample, index]
        with serial(0, product(shape[1:])) as i:
            earlier = tirx.any(x[sample, i] > value, tirx.all(x[sample, i] == value, i < index))
            T.buffer_store(before, before[whole(0)] + tirx.Cast("int32", earlier), [whole(0)])
        ranked = before[whole(0)] * op.steps // tirx.max(counts[sample], number(1, "int32"))
        silent = tirx.all(value <= least[sample], counts[sample] > 0)
        time = tirx.Select(counts[sample] == 0, number(0, "int32"), ranked)
        time = tirx.Select(silent, number(op.steps, "int32"), time)
        T.buffer_store(outs[0], tirx.Cast("uint8", time), [sample, *place])

    (found,) = item_loops(
        emitter, product(shape), rank, [values, lowest, above], [(shape, "uint8")], "rank_order_code"
    )
    return found


__all__: list[str] = []
