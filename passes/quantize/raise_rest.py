"""raise-quantized, last stage: products read in floating point, and layers with stored weights alone."""

from __future__ import annotations

import numpy as np

from plait.ir import TensorType, Value
from plait.ir.ops import core
from plait.ir.types import QuantType, f32
from plait.passes.constants import dense_data
from plait.passes.quantize.integer_operands import (
    Layer,
    along_outputs,
    bias_of,
    integer_bias,
    integer_operands,
    output_axis,
    with_operands,
)
from plait.passes.quantize.raise_base import RaiseQuantized, source_of, stored_constant
from plait.passes.rewriter import Replace, Rewriter, Skip, rule


@rule(RaiseQuantized, "layer(dequantize(x), dequantize(w), b) => s_x s_w * cast(layer(x, w, b / (s_x s_w)))")
def integer_sums(op: Layer, rw: Rewriter) -> Replace | Skip:
    """A convolution or product that is read in floating point, or has an activation that is no bound.

    Its sums are whole numbers in 32 bits; scale and activation are elementwise.

    Given:
        @w : qi8<0.00021>[4,8]
        @b : f32[4]
        %x : f32[B,8]
        %q = quant.quantize(%x) : qi8<0.0053, zp=3>[B,8]
        %r = quant.dequantize(%q) : f32[B,8]
        %v = quant.dequantize(@w) : f32[4,8]
        %y = nn.linear(%r, %v, @b) {act="gelu"} : f32[B,4]
        return %y
    Result:
        %q = quant.quantize(%x) : qi8<0.0053, zp=3>[B,8]
        %y.sum = nn.linear(%q, @w, @b.i32) : i32[B,4]
        %y.real = core.cast(%y.sum) : f32[B,4]
        %y.scale = core.full() {value=1.113e-06} : f32[]
        %y = core.mul(%y.real, %y.scale) {act="gelu"} : f32[B,4]
        return %y
    """
    found = integer_operands(op, rw.graph)
    if isinstance(found, Skip):
        return found
    bias, late = integer_bias(op, found, rw), None
    if isinstance(bias, Skip):
        bias, late = None, bias_of(op)
    kind = TensorType(f32, op.result.shaped.shape)
    made = with_operands(op, found.x, found.w, bias, act="none", out=None)
    total = rw.insert(made, before=op, name=f"{op.name}.sum")
    real = rw.insert(core.Cast(total, out=kind), before=op, name=f"{op.name}.real")
    scale = _scale(op, found.scales, rw)
    if late is None:
        return rw.replace(op, with_=core.Mul(real, scale, act=op.act, act_alpha=op.act_alpha))
    scaled = rw.insert(core.Mul(real, scale), before=op, name=f"{op.name}.scaled")
    added = _along_outputs(op, late, rw)
    return rw.replace(op, with_=core.Add(scaled, added, act=op.act, act_alpha=op.act_alpha))


def _scale(op: Layer, scales: np.ndarray, rw: Rewriter) -> Value:
    """The scale of a sum, which broadcasts against it."""
    name = f"{op.name}.scale"
    if scales.ndim == 0:
        value = float(str(scales.astype(np.float32)))  # the shortest number that is this one in f32
        return rw.insert(core.Full(value=value, out=TensorType(f32, ())), before=op, name=name)
    return rw.constant(name, along_outputs(op, scales.astype(np.float32)))


def _along_outputs(op: Layer, bias: Value, rw: Rewriter) -> Value:
    """A bias in floating point, which broadcasts against the result."""
    data = dense_data(bias)
    if data is not None:
        return rw.constant(f"{bias.name}.apart", along_outputs(op, data))
    shape = (bias.shaped.shape[0], *(1,) * getattr(op, "spatial", 0))
    out = bias.shaped.with_shape(shape)
    return rw.insert(core.Reshape(bias, out=out), before=op, name=f"{bias.name}.apart")


@rule(RaiseQuantized, "layer(x, dequantize(w), b) => layer(x, w, b) for constant w")
def weight_only(op: Layer, rw: Rewriter) -> Replace | Skip:
    """A layer of which only the weights are quantised reads them as they are stored.

    Given:
        @s : f32[4,2]
        @w : qi4<@s, axis=1, group=4>[4,8]
        @b : f32[4]
        %x : f32[B,8]
        %v = quant.dequantize(@w) : f32[4,8]
        %y = nn.linear(%x, %v, @b) {act="gelu"} : f32[B,4]
        return %y
    Result:
        %y = nn.linear(%x, @w, @b) {act="gelu"} : f32[B,4]
        return %y
    """
    x, given = op.operands[:2]
    inner = given.producer
    if isinstance(inner, core.Cast) and inner.result.shaped.dtype == x.shaped.dtype:
        given = inner.x  # of a model in half precision
    found = source_of(given)
    if isinstance(found, Skip):
        return found
    weight = stored_constant(found)
    if weight is None:
        return Skip(f"{found} is no constant with data")
    if not isinstance(x.type, TensorType):
        return Skip(f"{x} is {x.type}, no dense tensor")
    kind = weight.type
    assert isinstance(kind, QuantType)
    whole = kind.group is None and kind.axis in (None, output_axis(op))
    if not whole and not (kind.group is not None and kind.axis == kind.rank - 1):
        return Skip(f"the scales of {weight} : {kind} run neither along the outputs nor in groups of a row")
    return rw.replace(op, with_=with_operands(op, x, weight, bias_of(op)))
