"""The quant family: between real and affine-quantised tensors, real = scale * (stored - zero_point)."""

from __future__ import annotations

from dataclasses import KW_ONLY

from plait.ir.dims import IntLike, product
from plait.ir.fixed_point import Rectifier, Requantization
from plait.ir.op import Op, op, shaped
from plait.ir.ops.common import broadcast, floating
from plait.ir.ops.core.reduce import reduced_shape
from plait.ir.ops.nn.conv import check_fixed_grid
from plait.ir.ops.nn.pool import pooled
from plait.ir.types import QuantType, TensorType, Type, f32, i32
from plait.ir.value import Value

#: Elements of 8 bits whose sum, with zero points taken off, has room in 32 bits.
LARGEST_COUNT = (1 << 31) // 255 - 1


def check_quantised(op: Op, out: Type, shape: tuple[object, ...]) -> QuantType:
    """The declared result as a quantised type of this shape.  Raises VerifyError otherwise."""
    if not isinstance(out, QuantType) or out.shape != shape:
        raise op.error(
            f"result is declared {out}", why=f"it is a quantised type of shape {list(map(str, shape))}"
        )
    if isinstance(out.scale, float) and not 0.0 < out.scale < float("inf"):
        raise op.error(f"scale {out.scale} is not positive")
    return out


def one_scale(op: Op, value: Value, name: str) -> QuantType:
    """The type of an operand with one scale and one zero point of its grid.  Raises VerifyError otherwise."""
    kind = shaped(op, value, name)
    if not isinstance(kind, QuantType):
        raise op.error(f"operand {name} ({value}) is {kind}", why="a quantised tensor is wanted")
    if kind.axis is not None or not isinstance(kind.scale, float) or not isinstance(kind.zero_point, int):
        raise op.error(
            f"operand {name} ({value}) is {kind}",
            why="integer arithmetic takes one scale and one zero point, given as numbers",
            remedy="quantise it per tensor",
        )
    low, high = kind.range
    if not low <= kind.zero_point <= high:
        raise op.error(
            f"the zero point {kind.zero_point} of {value} leaves {low}..{high}",
            why="the bounds of 32-bit sums count on it",
        )
    return kind


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
    """A quantised tensor, or an i32 accumulator of a stated scale, under another scale and zero point.

    `real` divides the real numbers and rounds halves to even; `fixed_point` multiplies the
    stored integers by the ratio of the scales, see `plait.ir.fixed_point`.
    """

    x: Value
    _: KW_ONLY
    scale: float | None = None
    act: Rectifier = "none"
    requantize: Requantization = "real"
    out: QuantType

    def infer(self) -> tuple[Type, ...]:
        kind = shaped(self, self.x, "x")
        if isinstance(kind, QuantType) == (self.scale is not None):
            raise self.error(
                f"{self.x} is {kind}", why="scale is stated for an i32 accumulator and only there"
            )
        if not isinstance(kind, QuantType) and kind.dtype != i32:
            raise self.error(f"{self.x} is {kind}", why="a quantised tensor or i32 is wanted")
        if self.requantize == "fixed_point":
            check_fixed_grid(self, self.out)
            if isinstance(kind, QuantType):
                one_scale(self, self.x, "x")
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


@op("quant.add")
class Add(Op):
    """act(x + y) on a grid, by 32-bit integers; shapes broadcast as those of core.add.

    clamp((((x - z_x) * m_x + (y - z_y) * m_y + 2^(n-1)) >> n) + z_out), halves up, where
    m = round(s / s_out * 2^n) and n is the largest shift that keeps all steps in 32 bits
    (see `plait.ir.fixed_point.sum_scales`).
    """

    x: Value
    y: Value
    _: KW_ONLY
    act: Rectifier = "none"
    out: QuantType

    def infer(self) -> tuple[Type, ...]:
        x, y = one_scale(self, self.x, "x"), one_scale(self, self.y, "y")
        check_fixed_grid(self, self.out)
        return (check_quantised(self, self.out, broadcast(self, x, y, (self.x, self.y))),)


def check_count(op: Op, count: IntLike) -> int:
    """How many elements a mean is taken of.  Raises VerifyError unless a 32-bit sum of them has room."""
    if not isinstance(count, int) or not 0 < count <= LARGEST_COUNT:
        raise op.error(
            f"it takes the mean of {count} elements",
            why=f"the rescaling needs a known number from 1 to {LARGEST_COUNT}",
            remedy="dequantise first",
        )
    return count


@op("quant.mean")
class Mean(Op):
    """Mean over axes on a grid.

    An i32 sum of x - z_x, times s_x / (s_out * count) in fixed point, halves up.
    """

    x: Value
    _: KW_ONLY
    axes: tuple[int, ...]
    keepdims: bool = False
    out: QuantType

    @property
    def count(self) -> IntLike:
        """Elements that each mean is taken of."""
        shape = self.x.shaped.shape
        return product(shape[axis] for axis in self.axes)

    def infer(self) -> tuple[Type, ...]:
        kind = one_scale(self, self.x, "x")
        check_fixed_grid(self, self.out)
        shape = reduced_shape(self, kind.shape, self.axes, self.keepdims)
        check_count(self, self.count)
        return (check_quantised(self, self.out, shape),)


@op("quant.avg_pool2d")
class AvgPool2d(Op):
    """Mean of each window on a grid, NCHW; pads count, and are zero.

    An i32 sum of x - z_x, times s_x / (s_out * window) in fixed point, halves up.
    """

    x: Value
    _: KW_ONLY
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, ...] = (0, 0)
    out: QuantType

    def infer(self) -> tuple[Type, ...]:
        kind = one_scale(self, self.x, "x")
        check_fixed_grid(self, self.out)
        check_count(self, self.kernel[0] * self.kernel[1])
        found = pooled(self, kind, self.kernel, self.stride, self.pad, (1, 1), ceil=False)
        return (check_quantised(self, self.out, found.shape),)
