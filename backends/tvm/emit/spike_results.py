"""What follows a layer of neurons that fire once, as maps over times and potentials: pooling, first spikes.

The event-driven kernels of a CPU do both themselves; other kernels leave it to these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tvm import te, tirx
from tvm.ir import Expr

from plait.backends.tvm.emit.conv import padded
from plait.backends.tvm.emit.expressions import number
from plait.backends.tvm.emit.table import Emitter
from plait.ir import TensorType
from plait.ir import types as t


def pooled(op: Any, found: Sequence[te.Tensor], emitter: Emitter) -> list[te.Tensor]:
    """Times, and potentials where they are given, after the pooling of a `spike.first_spike_conv2d`.

    The potential of a window is the largest among those of its earliest spikes.
    """
    neurons = TensorType(t.u8, (op.x.shaped.shape[0], op.w.shaped.shape[0], *op.places(op.x.shaped.shape)))
    silent = tirx.const(op.steps, "uint8")
    pads = [(side, side) for side in op.pool_pad]
    times = padded(emitter, found[0], neurons, pads, silent)
    columns = op.pool[1]

    def place(i: Sequence[Expr], k: int) -> tuple[Expr, ...]:
        n, c, y, x = i
        return n, c, y * op.pool[0] + k // columns, x * op.pool[1] + k % columns

    def earliest(*i: Expr) -> Expr:
        first = silent
        for k in range(math.prod(op.pool)):
            first = tirx.min(first, times(*place(i, k)))
        return first

    shape = emitter.shape(op.results[0].shaped.shape)
    first = te.compute(shape, earliest, name="pooled_times")
    if len(found) == 1:
        return [first]
    levels = padded(emitter, found[1], TensorType(t.f32, neurons.shape), pads, number(0, "float32"))
    lowest = tirx.min_value("float32")

    def largest(*i: Expr) -> Expr:
        level: Expr = lowest
        for k in range(math.prod(op.pool)):
            at = place(i, k)
            level = tirx.max(level, tirx.Select(times(*at) == earliest(*i), levels(*at), lowest))
        return tirx.Select(earliest(*i) < silent, level, number(0, "float32"))

    return [first, te.compute(shape, largest, name="pooled_potentials")]


def earliest_of_sample(op: Any, found: Sequence[te.Tensor], emitter: Emitter) -> list[te.Tensor]:
    """Times and potentials with all silenced but the spikes at the earliest step of their sample."""
    shape = emitter.shape(op.results[0].shaped.shape)
    axes = [emitter.axis(extent, f"r{k}") for k, extent in enumerate(op.results[0].shaped.shape[1:])]
    times = found[0]
    first = te.compute(
        [shape[0]], lambda n: te.min(tirx.Cast("int32", times(n, *axes)), axis=axes), name="earliest"
    )
    step = emitter.stage("earliest", first)

    def kept(*i: Expr) -> Expr:
        return tirx.Cast("int32", times(*i)) == step(i[0])

    def silence(tensor: te.Tensor, silent: Expr) -> te.Tensor:
        return te.compute(
            shape, lambda *i: tirx.Select(kept(*i), tensor(*i), silent), name=f"first_{tensor.op.name}"
        )

    silent = (tirx.const(op.steps, "uint8"), number(0, "float32"))
    return [silence(tensor, value) for tensor, value in zip(found, silent)]


__all__ = ["earliest_of_sample", "pooled"]
