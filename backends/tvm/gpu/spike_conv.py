"""Convolutions of spikes on a GPU, by events: only the weights of inputs that fire are read.

for each place of the result and tile of its channels: a block
    for each chunk of the window
        events = the inputs of the chunk that fire, in order
        sums[:] += weights[event, :]      for each event, several loads in flight
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tvm import te, tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from plait.backends.tvm.emit.expressions import number
from plait.backends.tvm.emit.spike_windows import window_place
from plait.backends.tvm.emit.table import Arguments, Emitter, Packing
from plait.backends.tvm.gpu.first_spikes import by_input
from plait.backends.tvm.gpu.kernel import integer, launch, local_array, named
from plait.backends.tvm.gpu.product import total, unflatten
from plait.backends.tvm.gpu.segments import kernels
from plait.backends.tvm.gpu.spikes import THREADS, add_events, event_lists
from plait.ir import Constant


def spike_conv2d(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor | None:
    """The sums by events; None where weights are no constant of f32, sizes unknown, or it is to be dense.

    Sizes of the image must be numbers; the batch may be a symbol.
    """
    if op.kernel == "dense" or not isinstance(op.w, Constant) or emitter.dtype(op.w.type) != "float32":
        return None
    if not all(isinstance(size, int) for size in op.x.type.shape[1:]):
        return None
    outputs = int(op.w.shaped.shape[0])
    inputs = math.prod(map(int, op.w.shaped.shape[1:]))
    weight = emitter.packed(op.w, (inputs, outputs), Packing("by_input", by_input))
    shape = emitter.shape(op.result.type.shape)
    places = [shape[0], *shape[2:]]
    vector = 4 if outputs % 4 == 0 and outputs >= 4 * THREADS else 1
    tiles = -(-outputs // (THREADS * vector))

    def body(ins: Sequence[Any], outs: Sequence[Any]) -> None:
        spikes, weights = ins
        with launch(total(places) * tiles, THREADS) as (block, thread):
            image, *position = unflatten(named("place", tirx.truncdiv(block, tiles)), places)
            first = named("channel", (tirx.truncmod(block, tiles) * THREADS + thread) * vector)
            sums = local_array("sums", vector, "float32")
            with T.unroll(0, vector) as k:
                T.buffer_store(sums, number(0, "float32"), [k])

            def fires(place: Expr) -> Expr:
                channel, row, column, inside = window_place(op, position, place)
                spike = tirx.Cast("int32", spikes[image, channel, row, column])
                return tirx.if_then_else(inside, spike, integer(0))

            add_events(fires, weights, event_lists(), (thread, first), sums, (inputs, outputs), vector)
            with T.If(first < outputs), T.Then(), T.unroll(0, vector) as k:
                T.buffer_store(outs[0], sums[k], [image, first + k, *position])

    (found,) = kernels(emitter, [body], [args.x, weight], [(shape, "float32")], "events")
    return found


__all__ = ["spike_conv2d"]
