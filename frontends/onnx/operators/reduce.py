"""Reductions and scans."""

from __future__ import annotations

from typing import Any

import numpy as np

from plait.frontends.onnx.call import Call
from plait.frontends.onnx.operand import Operand
from plait.frontends.onnx.registry import lowers
from plait.ir import Value
from plait.ir import dims as d
from plait.ir import types as t
from plait.ir.ops import core, prob

_REDUCTIONS: dict[str, Any] = {
    "ReduceSum": core.Sum,
    "ReduceMean": core.Mean,
    "ReduceMax": core.Max,
    "ReduceMin": core.Min,
    "ReduceProd": core.Prod,
    "ReduceLogSumExp": prob.LogSumExp,
}
_COMPOSED = ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceSumSquare")


def reduced_axes(call: Call) -> tuple[int, ...] | None:
    """The axes of a reduction from its attribute or its second input; None where nothing is reduced.

    `axes` became an input in opset 13 for ReduceSum and in 18 for the others.
    """
    rank = call.rank(0)
    axes = call.ints(1, "axes") if call.has(1) else call.integers("axes")
    if not axes:
        return None if call.integer("noop_with_empty_axes", 0) else tuple(range(rank))
    return tuple(sorted(call.normalise(axis, rank) for axis in axes))


@lowers(*_REDUCTIONS)
def reduction(call: Call) -> Value | Operand:
    axes, keepdims = reduced_axes(call), bool(call.integer("keepdims", 1))
    if axes is None:
        return call.operand(0)
    x = call.value(0)
    element = x.shaped.dtype
    make = _REDUCTIONS[call.op_type]
    if element == t.boolean:
        make = {"ReduceMax": core.Any, "ReduceMin": core.All}.get(call.op_type, make)
    if axes and any(call.shape(0)[axis] == 0 for axis in axes) and call.op_type in ("ReduceMax", "ReduceMin"):
        return _of_nothing(call, axes, keepdims)
    if call.op_type == "ReduceMean" and not element.is_float:
        total = call.step(core.Sum(x, axes=axes, keepdims=keepdims))
        count = call.step(core.Cast(_count(call, axes), out=t.TensorType(element, ())))
        return call.emit(core.Div(total, count))
    return call.emit(make(x, axes=axes, keepdims=keepdims))


def _of_nothing(call: Call, axes: tuple[int, ...], keepdims: bool) -> Value:
    """The extreme of no elements: the least of the element type for a maximum, the greatest for a minimum."""
    element, largest = call.element(0), call.op_type == "ReduceMax"
    number: float | int | bool
    if element == t.boolean:
        number = not largest
    elif element.is_float:
        number = float("-inf") if largest else float("inf")
    else:
        limits = np.iinfo(element.numpy)
        number = int(limits.min if largest else limits.max)
    kept = [(i, dim) for i, dim in enumerate(call.shape(0)) if keepdims or i not in axes]
    shape = tuple(1 if i in axes else dim for i, dim in kept)
    return call.emit(core.Full(value=number, out=t.TensorType(element, shape)))


def _count(call: Call, axes: tuple[int, ...]) -> Value:
    """How many elements each mean is over, as an i64 scalar."""
    return call.step(core.DimValue(dim=d.product(call.shape(0)[axis] for axis in axes)))


@lowers(*_COMPOSED)
def composed_reduction(call: Call) -> Value | Operand:
    axes, keepdims = reduced_axes(call), bool(call.integer("keepdims", 1))
    x = call.value(0)
    if call.op_type == "ReduceL1":
        x = call.step(core.Abs(x))
    elif call.op_type in ("ReduceL2", "ReduceSumSquare"):
        x = call.step(core.Mul(x, x))
    if axes is not None:
        summed = core.Sum(x, axes=axes, keepdims=keepdims)
        x = call.emit(summed) if call.op_type in ("ReduceL1", "ReduceSumSquare") else call.step(summed)
    if call.op_type == "ReduceL2":
        return call.emit(core.Sqrt(x))
    return call.emit(core.Log(x)) if call.op_type == "ReduceLogSum" else x


@lowers("ArgMax", "ArgMin")
def arg_reduction(call: Call) -> Value:
    make: Any = core.ArgMax if call.op_type == "ArgMax" else core.ArgMin
    x, keepdims = call.value(0), bool(call.integer("keepdims", 1))
    axis = call.axis(0, call.rank(0))
    if not call.integer("select_last_index", 0):
        return call.emit(make(x, axis=axis, keepdims=keepdims))
    reverse = call.step(core.Flip(x, axes=(axis,)))
    found = call.step(make(reverse, axis=axis, keepdims=keepdims))
    last = call.step(core.DimValue(dim=call.shape(0)[axis] - 1))
    return call.emit(core.Sub(last, found))


@lowers("CumSum", since=11)
@lowers("CumProd", since=26)
def running(call: Call) -> Value:
    """A running sum or product, from the end with `reverse`, before each element with `exclusive`."""
    x = call.value(0)
    axis = call.normalise(int(call.number(1, "axis")), call.rank(0))
    make: Any = core.CumSum if call.op_type == "CumSum" else core.CumProd
    reverse, exclusive = bool(call.integer("reverse", 0)), bool(call.integer("exclusive", 0))
    if not reverse and not exclusive:
        return call.emit(make(x, axis=axis))
    source = call.step(core.Flip(x, axes=(axis,))) if reverse else x
    if exclusive:  # the first element is that of no elements, and the last one is left out
        size = call.shape(0)[axis]
        ends = tuple(int(i == axis) for i in range(call.rank(0)))
        none = 0.0 if make is core.CumSum else 1.0
        moved = call.step(core.Pad(source, before=ends, after=(0,) * len(ends), value=none))
        source = call.step(core.Slice(moved, axes=(axis,), starts=(0,), stops=(size,)))
    total = call.step(make(source, axis=axis))
    return call.emit(core.Flip(total, axes=(axis,))) if reverse else total


@lowers("LpNormalization")
def lp_normalization(call: Call) -> Value:
    """x / ||x||_p along an axis, for p of 1 and 2; 0 where the norm is 0."""
    x, axis = call.value(0), call.axis(-1, call.rank(0))
    if call.integer("p", 2) == 1:
        norm = call.step(core.Sum(call.step(core.Abs(x)), axes=(axis,), keepdims=True))
    else:
        square = call.step(core.Mul(x, x))
        norm = call.step(core.Sqrt(call.step(core.Sum(square, axes=(axis,), keepdims=True))))
    zero = call.scalar_like(0, x)
    empty = call.step(core.Eq(norm, zero))
    return call.emit(core.Where(empty, zero, call.step(core.Div(x, norm))))


@lowers("Hardmax", since=13)
def hardmax(call: Call) -> Value:
    """1 at the first largest element along an axis, 0 elsewhere."""
    x, axis = call.value(0), call.axis(-1, call.rank(0))
    first = call.step(core.ArgMax(x, axis=axis, keepdims=True))
    counter = call.step(core.Iota(axis=axis, out=t.TensorType(t.i64, call.shape(0))))
    hit = call.step(core.Eq(counter, first))
    return call.emit(core.Cast(hit, out=t.TensorType(x.shaped.dtype, call.shape(0))))
