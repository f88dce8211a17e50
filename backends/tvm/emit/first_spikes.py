"""Emissions of neurons that fire at most once, on first-spike times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import te, tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from plait.backends.tvm.emit.conv import padded
from plait.backends.tvm.emit.expressions import number
from plait.backends.tvm.emit.loops import coordinates, item_loops, local, product, serial, when
from plait.backends.tvm.emit.spike_results import earliest_of_sample, earliest_of_window, pooled
from plait.backends.tvm.emit.spike_windows import keep_earliest, window_place
from plait.backends.tvm.emit.table import Arguments, Emitter, Kind, emit
from plait.ir.ops import spike
from plait.ir.ops.common import pads_of


@emit(spike.FirstSpikeConv2d, kind=Kind.ALONE)
def _first_spike_conv2d(op: Any, args: Arguments, emitter: Emitter) -> Any:
    """By events where sizes are known (on a GPU, constant weights too); else neuron by neuron."""
    from plait.backends.tvm.emit.cpu.first_spikes import first_spike_conv2d as on_cpu
    from plait.backends.tvm.gpu.first_spikes import first_spike_conv2d as on_gpu

    found = on_cpu(op, args, emitter) if emitter.is_cpu else None
    if found is None:
        found = (None if emitter.is_cpu else on_gpu(op, args, emitter)) or _neuron_by_neuron(
            op, args, emitter
        )
        found = list(found)[: 2 if op.potential else 1]
        if op.pool != (1, 1):
            found = pooled(op, found, emitter)
            if op.earliest:
                found = [emitter.stage("pooled", tensor) for tensor in found]
        if op.earliest:
            found = earliest_of_sample(op, found, emitter)
    return tuple(found) if op.potential else found[0]


def _neuron_by_neuron(op: Any, args: Arguments, emitter: Emitter) -> list[te.Tensor]:
    """Times and potentials.  Each neuron passes through the steps until it fires."""
    places = op.places(op.x.shaped.shape)
    shape = emitter.shape((op.x.shaped.shape[0], op.w.shaped.shape[0], *places))
    window = emitter.shape(op.w.type.shape[1:])
    steps = op.steps

    def neuron(item: Expr, ins: Sequence[Any], outs: Sequence[Any]) -> None:
        times, weights = ins
        image, channel, *position = coordinates(item, shape)
        total, since = local("float32"), local("int32")
        total[0], since[0] = number(0, "float32"), number(steps, "int32")
        with serial(0, steps) as step, when(since[0] == steps):
            with serial(0, product(window)) as place:
                c, row, column, inside = window_place(op, position, place)
                with when(inside), when(tirx.Cast("int64", times[image, c, row, column]) == step):
                    synapse = (channel, *coordinates(place, window))
                    total[0] = total[0] + weights[synapse]
            with when(total[0] > number(op.v_th, "float32")):
                since[0] = tirx.Cast("int32", step)
        T.buffer_store(outs[0], tirx.Cast("uint8", since[0]), [image, channel, *position])
        silent = since[0] == steps
        reached = tirx.Select(silent, number(0, "float32"), total[0])
        T.buffer_store(outs[1], reached, [image, channel, *position])

    # Loops read buffers: what is a map over another order of axes is stored first.
    times_in = args.x if isinstance(args.x.op, te.PlaceholderOp) else emitter.stage("times", args.x)
    results = [(shape, "uint8"), (shape, "float32")]
    found = item_loops(emitter, product(shape), neuron, [times_in, args.w], results, "first_spikes")
    if not op.inhibit:
        return list(found)
    pixels = [shape[0], *shape[2:]]

    def inhibit(item: Expr, ins: Sequence[Any], outs: Sequence[Any]) -> None:
        image, *position = coordinates(item, pixels)

        def where(channel: Expr) -> Sequence[Expr]:
            return [image, channel, *position]

        with serial(0, shape[1]) as channel:
            for given, copy in zip(ins, outs, strict=True):
                T.buffer_store(copy, given[tuple(where(channel))], where(channel))
        keep_earliest(outs, where, shape[1], steps)

    return list(item_loops(emitter, product(pixels), inhibit, found, results, "inhibited"))


@emit(spike.FirstSpikePool2d, kind=Kind.INJECTIVE)
def _first_spike_pool2d(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    """The smallest of the few times of a window, unrolled."""
    source = padded(emitter, args.x, op.x.type, pads_of(op, op.pad, 2), tirx.const(op.steps, "uint8"))
    earliest = earliest_of_window(source, op.kernel, op.stride, op.steps)
    return te.compute(emitter.shape(op.result.type.shape), earliest, name="first_spike_pool")


__all__: list[str] = []
