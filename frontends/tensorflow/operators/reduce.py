"""Reductions and scans."""

from __future__ import annotations

from typing import Any

from plait.frontends.tensorflow.call import Call
from plait.frontends.tensorflow.operand import Operand
from plait.frontends.tensorflow.registry import lowers
from plait.ir import TensorType, Value
from plait.ir import dims as d
from plait.ir import types as t
from plait.ir.ops import core, prob

_REDUCTIONS: dict[str, Any] = {
    "All": core.All,
    "Any": core.Any,
    "Max": core.Max,
    "Mean": core.Mean,
    "Min": core.Min,
    "Prod": core.Prod,
    "Sum": core.Sum,
}


def reducible(call: Call) -> tuple[Value, tuple[int, ...], Any]:
    """Input 0 in the layout it is held in, the axes of it that are reduced, and the maker of the result.

    Without `keep_dims`, what is left of a tensor with channels first has to be in the
    order of the source or have channels first again; else the tensor is put in order.
    """
    operand, keep = call.operand(0), call.flag("keep_dims")
    axes = tuple(sorted(set(call.axes(1, operand.rank))))
    x, axis_of, wrap = call.held(0)
    if wrap is Operand.of or keep:
        return x, tuple(sorted(axis_of(axis) for axis in axes)), wrap
    left = [axis for axis in range(operand.rank) if axis not in axes]
    held = sorted(left, key=axis_of)
    if held != left:
        first_again = len(left) > 2 and held == [left[0], left[-1], *left[1:-1]]
        if not first_again:
            return call.value(0), axes, Operand.of
        return x, tuple(sorted(axis_of(axis) for axis in axes)), Operand.of_first
    return x, tuple(sorted(axis_of(axis) for axis in axes)), Operand.of


@lowers(*_REDUCTIONS)
def reduction(call: Call) -> Operand:
    keep = call.flag("keep_dims")
    if not call.ints(1, "the axes"):
        return call.operand(0)
    x, axes, wrap = reducible(call)
    element = x.shaped.dtype
    if call.op_type == "Mean" and not element.is_float:
        total = call.step(core.Sum(x, axes=axes, keepdims=keep))
        count = call.step(core.DimValue(dim=d.product(x.shaped.shape[axis] for axis in axes)))
        return wrap(call.emit(core.Div(total, call.cast(count, element))))
    return wrap(call.emit(_REDUCTIONS[call.op_type](x, axes=axes, keepdims=keep)))


@lowers("EuclideanNorm")
def euclidean_norm(call: Call) -> Operand:
    x, axes, wrap = reducible(call)
    square = call.step(core.Mul(x, x))
    return wrap(call.emit(core.Sqrt(call.step(core.Sum(square, axes=axes, keepdims=call.flag("keep_dims"))))))


@lowers("ArgMax", "ArgMin")
def arg_reduction(call: Call) -> Operand:
    make: Any = core.ArgMax if call.op_type == "ArgMax" else core.ArgMin
    axis = call.normalise(int(call.number(1, "the axis")), call.rank(0))
    element = call.element_attribute("output_type") if "output_type" in call.attributes else t.i64
    x, axis_of, _ = call.held(0)
    rank = call.rank(0)
    in_order = [a for a in sorted(range(rank), key=axis_of) if a != axis] == [
        a for a in range(rank) if a != axis
    ]
    op = make(x, axis=axis_of(axis)) if in_order else make(call.value(0), axis=axis)
    if element == t.i64:
        return Operand.of(call.emit(op))
    found = call.step(op)
    return Operand.of(call.emit(core.Cast(found, out=TensorType(element, found.shaped.shape))))


@lowers("Cumsum", "Cumprod")
def running_reduction(call: Call) -> Operand:
    """Including each element; `exclusive` moves the result on by one place, behind the neutral number."""
    make: Any = core.CumSum if call.op_type == "Cumsum" else core.CumProd
    x, axis_of, wrap = call.held(0)
    axis = axis_of(call.normalise(int(call.number(1, "the axis")), call.rank(0)))
    reverse, exclusive = call.flag("reverse"), call.flag("exclusive")
    source = call.step(core.Flip(x, axes=(axis,))) if reverse else x
    if exclusive:
        kind = source.shaped
        one = kind.with_shape((*kind.shape[:axis], 1, *kind.shape[axis + 1 :]))
        start = call.full(_neutral(call), kind.dtype, one.shape)
        rest = core.Slice(source, axes=(axis,), starts=(0,), stops=(kind.shape[axis] - 1,))
        source = call.step(core.Concat((start, call.step(rest)), axis=axis))
    total = call.emit(make(source, axis=axis))
    return wrap(call.step(core.Flip(total, axes=(axis,))) if reverse else total)


def _neutral(call: Call) -> float | int:
    number = 0 if call.op_type == "Cumsum" else 1
    return float(number) if call.element(0).is_float else number


@lowers("TopKV2", "TopK")
def top_k(call: Call) -> list[Value]:
    """Along the last axis; indices are i32."""
    k = call.dims(1, "k")[0] if len(call.inputs) > 1 else call.integer("k")
    op = call.builder.add(core.TopK(call.value(0), k=k, axis=-1), call.name)
    values, indices = op.results
    return [values, call.cast(indices, t.i32)]


@lowers("InTopKV2")
def in_top_k(call: Call) -> Operand:
    """Whether fewer than k predictions exceed that of the target class: inputs are [B, C], [B] and k."""
    scores, targets = call.value(0), call.value(1)
    batch, classes = call.shape(0)
    picks = call.reshape(targets, (batch, 1))
    own = call.step(core.GatherElements(scores, picks, axis=1))
    above = call.step(core.Gt(scores, call.broadcast(own, (batch, classes))))
    count = call.step(core.Sum(call.cast(above, t.i64), axes=(1,)))
    k = call.cast(call.value(2), t.i64)
    return Operand.of(call.emit(core.Lt(count, k)))


@lowers("LogSumExp")
def log_sum_exp(call: Call) -> Operand:
    x, axes, wrap = reducible(call)
    return wrap(call.emit(prob.LogSumExp(x, axes=axes, keepdims=call.flag("keep_dims"))))
