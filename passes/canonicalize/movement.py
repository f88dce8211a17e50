"""Canonical movement of elements: shapes, axes, slices, joins and pads."""

from __future__ import annotations

from plait.ir import TensorType, Value
from plait.ir.ops import core, nn
from plait.passes.canonicalize.definition import Canonicalize
from plait.passes.rewriter import Replace, Rewriter, Skip, rule


# -- reshape -----------------------------------------------------------------------
@rule(Canonicalize, "reshape(x) to its own shape => x")
def idle_reshape(op: core.Reshape, rw: Rewriter) -> Replace | Skip:
    """A reshape that keeps the shape.

    Given:
        %x : f32[B,4]
        %y = core.reshape(%x) : f32[B,4]
        return %y
    Result:
        return %x
    """
    if op.x.type != op.out:
        return Skip(f"it changes {op.x.type} to {op.out}")
    return rw.replace_value(op.result, op.x)


@rule(Canonicalize, "reshape(reshape(x)) => reshape(x)")
def double_reshape(op: core.Reshape, rw: Rewriter) -> Replace | Skip:
    """Two reshapes.

    Given:
        %x : f32[B,4,6]
        %y = core.reshape(%x) : f32[B,24]
        %z = core.reshape(%y) : f32[B,6,4]
        return %z
    Result:
        %z = core.reshape(%x) : f32[B,6,4]
        return %z
    """
    inner = op.x.producer
    if not isinstance(inner, core.Reshape):
        return Skip(f"{op.x} is no core.reshape")
    return rw.replace(op, with_=core.Reshape(inner.x, out=op.out), matched=(inner,))


# -- transpose ---------------------------------------------------------------------
@rule(Canonicalize, "transpose(x) that keeps the order => x")
def idle_transpose(op: core.Transpose, rw: Rewriter) -> Replace | Skip:
    """A transpose that moves no axis.

    Given:
        %x : f32[B,4]
        %y = core.transpose(%x) {permutation=[0,1]} : f32[B,4]
        return %y
    Result:
        return %x
    """
    if op.permutation != tuple(range(len(op.permutation))):
        return Skip(f"it orders the axes {list(op.permutation)}")
    return rw.replace_value(op.result, op.x)


@rule(Canonicalize, "transpose(transpose(x)) => transpose(x)")
def double_transpose(op: core.Transpose, rw: Rewriter) -> Replace | Skip:
    """Two transposes.

    Given:
        %x : f32[B,4,6]
        %y = core.transpose(%x) {permutation=[1,2,0]} : f32[4,6,B]
        %z = core.transpose(%y) {permutation=[1,0,2]} : f32[6,4,B]
        return %z
    Result:
        %z = core.transpose(%x) {permutation=[2,1,0]} : f32[6,4,B]
        return %z
    """
    inner = op.x.producer
    if not isinstance(inner, core.Transpose):
        return Skip(f"{op.x} is no core.transpose")
    order = tuple(inner.permutation[axis] for axis in op.permutation)
    return rw.replace(op, with_=core.Transpose(inner.x, permutation=order), matched=(inner,))


# -- broadcast ---------------------------------------------------------------------
@rule(Canonicalize, "broadcast(x) to its own shape => x")
def idle_broadcast(op: core.Broadcast, rw: Rewriter) -> Replace | Skip:
    """A broadcast that stretches nothing.

    Given:
        %x : f32[B,4]
        %y = core.broadcast(%x) : f32[B,4]
        return %y
    Result:
        return %x
    """
    if op.x.type != op.out:
        return Skip(f"it changes {op.x.type} to {op.out}")
    return rw.replace_value(op.result, op.x)


@rule(Canonicalize, "broadcast(broadcast(x)) => broadcast(x)")
def double_broadcast(op: core.Broadcast, rw: Rewriter) -> Replace | Skip:
    """Two broadcasts.

    Given:
        %x : f32[4]
        %y = core.broadcast(%x) : f32[3,4]
        %z = core.broadcast(%y) : f32[2,3,4]
        return %z
    Result:
        %z = core.broadcast(%x) : f32[2,3,4]
        return %z
    """
    inner = op.x.producer
    if not isinstance(inner, core.Broadcast):
        return Skip(f"{op.x} is no core.broadcast")
    return rw.replace(op, with_=core.Broadcast(inner.x, out=op.out), matched=(inner,))


@rule(Canonicalize, "moved full => full")
def moved_full(
    op: core.Reshape | core.Broadcast | core.Transpose | core.Slice | core.Flip | core.Roll, rw: Rewriter
) -> Replace | Skip:
    """A fill whose elements are moved is a fill.

    Given:
        %x = core.full() {value=2.0} : f32[4]
        %y = core.broadcast(%x) : f32[3,4]
        %z = core.transpose(%y) {permutation=[1,0]} : f32[4,3]
        return %z
    Result:
        %z = core.full() {value=2.0} : f32[4,3]
        return %z
    """
    inner, kind = op.x.producer, op.result.type
    if not isinstance(inner, core.Full) or not isinstance(kind, TensorType):
        return Skip(f"{op.x} is no core.full")
    return rw.replace(op, with_=core.Full(value=inner.value, out=kind))


# -- slices, joins, pads -----------------------------------------------------------
@rule(Canonicalize, "slice of everything => x")
def idle_slice(op: core.Slice, rw: Rewriter) -> Replace | Skip:
    """A slice that takes all.

    Given:
        %x : f32[B,4]
        %y = core.slice(%x) {axes=[0,1], starts=[0,0], stops=[B,4]} : f32[B,4]
        return %y
    Result:
        return %x
    """
    shape = op.x.shaped.shape
    steps = op.steps or (1,) * len(op.axes)
    for axis, start, stop, step in zip(op.axes, op.starts, op.stops, steps, strict=True):
        if start != 0 or stop != shape[axis] or step != 1:
            return Skip(f"it takes {start}..{stop} by {step} of {shape[axis]} along axis {axis}")
    return rw.replace_value(op.result, op.x)


@rule(Canonicalize, "concat(x) => x")
def single_concat(op: core.Concat, rw: Rewriter) -> Replace | Skip:
    """A join of one tensor.

    Given:
        %x : f32[B,4]
        %y = core.concat(%x) {axis=1} : f32[B,4]
        return %y
    Result:
        return %x
    """
    if len(op.xs) != 1:
        return Skip(f"it joins {len(op.xs)} tensors")
    return rw.replace_value(op.result, op.xs[0])


@rule(Canonicalize, "concat(concat(x, y), z) => concat(x, y, z)")
def nested_concat(op: core.Concat, rw: Rewriter) -> Replace | Skip:
    """A join of joins along one axis, where nothing else reads the inner one.

    Given:
        %x : f32[B,1]
        %y : f32[B,2]
        %z : f32[B,3]
        %a = core.concat(%x, %y) {axis=1} : f32[B,3]
        %b = core.concat(%a, %z) {axis=-1} : f32[B,6]
        return %b
    Result:
        %b = core.concat(%x, %y, %z) {axis=-1} : f32[B,6]
        return %b
    """
    rank = op.result.shaped.rank
    joined: list[Value] = []
    inner_ops = []
    for value in op.xs:
        inner = value.producer
        if isinstance(inner, core.Concat) and value.use_count == 1 and inner.axis % rank == op.axis % rank:
            joined += inner.xs
            inner_ops.append(inner)
        else:
            joined.append(value)
    if not inner_ops:
        return Skip("no operand is a core.concat along the same axis that is read only here")
    return rw.replace(op, with_=op.evolve(xs=tuple(joined)), matched=inner_ops)


@rule(Canonicalize, "pad(x) by nothing => x")
def idle_pad(op: core.Pad, rw: Rewriter) -> Replace | Skip:
    """A pad that adds nothing.

    Given:
        %x : f32[B,4]
        %y = core.pad(%x) {before=[0,0], after=[0,0]} : f32[B,4]
        return %y
    Result:
        return %x
    """
    if any((*op.before, *op.after)):
        return Skip(f"it adds {list(op.before)} in front and {list(op.after)} behind")
    return rw.replace_value(op.result, op.x)


@rule(Canonicalize, "flip(x) along no axis => x; roll(x) by nothing => x")
def idle_order(op: core.Flip | core.Roll, rw: Rewriter) -> Replace | Skip:
    """A change of order that changes nothing.

    Given:
        %x : f32[B,4]
        %y = core.flip(%x) {axes=[]} : f32[B,4]
        %z = core.roll(%y) {shifts=[0], axes=[1]} : f32[B,4]
        return %z
    Result:
        return %x
    """
    if any(op.shifts) if isinstance(op, core.Roll) else op.axes:
        return Skip(f"it moves elements along axes {list(op.axes)}")
    return rw.replace_value(op.result, op.x)


@rule(Canonicalize, "pool(x) with a window of one => x")
def idle_pool(op: nn.MaxPool2d | nn.AvgPool2d, rw: Rewriter) -> Replace | Skip:
    """A pooling of single elements.

    Given:
        %x : f32[B,4,8,8]
        %y = nn.max_pool2d(%x) {kernel=[1,1]} : f32[B,4,8,8]
        return %y
    Result:
        return %x
    """
    if op.kernel != (1, 1) or op.stride != (1, 1) or any(op.pad):
        return Skip(f"its window is {list(op.kernel)}, its stride {list(op.stride)}, its pad {list(op.pad)}")
    return rw.replace_value(op.result, op.x)
