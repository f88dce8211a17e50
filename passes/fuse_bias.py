"""fuse-bias: sums and products with constants become part of the layer in front of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from plait.ir import Constant, TensorType, Value
from plait.ir.ops import core, linalg, nn
from plait.passes.base import register
from plait.passes.constants import ChannelScale, axis_vector, dense_data
from plait.passes.fold_batch_norm import PRODUCERS, Producer, bias_name
from plait.passes.rewriter import Replace, RewritePass, Rewriter, Skip, rule


@register
@dataclass(frozen=True)
class FuseBias(RewritePass):
    """Turn `matmul + constant` and `conv + constant` into one layer with a bias.

    A product of a tensor and a constant matrix becomes nn.linear, with the matrix
    transposed.  Constants that vary along the output channels, or not at all, go
    into the bias (sums) or into weights and bias (products).

    Given:
        @w : f32[8,4]
        @b : f32[4]
        %x : f32[B,8]
        %p = linalg.matmul(%x, @w) : f32[B,4]
        %y = core.add(%p, @b) : f32[B,4]
        return %y
    Result:
        %y = nn.linear(%x, @w.transposed, @b) : f32[B,4]
        return %y
    """

    name: ClassVar[str] = "fuse-bias"


@rule(FuseBias, "matmul(x, transpose(w)) => linear(x, w)")
def transposed_product(op: linalg.Matmul, rw: Rewriter) -> Replace | Skip:
    """A product with a transposed matrix, constant or not.

    Given:
        @w : f32[4,8]
        %x : f32[B,5,8]
        %t = core.transpose(@w) {permutation=[1,0]} : f32[8,4]
        %y = linalg.matmul(%x, %t) : f32[B,5,4]
        return %y
    Result:
        %y = nn.linear(%x, @w) : f32[B,5,4]
        return %y
    """
    inner = op.right.producer
    if not isinstance(inner, core.Transpose) or op.right.shaped.rank != 2:
        return Skip(f"{op.right} is no transposed matrix")
    if inner.permutation != (1, 0):
        return Skip(f"{op.right} keeps the order of the axes")
    if inner.parent is not op.parent and not isinstance(inner.x, Constant):
        return Skip(f"{op.right} is computed outside of the region that reads it")
    made = nn.Linear(
        op.left, inner.x, act=op.act, act_alpha=op.act_alpha, out=op.out, requantize=op.requantize
    )
    return rw.replace(op, with_=made, matched=(inner,))


@rule(FuseBias, "matmul(x, w) => linear(x, w.T)")
def constant_product(op: linalg.Matmul, rw: Rewriter) -> Replace | Skip:
    """A product with a constant matrix, which is transposed once and for all.

    Given:
        @w : f32[8,4]
        %x : f32[B,5,8]
        %y = linalg.matmul(%x, @w) : f32[B,5,4]
        return %y
    Result:
        %y = nn.linear(%x, @w.transposed) : f32[B,5,4]
        return %y
    """
    data = dense_data(op.right)
    if data is None or data.ndim != 2:
        return Skip(f"{op.right} is no dense constant matrix with data")
    if op.right.use_count > 1:
        return Skip(f"{op.right} is read elsewhere too, and would be stored twice")
    weight = rw.constant(f"{op.right.name}.transposed", data.T, op.right.shaped.with_shape(data.T.shape))
    return rw.replace(op, with_=nn.Linear(op.left, weight, act=op.act, act_alpha=op.act_alpha, out=op.out))


def _channels(op: Producer) -> ChannelScale | Skip:
    """The output channels of a layer."""
    kind = op.result.type
    if not isinstance(kind, TensorType) or not kind.dtype.is_float:
        return Skip(f"{op.result} is {kind}, no dense floating-point tensor")
    axis = kind.rank - 1 if isinstance(op, nn.Linear) else 1
    channels = kind.shape[axis]
    if not isinstance(channels, int):
        return Skip(f"{op.result} : {kind} has a symbolic number of channels")
    return ChannelScale(op, channels, axis)


def _layer_and_vector(
    op: core.Add | core.Sub | core.Mul | core.Div, rw: Rewriter
) -> tuple[Producer, ChannelScale, np.ndarray] | Skip:
    """The layer that computes the left operand, and the right operand as one number per channel."""
    producer = rw.sole_producer(op.left, op, PRODUCERS)
    if isinstance(producer, Skip):
        return producer
    if producer.act != "none":
        return Skip(f"{op.left} applies {producer.act} before")
    found = _channels(producer)
    if isinstance(found, Skip):
        return found
    if op.left.type != op.result.type:
        return Skip(f"it broadcasts {op.left.type} to {op.result.type}")
    kind = op.left.shaped
    vector = axis_vector(op.right, found.axis, kind.rank, found.channels, kind.dtype.numpy)
    if vector is None:
        return Skip(f"{op.right} : {op.right.type} is no constant that varies along axis {found.axis} only")
    if producer.b is not None and dense_data(producer.b) is None:
        return Skip(f"the bias {producer.b} is no dense constant with data")
    return producer, found, vector


def _bias(rw: Rewriter, producer: Producer, vector: np.ndarray, given: Value | None) -> Value:
    """A bias constant: `given` itself where its data is the vector already."""
    kind = producer.result.shaped.dtype
    data = vector.astype(kind.numpy)
    held = dense_data(given)
    if given is not None and held is not None and held.shape == data.shape and (held == data).all():
        return given
    if isinstance(given, Constant):
        name = f"{given.name}.folded"
    else:
        name = producer.b.name + ".folded" if producer.b is not None else bias_name(producer.w.name)
    return rw.constant(name, data, TensorType(kind, data.shape))


@rule(FuseBias, "layer(x, w, b) + c => layer(x, w, b + c)")
def add_to_bias(op: core.Add | core.Sub, rw: Rewriter) -> Replace | Skip:
    """A sum, or difference, of a layer and a constant per channel.

    Given:
        @w : f32[4,3,3,3]
        @c : f32[4,1,1]
        %x : f32[B,3,8,8]
        %y = nn.conv2d(%x, @w) {pad=[1,1]} : f32[B,4,8,8]
        %z = core.add(%y, @c) {act="relu"} : f32[B,4,8,8]
        return %z
    Result:
        %z = nn.conv2d(%x, @w, @c.folded) {pad=[1,1], act="relu"} : f32[B,4,8,8]
        return %z
    """
    found = _layer_and_vector(op, rw)
    if isinstance(found, Skip):
        return found
    producer, _, vector = found
    if isinstance(op, core.Sub):
        vector = -vector
    old = dense_data(producer.b)
    total = vector if old is None else vector + old.astype(np.float64)
    bias = _bias(rw, producer, total, op.right if old is None else None)
    return rw.replace(op, with_=producer.evolve(b=bias, act=op.act, act_alpha=op.act_alpha))


@rule(FuseBias, "layer(x, w, b) * c => layer(x, w * c, b * c)")
def multiply_into_weights(op: core.Mul | core.Div, rw: Rewriter) -> Replace | Skip:
    """A product, or quotient, of a layer and a constant per channel.

    Given:
        @w : f32[4,8]
        @b : f32[4]
        %x : f32[B,8]
        %half = core.full() {value=0.5} : f32[]
        %y = nn.linear(%x, @w, @b) : f32[B,4]
        %z = core.mul(%y, %half) : f32[B,4]
        return %z
    Result:
        %z = nn.linear(%x, @w.folded, @b.folded) : f32[B,4]
        return %z
    """
    found = _layer_and_vector(op, rw)
    if isinstance(found, Skip):
        return found
    producer, scale, vector = found
    weight = dense_data(producer.w)
    if weight is None:
        return Skip(f"the weights {producer.w} are no dense constant with data")
    if producer.w.use_count > 1:
        return Skip(f"the weights {producer.w} are read elsewhere too, and would be stored twice")
    if isinstance(op, core.Div):
        if not vector.all():
            return Skip(f"{op.right} holds a zero")
        vector = 1.0 / vector
    changes: dict[str, Value] = {
        "w": rw.constant(f"{producer.w.name}.folded", scale.scaled(weight, vector).astype(weight.dtype))
    }
    bias = dense_data(producer.b)
    if producer.b is not None and bias is not None:
        folded = (bias.astype(np.float64) * vector).astype(bias.dtype)
        changes["b"] = rw.constant(f"{producer.b.name}.folded", folded)
    return rw.replace(op, with_=producer.evolve(**changes, act=op.act, act_alpha=op.act_alpha))
