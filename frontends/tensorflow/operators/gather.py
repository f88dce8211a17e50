"""Gathering and scattering."""

from __future__ import annotations

from typing import Any, Literal

from plait.frontends.tensorflow.call import Call
from plait.frontends.tensorflow.operand import Handle, Operand
from plait.frontends.tensorflow.registry import lowers
from plait.ir import IntLike, TensorType, Value
from plait.ir import types as t
from plait.ir.ops import core, nn
from plait.ir.types import Shape

Reduce = Literal["none", "add", "mul", "max", "min"]
_SCATTERS: dict[str, Reduce] = {
    "TensorScatterAdd": "add",
    "TensorScatterMax": "max",
    "TensorScatterMin": "min",
    "TensorScatterUpdate": "none",
}
_SEGMENTS: dict[str, tuple[Reduce, str]] = {
    "UnsortedSegmentMax": ("max", "lowest"),
    "UnsortedSegmentMin": ("min", "highest"),
    "UnsortedSegmentProd": ("mul", "one"),
    "UnsortedSegmentSum": ("add", "zero"),
}


def _table(call: Call) -> Operand:
    """Input 0 as a tensor, be it a variable."""
    item = call.item(0)
    if isinstance(item, Handle):
        if item.contents is None:
            raise call.error(f"{item.name} is no variable")
        return item.contents
    return call.operand(0)


@lowers("GatherV2", "Gather", "ResourceGather")
def gather(call: Call) -> Operand:
    """Slices along an axis; with `batch_dims`, within each batch."""
    table = _table(call)
    rank = table.rank
    axis = call.normalise(int(call.number(2, "the axis")), rank) if len(call.inputs) > 2 else 0
    batch = call.integer("batch_dims")
    batch = batch + call.rank(1) if batch < 0 else batch
    picks = call.value(1)
    if batch:
        return Operand.of(_batched(call, call.builder.value(table, call.name), picks, axis, batch))
    if picks.shaped.dtype.name not in ("i32", "i64"):
        picks = call.cast(picks, t.i32)
    x = call.builder.value(table, call.name)
    if axis == 0 and rank == 2 and table.array is not None:
        return Operand.of(call.emit(nn.Embedding(picks, x)))
    return Operand.of(call.emit(core.Take(x, picks, axis=axis)))


def _batched(call: Call, x: Value, picks: Value, axis: int, batch: int) -> Value:
    """y[b, ..., i, ...] = x[b, ..., picks[b, i], ...] by GatherND on the batch axes."""
    wanted = picks.shaped.shape
    if axis != batch:
        raise call.unsupported(f"a gather along axis {axis} with {batch} batch axes")
    indices = call.reshape(call.cast(picks, t.i64), (*wanted, 1))
    columns = [_counter(call, (*wanted, 1), axis) for axis in range(batch)]
    whole = call.step(core.Concat((*columns, indices), axis=len(wanted)))
    return call.emit(core.GatherND(x, whole))


def _counter(call: Call, shape: Shape, axis: int) -> Value:
    """The index along `axis` at every element of `shape`."""
    return call.step(core.Iota(axis=axis, out=TensorType(t.i64, shape)))


@lowers("GatherNd", "ResourceGatherNd")
def gather_nd(call: Call) -> Value:
    table = _table(call)
    depth = call.shape(1)[-1]
    if depth == 0:
        return call.broadcast(call.builder.value(table, call.name), (*call.shape(1)[:-1], *table.shape))
    return call.emit(core.GatherND(call.builder.value(table, call.name), call.value(1)))


@lowers("ScatterNd")
def scatter_nd(call: Call) -> Value:
    """Updates added into zeros."""
    shape = call.dims(2, "the shape")
    updates = call.value(1)
    zeros = call.full(0.0 if updates.shaped.dtype.is_float else 0, updates.shaped.dtype, tuple(shape))
    return call.emit(core.ScatterND(zeros, call.value(0), updates, reduce="add"))


@lowers(*_SCATTERS)
def tensor_scatter(call: Call) -> Value:
    reduce: Any = _SCATTERS[call.op_type]
    return call.emit(core.ScatterND(call.value(0), call.value(1), call.value(2), reduce=reduce))


@lowers("TensorScatterSub")
def tensor_scatter_sub(call: Call) -> Value:
    updates = call.step(core.Neg(call.value(2)))
    return call.emit(core.ScatterND(call.value(0), call.value(1), updates, reduce="add"))


@lowers(*_SEGMENTS)
def segment_reduction(call: Call) -> Value:
    """Rows of `data` combined by the segment that they belong to."""
    reduce, start = _SEGMENTS[call.op_type]
    updates, ids = call.value(0), call.value(1)
    rank = ids.shaped.rank
    count: IntLike = call.dims(2, "the number of segments")[0]
    element = updates.shaped.dtype
    shape = (count, *updates.shaped.shape[rank:])
    if start in ("lowest", "highest"):
        number = _extreme(element, start)
    else:
        number = 1 if start == "one" else 0
    base = call.full(float(number) if element.is_float else int(number), element, shape)
    indices = call.reshape(ids, (*ids.shaped.shape, 1))
    op: Any = core.ScatterND(base, indices, updates, reduce=reduce)
    return call.emit(op)


def _extreme(element: t.DType, which: str) -> float | int:
    """The lowest or the highest finite number of an element type."""
    import ml_dtypes
    import numpy as np

    info = ml_dtypes.finfo(element.numpy) if element.is_float else np.iinfo(element.numpy)
    return (float if element.is_float else int)(info.min if which == "lowest" else info.max)


@lowers("OneHot")
def one_hot(call: Call) -> Operand:
    """`on` where the index along the new axis is that of the input, else `off`."""
    indices = call.value(0)
    depth = call.dims(1, "the depth")[0]
    rank = indices.shaped.rank
    given = call.integer("axis", -1)
    axis = rank if given == -1 else given
    shape = list(indices.shaped.shape)
    shape.insert(axis, 1)
    counted: list[IntLike] = [1] * (rank + 1)
    counted[axis] = depth
    element = indices.shaped.dtype
    counter = call.step(core.Iota(axis=axis, out=TensorType(element, tuple(counted))))
    hit = call.step(core.Eq(call.reshape(indices, shape), counter))
    on, off = call.operand(2), call.operand(3)
    if on.array is not None and off.array is not None and on.array == 1 and off.array == 0:
        return Operand.of(call.emit(core.Cast(hit, out=TensorType(on.element, hit.shaped.shape))))
    return Operand.of(call.emit(core.Where(hit, call.value(2), call.value(3))))


@lowers("InvertPermutation")
def invert_permutation(call: Call) -> Value:
    x = call.value(0)
    size = x.shaped.shape[0]
    counter = call.step(core.Iota(out=TensorType(x.shaped.dtype, (size,))))
    return call.emit(core.ScatterElements(counter, x, counter, axis=0))
