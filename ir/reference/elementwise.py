"""Reference semantics of core's elementwise ops."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from plait.ir.op import Op
from plait.ir.ops import core
from plait.ir.reference.table import REFERENCES, Args, Context, Reference, reference
from plait.ir.reference.tensors import activate, bit_cast, convert

UNARY: dict[type[Op], Callable[[torch.Tensor], torch.Tensor]] = {
    core.Neg: torch.neg,
    core.Abs: torch.abs,
    core.Sign: torch.sgn,
    core.Exp: torch.exp,
    core.Expm1: torch.expm1,
    core.Log: torch.log,
    core.Log1p: torch.log1p,
    core.Sqrt: torch.sqrt,
    core.Rsqrt: torch.rsqrt,
    core.Reciprocal: torch.reciprocal,
    core.Sin: torch.sin,
    core.Cos: torch.cos,
    core.Tan: torch.tan,
    core.Asin: torch.asin,
    core.Acos: torch.acos,
    core.Atan: torch.atan,
    core.Sinh: torch.sinh,
    core.Cosh: torch.cosh,
    core.Asinh: torch.asinh,
    core.Acosh: torch.acosh,
    core.Atanh: torch.atanh,
    core.Erf: torch.erf,
    core.Floor: torch.floor,
    core.Ceil: torch.ceil,
    core.Round: torch.round,
    core.Trunc: torch.trunc,
    core.Not: torch.bitwise_not,
    core.IsNan: torch.isnan,
    core.IsInf: torch.isinf,
}

BINARY: dict[type[Op], Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    core.FloorDiv: lambda a, b: torch.div(a, b, rounding_mode="floor"),
    core.Remainder: torch.remainder,
    core.Fmod: torch.fmod,
    core.Pow: torch.pow,
    core.Maximum: torch.maximum,
    core.Minimum: torch.minimum,
    core.Atan2: torch.atan2,
    core.Eq: torch.eq,
    core.Ne: torch.ne,
    core.Lt: torch.lt,
    core.Le: torch.le,
    core.Gt: torch.gt,
    core.Ge: torch.ge,
    core.And: torch.bitwise_and,
    core.Or: torch.bitwise_or,
    core.Xor: torch.bitwise_xor,
    core.ShiftLeft: torch.bitwise_left_shift,
    core.ShiftRight: torch.bitwise_right_shift,
}


def quotient(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """left / right, truncated toward zero on integers."""
    if left.is_floating_point() or left.is_complex():
        return torch.div(left, right)
    return torch.div(left, right, rounding_mode="trunc")


ARITHMETIC: dict[type[Op], Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    core.Add: torch.add,
    core.Sub: torch.sub,
    core.Mul: torch.mul,
    core.Div: quotient,
}


def unary(function: Callable[[torch.Tensor], torch.Tensor]) -> Reference:
    """The reference of an op that is one torch function of one tensor."""
    return lambda op, args, ctx: function(args[0])


def binary(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Reference:
    """The reference of an op that is one torch function of two tensors."""
    return lambda op, args, ctx: function(args[0], args[1])


REFERENCES.update({cls: unary(function) for cls, function in UNARY.items()})
REFERENCES.update({cls: binary(function) for cls, function in BINARY.items()})


@reference(*ARITHMETIC)
def arithmetic(op: core.Arithmetic, args: Args, ctx: Context) -> torch.Tensor:
    """A torch function of two tensors, then the fused activation."""
    left, right = args
    return activate(ARITHMETIC[type(op)](left, right), op.act, op.act_alpha)


@reference(core.Cast)
def cast(op: core.Cast, args: Args, ctx: Context) -> torch.Tensor:
    """Element conversion."""
    return convert(args[0], op.out.dtype, op.x.shaped.dtype, saturate=op.saturate, round_mode=op.round_mode)


@reference(core.BitCast)
def bit_cast_(op: core.BitCast, args: Args, ctx: Context) -> torch.Tensor:
    """The same bits."""
    return bit_cast(args[0], op.x.shaped.dtype, op.out.dtype)


@reference(core.Clamp)
def clamp(op: core.Clamp, args: Args, ctx: Context) -> torch.Tensor:
    """Bounds on floats as they are; on integers the nearest whole numbers inside them."""
    (x,) = args
    if op.low is None and op.high is None:
        return x
    if x.is_floating_point():
        return x.clamp(op.low, op.high)
    low = None if op.low is None or op.low == -math.inf else math.ceil(op.low)
    high = None if op.high is None or op.high == math.inf else math.floor(op.high)
    limits = torch.iinfo(x.dtype)
    low = limits.min if low is None else min(max(low, limits.min), limits.max)
    high = limits.max if high is None else min(max(high, limits.min), limits.max)
    return x.clamp(low, high)


@reference(core.Where)
def where(op: core.Where, args: Args, ctx: Context) -> torch.Tensor:
    """Elementwise choice."""
    condition, x, y = args
    return torch.where(condition, x, y)
