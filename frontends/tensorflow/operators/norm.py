"""Normalisations."""

from __future__ import annotations

from plait.frontends.tensorflow.call import Call
from plait.frontends.tensorflow.operand import Operand
from plait.frontends.tensorflow.operators.conv import from_layout, in_layout
from plait.frontends.tensorflow.registry import lowers
from plait.ir.ops import nn


@lowers("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
def batch_norm(call: Call) -> list[Operand | None]:
    """Inference only: with stored statistics."""
    if bool(call.attributes.get("is_training", True)):
        raise call.unsupported(
            "batch normalisation with the statistics of the batch",
            remedy="call the model with training=False",
        )
    x = in_layout(call, 0)
    scale, offset, mean, variance = (call.value(index) for index in (1, 2, 3, 4))
    y = call.emit(nn.BatchNorm(x, mean, variance, scale, offset, epsilon=call.real("epsilon", 1e-4)))
    return [from_layout(call, y)]


@lowers("LRN")
def local_response_norm(call: Call) -> Operand:
    """TensorFlow multiplies the plain sum by alpha; the IR op the mean, so its alpha is size times that."""
    size = 2 * call.integer("depth_radius", 5) + 1
    y = call.emit(
        nn.LocalResponseNorm(
            call.first(0),
            size=size,
            alpha=call.real("alpha", 1.0) * size,
            beta=call.real("beta", 0.5),
            k=call.real("bias", 1.0),
        )
    )
    return Operand.of_first(y)
