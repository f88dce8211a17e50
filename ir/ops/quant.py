"""The quant family: between real and affine-quantised tensors, real = scale * (stored - zero_point)."""

from __future__ import annotations

from dataclasses import KW_ONLY

from plait.ir.op import Op, op, shaped
from plait.ir.ops.common import floating
from plait.ir.types import QuantType, TensorType, Type, f32, i32
from plait.ir.value import Value


def check_quantised(op: Op, out: Type, shape: tuple[object, ...]) -> QuantType:
    """The declared result as a quantised type of this shape.  Raises VerifyError otherwise."""
    if not isinstance(out, QuantType) or out.shape != shape:
        raise op.error(
            f"result is declared {out}", why=f"it is a quantised type of shape {list(map(str, shape))}"
        )
    if isinstance(out.scale, float) and not 0.0 < out.scale < float("inf"):
        raise op.error(f"scale {out.scale} is not positive")
    return out


@op("quant.quantize")
class Quantize(Op):
    """round(x / scale) + zero_point, halves to even, saturated to the range of the result type."""

    x: Value
    _: KW_ONLY
    out: QuantType

    def infer(self) -> tuple[Type, ...]:
        return (check_quantised(self, self.out, floating(self, self.x, "x").shape),)


@op("quant.dequantize")
class Dequantize(Op):
    """scale * (x - zero_point) as f32."""

    x: Value

    def infer(self) -> tuple[Type, ...]:
        kind = shaped(self, self.x, "x")
        if not isinstance(kind, QuantType):
            raise self.error(f"{self.x} is {kind}", why="a quantised tensor is wanted")
        return (TensorType(f32, kind.shape),)


@op("quant.requantize")
class Requantize(Op):
    """A quantised tensor, or an i32 accumulator of a stated scale, under another scale and zero point."""

    x: Value
    _: KW_ONLY
    scale: float | None = None
    out: QuantType

    def infer(self) -> tuple[Type, ...]:
        kind = shaped(self, self.x, "x")
        if isinstance(kind, QuantType) == (self.scale is not None):
            raise self.error(
                f"{self.x} is {kind}", why="scale is stated for an i32 accumulator and only there"
            )
        if not isinstance(kind, QuantType) and kind.dtype != i32:
            raise self.error(f"{self.x} is {kind}", why="a quantised tensor or i32 is wanted")
        return (check_quantised(self, self.out, kind.shape),)


@op("quant.fake_quant")
class FakeQuant(Op):
    """dequantize(quantize(x)) in floating point, for training: the gradient passes inside the range."""

    x: Value
    _: KW_ONLY
    scale: float
    zero_point: int = 0
    bits: int = 8
    signed: bool = True

    def infer(self) -> tuple[Type, ...]:
        if not 2 <= self.bits <= 8:
            raise self.error(f"bits {self.bits} is outside 2..8")
        if not 0.0 < self.scale < float("inf"):
            raise self.error(f"scale {self.scale} is not positive")
        return (floating(self, self.x, "x"),)
