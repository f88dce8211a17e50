"""core: complex numbers from and to real ones, and the discrete Fourier transform on real pairs."""

from __future__ import annotations

from dataclasses import KW_ONLY

from plait.ir.op import Op, abstract, op
from plait.ir.ops.common import broadcast, dense, floating, normalise_axis, same_dtype
from plait.ir.types import DType, TensorType, Type, c64, c128, f32, f64
from plait.ir.value import Value

#: The complex element type of a real one.
COMPLEX: dict[DType, DType] = {f32: c64, f64: c128}
#: The element type of the parts of a complex one.
PARTS: dict[DType, DType] = {c64: f32, c128: f64}


@op("core.complex")
class Complex(Op):
    """real + i imag: f32 parts give c64, f64 parts c128."""

    real: Value
    imag: Value

    def infer(self) -> tuple[Type, ...]:
        a, b = floating(self, self.real, "real"), floating(self, self.imag, "imag")
        dtype = same_dtype(self, self.real, self.imag)
        if dtype not in COMPLEX:
            raise self.error(f"{self.real} is {a}", why="complex numbers have parts of f32 or f64")
        return (TensorType(COMPLEX[dtype], broadcast(self, a, b, (self.real, self.imag))),)


@abstract
class ComplexPart(Op):
    """Base of the parts of complex numbers."""

    x: Value

    def infer(self) -> tuple[Type, ...]:
        kind = dense(self, self.x, "x")
        if kind.dtype not in PARTS:
            raise self.error(f"{self.x} is {kind}", why="a complex tensor is wanted")
        return (TensorType(PARTS[kind.dtype], kind.shape),)


@op("core.real")
class Real(ComplexPart):
    """The real part."""


@op("core.imag")
class Imag(ComplexPart):
    """The imaginary part."""


@op("core.dft")
class Dft(Op):
    """Discrete Fourier transform along an axis, of complex numbers as two real tensors.

    y[k] = sum_j x[j] exp(-2 pi i j k / n), or with exp(+2 pi i j k / n) where `inverse`, without
    a factor 1/n.  An absent `imag` is zero.  With `onesided`, k runs from 0 to n // 2.
    The results are the real and the imaginary part.
    """

    real: Value
    imag: Value | None = None
    _: KW_ONLY
    axis: int = -1
    inverse: bool = False
    onesided: bool = False

    def infer(self) -> tuple[Type, ...]:
        kind = floating(self, self.real, "real")
        if self.imag is not None and dense(self, self.imag, "imag") != kind:
            raise self.error(f"{self.real} is {kind} but {self.imag} is {self.imag.type}")
        axis = normalise_axis(self, self.axis, kind.rank)
        if not kind.rank or kind.shape[axis] == 0:
            raise self.error(f"{self.real} is {kind}", why="there is nothing to transform along the axis")
        if self.onesided:
            count = kind.shape[axis] // 2 + 1
            kind = TensorType(kind.dtype, (*kind.shape[:axis], count, *kind.shape[axis + 1 :]))
        return kind, kind
