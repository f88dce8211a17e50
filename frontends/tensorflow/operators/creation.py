"""Constants, fills, ranges and random numbers."""

from __future__ import annotations

import math
from typing import Any

from plait.frontends.tensorflow.call import Call
from plait.frontends.tensorflow.operand import Operand
from plait.frontends.tensorflow.registry import lowers
from plait.ir import Dim, TensorType, Value
from plait.ir import dims as d
from plait.ir import types as t
from plait.ir.ops import core


@lowers("Const")
def constant(call: Call) -> Operand:
    found = call.attributes.get("value")
    if not isinstance(found, Operand):
        raise call.unsupported("a constant that holds no numbers")
    found.name = call.name
    return found


@lowers("ZerosLike", "OnesLike")
def like(call: Call) -> Operand:
    x, _, wrap = call.held(0)
    number = 0 if call.op_type == "ZerosLike" else 1
    return wrap(_full(call, number, x.shaped.dtype, x.shaped.shape))


def _full(call: Call, number: float | int | bool, element: t.DType, shape: Any) -> Value:
    kinds: dict[str, Any] = {"float": float, "bool": bool}
    exact = kinds.get(element.kind, int)(number)
    return call.emit(core.Full(value=exact, out=TensorType(element, tuple(shape))))


@lowers("Fill")
def fill(call: Call) -> Value:
    shape = call.dims(0, "the shape")
    operand = call.operand(1)
    if operand.array is not None:
        return _full(call, operand.array.reshape(()).item(), operand.element, shape)
    x = call.value(1)
    return call.emit(core.Broadcast(x, out=x.shaped.with_shape(tuple(shape))))


@lowers("Range")
def counting(call: Call) -> Operand:
    """start, start + delta, ... below limit; the length has to be arithmetic on dims."""
    start = call.operand(0)
    delta = call.number(2, "the step")
    element = start.element
    if element.is_float or isinstance(delta, float):
        first, last = call.number(0, "the start"), call.number(1, "the limit")
        count: Any = max(0, math.ceil((last - first) / delta))
    else:
        low, high = call.dims(0, "the start")[0], call.dims(1, "the limit")[0]
        span = high - low if delta > 0 else low - high
        count = d.floor_div(span + abs(int(delta)) - 1, abs(int(delta)))
        if isinstance(count, int):
            count = max(count, 0)
    if isinstance(start.numbers.reshape(-1)[0], Dim):  # type: ignore[union-attr]  # it was read above
        counter = call.step(core.Iota(step=delta, out=TensorType(element, (count,))))
        return Operand.of(call.emit(core.Add(counter, call.value(0))))
    first = call.number(0, "the start")
    return Operand.of(call.emit(core.Iota(start=first, step=delta, out=TensorType(element, (count,)))))


@lowers("LinSpace")
def linear_space(call: Call) -> Operand:
    """`num` numbers from start to stop, both included."""
    first, last = float(call.number(0, "the start")), float(call.number(1, "the stop"))
    count = int(call.number(2, "the count"))
    step = (last - first) / (count - 1) if count > 1 else 0.0
    return Operand.of(call.emit(core.Iota(start=first, step=step, out=TensorType(call.element(0), (count,)))))


@lowers("RandomUniform", "RandomStandardNormal")
def random(call: Call) -> Operand:
    """From a seeded generator of the IR: other numbers than TensorFlow draws, of the same distribution."""
    shape = call.dims(0, "the shape")
    element = call.element_attribute("dtype")
    seed = call.integer("seed2") or call.integer("seed")
    distribution: Any = "uniform" if call.op_type == "RandomUniform" else "normal"
    out = TensorType(element, tuple(shape))
    return Operand.of(call.emit(core.Random(distribution=distribution, seed=seed, out=out)))
