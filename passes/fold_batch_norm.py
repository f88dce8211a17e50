"""fold-batch-norm: batch normalisation becomes part of the weights in front of it.

With stored statistics, batch_norm(y) = y * factor + shift per channel, where

    factor = scale / sqrt(variance + epsilon),    shift = bias - mean * factor,

so that for y = conv(x, w) + b the same is conv(x, w * factor) + (b * factor + shift).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, get_args

import numpy as np

from plait.ir import TensorType
from plait.ir.ops import core, nn
from plait.passes.base import register
from plait.passes.constants import ChannelScale, dense_data
from plait.passes.rewriter import Replace, RewritePass, Rewriter, Skip, rule

Producer = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.Linear
PRODUCERS: tuple[type[Producer], ...] = get_args(Producer)


@register
@dataclass(frozen=True)
class FoldBatchNorm(RewritePass):
    """Fold batch normalisation into weights and bias, or else into one product and one sum.

    Arithmetic is done in 64 bits and rounded once.  The old constants stay until
    dead-code removes them.

    Options:
        standalone: also rewrite a batch_norm that no convolution or dense layer feeds.

    Given:
        @w : f32[4,3,3,3]
        @mean : f32[4]
        @variance : f32[4]
        %x : f32[B,3,8,8]
        %c = nn.conv2d(%x, @w) {pad=[1,1]} : f32[B,4,8,8]
        %y = nn.batch_norm(%c, @mean, @variance) : f32[B,4,8,8]
        return %y
    Result:
        %y = nn.conv2d(%x, @w.folded, @w.bias.folded) {pad=[1,1]} : f32[B,4,8,8]
        return %y
    """

    name: ClassVar[str] = "fold-batch-norm"
    standalone: bool = True


def _factor_and_shift(op: nn.BatchNorm) -> tuple[np.ndarray, np.ndarray] | Skip:
    """The product and the sum per channel that a batch_norm is, in float64."""
    arrays = {}
    for name in ("mean", "variance", "scale", "bias"):
        value = getattr(op, name)
        if value is None:
            continue
        data = dense_data(value)
        if data is None:
            return Skip(f"its {name} {value} is no dense constant with data")
        arrays[name] = data.astype(np.float64)
    factor = arrays.get("scale", np.float64(1.0)) / np.sqrt(arrays["variance"] + op.epsilon)
    return factor, arrays.get("bias", np.float64(0.0)) - arrays["mean"] * factor


@rule(FoldBatchNorm, "batch_norm(conv(x, w, b)) => conv(x, w * factor, b * factor + shift)")
def fold_into_weights(op: nn.BatchNorm, rw: Rewriter) -> Replace | Skip:
    """Into the weights of the layer in front, where nothing else reads its result.

    Given:
        @w : f32[4,2,3,3]
        @b : f32[4]
        @mean : f32[4]
        @variance : f32[4]
        @scale : f32[4]
        @bias : f32[4]
        %x : f32[B,4,8,8]
        %c = nn.conv2d(%x, @w, @b) {groups=2} : f32[B,4,6,6]
        %y = nn.batch_norm(%c, @mean, @variance, @scale, @bias) : f32[B,4,6,6]
        return %y
    Result:
        %y = nn.conv2d(%x, @w.folded, @b.folded) {groups=2} : f32[B,4,6,6]
        return %y
    """
    producer = rw.sole_producer(op.x, op, PRODUCERS)
    if isinstance(producer, Skip):
        return producer
    if producer.act != "none":
        return Skip(f"{op.x} applies {producer.act} before the normalisation")
    kind = op.x.type
    if not isinstance(kind, TensorType) or (isinstance(producer, nn.Linear) and kind.rank != 2):
        return Skip(f"axis 1 of {op.x} : {kind} does not hold the outputs of {producer.opname}")
    weight, bias = dense_data(producer.w), dense_data(producer.b)
    if weight is None or (producer.b is not None and bias is None):
        return Skip(f"the weights or bias of {producer.opname} are no dense constants with data")
    found = _factor_and_shift(op)
    if isinstance(found, Skip):
        return found
    factor, shift = found
    scale = ChannelScale(producer, len(factor), 1)
    old_bias = np.float64(0.0) if bias is None else bias.astype(np.float64)
    new_weight = scale.scaled(weight, factor).astype(weight.dtype)
    new_bias = (old_bias * factor + shift).astype(weight.dtype)
    name = producer.b.name if producer.b is not None else bias_name(producer.w.name)
    return rw.replace(
        op,
        with_=producer.evolve(
            w=rw.constant(f"{producer.w.name}.folded", new_weight),
            b=rw.constant(f"{name}.folded", new_bias),
        ),
    )


def bias_name(weight: str) -> str:
    """Name of the bias beside a weight: `conv1.bias` for `conv1.weight`."""
    stem = weight.removesuffix(".folded").removesuffix(".weight")
    return f"{stem}.bias"


@rule(FoldBatchNorm, "batch_norm(x) => x * factor + shift")
def split_standalone(op: nn.BatchNorm, rw: Rewriter, options: FoldBatchNorm) -> Replace | Skip:
    """Into a product and a sum per channel, where no layer in front can take it.

    Given:
        @mean : f32[4]
        @variance : f32[4]
        %x : f32[B,4,8,8]
        %y = nn.batch_norm(%x, @mean, @variance) : f32[B,4,8,8]
        return %y
    Result:
        %y.scaled = core.mul(%x, @y.factor) : f32[B,4,8,8]
        %y = core.add(%y.scaled, @y.shift) : f32[B,4,8,8]
        return %y
    """
    if not options.standalone:
        return Skip("standalone=false")
    found = _factor_and_shift(op)
    if isinstance(found, Skip):
        return found
    kind = op.x.shaped
    shape = (-1, *(1,) * (kind.rank - 2))
    factor, shift = (array.astype(kind.dtype.numpy).reshape(shape) for array in found)
    name = op.name
    scaled = rw.insert(
        core.Mul(op.x, rw.constant(f"{name}.factor", factor)), before=op, name=f"{name}.scaled"
    )
    added = core.Add(scaled, rw.constant(f"{name}.shift", shift))
    result = rw.replace(op, with_=added)
    assert scaled.producer is not None  # just inserted
    return Replace((scaled.producer, *result.ops))
