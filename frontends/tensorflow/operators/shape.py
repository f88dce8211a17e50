"""Reshaping, joining and repeating."""

from __future__ import annotations

from plait.frontends.nodes import shapes
from plait.frontends.nodes.operand import object_array
from plait.frontends.tensorflow.call import Call
from plait.frontends.tensorflow.elements import channels_first, channels_last
from plait.frontends.tensorflow.operand import Operand, Phases
from plait.frontends.tensorflow.registry import lowers
from plait.ir import Value
from plait.ir import dims as d
from plait.ir import types as t
from plait.ir.ops import core
from plait.ir.types import Shape


@lowers("Shape")
def shape_of(call: Call) -> Operand:
    return Operand.known(object_array(call.shape(0)), _index_type(call))


@lowers("ShapeN")
def shapes_of(call: Call) -> list[Operand]:
    return [
        Operand.known(object_array(call.shape(index)), _index_type(call)) for index in range(len(call.inputs))
    ]


@lowers("Size")
def size_of(call: Call) -> Operand:
    return Operand.known(object_array([d.product(call.shape(0))]).reshape(()), _index_type(call))


@lowers("Rank")
def rank_of(call: Call) -> Operand:
    return Operand.known(object_array([call.rank(0)]).reshape(()), t.i32)


def _index_type(call: Call) -> t.DType:
    return call.element_attribute("out_type") if "out_type" in call.attributes else t.i32


# -- reshape ------------------------------------------------------------------------
def reshaped(call: Call, shape: Shape) -> Operand:
    """Input 0 under another shape.

    A dense layer on a tensor of more axes reads it as rows, [..., C] to [R, C], and puts
    the axes back afterwards; nothing is moved for that.  Axes of size 1 that come or go
    leave a tensor with channels first as it is held.
    """
    operand = call.operand(0)
    if operand.shape == shape:
        return operand
    if operand.rows is not None:
        source = operand.rows
        if source.shape == shape:
            return source
        operand = source
    rank = operand.rank
    if len(shape) == 2 and rank > 2 and shape[1] == operand.shape[-1]:
        return Operand(call.name, operand.element, shape, rows=operand)
    if operand.only_first and operand.first is not None:
        held = operand.first
        if len(shape) > 2 and (shape[0], shape[-1]) == (operand.shape[0], operand.shape[-1]):
            # spatial axes merge or split; batch and channels stay where they are
            wanted = held.shaped.with_shape((shape[0], shape[-1], *shape[1:-1]))
            return Operand.of_first(call.emit(core.Reshape(held, out=wanted)))
        order = channels_first(len(shape)) if len(shape) > 2 else tuple(range(len(shape)))
        if _spread(held.shaped.shape, channels_last(rank)) and _spread(
            tuple(shape[axis] for axis in order), channels_last(len(shape)) if len(shape) > 2 else order
        ):
            y = call.emit(core.Reshape(held, out=held.shaped.with_shape(tuple(shape[a] for a in order))))
            return Operand.of_first(y) if len(shape) > 2 else Operand.of(y)
    x = call.builder.value(operand, call.name)
    if len(shape) > 2 and rank <= 2 and all(dim == 1 for dim in shape[1:-1]) and operand.numbers is None:
        # [B, C] to [B, 1, 1, C], as in squeeze and excitation: either layout is a reshape
        turned = tuple(shape[axis] for axis in channels_first(len(shape)))
        return Operand.of_first(call.emit(core.Reshape(x, out=x.shaped.with_shape(turned))))
    if x.shaped.shape == shape:
        return Operand.of(x)
    return Operand.of(call.emit(core.Reshape(x, out=x.shaped.with_shape(shape))))


def _spread(shape: Shape, permutation: tuple[int, ...]) -> bool:
    """Whether putting `shape` into the order of the source moves axes of size 1 only."""
    moved = [axis for axis in permutation if shape[axis] != 1]
    return moved == sorted(moved)


@lowers("Reshape")
def reshape(call: Call) -> Operand:
    """-1 takes what is left."""
    return reshaped(call, shapes.completed(call.shape(0), call.dims(1, "the shape")))


@lowers("Squeeze")
def squeeze(call: Call) -> Operand | Phases:
    phases, squeezed = call.item(0), call.integers("squeeze_dims")
    if isinstance(phases, Phases) and phases.dilated is not None and len(squeezed) == 1:
        axis = call.normalise(squeezed[0], len(phases.blocks) + 2)
        if 0 < axis <= len(phases.blocks) and phases.blocks[axis - 1] == 1:
            return phases.without_axis(call, axis, _squeezed)
    return _squeezed(call)


def _squeezed(call: Call) -> Operand:
    shape = call.shape(0)
    axes = call.integers("squeeze_dims")
    gone = {call.normalise(a, len(shape)) for a in axes} or {i for i, dim in enumerate(shape) if dim == 1}
    for axis in gone:
        if isinstance(shape[axis], int) and shape[axis] != 1:
            raise call.error(f"axis {axis} of {list(map(str, shape))} is squeezed", why="its size is not 1")
    return _without_spatial(call, gone) or reshaped(
        call, tuple(dim for i, dim in enumerate(shape) if i not in gone)
    )


def _without_spatial(call: Call, gone: set[int]) -> Operand | None:
    """A tensor with channels first that loses spatial axes keeps its layout; None for other cases."""
    operand = call.operand(0)
    rank = operand.rank
    if not operand.only_first or operand.first is None or 0 in gone or rank - 1 in gone:
        return None
    order = channels_first(rank)
    held = operand.first
    shape = tuple(dim for axis, dim in enumerate(held.shaped.shape) if order[axis] not in gone)
    y = call.emit(core.Reshape(held, out=held.shaped.with_shape(shape)))
    return Operand.of_first(y) if len(shape) > 2 else Operand.of(y)


@lowers("ExpandDims")
def expand_dims(call: Call) -> Operand | Phases:
    phases = call.item(0)
    if isinstance(phases, Phases) and phases.dilated is None:
        axis = call.normalise(int(call.number(1, "the axis")), phases.source.rank + 1)
        if 0 < axis <= len(phases.blocks):
            return phases.with_axis(call, axis, _expanded)
    return _expanded(call)


def _expanded(call: Call) -> Operand:
    operand = call.operand(0)
    rank = operand.rank
    axis = call.normalise(int(call.number(1, "the axis")), rank + 1)
    if operand.only_first and operand.first is not None and 0 < axis < rank:
        shape = list(operand.first.shaped.shape)
        shape.insert(axis + 1, 1)  # behind batch and channels
        return Operand.of_first(
            call.emit(core.Reshape(operand.first, out=operand.first.shaped.with_shape(tuple(shape))))
        )
    shape = list(operand.shape)
    shape.insert(axis, 1)
    return reshaped(call, tuple(shape))


@lowers("Transpose")
def transpose(call: Call) -> Operand:
    """A change of layout that the source writes out costs nothing where both layouts are at hand."""
    operand, order = call.operand(0), call.ints(1, "the permutation")
    rank = operand.rank
    if order == tuple(range(rank)):
        return operand
    if rank > 2 and order == channels_first(rank):
        return Operand.of(call.first(0))
    if rank > 2 and order == channels_last(rank) and operand.value is not None:
        return Operand.of_first(operand.value)
    if operand.only_first and operand.first is not None:
        if rank > 2 and (order[0], order[-1]) == (0, rank - 1):  # spatial axes exchanged, channels stay
            held = (0, 1, *(axis + 1 for axis in order[1:-1]))
            return Operand.of_first(call.builder.transpose(operand.first, held, call.name))
        place = channels_first(rank)
        composed = tuple(place.index(axis) for axis in order)
        return Operand.of(call.builder.transpose(operand.first, composed, call.name))
    return Operand.of(call.builder.transpose(call.value(0), order, call.name))


# -- joining and repeating ------------------------------------------------------------
@lowers("ConcatV2", "Concat")
def concat(call: Call) -> Operand:
    last = call.op_type == "ConcatV2"
    count = len(call.inputs) - 1
    indices = list(range(count)) if last else list(range(1, count + 1))
    rank = call.rank(indices[0])
    axis = call.normalise(int(call.number(count if last else 0, "the axis")), rank)
    kept = [i for i in indices if call.shape(i)[axis] != 0] or indices[:1]
    if len(kept) == 1:
        return call.operand(kept[0])
    if rank > 2 and any(call.operand(i).only_first for i in kept):
        xs = tuple(call.first(i) for i in kept)
        return Operand.of_first(call.emit(core.Concat(xs, axis=channels_first(rank).index(axis))))
    return Operand.of(call.emit(core.Concat(tuple(call.value(i) for i in kept), axis=axis)))


@lowers("Pack")
def pack(call: Call) -> Value:
    """Tensors joined along a new axis."""
    rank = call.rank(0)
    axis = call.normalise(call.integer("axis"), rank + 1)
    parts = []
    for index in range(len(call.inputs)):
        shape = list(call.shape(index))
        shape.insert(axis, 1)
        parts.append(call.reshape(call.value(index), shape))
    return call.emit(core.Concat(tuple(parts), axis=axis))


@lowers("Unpack")
def unpack(call: Call) -> list[Value]:
    x, shape = call.value(0), call.shape(0)
    axis = call.normalise(call.integer("axis"), len(shape))
    rest = (*shape[:axis], *shape[axis + 1 :])
    parts = []
    for index in range(call.integer("num")):
        part = call.step(core.Slice(x, axes=(axis,), starts=(index,), stops=(index + 1,)))
        parts.append(call.reshape(part, rest))
    return parts


@lowers("Tile")
def tile(call: Call) -> Operand:
    """Each axis repeated: [d] -> [1, d] -> [r, d] -> [r * d]."""
    repeats = call.dims(1, "the multiples")
    if all(r == 1 for r in repeats):
        return call.operand(0)
    x, axis_of, wrap = call.held(0)
    by_axis = {axis_of(axis): r for axis, r in enumerate(repeats)}
    return wrap(shapes.tile(call, x, [by_axis[axis] for axis in range(x.shaped.rank)]))


@lowers("BroadcastTo")
def broadcast_to(call: Call) -> Operand:
    shape = tuple(call.dims(1, "the shape"))
    if call.shape(0) == shape:
        return call.operand(0)
    x = call.value(0)
    return Operand.of(call.emit(core.Broadcast(x, out=x.shaped.with_shape(shape))))


@lowers("DepthToSpace")
def depth_to_space(call: Call) -> Operand:
    """Blocks of channels become squares of pixels; the block axes come in front of the channels."""
    return _as_given(call, shapes.depth_to_space(call, _image(call), call.integer("block_size", 2)))


@lowers("SpaceToDepth")
def space_to_depth(call: Call) -> Operand:
    """Squares of pixels become channels; the block axes come in front of the channels."""
    return _as_given(call, shapes.space_to_depth(call, _image(call), call.integer("block_size", 2)))


def _image(call: Call) -> Value:
    return call.value(0) if call.text("data_format", "NHWC") == "NCHW" else call.first(0)


def _as_given(call: Call, y: Value) -> Operand:
    return Operand.of(y) if call.text("data_format", "NHWC") == "NCHW" else Operand.of_first(y)
