"""Reference semantics of the quant family."""

from __future__ import annotations

import torch

from plait.ir.ops import quant
from plait.ir.reference.quantised import parameter, real_value, round_to
from plait.ir.reference.table import Args, Context, reference
from plait.ir.types import QuantType


@reference(quant.Quantize)
def quantize(op: quant.Quantize, args: Args, ctx: Context) -> torch.Tensor:
    """Rounded in the precision of the operand, but at least f32."""
    (x,) = args
    return round_to(x if x.dtype == torch.float64 else x.float(), op.out, ctx)


@reference(quant.Dequantize)
def dequantize(op: quant.Dequantize, args: Args, ctx: Context) -> torch.Tensor:
    """The real value in f32."""
    kind = op.x.type
    assert isinstance(kind, QuantType)
    scale = parameter(kind, kind.scale, ctx)
    whole = (args[0].to(torch.float64) - parameter(kind, kind.zero_point, ctx)).float()
    return whole * (scale.float() if isinstance(scale, torch.Tensor) else scale)


@reference(quant.Requantize)
def requantize(op: quant.Requantize, args: Args, ctx: Context) -> torch.Tensor:
    """The real value in f64, rounded to another grid."""
    (x,) = args
    kind = op.x.type
    if isinstance(kind, QuantType):
        return round_to(real_value(x, kind, ctx), op.out, ctx)
    assert op.scale is not None  # infer demands it of an accumulator
    return round_to(x.to(torch.float64) * op.scale, op.out, ctx)


@reference(quant.FakeQuant)
def fake_quant(op: quant.FakeQuant, args: Args, ctx: Context) -> torch.Tensor:
    """The nearest grid point; its gradient by x is 1 where the grid point is in range and 0 outside."""
    (x,) = args
    low, high = (-(1 << (op.bits - 1)), (1 << (op.bits - 1)) - 1) if op.signed else (0, (1 << op.bits) - 1)
    with torch.no_grad():
        wide = x if x.dtype == torch.float64 else x.float()
        stored = (wide / op.scale).round() + op.zero_point
        inside = (stored >= low) & (stored <= high)
        grid = ((stored.clamp(low, high) - op.zero_point) * op.scale).to(x.dtype)
    return grid + torch.where(inside, x - x.detach(), torch.zeros_like(x))
