"""raise-quantized, second stage: what is quantised again is computed on stored integers throughout."""

from __future__ import annotations

from typing import get_args

from plait.ir import InputError, Op, QuantType, Value
from plait.ir.errors import VerifyError
from plait.ir.fixed_point import sum_scales
from plait.ir.ops import core, nn, quant
from plait.ir.ops.common import pads_of
from plait.passes.quantize.integer_operands import (
    LAYERS,
    integer_bias,
    integer_operands,
    no_factor,
    with_operands,
)
from plait.passes.quantize.raise_base import (
    RaiseQuantized,
    combined,
    has_one_scale,
    no_ratio,
    one_scale_source,
    rectified,
    same_grid,
    source_of,
)
from plait.passes.rewriter import Replace, Rewriter, Skip, rule

Mean = core.Mean | nn.AdaptiveAvgPool2d
Average = nn.AvgPool2d | nn.AdaptiveAvgPool2d
_MEANS: tuple[type[Mean], ...] = get_args(Mean)
_AVERAGES: tuple[type[Average], ...] = get_args(Average)


@rule(RaiseQuantized, "quantize(layer(dequantize(x), dequantize(w), b)) => layer(x, w, b / (s_x s_w))")
def fixed_point_layer(op: quant.Quantize, rw: Rewriter) -> Replace | Skip:
    """A convolution or product whose result alone is quantised, with relu or relu6 on the way.

    The bias becomes whole units of the sum; integers bring the sum to the grid of the result.

    Given:
        @s : f32[4]
        @w : qi8<@s, axis=0>[4,3,3,3]
        @b : f32[4]
        %x : f32[B,3,4,4]
        %q = quant.quantize(%x) : qu8<0.053, zp=120>[B,3,4,4]
        %r = quant.dequantize(%q) : f32[B,3,4,4]
        %v = quant.dequantize(@w) : f32[4,3,3,3]
        %y = nn.conv2d(%r, %v, @b) : f32[B,4,2,2]
        %a = nn.relu(%y) : f32[B,4,2,2]
        %z = quant.quantize(%a) : qi8<2.3, zp=-128>[B,4,2,2]
        return %z
    Result:
        %q = quant.quantize(%x) : qu8<0.053, zp=120>[B,3,4,4]
        %z = nn.conv2d(%q, @w, @b.i32) {act="relu", requantize="fixed_point"} : qi8<2.3, zp=-128>[B,4,2,2]
        return %z
    """
    if not has_one_scale(op.out):
        return Skip(f"{op.out} has several scales")
    value, reader, rectifier = rectified(op)
    layer = rw.sole_producer(value, reader, LAYERS)
    if isinstance(layer, Skip):
        return layer
    act = combined(layer.act, rectifier)
    if isinstance(act, Skip):
        return act
    found = integer_operands(layer, rw.graph)
    if isinstance(found, Skip):
        return found
    obstacle = no_factor(found, op.out, rw.graph)
    if obstacle is not None:
        return obstacle
    bias = integer_bias(layer, found, rw)
    if isinstance(bias, Skip):
        return bias
    made = with_operands(layer, found.x, found.w, bias, act=act, requantize="fixed_point", out=op.out)
    return rw.replace(op, with_=made)


@rule(RaiseQuantized, "quantize(dequantize(x) + dequantize(y)) => quant.add(x, y)")
def fixed_point_sum(op: quant.Quantize, rw: Rewriter) -> Replace | Skip:
    """A sum of two activations, with relu or relu6 on the way.

    Given:
        %x : f32[B,4]
        %y : f32[4]
        %p = quant.quantize(%x) : qi8<0.053, zp=3>[B,4]
        %q = quant.quantize(%y) : qu8<0.019, zp=120>[4]
        %r = quant.dequantize(%p) : f32[B,4]
        %s = quant.dequantize(%q) : f32[4]
        %t = core.add(%r, %s) {act="relu"} : f32[B,4]
        %z = quant.quantize(%t) : qu8<0.047>[B,4]
        return %z
    Result:
        %p = quant.quantize(%x) : qi8<0.053, zp=3>[B,4]
        %q = quant.quantize(%y) : qu8<0.019, zp=120>[4]
        %z = quant.add(%p, %q) {act="relu"} : qu8<0.047>[B,4]
        return %z
    """
    value, reader, rectifier = rectified(op)
    total = rw.sole_producer(value, reader, (core.Add,))
    if isinstance(total, Skip):
        return total
    act = combined(total.act, rectifier)
    if isinstance(act, Skip):
        return act
    left, right = one_scale_source(total.left), one_scale_source(total.right)
    if isinstance(left, Skip):
        return left
    if isinstance(right, Skip):
        return right
    made = quant.Add(left, right, act=act, out=op.out)
    return _checked(op, made, rw)


@rule(RaiseQuantized, "quantize(mean(dequantize(x))) => quant.mean(x)")
def fixed_point_mean(op: quant.Quantize, rw: Rewriter) -> Replace | Skip:
    """A mean over axes, or over whole images.

    Given:
        %x : f32[B,4,5,5]
        %p = quant.quantize(%x) : qi8<0.053, zp=3>[B,4,5,5]
        %r = quant.dequantize(%p) : f32[B,4,5,5]
        %m = nn.adaptive_avg_pool2d(%r) {size=[1,1]} : f32[B,4,1,1]
        %z = quant.quantize(%m) : qi8<0.0071, zp=1>[B,4,1,1]
        return %z
    Result:
        %p = quant.quantize(%x) : qi8<0.053, zp=3>[B,4,5,5]
        %z = quant.mean(%p) {axes=[2,3], keepdims=true} : qi8<0.0071, zp=1>[B,4,1,1]
        return %z
    """
    mean = rw.sole_producer(op.x, op, _MEANS)
    if isinstance(mean, Skip):
        return mean
    x = one_scale_source(mean.x)
    if isinstance(x, Skip):
        return x
    if isinstance(mean, core.Mean):
        return _checked(op, quant.Mean(x, axes=mean.axes, keepdims=mean.keepdims, out=op.out), rw)
    if mean.size == (1, 1):
        return _checked(op, quant.Mean(x, axes=(2, 3), keepdims=True, out=op.out), rw)
    return Skip(f"its windows of {list(mean.size)} are no whole images")


@rule(RaiseQuantized, "quantize(avg_pool(dequantize(x))) => quant.avg_pool(x)")
def fixed_point_pool(op: quant.Quantize, rw: Rewriter) -> Replace | Skip:
    """A pooling whose windows all count equally many elements.

    Given:
        %x : f32[B,4,8,8]
        %p = quant.quantize(%x) : qi8<0.053, zp=3>[B,4,8,8]
        %r = quant.dequantize(%p) : f32[B,4,8,8]
        %m = nn.avg_pool2d(%r) {kernel=[3,3], stride=[2,2], pad=[1,1], count_pad=true} : f32[B,4,4,4]
        %z = quant.quantize(%m) : qi8<0.053, zp=3>[B,4,4,4]
        return %z
    Result:
        %p = quant.quantize(%x) : qi8<0.053, zp=3>[B,4,8,8]
        %z = quant.avg_pool2d(%p) {kernel=[3,3], stride=[2,2], pad=[1,1]} : qi8<0.053, zp=3>[B,4,4,4]
        return %z
    """
    pool = rw.sole_producer(op.x, op, _AVERAGES)
    if isinstance(pool, Skip):
        return pool
    x = one_scale_source(pool.x)
    if isinstance(x, Skip):
        return x
    size = x.shaped.shape[2:]
    if isinstance(pool, nn.AdaptiveAvgPool2d):
        kernel = []
        for extent, count in zip(size, pool.size, strict=True):
            if not isinstance(extent, int) or extent % count:
                return Skip(f"{count} windows do not divide {extent} elements")
            kernel.append(extent // count)
        made = quant.AvgPool2d(x, kernel=(kernel[0], kernel[1]), stride=(kernel[0], kernel[1]), out=op.out)
        return _checked(op, made, rw)
    if any(side for sides in pads_of(pool, pool.pad, 2) for side in sides) and not pool.count_pad:
        return Skip("its pads do not count, so that windows at the border have another divisor")
    if pool.dilation != (1, 1):
        return Skip(f"its windows are dilated by {list(pool.dilation)}")
    made = quant.AvgPool2d(x, kernel=pool.kernel, stride=pool.stride, pad=pool.pad, out=op.out)
    return _checked(op, made, rw)  # rounding up makes another shape, or the same one as rounding down


def _checked(
    op: quant.Quantize, made: quant.Add | quant.Mean | quant.AvgPool2d, rw: Rewriter
) -> Replace | Skip:
    """`made` in the place of a quantize, or why integers cannot compute it."""
    try:
        made.infer()
        if isinstance(made, quant.Add):
            left, right = made.x.type, made.y.type
            assert isinstance(left, QuantType)
            assert isinstance(right, QuantType)
            sum_scales(left, right, op.out)
    except (VerifyError, InputError) as problem:
        return Skip(f"{problem.what}: {problem.why}")
    return rw.replace(op, with_=made)


@rule(RaiseQuantized, "quantize(concat(dequantize(x), y)) => concat(requantize(x), quantize(y))")
def fixed_point_concat(op: quant.Quantize, rw: Rewriter) -> Replace | Skip:
    """A join of tensors on several grids, each brought to that of the result.

    Given:
        %x : f32[B,4]
        %y : f32[B,2]
        %p = quant.quantize(%x) : qi8<0.053>[B,4]
        %q = quant.quantize(%y) : qi8<0.021, zp=5>[B,2]
        %r = quant.dequantize(%p) : f32[B,4]
        %s = quant.dequantize(%q) : f32[B,2]
        %j = core.concat(%r, %s) {axis=1} : f32[B,6]
        %z = quant.quantize(%j) : qi8<0.053>[B,6]
        return %z
    Result:
        %p = quant.quantize(%x) : qi8<0.053>[B,4]
        %q = quant.quantize(%y) : qi8<0.021, zp=5>[B,2]
        %s.stored = quant.requantize(%q) {requantize="fixed_point"} : qi8<0.053>[B,2]
        %z = core.concat(%p, %s.stored) {axis=1} : qi8<0.053>[B,6]
        return %z
    """
    if not has_one_scale(op.out):
        return Skip(f"{op.out} has several scales")
    joined = rw.sole_producer(op.x, op, (core.Concat,))
    if isinstance(joined, Skip):
        return joined
    found = [source_of(value) for value in joined.xs]
    if all(isinstance(part, Skip) for part in found):
        return Skip(f"no operand of {joined.result} is the result of quant.dequantize")
    for part in found:
        obstacle = no_ratio(part.type, op.out) if isinstance(part, Value) else None
        if obstacle is not None:
            return obstacle
    parts = [_on_grid(value, part, op.out, joined, rw) for value, part in zip(joined.xs, found, strict=True)]
    return rw.replace(op, with_=joined.evolve(xs=tuple(parts)))


def _on_grid(value: Value, stored: Value | Skip, out: QuantType, reader: Op, rw: Rewriter) -> Value:
    """An operand of a join as stored integers on the grid of the result."""
    kind = out.with_shape(value.shaped.shape)
    assert isinstance(kind, QuantType)
    if isinstance(stored, Skip):
        return rw.insert(quant.Quantize(value, out=kind), before=reader, name=f"{value.name}.stored")
    if same_grid(stored.type, out):
        return stored
    made = quant.Requantize(stored, requantize="fixed_point", out=kind)
    return rw.insert(made, before=reader, name=f"{value.name}.stored")
