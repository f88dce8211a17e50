"""Emissions of quantisation, and how products of quantised operands are read and finished."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import te, tirx
from tvm.ir import Expr

from plait.backends.tvm.emit.expressions import ACTIVATIONS, activate, number, pointwise, saturate
from plait.backends.tvm.emit.reduce import reduce_axes
from plait.backends.tvm.emit.table import Arguments, Emitter, Kind, Packing, emit
from plait.ir import QuantType, Type, Value
from plait.ir.fixed_point import (
    FixedPoint,
    bounds_of,
    fixed_point,
    mean_factor,
    product_factor,
    scale_of,
    sum_scales,
)
from plait.ir.ops import quant

_HALF = ("float16", "bfloat16")


def parameter_at(emitter: Emitter, kind: QuantType, field: str, i: tuple[Expr, ...], dtype: str) -> Expr:
    """The scale or zero point that belongs to the element at `i` of a quantised tensor."""
    given = emitter.parameter(getattr(kind, field))
    if not isinstance(given, te.Tensor):
        return number(given, dtype)
    if not given.shape:
        return tirx.Cast(dtype, given())
    if kind.axis is None:
        return tirx.Cast(dtype, given(*(tirx.IntImm("int64", 0) for _ in given.shape)))
    place = i[kind.axis]
    if kind.group is not None:
        place = tirx.floordiv(place, kind.group)
    if len(given.shape) == kind.rank:  # one parameter for each group of each row
        return tirx.Cast(dtype, given(*(place if a == kind.axis else i[a] for a in range(kind.rank))))
    return tirx.Cast(dtype, given(place))


@dataclass(frozen=True)
class Dequantised:
    """How a product reads one operand.

    Attributes:
        accumulator: element type of the sum.
        zero_point: subtracted from every element; 0 for dense operands.
        zero_point_per_channel: whether the zero point differs between output channels.
    """

    accumulator: str
    kind: QuantType | None = None
    emitter: Emitter | None = None

    @property
    def zero_point_per_channel(self) -> bool:
        return self.kind is not None and isinstance(self.kind.zero_point, str)

    def centred(self, x: Expr, channel: Expr | None = None) -> Expr:
        """An element with the zero point taken off, in the type of the accumulator."""
        if self.kind is None:
            return x if self.accumulator == str(x.ty.dtype) else tirx.Cast(self.accumulator, x)
        wide = tirx.Cast("int32", x)
        if isinstance(self.kind.zero_point, str):
            assert self.emitter is not None
            table = self.emitter.parameter(self.kind.zero_point)
            assert isinstance(table, te.Tensor)
            offset = table() if not table.shape else table(channel)
            return wide - tirx.Cast("int32", offset)
        return wide - number(self.kind.zero_point, "int32") if self.kind.zero_point else wide


def operand(emitter: Emitter, value: Value) -> Dequantised:
    """How to read an operand of a product: quantised as 32-bit integers, half precision as f32."""
    kind = value.type
    if isinstance(kind, QuantType):
        return Dequantised("int32", kind, emitter)
    dtype = emitter.dtype(kind)
    return Dequantised("float32" if dtype in _HALF else dtype)


def contraction_finish(
    op: Any, args: Arguments, emitter: Emitter, *, channel: int | None
) -> Callable[[tuple[Expr, ...], Expr], Expr]:
    """Bias, activation and, for quantised operands, the new scale.

    Quantised: the 32-bit sum plus bias times both scales is the real result; the
    activation acts on it, and it is rounded to the result type.  In fixed point integers
    do all of it, see `plait.ir.fixed_point`.

    Args:
        channel: axis of the result that the bias and per-channel scales run along; None for no
            bias, and scales along the last axis.
    """
    x = op.operands[0].type
    weight = op.operands[1].type
    result = op.result.type

    def biased(i: tuple[Expr, ...], total: Expr) -> Expr:
        if channel is None:
            return total
        if args.b is None:
            return total
        bias, wide = args.b(i[channel]), total.ty.dtype
        return total + (bias if str(bias.ty.dtype) == str(wide) else tirx.Cast(str(wide), bias))

    if not isinstance(x, QuantType):
        dtype = emitter.dtype(result)

        def narrowed(i: tuple[Expr, ...], total: Expr) -> Expr:
            found = activate(biased(i, total), op)
            return found if str(found.ty.dtype) == dtype else tirx.Cast(dtype, found)

        return narrowed

    if not isinstance(result, QuantType):
        if op.act not in ("none", "relu"):
            raise op.error(
                f"it applies {op.act} to an i32 accumulator",
                why="an accumulator has no scale of its own",
                remedy="declare a quantised result type with out=",
            )
        return lambda i, total: activate(biased(i, total), op)
    if getattr(op, "requantize", "real") == "fixed_point":
        factors = _Factors(emitter, x, weight, result)
        return lambda i, total: bounded(
            rescaled(biased(i, total), *factors.at(i[-1 if channel is None else channel])),
            result,
            op.act,
            emitter.dtype(result),
        )

    def finish(i: tuple[Expr, ...], total: Expr) -> Expr:
        whole = biased(i, total)
        place = i[-1 if channel is None else channel]
        # In double precision, as the sum may hold more bits than a float.
        scale_of_weight = emitter.parameter(weight.scale)
        if isinstance(scale_of_weight, te.Tensor):
            found = scale_of_weight(place) if scale_of_weight.shape else scale_of_weight()
            scale = tirx.Cast("float64", found)
        else:
            scale = number(scale_of_weight, "float64")
        scale = number(1.0, "float64") * parameter_at(emitter, x, "scale", i, "float64") * scale
        real = activate(tirx.Cast("float64", whole) * scale, op)
        return _quantise_at(emitter, real, result, i)

    return finish


class _Factors:
    """The fixed-point factors between a sum of products and the grid of the result."""

    def __init__(self, emitter: Emitter, x: QuantType, weight: QuantType, out: QuantType) -> None:
        def data(name: str) -> np.ndarray:
            return emitter.constants[name].data

        left = scale_of(x, data)
        if weight.axis is None:
            found = product_factor(left, scale_of(weight, data), out)
            self._tables: tuple[te.Tensor, ...] = ()
            self._numbers = tuple(number(int(v), "int32") for v in (found.mantissa, found.shift))
            return
        assert isinstance(weight.scale, str)
        constant = emitter.constants[weight.scale]

        def table(part: str) -> te.Tensor:
            def apply(scales: np.ndarray) -> np.ndarray:
                array: np.ndarray = getattr(product_factor(left, scales.astype(np.float64), out), part)
                return array

            key = f"{part} of {left!r} / {out.scale!r}"
            return emitter.packed(constant, (int(constant.shaped.shape[0]),), Packing(key, apply, "int32"))

        self._tables = (table("mantissa"), table("shift"))

    def at(self, channel: Expr) -> tuple[Expr, ...]:
        """Mantissa and shift of one output channel."""
        return tuple(table(channel) for table in self._tables) or self._numbers


def rescaled(total: Expr, mantissa: Expr, shift: Expr) -> Expr:
    """(total * m + 2^(n-1)) >> n in 64-bit integers."""
    wide = tirx.Cast("int64", total) * tirx.Cast("int64", mantissa)
    n = tirx.Cast("int64", shift)
    return (wide + (number(1, "int64") << (n - number(1, "int64")))) >> n


def rescaled_by(total: Expr, factor: FixedPoint) -> Expr:
    """The same with one factor, known now."""
    return rescaled(total, number(int(factor.mantissa), "int32"), number(int(factor.shift), "int32"))


def bounded(whole: Expr, kind: QuantType, act: str, dtype: str) -> Expr:
    """A whole number on the grid of `kind`, the zero point added, between the bounds of a rectifier."""
    low, high = bounds_of(kind, act)
    wide = whole.ty.dtype
    moved = whole + number(int(kind.zero_point), wide) if kind.zero_point else whole
    return tirx.Cast(dtype, te.max(te.min(moved, number(high, wide)), number(low, wide)))


def _quantise_at(emitter: Emitter, real: Expr, kind: QuantType, i: tuple[Expr, ...]) -> Expr:
    """round(real / scale) + zero_point, saturated."""
    dtype = str(real.ty.dtype)
    scale = parameter_at(emitter, kind, "scale", i, dtype)
    offset = parameter_at(emitter, kind, "zero_point", i, dtype)
    low, high = kind.range
    return saturate(tirx.nearbyint(real / scale) + offset, low, high, emitter.dtype(kind))


@emit(quant.Quantize, kind=Kind.ELEMENTWISE)
def _quantize(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    kind = op.result.type
    return te.compute(
        emitter.shape(kind.shape), lambda *i: _quantise_at(emitter, args.x(*i), kind, i), name="quantize"
    )


def _real(emitter: Emitter, x: te.Tensor, kind: QuantType, i: tuple[Expr, ...], dtype: str) -> Expr:
    """scale * (x - zero_point) in an element type."""
    offset = parameter_at(emitter, kind, "zero_point", i, "int32")
    centred = tirx.Cast("int32", x(*i)) - offset
    return tirx.Cast(dtype, centred) * parameter_at(emitter, kind, "scale", i, dtype)


@emit(quant.Dequantize, kind=Kind.ELEMENTWISE)
def _dequantize(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    kind = op.x.type
    return te.compute(
        emitter.shape(kind.shape), lambda *i: _real(emitter, args.x, kind, i, "float32"), name="dequantize"
    )


@emit(quant.Requantize, kind=Kind.ELEMENTWISE)
def _requantize(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    source, kind = op.x.type, op.result.type

    if op.requantize == "fixed_point":
        scale = source.scale if isinstance(source, QuantType) else op.scale
        factor, dtype = fixed_point(scale / kind.scale), emitter.dtype(kind)
        return te.compute(
            emitter.shape(kind.shape),
            lambda *i: bounded(rescaled_by(_whole(args.x(*i), source), factor), kind, op.act, dtype),
            name="requantize",
        )

    def at(*i: Expr) -> Expr:
        if isinstance(source, QuantType):
            real = _real(emitter, args.x, source, i, "float64")
        else:
            real = tirx.Cast("float64", args.x(*i)) * number(op.scale, "float64")
        return _quantise_at(emitter, ACTIVATIONS[op.act](real, 0.0), kind, i)

    return te.compute(emitter.shape(kind.shape), at, name="requantize")


def _whole(x: Expr, kind: Type) -> Expr:
    """A stored integer without its zero point, in 32 bits."""
    wide = tirx.Cast("int32", x)
    if not isinstance(kind, QuantType) or not kind.zero_point:
        return wide
    return wide - number(int(kind.zero_point), "int32")


@emit(quant.Add, kind=Kind.ELEMENTWISE)
def _add(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    left, right, kind = op.x.type, op.y.type, op.result.type
    scales, dtype = sum_scales(left, right, kind), emitter.dtype(kind)
    shift = number(scales.shift, "int32")

    def at(x: Expr, y: Expr) -> Expr:
        total = _whole(x, left) * number(scales.left, "int32")
        total = total + _whole(y, right) * number(scales.right, "int32")
        return bounded((total + number(1 << (scales.shift - 1), "int32")) >> shift, kind, op.act, dtype)

    return pointwise(emitter.shape(kind.shape), at, args.x, args.y, name="add")


@emit(quant.Mean, kind=Kind.REDUCTION)
def _mean(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    """The stored integers are added up; the zero point is taken off the sum."""
    source, kind = op.x.type, op.result.type

    def read(*i: Expr) -> Expr:
        return tirx.Cast("int32", args.x(*i))

    if op.axes:
        total = reduce_axes(emitter, source, op.axes, read, te.sum, "sum", keepdims=op.keepdims)
    else:
        total = te.compute(emitter.shape(source.shape), read, name="sum")
    return mean_of(total, source, kind, int(op.count), emitter)


def mean_of(total: te.Tensor, source: QuantType, kind: QuantType, count: int, emitter: Emitter) -> te.Tensor:
    """Sums of `count` stored integers each as means on the grid of `kind`."""
    factor = mean_factor(source, kind, count)
    offset, dtype = int(source.zero_point) * count, emitter.dtype(kind)

    def at(*i: Expr) -> Expr:
        whole = total(*i) - number(offset, "int32") if offset else total(*i)
        return bounded(rescaled_by(whole, factor), kind, "none", dtype)

    return te.compute(total.shape, at, name="mean")


@emit(quant.FakeQuant, kind=Kind.ELEMENTWISE)
def _fake_quant(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    kind = op.result.type
    dtype = emitter.dtype(kind)
    low = -(1 << (op.bits - 1)) if op.signed else 0
    high = (1 << (op.bits - 1)) - 1 if op.signed else (1 << op.bits) - 1
    scale, offset = number(op.scale, dtype), number(op.zero_point, dtype)

    def at(*i: Expr) -> Expr:
        stored = tirx.nearbyint(args.x(*i) / scale) + offset
        stored = te.max(te.min(stored, number(high, dtype)), number(low, dtype))
        return (stored - offset) * scale

    return te.compute(emitter.shape(kind.shape), at, name="fake_quant")
