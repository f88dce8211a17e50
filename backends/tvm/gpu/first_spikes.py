"""Convolutions of neurons that fire once, on a GPU, by events in the order of their time.

    for each place of the result and tile of its channels: a block
        window[:] = first-spike times of the inputs that the place sees
        for each step
            events = the inputs of the window that fire at the step, in order
            sums[:] += weights[event, :]           for each event
            time[:] = step                         where a sum first passes the threshold

Only the weights of inputs that fire are read.  Lateral inhibition is a second launch, with a
thread for each place, which looks at its channels in their order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import te, tirx
from tvm.ir import Expr
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from plait.backends.tvm.emit.expressions import number
from plait.backends.tvm.emit.spike_windows import keep_earliest, window_place
from plait.backends.tvm.emit.table import Arguments, Emitter, Packing
from plait.backends.tvm.gpu.instructions import barrier
from plait.backends.tvm.gpu.kernel import integer, launch, local_array, named
from plait.backends.tvm.gpu.product import total, unflatten
from plait.backends.tvm.gpu.segments import each_item, kernels
from plait.backends.tvm.gpu.spikes import THREADS, add_events, event_lists
from plait.ir import Constant

#: Inputs of one window that shared memory has room for.
_MOST_INPUTS = 32768


def by_input(array: np.ndarray) -> np.ndarray:
    """Weights [O, C, kh, kw] as [C kh kw, O]."""
    return np.ascontiguousarray(array.reshape(array.shape[0], -1).T)


def first_spike_conv2d(op: Any, args: Arguments, emitter: Emitter) -> list[te.Tensor] | None:
    """Times and, where they are asked for, potentials; None where weights are no constant, or many.

    Sizes of the image must be numbers; the batch may be a symbol.
    """
    if not isinstance(op.w, Constant) or not all(isinstance(size, int) for size in op.x.type.shape[1:]):
        return None
    outputs = int(op.w.shaped.shape[0])
    inputs = math.prod(map(int, op.w.shaped.shape[1:]))
    if inputs > _MOST_INPUTS:
        return None
    weight = emitter.packed(op.w, (inputs, outputs), Packing("by_input", by_input))
    shape = emitter.shape((op.x.shaped.shape[0], outputs, *op.places(op.x.shaped.shape)))
    vector = 4 if outputs % 4 == 0 and outputs >= 4 * THREADS else 1
    tiles = -(-outputs // (THREADS * vector))
    with_potential = op.inhibit or op.potential

    def integrate(ins: Sequence[Any], outs: Sequence[Any]) -> None:
        with launch(total([shape[0], *shape[2:]]) * tiles, THREADS) as (block, thread):
            image, *position = unflatten(named("place", tirx.truncdiv(block, tiles)), [shape[0], *shape[2:]])
            first = named("channel", (tirx.truncmod(block, tiles) * THREADS + thread) * vector)
            window = IRBuilder.name("window", T.alloc_buffer([inputs], "uint8", scope="shared", layout=None))
            _read_window(op, ins[0], image, position, thread, window)
            sums, since = local_array("sums", vector, "float32"), local_array("since", vector, "int32")
            reached = local_array("reached", vector, "float32")
            with T.unroll(0, vector) as k:
                T.buffer_store(sums, number(0, "float32"), [k])
                T.buffer_store(reached, number(0, "float32"), [k])
                T.buffer_store(since, integer(op.steps), [k])
            lists = event_lists()
            barrier()
            with T.serial(integer(0), integer(op.steps)) as step:

                def fires(place: Expr, step: Expr = step) -> Expr:
                    return tirx.Cast("int32", tirx.Cast("int32", window[place]) == step)

                add_events(fires, ins[1], lists, (thread, first), sums, (inputs, outputs), vector)
                with T.unroll(0, vector) as k:
                    passes = tirx.all(since[k] == op.steps, sums[k] > number(op.v_th, "float32"))
                    with T.If(passes), T.Then():
                        T.buffer_store(since, step, [k])
                        T.buffer_store(reached, sums[k], [k])
            with T.If(first < outputs), T.Then(), T.unroll(0, vector) as k:
                where = [image, first + k, *position]
                T.buffer_store(outs[0], tirx.Cast("uint8", since[k]), where)
                if with_potential:
                    T.buffer_store(outs[1], reached[k], where)

    def inhibit(ins: Sequence[Any], outs: Sequence[Any]) -> None:
        def at(item: Expr) -> None:
            image, *position = unflatten(item, [shape[0], *shape[2:]])
            keep_earliest(outs, lambda channel: [image, channel, *position], outputs, op.steps)

        each_item(total([shape[0], *shape[2:]]), at)

    results = [(shape, "uint8"), *([(shape, "float32")] if with_potential else [])]
    bodies = [integrate, inhibit] if op.inhibit else [integrate]
    return kernels(emitter, bodies, [args.x, weight], results, "first_spikes")


def _read_window(
    op: Any, times: Any, image: Expr, position: Sequence[Expr], thread: Expr, window: Any
) -> None:
    """Fill shared memory with the first-spike times that one place of the result sees."""
    (inputs,) = map(int, window.shape)
    with T.serial(integer(0), integer(-(-inputs // THREADS))) as chunk:
        place = named("place_in_window", chunk * THREADS + thread)
        with T.If(place < inputs), T.Then():
            channel, row, column, inside = window_place(op, position, place)
            time = local_array("time", 1, "uint8")
            T.buffer_store(time, tirx.const(op.steps, "uint8"), [integer(0)])
            with T.If(inside), T.Then():
                T.buffer_store(time, times[image, channel, row, column], [integer(0)])
            T.buffer_store(window, time[integer(0)], [place])


__all__ = ["by_input", "first_spike_conv2d"]
