"""What follows a layer of neurons that fire once, as maps over times and potentials: pooling, first spikes.

The event-driven kernels of a CPU do both themselves; other kernels leave it to these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx
from tvm.ir import Expr

from plait.backends.tvm.emit.conv import padded
from plait.backends.tvm.emit.expressions import number
from plait.backends.tvm.emit.table import Emitter
from plait.ir import TensorType
from plait.ir import types as t


def window(kernel: Sequence[int], stride: Sequence[int], n: Expr, c: Expr, y: Expr, x: Expr) -> list[Any]:
    """The places [n, c, y, x] in the padded operand that a place of a pooled result sees."""
    return [
        (n, c, y * stride[0] + row, x * stride[1] + column)
        for row in range(kernel[0])
        for column in range(kernel[1])
    ]


def earliest_of_window(
    times: Callable[..., Expr], kernel: Sequence[int], stride: Sequence[int], steps: int
) -> Callable[..., Expr]:
    """The smallest of the few times of a window, unrolled, as a function of the place; at most `steps`."""

    def earliest(*i: Expr) -> Expr:
        found = tirx.const(steps, "uint8")
        for at in window(kernel, stride, *i):
            found = tirx.min(found, times(*at))
        return found

    return earliest


def pooled(op: Any, found: Sequence[te.Tensor], emitter: Emitter) -> list[te.Tensor]:
    """Times, and potentials where they are given, after the pooling of a `spike.first_spike_conv2d`.

    The potential of a window is the largest among those of its earliest spikes.
    """
    neurons = TensorType(t.u8, (op.x.shaped.shape[0], op.w.shaped.shape[0], *op.places(op.x.shaped.shape)))
    silent = tirx.const(op.steps, "uint8")
    pads = [(side, side) for side in op.pool_pad]
    times = padded(emitter, found[0], neurons, pads, silent)
    earliest = earliest_of_window(times, op.pool, op.pool, op.steps)

    shape = emitter.shape(op.results[0].shaped.shape)
    first = te.compute(shape, earliest, name="pooled_times")
    if len(found) == 1:
        return [first]
    levels = padded(emitter, found[1], TensorType(t.f32, neurons.shape), pads, number(0, "float32"))
    lowest = tirx.min_value("float32")

    def largest(*i: Expr) -> Expr:
        level: Expr = lowest
        for at in window(op.pool, op.pool, *i):
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


__all__ = ["earliest_of_sample", "earliest_of_window", "pooled"]
