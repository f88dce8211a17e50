"""Affine-quantised arithmetic: parameters of a type, rounding, and exact contractions.

real = scale * (stored - zero_point).  Contractions of quantised operands add up
whole numbers in float64, which is exact below 2^53: more than the longest sum of
8-bit products that an i32 accumulator may hold.  Fixed-point requantisation goes on
from there in 64-bit integers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from plait.ir.errors import InputError
from plait.ir.fixed_point import FixedPoint, bounds_of, product_factor, scale_of
from plait.ir.op import Op
from plait.ir.reference.table import Context
from plait.ir.reference.tensors import activate, torch_dtype
from plait.ir.types import QuantType, ShapedType

Contract = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def parameter(kind: QuantType, given: float | str, ctx: Context) -> torch.Tensor | float:
    """A scale or zero point, shaped so that it broadcasts against a tensor of `kind`.

    A referenced constant holds one number, one per slice along the axis, or, per group,
    a dim for each axis of the type with one number for each group along `axis`.
    """
    if not isinstance(given, str):
        return given
    values = ctx.parameter(given).to(torch.float64)
    if kind.axis is None:
        return values.reshape(())
    if kind.group is not None:
        return values.repeat_interleave(kind.group, dim=kind.axis)
    return values.reshape([-1 if i == kind.axis else 1 for i in range(kind.rank)])


def round_to(real: torch.Tensor, kind: QuantType, ctx: Context) -> torch.Tensor:
    """round(real / scale) + zero_point, halves to even, saturated; in the precision of `real`."""
    scale, zero = parameter(kind, kind.scale, ctx), parameter(kind, kind.zero_point, ctx)
    if isinstance(scale, torch.Tensor):
        scale = scale.to(real.dtype)
    low, high = kind.range
    return ((real / scale).round() + zero).clamp(low, high).to(torch_dtype(kind))


def centred(stored: torch.Tensor, kind: QuantType, ctx: Context) -> torch.Tensor:
    """stored - zero_point as whole numbers in float64."""
    return stored.to(torch.float64) - parameter(kind, kind.zero_point, ctx)


def real_value(stored: torch.Tensor, kind: QuantType, ctx: Context) -> torch.Tensor:
    """scale * (stored - zero_point) in float64."""
    return centred(stored, kind, ctx) * parameter(kind, kind.scale, ctx)


def dequantised(stored: torch.Tensor, kind: QuantType, ctx: Context) -> torch.Tensor:
    """scale * (stored - zero_point) in f32."""
    scale = parameter(kind, kind.scale, ctx)
    whole = centred(stored, kind, ctx).float()
    return whole * (scale.float() if isinstance(scale, torch.Tensor) else scale)


def rescaled(total: torch.Tensor, factor: FixedPoint, axis: int | None = None) -> torch.Tensor:
    """(total * m + 2^(n-1)) >> n in 64-bit integers.

    Args:
        axis: the negative axis of `total` that several factors run along.
    """

    def spread(numbers: np.ndarray) -> torch.Tensor:
        held = torch.from_numpy(np.ascontiguousarray(numbers.astype(np.int64))).to(total.device)
        return held.reshape(()) if axis is None or held.numel() == 1 else along(held.reshape(-1), axis)

    return (total.to(torch.int64) * spread(factor.mantissa) + spread(factor.half)) >> spread(factor.shift)


def bounded(whole: torch.Tensor, kind: QuantType, act: str) -> torch.Tensor:
    """Whole numbers on the grid of `kind`, the zero point added, between the bounds of a rectifier."""
    low, high = bounds_of(kind, act)
    return (whole + int(kind.zero_point)).clamp(low, high).to(torch_dtype(kind))


def scale_array(kind: QuantType, ctx: Context) -> np.ndarray:
    """The scale of a type in float64."""
    return scale_of(kind, lambda name: ctx.parameter(name).detach().cpu().numpy())


def contract(
    op: Any,
    operands: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None],
    types: tuple[ShapedType, ShapedType],
    ctx: Context,
    product: Contract,
    *,
    output_axis: int,
    result_axis: int,
) -> torch.Tensor:
    """A convolution or matrix product with bias and activation, dense or quantised.

    A quantised w under a dense x is its real numbers in the element type of x.

    Args:
        op: has `act` and `act_alpha`, and may have `out`.
        operands: x, w and bias or None.
        types: of x and w.
        product: the bilinear map.
        output_axis: axis of w that holds the outputs.
        result_axis: axis of the result that holds them, counted from the end (negative).

    Raises InputError when scales vary along the summed axes and the result is to be
    an accumulator, which then has no scale.
    """
    x, w, b = operands
    kind_x, kind_w = types
    if not isinstance(kind_x, QuantType) or not isinstance(kind_w, QuantType):
        if isinstance(kind_w, QuantType):
            w = dequantised(w, kind_w, ctx).to(x.dtype)
        total = product(x, w)
        if b is not None:
            total = total + along(b, result_axis)
        return activate(total, op.act, op.act_alpha)
    out = getattr(op, "out", None)
    scale_x, scale_w = parameter(kind_x, kind_x.scale, ctx), parameter(kind_w, kind_w.scale, ctx)
    left, right = centred(x, kind_x, ctx), centred(w, kind_w, ctx)
    if isinstance(out, QuantType) and getattr(op, "requantize", "real") == "fixed_point":
        factor = product_factor(scale_array(kind_x, ctx), scale_array(kind_w, ctx), out)
        total = product(left, right)
        if b is not None:
            total = total + along(b.to(torch.float64), result_axis)
        whole = total.to(torch.int64).to(torch.int32)
        return bounded(rescaled(whole, factor, result_axis), out, op.act)
    separable = is_number(scale_x) and is_along(scale_w, output_axis)
    if not isinstance(out, QuantType):
        if not separable:
            raise uneven(op)
        total = product(left, right)
        if b is not None:
            total = total + along(b.to(torch.float64), result_axis)
        return accumulator_activation(op, total.to(torch.int64).to(torch.int32))
    if separable:
        total = product(left, right)
        if b is not None:
            total = total + along(b.to(torch.float64), result_axis)
        if isinstance(scale_w, torch.Tensor) and scale_w.dim():
            scale_w = along(scale_w.reshape(-1), result_axis)
        real = total * (scale_x * scale_w)
    else:
        if b is not None:
            raise uneven(op)
        real = product(left * scale_x, right * scale_w)
    return round_to(activate(real, op.act, op.act_alpha), out, ctx)


def along(vector: torch.Tensor, axis: int) -> torch.Tensor:
    """A vector shaped to broadcast along a negative axis."""
    return vector.reshape(-1, *(1,) * (-axis - 1))


def is_number(scale: torch.Tensor | float) -> bool:
    """Whether a scale is the same for the whole tensor."""
    return not isinstance(scale, torch.Tensor) or scale.numel() == 1


def is_along(scale: torch.Tensor | float, axis: int) -> bool:
    """Whether a scale varies along `axis` at most."""
    if not isinstance(scale, torch.Tensor) or scale.numel() == 1:
        return True
    return scale.numel() == scale.shape[axis]


def accumulator_activation(op: Any, total: torch.Tensor) -> torch.Tensor:
    """relu of an i32 accumulator; other activations need its scale, hence a declared result type."""
    if op.act not in ("none", "relu"):
        raise InputError(
            f"{op.opname} applies {op.act} to an i32 accumulator",
            where=op.loc.readable(),
            why="an accumulator has no scale of its own",
            remedy="declare a quantised result type with out=",
        )
    return activate(total, op.act, op.act_alpha)


def uneven(op: Op) -> InputError:
    """The error for scales that vary along the summed axes."""
    return InputError(
        f"{op.opname} sums over an axis along which the scale varies",
        where=op.loc.readable(),
        why="such a sum has no single scale, so neither an i32 result nor an i32 bias means anything",
        remedy="use one scale per output; or declare a result type with out= and add the bias after it",
    )
