"""Cost of the quant family."""

from __future__ import annotations

from plait.ir.cost_rules.table import QUANTIZE_FLOPS, Cost, Sizes, cost_rule
from plait.ir.op import Op
from plait.ir.ops import quant

#: Dequantizing subtracts the zero point and multiplies.
ELEMENT_FLOPS: dict[type[Op], int] = {
    quant.Quantize: QUANTIZE_FLOPS,
    quant.Dequantize: 2,
    quant.FakeQuant: QUANTIZE_FLOPS + 2,
}


@cost_rule(*ELEMENT_FLOPS)
def elementwise(op: Op, sizes: Sizes) -> Cost:
    """The table's FLOPs for each element."""
    return sizes.cost(op, flops=ELEMENT_FLOPS[type(op)] * sizes.count(op.result))


@cost_rule(quant.Requantize)
def requantize(op: quant.Requantize, sizes: Sizes) -> Cost:
    """Rounding with the ratio of the scales; a quantised operand has a zero point to subtract too."""
    each = QUANTIZE_FLOPS + (op.scale is None)
    return sizes.cost(op, flops=each * sizes.count(op.result))
