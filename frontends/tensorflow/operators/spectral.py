"""Complex numbers and Fourier transforms."""

from __future__ import annotations

from typing import Any

from plait.frontends.tensorflow.call import Call
from plait.frontends.tensorflow.registry import lowers
from plait.ir import Value
from plait.ir.ops import core


@lowers("Complex")
def complex_number(call: Call) -> Value:
    return call.emit(core.Complex(call.value(0), call.value(1)))


@lowers("Real", "Imag")
def part(call: Call) -> Value:
    make: Any = core.Real if call.op_type == "Real" else core.Imag
    return call.emit(make(call.value(0)))


@lowers("ComplexAbs")
def magnitude(call: Call) -> Value:
    real, imag = _parts(call, call.value(0))
    square = call.step(core.Add(call.step(core.Mul(real, real)), call.step(core.Mul(imag, imag))))
    return call.emit(core.Sqrt(square))


@lowers("Angle")
def angle(call: Call) -> Value:
    real, imag = _parts(call, call.value(0))
    return call.emit(core.Atan2(imag, real))


@lowers("Conj")
def conjugate(call: Call) -> Value:
    real, imag = _parts(call, call.value(0))
    return call.emit(core.Complex(real, call.step(core.Neg(imag))))


def _parts(call: Call, x: Value) -> tuple[Value, Value]:
    return call.step(core.Real(x)), call.step(core.Imag(x))


@lowers("FFT", "IFFT", "FFT2D", "IFFT2D", "FFT3D", "IFFT3D")
def transform(call: Call) -> Value:
    """Over the last one to three axes; the inverse divides by the number of elements."""
    x = call.value(0)
    rank = x.shaped.rank
    count = int(call.op_type[-2]) if call.op_type.endswith("D") else 1
    inverse = call.op_type.startswith("I")
    real, imag = _parts(call, x)
    for axis in range(rank - count, rank):
        op = call.builder.add(core.Dft(real, imag, axis=axis, inverse=inverse), f"{call.name}.dft")
        real, imag = op.results
        if inverse:
            real, imag = _divided(call, real, axis), _divided(call, imag, axis)
    return call.emit(core.Complex(real, imag))


def _divided(call: Call, x: Value, axis: int) -> Value:
    """`x` by the size of an axis."""
    count = call.cast(call.step(core.DimValue(dim=x.shaped.shape[axis])), x.shaped.dtype)
    return call.step(core.Div(x, count))


@lowers("RFFT")
def real_transform(call: Call) -> Value:
    """The first half of the transform of a real tensor along its last axis, cut or padded to a length."""
    x = call.value(0)
    length = call.ints(1, "the length")[0]
    axis = x.shaped.rank - 1
    (size,) = x.shaped.shape[axis:]
    if not isinstance(size, int):
        if size != length:
            raise call.error(f"the last axis is {size}, the transform {length} long")
    elif size > length:
        x = call.step(core.Slice(x, axes=(axis,), starts=(0,), stops=(length,)))
    elif size < length:
        after = tuple(length - size if a == axis else 0 for a in range(axis + 1))
        x = call.step(core.Pad(x, before=(0,) * (axis + 1), after=after))
    op = call.builder.add(core.Dft(x, axis=axis, onesided=True), f"{call.name}.dft")
    return call.emit(core.Complex(*op.results))
