"""Batch norm in quantisation-aware training: folded while it trains, or afterwards into the scales.

With factor = scale / sqrt(variance + epsilon) of a batch norm behind a layer,

    while training    the layer computes with Q(w * factor), so that what is rounded is what will
                      be stored (Jacob et al. 2018, arXiv:1712.05877, section 3.2);
    afterwards        factor * (x @ Q(w)) is x @ Q'(w), where Q' has the integers of Q, with the
                      sign of factor, and for each output the scale of Q times |factor|.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from plait.ir import Constant, Graph, Loc, Op, QuantType
from plait.ir.ops import nn as layers
from plait.ir.ops import quant
from plait.ir.reference import REFERENCES
from plait.ir.reference.table import Context, MixedArgs
from plait.passes.fold_batch_norm import PRODUCERS, Producer
from plait.passes.quantize.insert import CONTRACTIONS
from plait.passes.quantize.scheme import MAX_BITS
from plait.passes.quantize.training.quantizers import Quantizer
from plait.passes.quantize.training.store import statistics_of

if TYPE_CHECKING:
    from plait.passes.quantize.training.module import GraphModule

NAME = "fold-into-scales"


@dataclass(frozen=True)
class Fold:
    """A batch norm and the layer in front of it, as they were, and the folded constants they became.

    Attributes:
        layer: the convolution or dense layer, without an activation.
        norm: the batch norm that alone reads it.
        weight: name of the constant that holds the folded weight.
        bias: name of the constant that holds the folded bias.
    """

    layer: Producer
    norm: layers.BatchNorm
    weight: str
    bias: str


def folds_of(source: Graph, folded: Graph) -> list[Fold]:
    """The batch norms that fold-batch-norm took into layers; it gives the layer the norm's name."""
    after = {op.name: op for op in folded.walk()}
    found = []
    for norm in source.walk():
        if not isinstance(norm, layers.BatchNorm):
            continue
        layer, new = norm.x.producer, after.get(norm.name)
        if isinstance(layer, PRODUCERS) and isinstance(new, PRODUCERS) and new.b is not None:
            found.append(Fold(layer, norm, new.w.name, new.b.name))
    return found


class FoldedLayer:
    """The semantics of a layer with its batch norm folded, for `Evaluator`.

    In training mode the statistics are those of the layer's float result on this batch, which
    costs the layer a second time; gradients flow through them.  Evaluation mode, and training
    once they are frozen, uses the stored ones.

    Args:
        fold: what was folded.
        module: holds the parameters and statistics, and says which to use.
        quantizer: of the folded weight; None leaves it in floating point.
    """

    def __init__(self, fold: Fold, module: GraphModule, quantizer: Quantizer | None) -> None:
        self.fold = fold
        self.quantizer = quantizer
        self._module = module
        self._plain = fold.layer.evolve(b=None)

    def _held(self, name: str) -> torch.Tensor | None:
        owner = self.fold.layer if name in ("w", "b") else self.fold.norm
        value = getattr(owner, name)
        return None if value is None else self._module.store[value.name]

    def __call__(self, op: Op, args: MixedArgs, ctx: Context) -> Any:
        x = args[0]
        weight, bias = self.folded(x, ctx)
        if self.quantizer is not None:
            weight = self.quantizer(weight)
        return REFERENCES[type(op)](op, (x, weight, bias), ctx)

    def folded(
        self, x: torch.Tensor | None = None, ctx: Context | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight and bias with the batch norm in them; by the statistics of `x` in training mode."""
        weight, bias = self._held("w"), self._held("b")
        mean, variance = self._held("mean"), self._held("variance")
        assert weight is not None  # every layer has a weight, and every norm statistics
        assert mean is not None
        assert variance is not None
        if self._module.uses_batch_statistics and x is not None and ctx is not None:
            found = REFERENCES[type(self._plain)](self._plain, (x, weight, None), ctx)
            mean, variance = self._statistics(found, mean, variance, bias)
        scale, shift = self._held("scale"), self._held("bias")
        factor = torch.rsqrt(variance + self.fold.norm.epsilon)
        factor = factor if scale is None else factor * scale
        offset = -mean if bias is None else bias - mean
        total = offset * factor
        return _scaled(self.fold.layer, weight, factor), total if shift is None else total + shift

    def _statistics(
        self, y: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor, bias: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance of the batch per channel (axis 1); the stored ones move towards them."""
        axes = [axis for axis in range(y.dim()) if axis != 1]
        now_variance, now_mean = torch.var_mean(y, dim=axes, correction=0)
        if bias is not None:
            now_mean = now_mean + bias
        if self._module.track_statistics:
            count = y.numel() // y.shape[1]
            with torch.no_grad():
                mean.lerp_(now_mean, self._module.momentum)
                variance.lerp_(now_variance * (count / max(count - 1, 1)), self._module.momentum)
        return now_mean, now_variance


def _scaled(layer: Producer, weight: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """A weight with each output channel times its factor."""
    if isinstance(layer, layers.ConvTranspose2d):  # [in, out/groups, kh, kw]
        groups = layer.groups
        grouped = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
        return (grouped * factor.reshape(groups, 1, -1, 1, 1)).reshape(weight.shape)
    return weight * factor.reshape(-1, *(1,) * (weight.dim() - 1))


# -- after training -----------------------------------------------------------------
def fold_into_scales(graph: Graph) -> int:
    """Fold batch norms behind quantised weights into the weights' scales; returns how many.

    The graph is in QDQ form.  The result differs by the rounding of floating-point numbers only.
    Integers that leave the range when their sign turns get one bit more; where there is none, at 8
    bits, and where weights have a zero point or groups, the batch norm stays.
    """
    return sum(_fold_one(graph, norm) for norm in statistics_of(graph))


def _fold_one(graph: Graph, norm: layers.BatchNorm) -> bool:
    layer = norm.x.producer
    if not isinstance(layer, CONTRACTIONS) or not isinstance(layer, PRODUCERS):
        return False
    source = layer.w.producer
    if layer.act != "none" or layer.result.use_count != 1 or not isinstance(source, quant.Dequantize):
        return False
    if isinstance(layer, layers.Linear) and layer.result.shaped.rank != 2:
        return False  # axis 1 is not that of the outputs
    weight = source.x
    kind = weight.type
    if not isinstance(weight, Constant) or not isinstance(kind, QuantType):
        return False
    if kind.zero_point != 0 or kind.group is not None or kind.axis not in (None, 0) or not kind.signed:
        return False
    given = {name: getattr(norm, name) for name in ("mean", "variance", "scale", "bias")}
    given["b"] = layer.b
    constants = {name: value for name, value in given.items() if isinstance(value, Constant)}
    if any(value is not None and name not in constants for name, value in given.items()):
        return False
    held = {name: value.data.astype(np.float64) for name, value in constants.items()}
    factor = held.get("scale", np.float64(1.0)) / np.sqrt(held["variance"] + norm.epsilon)
    signed = weight.data.astype(np.int16) * np.sign(factor).astype(np.int16).reshape(
        -1, *(1,) * (kind.rank - 1)
    )
    bits = kind.bits + int(signed.max(initial=0) > kind.range[1])
    if bits > MAX_BITS:
        return False
    old = graph.constants[kind.scale].data if isinstance(kind.scale, str) else np.float64(kind.scale)
    scale = np.broadcast_to(old * np.abs(factor), factor.shape).astype(np.float32)
    scale = np.where(scale > 0, scale, np.float32(1.0))  # a channel of factor 0 has zeros for weights
    bias = held.get("bias", np.float64(0.0)) + (held.get("b", np.float64(0.0)) - held["mean"]) * factor

    name = graph.free_name(f"{weight.name}.folded")
    scales = graph.add_constant(graph.free_name(f"{name}.scale"), scale)
    folded = replace(kind, bits=bits, scale=scales.name, axis=0)
    stored = graph.add_constant(name, signed.astype(np.int8), folded)
    bias_name = layer.b.name if layer.b is not None else f"{weight.name.removesuffix('.quantized')}.bias"
    shift = graph.add_constant(
        graph.free_name(f"{bias_name}.folded"), bias.astype(constants["mean"].data.dtype)
    )
    loc = Loc.fuse((layer.loc, norm.loc), NAME)
    real = graph.emit(quant.Dequantize(stored), name=f"{name}.dequantized", loc=source.loc, before=norm)
    graph.replace(norm, layer.evolve(w=real, b=shift), loc=loc)
    graph.erase(layer)
    return True
