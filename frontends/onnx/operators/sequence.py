"""Reversal of sequences, and writes at positions of a cache."""

from __future__ import annotations

from plait.frontends.onnx.call import Call
from plait.frontends.onnx.registry import lowers
from plait.ir import TensorType, Value
from plait.ir import types as t
from plait.ir.ops import core


@lowers("ReverseSequence", since=10)
def reverse_sequence(call: Call) -> Value:
    """The first `sequence_lens[b]` elements of each sequence backward; the rest stays in place."""
    x, shape = call.value(0), call.shape(0)
    rank = len(shape)
    time, batch = call.axis(0, rank, "time_axis"), call.axis(1, rank, "batch_axis")
    lengths = call.reshape(
        call.cast(call.value(1), t.i64), [shape[batch] if i == batch else 1 for i in range(rank)]
    )
    counter_shape = tuple(shape[time] if i == time else 1 for i in range(rank))
    place = call.step(core.Iota(axis=time, out=TensorType(t.i64, counter_shape)))
    last = call.step(core.Sub(lengths, call.full(1, t.i64)))
    backward = call.step(core.Sub(last, place))
    inside = call.step(core.Lt(place, lengths))
    picks = call.broadcast(call.step(core.Where(inside, backward, place)), shape)
    return call.emit(core.GatherElements(x, picks, axis=time))


@lowers("TensorScatter", since=24)
def tensor_scatter(call: Call) -> Value:
    """A copy of a cache with an update written from position `write_indices[b]` of each batch on."""
    cache, update = call.value(0), call.value(1)
    shape, rank = call.shape(1), call.rank(0)
    axis = call.axis(-2, rank)
    counter_shape = tuple(shape[axis] if i == axis else 1 for i in range(rank))
    place = call.step(core.Iota(axis=axis, out=TensorType(t.i64, counter_shape)))
    if call.has(2):
        start = call.cast(call.value(2), t.i64)
        place = call.step(core.Add(place, call.reshape(start, (shape[0], *(1,) * (rank - 1)))))
    if call.text("mode", "linear") == "circular":
        size = call.step(core.DimValue(dim=call.shape(0)[axis]))
        place = call.step(core.Remainder(place, size))
    return call.emit(core.ScatterElements(cache, call.broadcast(place, shape), update, axis=axis))
