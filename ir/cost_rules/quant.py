"""Cost of the quant family."""

from __future__ import annotations

import math

from plait.ir.cost_rules.table import (
    ACTIVATION_FLOPS,
    DEQUANTIZE_FLOPS,
    FIXED_POINT_FLOPS,
    QUANTIZE_FLOPS,
    Cost,
    Sizes,
    cost_rule,
)
from plait.ir.op import Op
from plait.ir.ops import quant

ELEMENT_FLOPS: dict[type[Op], int] = {
    quant.Quantize: QUANTIZE_FLOPS,
    quant.Dequantize: DEQUANTIZE_FLOPS,
    quant.FakeQuant: QUANTIZE_FLOPS + DEQUANTIZE_FLOPS,
}


@cost_rule(*ELEMENT_FLOPS)
def elementwise(op: Op, sizes: Sizes) -> Cost:
    """The table's FLOPs for each element."""
    return sizes.cost(op, flops=ELEMENT_FLOPS[type(op)] * sizes.count(op.result))


@cost_rule(quant.Requantize)
def requantize(op: quant.Requantize, sizes: Sizes) -> Cost:
    """Rounding with the ratio of the scales; a quantised operand has a zero point to subtract too.

    Rectifiers of a fixed-point result are its bounds.
    """
    each = QUANTIZE_FLOPS + ACTIVATION_FLOPS[op.act] if op.requantize == "real" else FIXED_POINT_FLOPS
    return sizes.cost(op, flops=(each + (op.scale is None)) * sizes.count(op.result))


@cost_rule(quant.Add)
def add(op: quant.Add, sizes: Sizes) -> Cost:
    """Two zero points, two multiplies and the sum; then an addition, the shift, a zero point, two bounds."""
    return sizes.cost(op, flops=(FIXED_POINT_FLOPS + 4) * sizes.count(op.result))


@cost_rule(quant.Mean)
def mean(op: quant.Mean, sizes: Sizes) -> Cost:
    """A zero point and an addition for each element, and the rescaling of each sum."""
    return sizes.cost(op, flops=2 * sizes.count(op.x) + FIXED_POINT_FLOPS * sizes.count(op.result))


@cost_rule(quant.AvgPool2d)
def avg_pool2d(op: quant.AvgPool2d, sizes: Sizes) -> Cost:
    """A zero point and an addition for each element of a window, and the rescaling of each sum."""
    each = 2 * math.prod(op.kernel) + FIXED_POINT_FLOPS
    return sizes.cost(op, flops=each * sizes.count(op.result))
