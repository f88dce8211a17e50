"""Cost of convolutions, dense layers and attention."""

from __future__ import annotations

import math

from plait.ir.cost_rules.table import (
    ACTIVATION_FLOPS,
    DEQUANTIZE_FLOPS,
    FIXED_POINT_FLOPS,
    QUANTIZE_FLOPS,
    SOFTMAX_FLOPS,
    Cost,
    Sizes,
    cost_rule,
)
from plait.ir.ops import linalg, nn
from plait.ir.types import QuantType
from plait.ir.value import Value

Transposed = nn.ConvTranspose2d | nn.ConvTranspose3d
Contraction = nn.Conv1d | nn.Conv2d | nn.Conv3d | Transposed | nn.Linear | linalg.Matmul


def contraction(op: Contraction, sizes: Sizes, macs: int, bias: Value | None) -> Cost:
    """MACs, then for each result element its bias, activation and rounding to a quantised type.

    Quantised weights of a dense operand are made real once each.
    """
    left, weight = op.operands[:2]
    per_element = ACTIVATION_FLOPS[op.act] + (bias is not None)
    if isinstance(op.result.type, QuantType):
        fixed = getattr(op, "requantize", "real") == "fixed_point"  # where rectifiers are the bounds
        per_element += FIXED_POINT_FLOPS - ACTIVATION_FLOPS[op.act] if fixed else QUANTIZE_FLOPS
    flops = 2 * macs + per_element * sizes.count(op.result)
    if isinstance(weight.type, QuantType) and not isinstance(left.type, QuantType):
        flops += DEQUANTIZE_FLOPS * sizes.count(weight)
    return sizes.cost(op, macs=macs, flops=flops)


@cost_rule(nn.Conv1d, nn.Conv2d, nn.Conv3d)
def convolution(op: nn.Conv1d | nn.Conv2d | nn.Conv3d, sizes: Sizes) -> Cost:
    """One MAC for each result element, input channel of its group and kernel element."""
    return contraction(op, sizes, sizes.count(op.result) * math.prod(sizes.shape(op.w)[1:]), op.b)


@cost_rule(nn.ConvTranspose2d, nn.ConvTranspose3d)
def conv_transpose(op: Transposed, sizes: Sizes) -> Cost:
    """One MAC for each input element, output channel of its group and kernel element."""
    return contraction(op, sizes, sizes.count(op.x) * math.prod(sizes.shape(op.w)[1:]), op.b)


@cost_rule(nn.Linear)
def linear(op: nn.Linear, sizes: Sizes) -> Cost:
    """One MAC for each input element and output."""
    return contraction(op, sizes, sizes.count(op.result) * sizes.shape(op.w)[1], op.b)


@cost_rule(linalg.Matmul)
def matmul(op: linalg.Matmul, sizes: Sizes) -> Cost:
    """One MAC for each result element and column of the left operand."""
    return contraction(op, sizes, sizes.count(op.result) * sizes.shape(op.left)[-1], None)


@cost_rule(nn.Attention)
def attention(op: nn.Attention, sizes: Sizes) -> Cost:
    """Both products, the scale, the mask and the softmax over all pairs, masked ones included.

    The scores stay on chip, so no bytes are counted for them.
    """
    *lead, queries, depth = sizes.shape(op.q)
    keys, width = sizes.shape(op.v)[-2:]
    pairs = math.prod(lead) * queries * keys
    macs = pairs * (depth + width)
    masks = (op.mask is not None) + op.causal
    return sizes.cost(op, macs=macs, flops=2 * macs + pairs * (1 + masks + SOFTMAX_FLOPS))
