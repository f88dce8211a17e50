"""Gathering, scattering and sorting."""

from __future__ import annotations

from typing import Any, Literal, cast

from plait.frontends.onnx.call import Call
from plait.frontends.onnx.registry import lowers
from plait.ir import TensorType, Value
from plait.ir import types as t
from plait.ir.ops import core

Reduction = Literal["none", "add", "mul", "max", "min"]


def indices_of(call: Call, index: int) -> Value:
    """An input of indices as i32 or i64."""
    value = call.value(index)
    return value if value.shaped.dtype in (t.i32, t.i64) else call.cast(value, t.i64)


@lowers("Gather")
def gather(call: Call) -> Value:
    """One known position is a slice, anything else a take."""
    x, shape = call.value(0), call.shape(0)
    axis = call.axis(0, len(shape))
    known = call.operand(1).array
    if known is not None and known.ndim == 0:
        position = int(known)
        start = shape[axis] + position if position < 0 else position
        picked = call.step(core.Slice(x, axes=(axis,), starts=(start,), stops=(start + 1,)))
        return call.emit(core.Reshape(picked, out=x.shaped.with_shape((*shape[:axis], *shape[axis + 1 :]))))
    return call.emit(core.Take(x, indices_of(call, 1), axis=axis))


@lowers("GatherElements", since=11)
def gather_elements(call: Call) -> Value:
    axis = call.axis(0, call.rank(0))
    return call.emit(core.GatherElements(call.value(0), indices_of(call, 1), axis=axis))


@lowers("GatherND", since=11)
def gather_nd(call: Call) -> Value:
    """Leading batch dims become counters in front of the indices."""
    x, indices, batch = call.value(0), indices_of(call, 1), call.integer("batch_dims", 0)
    if not batch:
        return call.emit(core.GatherND(x, indices))
    shape = indices.shaped.shape
    out = TensorType(indices.shaped.dtype, (*shape[:-1], 1))
    counters = [call.step(core.Iota(axis=axis, out=out)) for axis in range(batch)]
    whole = call.step(core.Concat((*counters, indices), axis=len(shape) - 1))
    return call.emit(core.GatherND(x, whole))


def _reduction(call: Call) -> Reduction:
    return cast(Reduction, call.text("reduction", "none"))


@lowers("ScatterElements", since=11)
@lowers("Scatter", since=9)
def scatter_elements(call: Call) -> Value:
    axis = call.axis(0, call.rank(0))
    return call.emit(
        core.ScatterElements(
            call.value(0), indices_of(call, 1), call.value(2), axis=axis, reduce=_reduction(call)
        )
    )


@lowers("ScatterND", since=11)
def scatter_nd(call: Call) -> Value:
    return call.emit(
        core.ScatterND(call.value(0), indices_of(call, 1), call.value(2), reduce=_reduction(call))
    )


@lowers("TopK")
def top_k(call: Call) -> list[Value | None]:
    """k is an attribute to opset 9 and an input from 10 on."""
    k: Any = call.dims(1, "k")[0] if call.has(1) else call.integer("k", 1)
    axis, largest = call.axis(-1, call.rank(0)), bool(call.integer("largest", 1))
    op = call.builder.add(core.TopK(call.value(0), k=k, axis=axis, largest=largest), call.name)
    return list(op.results)
