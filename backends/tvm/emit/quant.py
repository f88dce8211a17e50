"""Emissions of quantisation, and how products of quantised operands are read and finished."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import te, tirx
from tvm.ir import Expr

from plait.backends.tvm.emit.expressions import activate, number, saturate
from plait.backends.tvm.emit.table import Arguments, Emitter, Kind, emit
from plait.ir import QuantType, Value
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
    activation acts on it, and it is rounded to the result type.

    Args:
        channel: axis of the result that the bias and per-channel scales run along; None for no bias.
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

    def finish(i: tuple[Expr, ...], total: Expr) -> Expr:
        whole = biased(i, total)
        if not isinstance(result, QuantType):
            return activate(whole, op) if op.act in ("none", "relu") else whole
        place = i[channel] if channel is not None else tirx.IntImm("int64", 0)
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

    def at(*i: Expr) -> Expr:
        if isinstance(source, QuantType):
            real = _real(emitter, args.x, source, i, "float64")
        else:
            real = tirx.Cast("float64", args.x(*i)) * number(op.scale, "float64")
        return _quantise_at(emitter, real, kind, i)

    return te.compute(emitter.shape(kind.shape), at, name="requantize")


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
