"""Cost of complex numbers and Fourier transforms."""

from __future__ import annotations

import math

from plait.ir.cost_rules.table import Cost, Sizes, cost_rule
from plait.ir.op import Op
from plait.ir.ops import core


@cost_rule(core.Complex, core.Real, core.Imag)
def parts(op: Op, sizes: Sizes) -> Cost:
    """Operands read and results written, without arithmetic."""
    return sizes.cost(op)


@cost_rule(core.Dft)
def dft(op: core.Dft, sizes: Sizes) -> Cost:
    """About 5 n log2 n FLOPs for each line, those of a radix-2 fast Fourier transform."""
    shape = sizes.shape(op.real)
    size = shape[op.axis]
    lines = math.prod(shape) // max(size, 1)
    flops = lines * 5 * size * max(math.ceil(math.log2(max(size, 1))), 1)
    return sizes.cost(op, macs=flops // 2, flops=flops, exact=False)
