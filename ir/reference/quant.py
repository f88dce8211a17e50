"""Reference semantics of the quant family."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from plait.ir.fixed_point import fixed_point, mean_factor, sum_scales
from plait.ir.ops import quant
from plait.ir.reference.nn_conv import pad_axes, split_pads
from plait.ir.reference.quantised import bounded, dequantised, real_value, rescaled, round_to
from plait.ir.reference.table import Args, Context, reference
from plait.ir.reference.tensors import activate
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
    return dequantised(args[0], kind, ctx)


@reference(quant.Requantize)
def requantize(op: quant.Requantize, args: Args, ctx: Context) -> torch.Tensor:
    """The real value in f64, rounded to another grid; or integers alone."""
    (x,) = args
    kind = op.x.type
    if op.requantize == "fixed_point":
        scale = kind.scale if isinstance(kind, QuantType) else op.scale
        assert isinstance(scale, float)  # infer demands it of all three
        assert isinstance(op.out.scale, float)
        whole = _stored(x, kind) if isinstance(kind, QuantType) else x
        return bounded(rescaled(whole, fixed_point(scale / op.out.scale)), op.out, op.act)
    if isinstance(kind, QuantType):
        real = real_value(x, kind, ctx)
    else:
        assert op.scale is not None
        real = x.to(torch.float64) * op.scale
    return round_to(activate(real, op.act, 0.0), op.out, ctx)


def _stored(x: torch.Tensor, kind: QuantType) -> torch.Tensor:
    """x - zero_point as 64-bit integers."""
    return x.to(torch.int64) - int(kind.zero_point)


@reference(quant.Add)
def add(op: quant.Add, args: Args, ctx: Context) -> torch.Tensor:
    """The sum under one shift."""
    x, y = args
    left, right = op.x.type, op.y.type
    assert isinstance(left, QuantType)
    assert isinstance(right, QuantType)
    scales = sum_scales(left, right, op.out)
    total = _stored(x, left) * scales.left + _stored(y, right) * scales.right
    return bounded((total + (1 << (scales.shift - 1))) >> scales.shift, op.out, op.act)


@reference(quant.Mean)
def mean(op: quant.Mean, args: Args, ctx: Context) -> torch.Tensor:
    """The sum, rescaled; no axis leaves one element each."""
    (x,) = args
    kind = op.x.type
    assert isinstance(kind, QuantType)
    whole = _stored(x, kind)
    total = whole.sum(op.axes, keepdim=op.keepdims) if op.axes else whole
    return bounded(rescaled(total, mean_factor(kind, op.out, ctx.size(op.count))), op.out, "none")


@reference(quant.AvgPool2d)
def avg_pool2d(op: quant.AvgPool2d, args: Args, ctx: Context) -> torch.Tensor:
    """The sum of each window, exact in f64, rescaled."""
    (x,) = args
    kind = op.x.type
    assert isinstance(kind, QuantType)
    padded = pad_axes(_stored(x, kind).to(torch.float64), *split_pads(op.pad, 2))
    planes = padded.reshape(-1, 1, *padded.shape[2:])
    ones = torch.ones((1, 1, *op.kernel), dtype=torch.float64, device=x.device)
    total = F.conv2d(planes, ones, None, op.stride).to(torch.int64)
    total = total.reshape(*padded.shape[:2], *total.shape[2:])
    factor = mean_factor(kind, op.out, op.kernel[0] * op.kernel[1])
    return bounded(rescaled(total, factor), op.out, "none")


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
