"""raise-quantized, first stage: movement, until quantize and dequantize stand beside what computes."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

from plait.ir import Constant, QuantType, Value
from plait.ir.ops import core, linalg, nn, quant
from plait.passes.fold_batch_norm import PRODUCERS
from plait.passes.fuse_bias import add_to_bias
from plait.passes.quantize.raise_base import (
    RaiseQuantized,
    data_of,
    has_one_scale,
    no_ratio,
    one_scale_source,
    rectified,
    same_grid,
    source_of,
    stored_constant,
)
from plait.passes.rewriter import Replace, Rewriter, Skip, rule

#: Ops that pick elements: they give the same elements whatever number each one stands for.
Move = core.Reshape | core.Broadcast | core.Transpose | core.Slice | core.Flip | core.Roll | nn.MaxPool2d


# -- weights ------------------------------------------------------------------------
def transposed(rw: Rewriter, w: Constant, permutation: tuple[int, ...]) -> Constant | Skip:
    """A new constant of stored integers with its axes in another order, scales included."""
    kind = w.type
    assert isinstance(kind, QuantType)
    moved = replace(kind, shape=tuple(kind.shape[axis] for axis in permutation))
    if kind.axis is not None:
        moved = replace(moved, axis=permutation.index(kind.axis))
    if kind.group is not None:
        turned: dict[str, str] = {}
        for name in kind.references:
            array = data_of(rw.graph, name)
            if array is None:
                return Skip(f"@{name} has no data")
            turned[name] = rw.constant(f"{name}.transposed", array.transpose(permutation)).name
        scale = turned[kind.scale] if isinstance(kind.scale, str) else kind.scale
        zero = turned[kind.zero_point] if isinstance(kind.zero_point, str) else kind.zero_point
        moved = replace(moved, scale=scale, zero_point=zero)
    return rw.constant(f"{w.name}.transposed", w.data.transpose(permutation), moved)


@rule(RaiseQuantized, "transpose(dequantize(w)) => dequantize(transposed w) for constant w")
def transposed_weight(op: core.Transpose, rw: Rewriter) -> Replace | Skip:
    """Stored weights that are transposed at run time.

    Given:
        @s : f32[4]
        @w : qi8<@s, axis=1>[8,4]
        %v = quant.dequantize(@w) : f32[8,4]
        %t = core.transpose(%v) {permutation=[1,0]} : f32[4,8]
        return %t
    Result:
        %t = quant.dequantize(@w.transposed) : f32[4,8]
        return %t
    """
    found = source_of(op.x)
    if isinstance(found, Skip):
        return found
    weight = stored_constant(found)
    if weight is None:
        return Skip(f"{found} is no constant with data")
    if weight.use_count > 1:
        return Skip(f"{weight} is read elsewhere too, and would be stored twice")
    constant = transposed(rw, weight, op.permutation)
    if isinstance(constant, Skip):
        return constant
    return rw.replace(op, with_=quant.Dequantize(constant))


@rule(RaiseQuantized, "matmul(x, w) => linear(x, w.T) for stored weights")
def stored_product(op: linalg.Matmul, rw: Rewriter) -> Replace | Skip:
    """A product with a constant matrix of stored integers, which is transposed once and for all.

    Given:
        @w : qi8<0.02>[8,4]
        %x : f32[B,5,8]
        %v = quant.dequantize(@w) : f32[8,4]
        %y = linalg.matmul(%x, %v) : f32[B,5,4]
        return %y
    Result:
        %y.weight = quant.dequantize(@w.transposed) : f32[4,8]
        %y = nn.linear(%x, %y.weight) : f32[B,5,4]
        return %y
    """
    found = source_of(op.right)
    direct = isinstance(found, Skip)
    weight = stored_constant(op.right if isinstance(found, Skip) else found)
    if weight is None or weight.shaped.rank != 2:
        return Skip(f"{op.right} is no constant matrix of stored integers")
    if weight.use_count > 1:
        return Skip(f"{weight} is read elsewhere too, and would be stored twice")
    constant = transposed(rw, weight, (1, 0))
    if isinstance(constant, Skip):
        return constant
    right: Value = constant
    if not direct:
        right = rw.insert(quant.Dequantize(constant), before=op, name=f"{op.name}.weight")
    made = nn.Linear(op.left, right, act=op.act, act_alpha=op.act_alpha, requantize=op.requantize, out=op.out)
    return rw.replace(op, with_=made)


@rule(RaiseQuantized, "layer(x, dequantize(w), b) + c => layer(x, dequantize(w), b + c)")
def bias_of_stored_layer(op: core.Add | core.Sub, rw: Rewriter) -> Replace | Skip:
    """A constant per channel behind a layer with stored weights.

    Given:
        @w : qi8<0.02>[4,8]
        @c : f32[4]
        %x : f32[B,8]
        %v = quant.dequantize(@w) : f32[4,8]
        %y = nn.linear(%x, %v) : f32[B,4]
        %z = core.add(%y, @c) {act="relu"} : f32[B,4]
        return %z
    Result:
        %v = quant.dequantize(@w) : f32[4,8]
        %z = nn.linear(%x, %v, @c) {act="relu"} : f32[B,4]
        return %z
    """
    layer = rw.sole_producer(op.left, op, PRODUCERS)
    if isinstance(layer, Skip):
        return layer
    found = source_of(layer.w)
    return found if isinstance(found, Skip) else add_to_bias(op, rw)


# -- activations --------------------------------------------------------------------
def moving(op: Move, x: Value) -> Move:
    """The same movement of another tensor of the same shape."""
    if isinstance(op, (core.Reshape, core.Broadcast)):
        return op.evolve(x=x, out=x.shaped.with_shape(op.out.shape))
    return op.evolve(x=x)


@rule(RaiseQuantized, "move(dequantize(x)) => dequantize(move(x))")
def move_stored(op: Move, rw: Rewriter) -> Replace | Skip:
    """Movement of stored integers instead of real numbers.

    What is stretched stays real where real numbers are read, as there are more of them behind it.

    Given:
        %x : f32[B,4,8,8]
        %q = quant.quantize(%x) : qi8<0.053, zp=3>[B,4,8,8]
        %r = quant.dequantize(%q) : f32[B,4,8,8]
        %p = nn.max_pool2d(%r) {kernel=[2,2], stride=[2,2]} : f32[B,4,4,4]
        return %p
    Result:
        %q = quant.quantize(%x) : qi8<0.053, zp=3>[B,4,8,8]
        %p.stored = nn.max_pool2d(%q) {kernel=[2,2], stride=[2,2]} : qi8<0.053, zp=3>[B,4,4,4]
        %p = quant.dequantize(%p.stored) : f32[B,4,4,4]
        return %p
    """
    found = one_scale_source(op.x)
    if isinstance(found, Skip):
        return found
    if isinstance(found, Constant):
        return Skip(f"{found} is a constant")
    if isinstance(op, core.Broadcast) and not all(isinstance(u, quant.Quantize) for u in op.result.users):
        return Skip(f"{op.result} is read in floating point")
    stored = rw.insert(moving(op, found), before=op, name=f"{op.name}.stored")
    return rw.replace(op, with_=quant.Dequantize(stored))


@rule(RaiseQuantized, "concat(dequantize(x), dequantize(y)) on one grid => dequantize(concat(x, y))")
def concat_stored(op: core.Concat, rw: Rewriter) -> Replace | Skip:
    """A join of stored integers that have the same scale and zero point.

    Given:
        %x : f32[B,4]
        %y : f32[B,2]
        %p = quant.quantize(%x) : qi8<0.053>[B,4]
        %q = quant.quantize(%y) : qi8<0.053>[B,2]
        %r = quant.dequantize(%p) : f32[B,4]
        %s = quant.dequantize(%q) : f32[B,2]
        %z = core.concat(%r, %s) {axis=1} : f32[B,6]
        return %z
    Result:
        %p = quant.quantize(%x) : qi8<0.053>[B,4]
        %q = quant.quantize(%y) : qi8<0.053>[B,2]
        %z.stored = core.concat(%p, %q) {axis=1} : qi8<0.053>[B,6]
        %z = quant.dequantize(%z.stored) : f32[B,6]
        return %z
    """
    parts: list[Value] = []
    for value in op.xs:
        found = one_scale_source(value)
        if isinstance(found, Skip):
            return found
        parts.append(found)
    for part in parts[1:]:
        if not same_grid(part.type, parts[0].type):
            return Skip(f"{part} : {part.type} is on another grid than {parts[0]} : {parts[0].type}")
    stored = rw.insert(op.evolve(xs=tuple(parts)), before=op, name=f"{op.name}.stored")
    return rw.replace(op, with_=quant.Dequantize(stored))


#: Those of them behind which there is not less to quantise, or which make quantising it cheap.
Earlier = core.Reshape | core.Broadcast | core.Transpose | core.Flip | core.Roll | nn.MaxPool2d
_EARLIER: tuple[type[Earlier], ...] = get_args(Earlier)


@rule(RaiseQuantized, "quantize(move(x)) => move(quantize(x))")
def quantise_before_moving(op: quant.Quantize, rw: Rewriter) -> Replace | Skip:
    """Movement of stored integers, which lets the op in front write them.

    A slice stays in front, as behind it there is less to quantise.

    Given:
        %x : f32[B,4,6]
        %e = core.exp(%x) : f32[B,4,6]
        %t = core.transpose(%e) {permutation=[0,2,1]} : f32[B,6,4]
        %q = quant.quantize(%t) : qi8<0.053>[B,6,4]
        return %q
    Result:
        %e = core.exp(%x) : f32[B,4,6]
        %e.stored = quant.quantize(%e) : qi8<0.053>[B,4,6]
        %q = core.transpose(%e.stored) {permutation=[0,2,1]} : qi8<0.053>[B,6,4]
        return %q
    """
    if not has_one_scale(op.out):
        return Skip(f"{op.out} has several scales")
    move = rw.sole_producer(op.x, op, _EARLIER)
    if isinstance(move, Skip):
        return move
    if move.x.producer is None:
        return Skip(f"{move.x} is no result of an op")
    out = op.out.with_shape(move.x.shaped.shape)
    assert isinstance(out, QuantType)
    stored = rw.insert(quant.Quantize(move.x, out=out), before=move, name=f"{move.x.name}.stored")
    return rw.replace(op, with_=moving(move, stored))


@rule(RaiseQuantized, "quantize(dequantize(x)) => x or requantize(x)")
def another_grid(op: quant.Quantize, rw: Rewriter) -> Replace | Skip:
    """A change of the grid by integers, with a rectifier that stands between.

    Given:
        %x : f32[B,4]
        %q = quant.quantize(%x) : qi8<0.053, zp=3>[B,4]
        %r = quant.dequantize(%q) : f32[B,4]
        %same = quant.quantize(%r) : qi8<0.053, zp=3>[B,4]
        %y = nn.relu(%r) : f32[B,4]
        %z = quant.quantize(%y) : qu8<0.031>[B,4]
        return %same, %z
    Result:
        %q = quant.quantize(%x) : qi8<0.053, zp=3>[B,4]
        %z = quant.requantize(%q) {act="relu", requantize="fixed_point"} : qu8<0.031>[B,4]
        return %q, %z
    """
    value, _, act = rectified(op)
    found = source_of(value)
    if isinstance(found, Skip):
        return found
    if act == "none" and found.type == op.out:
        return rw.replace_value(op.result, found)
    obstacle = no_ratio(found.type, op.out)
    if obstacle is not None:
        return obstacle
    return rw.replace(op, with_=quant.Requantize(found, act=act, requantize="fixed_point", out=op.out))
