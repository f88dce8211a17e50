"""Reshaping, joining and repeating."""

from __future__ import annotations

from plait.frontends.nodes import decide, shapes
from plait.frontends.nodes.operand import object_array
from plait.frontends.onnx.call import Call
from plait.frontends.onnx.operand import Operand
from plait.frontends.onnx.registry import lowers
from plait.ir import Value
from plait.ir import dims as d
from plait.ir import types as t
from plait.ir.ops import core
from plait.ir.types import Shape


def reshaped(call: Call, shape: Shape) -> Value | Operand:
    """Input 0 under another shape, as the result of the node."""
    if call.shape(0) == shape:
        return call.operand(0)
    x = call.value(0)
    return call.emit(core.Reshape(x, out=x.shaped.with_shape(shape)))


@lowers("Shape")
def shape_of(call: Call) -> Operand:
    """The dims as known numbers; from opset 15 a part of them, by `start` and `end`."""
    part = call.shape(0)[call.integer("start", 0) : call.attributes.get("end")]
    return call.known(object_array(part), t.i64)


@lowers("Size")
def size_of(call: Call) -> Operand:
    return call.known(object_array([d.product(call.shape(0))]).reshape(()), t.i64)


@lowers("Identity")
def identity(call: Call) -> Operand:
    return call.operand(0)


@lowers("Reshape", since=5)
def reshape(call: Call) -> Value | Operand:
    """0 keeps the dim of the input (unless allowzero), -1 takes what is left."""
    source, wanted = call.shape(0), list(call.dims(1, "the shape"))
    if not call.integer("allowzero", 0):
        for axis, dim in enumerate(wanted):
            if dim == 0:
                if axis >= len(source):
                    raise call.error(f"axis {axis} of the new shape copies a dim that the input lacks")
                wanted[axis] = source[axis]
    return reshaped(call, shapes.completed(source, wanted))


@lowers("Flatten")
def flatten(call: Call) -> Value | Operand:
    shape = call.shape(0)
    axis = call.integer("axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    return reshaped(call, (d.product(shape[:axis]), d.product(shape[axis:])))


def _axes(call: Call) -> tuple[int, ...] | None:
    """`axes`, an input since opset 13 and an attribute before."""
    return call.ints(1, "axes") if call.has(1) else call.integers("axes")


@lowers("Squeeze")
def squeeze(call: Call) -> Value | Operand:
    shape, axes = call.shape(0), _axes(call)
    if axes is None:
        gone = {i for i, dim in enumerate(shape) if dim == 1}
    else:
        gone = {call.normalise(axis, len(shape)) for axis in axes}
    for axis in gone:
        if decide.equal(shape[axis], 1, call.ranges) is False:
            raise call.error(f"axis {axis} of {list(map(str, shape))} is squeezed", why="its size is not 1")
    return reshaped(call, tuple(dim for i, dim in enumerate(shape) if i not in gone))


@lowers("Unsqueeze")
def unsqueeze(call: Call) -> Value | Operand:
    axes = _axes(call) or ()
    rank = call.rank(0) + len(axes)
    new = {call.normalise(axis, rank) for axis in axes}
    rest = iter(call.shape(0))
    return reshaped(call, tuple(1 if i in new else next(rest) for i in range(rank)))


@lowers("Transpose")
def transpose(call: Call) -> Value | Operand:
    rank = call.rank(0)
    permutation = call.integers("perm") or tuple(reversed(range(rank)))
    if permutation == tuple(range(rank)):
        return call.operand(0)
    return call.emit(core.Transpose(call.value(0), permutation=permutation))


@lowers("Concat", since=4)
def concat(call: Call) -> Value | Operand:
    axis = call.axis(0, call.rank(0))
    kept = [i for i in range(len(call.inputs)) if call.shape(i)[axis] != 0] or [0]
    if len(kept) == 1:
        return call.operand(kept[0])
    return call.emit(core.Concat(tuple(call.value(i) for i in kept), axis=axis))


@lowers("Expand", since=8)
def expand(call: Call) -> Value | Operand:
    """Stretched to the common shape of input and argument: a 1 in the argument keeps the input's dim."""
    source, wanted = call.shape(0), call.dims(1, "the shape")
    rank = max(len(source), len(wanted))
    left = (1,) * (rank - len(source)) + source
    right = (1,) * (rank - len(wanted)) + wanted
    shape = tuple(a if b == 1 else b for a, b in zip(left, right, strict=True))
    if shape == source:
        return call.operand(0)
    x = call.value(0)
    return call.emit(core.Broadcast(x, out=x.shaped.with_shape(shape)))


@lowers("Tile", since=6)
def tile(call: Call) -> Value | Operand:
    repeats = call.dims(1, "the repeats")
    if all(r == 1 for r in repeats):
        return call.operand(0)
    return shapes.tile(call, call.value(0), repeats)


@lowers("DepthToSpace")
def depth_to_space(call: Call) -> Value:
    """Blocks of channels become squares of pixels; mode DCR puts the block axes in front, CRD behind."""
    behind = call.text("mode", "DCR") != "DCR"
    return shapes.depth_to_space(call, call.value(0), call.integer("blocksize", 1), behind=behind)


@lowers("SpaceToDepth")
def space_to_depth(call: Call) -> Value:
    """Squares of pixels become channels; mode DCR puts the block axes in front, CRD behind."""
    behind = call.text("mode", "DCR") == "CRD"
    return shapes.space_to_depth(call, call.value(0), call.integer("blocksize", 1), behind=behind)


@lowers("Trilu", since=14)
def triangle(call: Call) -> Value:
    diagonal = int(call.number(1, "k")) if call.has(1) else 0
    return call.emit(core.Triangle(call.value(0), upper=bool(call.integer("upper", 1)), diagonal=diagonal))
