"""Tensors made from numbers and shapes."""

from __future__ import annotations

import numpy as np

from plait.frontends.onnx.call import Call
from plait.frontends.onnx.folding import LIMIT
from plait.frontends.onnx.operand import Operand
from plait.frontends.onnx.registry import lowers
from plait.ir import IntLike, TensorType, Value
from plait.ir import types as t
from plait.ir.ops import core


@lowers("Constant")
def constant(call: Call) -> Operand:
    given = call.attributes
    tensor = given.get("value", given.get("sparse_value"))
    if tensor is not None:
        return Operand(call.outputs[0], tensor.element, tensor.numbers)
    for name, element in (("value_float", t.f32), ("value_int", t.i64)):
        if name in given:
            return call.known(np.asarray(given[name], element.numpy), element)
    for name, element in (("value_floats", t.f32), ("value_ints", t.i64)):
        if name in given:
            return call.known(np.asarray(list(given[name]), element.numpy), element)
    raise call.unsupported(f"a Constant with {', '.join(given) or 'no value'}")


@lowers("ConstantOfShape", since=9)
def constant_of_shape(call: Call) -> Value | Operand:
    """A fill; small integer tensors stay known numbers, since they take part in shape arithmetic."""
    shape = call.dims(0, "the shape")
    tensor = call.attributes.get("value")
    number, element = (0.0, t.f32) if tensor is None else (tensor.numbers.reshape(()).item(), tensor.element)
    sizes = [dim for dim in shape if isinstance(dim, int)]
    small = len(sizes) == len(shape) and int(np.prod(sizes, dtype=np.int64)) <= LIMIT
    if small and (element.is_integer or element == t.boolean):
        return call.known(np.full(sizes, number, element.numpy), element)
    return call.emit(core.Full(value=number, out=TensorType(element, shape)))


@lowers("Range", since=11)
def arange(call: Call) -> Value:
    """start + i * delta for as long as it stays before limit."""
    element = call.element(0)
    out_of = [call.operand(i).array for i in range(3)]
    if all(array is not None for array in out_of):
        start, limit, delta = (call.number(i, "a bound") for i in range(3))
        count: IntLike = max(0, int(np.ceil((limit - start) / delta)))
        return call.emit(core.Iota(start=start, step=delta, out=TensorType(element, (count,))))
    (first,), (last,), (step,) = (call.dims(i, word) for i, word in enumerate(("start", "limit", "delta")))
    if not isinstance(step, int) or step == 0:
        raise call.error(f"the step of the range is {step}", why="it has to be a number other than 0")
    span = last - first if step > 0 else first - last
    count = (span + abs(step) - 1) // abs(step)
    out = TensorType(element, (count,))
    if isinstance(first, int):
        return call.emit(core.Iota(start=first, step=step, out=out))
    counter = call.step(core.Iota(start=0, step=step, out=out))
    return call.emit(core.Add(counter, call.value(0)))


@lowers("OneHot", since=9)
def one_hot(call: Call) -> Value:
    """`on` where the index along a new axis is the given one; negative indices count from the end."""
    indices = call.value(0)
    word = "the depth"
    depth = call.dims(1, word)[0] if call.element(1).is_integer else int(call.number(1, word))
    values = call.value(2)
    if indices.shaped.dtype not in (t.i32, t.i64):
        indices = call.cast(indices, t.i64)
    element, rank = indices.shaped.dtype, indices.shaped.rank
    axis = call.axis(-1, rank + 1)
    size = (
        call.full(depth, element)
        if isinstance(depth, int)
        else call.cast(call.step(core.DimValue(dim=depth)), element)
    )
    outside = call.step(core.Lt(indices, call.full(0, element)))
    wrapped = call.step(core.Where(outside, call.step(core.Add(indices, size)), indices))
    shape = wrapped.shaped.shape
    column = call.reshape(wrapped, (*shape[:axis], 1, *shape[axis:]))
    counter_shape: list[IntLike] = [1] * (rank + 1)
    counter_shape[axis] = depth
    counter = call.step(core.Iota(axis=axis, out=TensorType(element, tuple(counter_shape))))
    hit = call.step(core.Eq(column, counter))
    off = call.reshape(call.step(core.Slice(values, axes=(0,), starts=(0,), stops=(1,))), ())
    on = call.reshape(call.step(core.Slice(values, axes=(0,), starts=(1,), stops=(2,))), ())
    return call.emit(core.Where(hit, on, off))


@lowers("EyeLike", since=9)
def eye_like(call: Call) -> Value:
    rows, columns = call.shape(0)
    element = call.element_of(call.integer("dtype", 0)) if "dtype" in call.attributes else call.element(0)
    offset = call.integer("k", 0)
    row = call.step(core.Iota(axis=0, start=offset, out=TensorType(t.i64, (rows, 1))))
    column = call.step(core.Iota(axis=1, out=TensorType(t.i64, (1, columns))))
    hit = core.Eq(row, column)
    if element == t.boolean:
        return call.emit(hit)
    return call.emit(core.Cast(call.step(hit), out=TensorType(element, (rows, columns))))


@lowers("RandomUniformLike", "RandomNormalLike", "RandomUniform", "RandomNormal")
def random(call: Call) -> Value:
    """Random numbers under a seed: the one of the node, else 0, so that a graph gives one result."""
    like = call.op_type.endswith("Like")
    shape = call.shape(0) if like else tuple(call.integers("shape") or ())
    element = call.element(0) if like else t.f32
    if "dtype" in call.attributes:
        element = call.element_of(call.integer("dtype", 1))
    out, seed = TensorType(element, shape), int(call.attributes.get("seed", 0.0))
    if call.op_type.startswith("RandomUniform"):
        low, high = call.number_attribute("low", 0.0), call.number_attribute("high", 1.0)
        drawn, scale, shift = core.Random(distribution="uniform", seed=seed, out=out), high - low, low
    else:
        scale, shift = call.number_attribute("scale", 1.0), call.number_attribute("mean", 0.0)
        drawn = core.Random(distribution="normal", seed=seed, out=out)
    if (scale, shift) == (1.0, 0.0):
        return call.emit(drawn)
    raw = call.step(drawn)
    scaled = call.step(core.Mul(raw, call.scalar_like(scale, raw)))
    return call.emit(core.Add(scaled, call.scalar_like(shift, raw)))


@lowers("Dropout", since=7)
def dropout(call: Call) -> list[Value | Operand | None]:
    """The input itself and a mask of true; in training elements are kept by chance and scaled up."""
    if call.has(2):
        training = call.operand(2).array
        if training is None:
            raise call.error(
                "whether Dropout trains is computed at run time",
                why="the IR needs it at compile time",
                remedy="export the model in evaluation mode",
            )
        ratio = call.operand(1).array if call.has(1) else np.asarray(0.5)
        if bool(training.reshape(())) and (ratio is None or float(ratio.reshape(())) != 0.0):
            return _dropped(call)
    mask = call.full(True, t.boolean, call.shape(0)) if call.wants(1) else None
    return [call.operand(0), mask]


def _dropped(call: Call) -> list[Value | Operand | None]:
    """x / (1 - ratio) where a random number is at least `ratio`, else 0; and the mask of kept elements."""
    x, seed = call.value(0), call.integer("seed", 0)
    ratio = call.cast(call.reshape(call.value(1), ()), t.f32) if call.has(1) else call.full(0.5, t.f32)
    out = TensorType(t.f32, x.shaped.shape)
    kept = call.step(core.Ge(call.step(core.Random(distribution="uniform", seed=seed, out=out)), ratio))
    share = call.cast(call.step(core.Sub(call.full(1.0, t.f32), ratio)), x.shaped.dtype)
    scaled = call.step(core.Div(x, share))
    return [call.emit(core.Where(kept, scaled, call.scalar_like(0.0, x))), kept]
