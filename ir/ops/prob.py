"""The prob family: numerically stable probability."""

from __future__ import annotations

from dataclasses import KW_ONLY

from plait.ir.op import Op, op
from plait.ir.ops.common import floating
from plait.ir.ops.core.reduce import reduced_shape
from plait.ir.types import Type
from plait.ir.value import Value


@op("prob.log_sum_exp")
class LogSumExp(Op):
    """log(sum(e^x)) over axes, with the largest element taken out first."""

    x: Value
    _: KW_ONLY
    axes: tuple[int, ...]
    keepdims: bool = False

    def infer(self) -> tuple[Type, ...]:
        kind = floating(self, self.x, "x")
        return (kind.with_shape(reduced_shape(self, kind.shape, self.axes, self.keepdims)),)
