"""nn: convolutions, dense and quantised."""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import ClassVar

from plait.ir.fixed_point import Requantization
from plait.ir.op import Op, abstract, op, shaped
from plait.ir.ops.common import Activation, conv_output, pads_of
from plait.ir.types import QuantType, Shape, ShapedType, TensorType, Type, i32
from plait.ir.value import Value


def contraction_result(
    op: Op,
    x: Value,
    w: Value,
    b: Value | None,
    shape: Shape,
    out: Type | None,
    *,
    output_axis: int = 0,
    weight_only: bool = True,
) -> Type:
    """Result type of a convolution or matrix product.

    Dense operands give their own element type.  A dense x and a quantised w, whose real
    numbers take part in the element type of x, do so too, with a dense bias.  Quantised
    operands accumulate in i32, with an i32 bias, and give `out`, a quantised type, or i32
    where it is absent; relu is the only activation of an i32 result.

    Args:
        output_axis: axis of w that holds the outputs.
        weight_only: whether w may be quantised where x is not.
    """
    xt, wt = shaped(op, x, "x"), shaped(op, w, "w")
    bt = None if b is None else shaped(op, b, "b")
    if out is not None and getattr(op, "requantize", "real") == "fixed_point":
        check_fixed_point(op, (x, w), out, output_axis)
    if isinstance(xt, QuantType) or (isinstance(wt, QuantType) and not weight_only):
        if not (isinstance(xt, QuantType) and isinstance(wt, QuantType)):
            raise op.error(
                f"{x} is {xt} but {w} is {wt}",
                why="a quantised operand goes with quantised weights"
                if isinstance(xt, QuantType)
                else "both are quantised or neither",
                remedy="insert quant.quantize, or quant.dequantize",
            )
        if bt is not None and bt.dtype != i32:
            raise op.error(f"bias {b} is {bt}", why="the bias of quantised operands is i32")
        if out is None:
            if getattr(op, "act", "none") not in ("none", "relu"):
                raise op.error(
                    "an i32 accumulator takes no activation but relu", remedy="declare a quantised result"
                )
            return TensorType(i32, shape)
        if not isinstance(out, QuantType) or out.shape != shape:
            raise op.error(
                f"result is declared {out}", why=f"it is a quantised type of shape {list(map(str, shape))}"
            )
        return out
    if out is not None and out != TensorType(xt.dtype, shape):
        raise op.error(f"the result is declared {out} but is {TensorType(xt.dtype, shape)}")
    for value, kind in ((w, wt), (b, bt)):
        if kind is not None and kind.dtype != xt.dtype and not (value is w and isinstance(kind, QuantType)):
            raise op.error(f"{x} is {xt} but {value} is {kind}", why="operands share one element type")
    if not xt.dtype.is_float:
        raise op.error(f"{x} is {xt}", why="a floating-point or quantised tensor is wanted")
    return TensorType(xt.dtype, shape)


def check_fixed_point(op: Op, operands: tuple[Value, Value], out: Type | None, output_axis: int) -> None:
    """Raise VerifyError unless integers alone can bring a sum of products to the grid of `out`.

    That takes one scale for x and one for each output of w at most, numbers for the grid
    of the result, and an activation that is a bound.
    """
    x, w = operands
    why = "fixed-point requantisation has one factor for each output"
    for value, axes in ((x, (None,)), (w, (None, output_axis))):
        kind = value.type
        if not isinstance(kind, QuantType) or kind.axis not in axes or kind.group is not None:
            raise op.error(f"operand {value} is {kind}", why=why, remedy='use requantize="real"')
    check_fixed_grid(op, out)
    act = getattr(op, "act", "none")
    if act not in ("none", "relu", "relu6"):
        raise op.error(f"act is {act}", why="fixed-point results are rectified by relu or relu6 only")


def check_fixed_grid(op: Op, out: Type | None) -> None:
    """Raise VerifyError unless `out` is a quantised type with one scale and zero point, both numbers."""
    if (
        not isinstance(out, QuantType)
        or out.axis is not None
        or not isinstance(out.scale, float)
        or not isinstance(out.zero_point, int)
    ):
        raise op.error(
            f"result is declared {out}",
            why="a fixed-point result has one scale and one zero point, given as numbers",
            remedy='declare them, or use requantize="real"',
        )


@abstract
class Convolution(Op):
    """Base of convolutions over `spatial` trailing axes."""

    spatial: ClassVar[int]
    x: Value
    w: Value
    b: Value | None = None

    def _operands_agree(self, groups: int, channels_in: object, channels_out: object) -> None:
        if groups < 1:
            raise self.error(f"groups {groups} must be at least 1")
        if isinstance(channels_out, int) and channels_out % groups:
            raise self.error(f"{channels_out} output channels do not split into {groups} groups")
        if self.b is not None and shaped(self, self.b, "b").shape != (channels_out,):
            raise self.error(
                f"bias {self.b} is {self.b.type}",
                why=f"it holds one number for each of {channels_out} channels",
            )

    def _ranks(self) -> tuple[ShapedType, ShapedType]:
        x, w = shaped(self, self.x, "x"), shaped(self, self.w, "w")
        for value, kind in ((self.x, x), (self.w, w)):
            if kind.rank != self.spatial + 2:
                raise self.error(f"{value} is {kind}", why=f"rank {self.spatial + 2} is wanted")
        return x, w

    def _forward(
        self,
        stride: tuple[int, ...],
        pad: tuple[int, ...],
        dilation: tuple[int, ...],
        groups: int,
        out: Type | None,
    ) -> tuple[Type, ...]:
        x, w = self._ranks()
        self._operands_agree(groups, x.shape[1], w.shape[0])
        if x.shape[1] != w.shape[1] * groups:
            raise self.error(
                f"{self.x} has {x.shape[1]} channels but {self.w} expects {w.shape[1]} x groups={groups}",
                remedy="check the channel counts and groups of the two layers",
            )
        pads = pads_of(self, pad, self.spatial)
        spatial = tuple(
            conv_output(self, size, kernel, s, p, d)
            for size, kernel, s, p, d in zip(x.shape[2:], w.shape[2:], stride, pads, dilation, strict=True)
        )
        return (contraction_result(self, self.x, self.w, self.b, (x.shape[0], w.shape[0], *spatial), out),)


@op("nn.conv1d")
class Conv1d(Convolution):
    """1-D convolution, NCL x OIL -> NCL, with bias and activation; pad is (each side) or (left, right)."""

    spatial = 1
    _: KW_ONLY
    stride: tuple[int] = (1,)
    pad: tuple[int, ...] = (0,)
    dilation: tuple[int] = (1,)
    groups: int = 1
    act: Activation = "none"
    act_alpha: float = 0.01
    requantize: Requantization = "real"
    out: Type | None = None

    def infer(self) -> tuple[Type, ...]:
        return self._forward(self.stride, self.pad, self.dilation, self.groups, self.out)


@op("nn.conv2d")
class Conv2d(Convolution):
    """2-D convolution, NCHW x OIHW -> NCHW, with bias and activation.

    h_out = (h + pads - dilation*(kh-1) - 1) // stride + 1.  pad is (rows, columns)
    or (top, left, bottom, right).
    """

    spatial = 2
    _: KW_ONLY
    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, ...] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    act: Activation = "none"
    act_alpha: float = 0.01
    requantize: Requantization = "real"
    out: Type | None = None

    def infer(self) -> tuple[Type, ...]:
        return self._forward(self.stride, self.pad, self.dilation, self.groups, self.out)


@op("nn.conv3d")
class Conv3d(Convolution):
    """3-D convolution, NCDHW x OIDHW -> NCDHW, with bias and activation."""

    spatial = 3
    _: KW_ONLY
    stride: tuple[int, int, int] = (1, 1, 1)
    pad: tuple[int, ...] = (0, 0, 0)
    dilation: tuple[int, int, int] = (1, 1, 1)
    groups: int = 1
    act: Activation = "none"
    act_alpha: float = 0.01
    requantize: Requantization = "real"
    out: Type | None = None

    def infer(self) -> tuple[Type, ...]:
        return self._forward(self.stride, self.pad, self.dilation, self.groups, self.out)


@abstract
class TransposedConvolution(Convolution):
    """Base of transposed convolutions: the gradient of a convolution by its input."""

    def _backward(
        self,
        stride: tuple[int, ...],
        pad: tuple[int, ...],
        output_pad: tuple[int, ...],
        dilation: tuple[int, ...],
        groups: int,
    ) -> tuple[Type, ...]:
        x, w = self._ranks()
        channels = w.shape[1] * groups
        self._operands_agree(groups, x.shape[1], channels)
        if x.shape[1] != w.shape[0]:
            raise self.error(f"{self.x} has {x.shape[1]} channels but {self.w} expects {w.shape[0]}")
        pads = pads_of(self, pad, self.spatial)
        spatial = tuple(
            (size - 1) * s - sum(p) + d * (kernel - 1) + extra + 1
            for size, kernel, s, p, d, extra in zip(
                x.shape[2:], w.shape[2:], stride, pads, dilation, output_pad, strict=True
            )
        )
        shape = (x.shape[0], channels, *spatial)
        return (contraction_result(self, self.x, self.w, self.b, shape, None, weight_only=False),)


@op("nn.conv_transpose2d")
class ConvTranspose2d(TransposedConvolution):
    """Transposed 2-D convolution, NCHW x IOHW -> NCHW: the gradient of conv2d by its input.

    h_out = (h-1)*stride - pads + dilation*(kh-1) + output_pad + 1.
    """

    spatial = 2
    _: KW_ONLY
    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, ...] = (0, 0)
    output_pad: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    act: Activation = "none"
    act_alpha: float = 0.01

    def infer(self) -> tuple[Type, ...]:
        return self._backward(self.stride, self.pad, self.output_pad, self.dilation, self.groups)


@op("nn.conv_transpose3d")
class ConvTranspose3d(TransposedConvolution):
    """Transposed 3-D convolution, NCDHW x IODHW -> NCDHW: the gradient of conv3d by its input.

    d_out = (d-1)*stride - pads + dilation*(kd-1) + output_pad + 1.
    """

    spatial = 3
    _: KW_ONLY
    stride: tuple[int, int, int] = (1, 1, 1)
    pad: tuple[int, ...] = (0, 0, 0)
    output_pad: tuple[int, int, int] = (0, 0, 0)
    dilation: tuple[int, int, int] = (1, 1, 1)
    groups: int = 1
    act: Activation = "none"
    act_alpha: float = 0.01

    def infer(self) -> tuple[Type, ...]:
        return self._backward(self.stride, self.pad, self.output_pad, self.dilation, self.groups)
