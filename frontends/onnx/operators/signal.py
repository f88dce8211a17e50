"""Fourier transforms and mel filters."""

from __future__ import annotations

import numpy as np

from plait.frontends.onnx.call import Call
from plait.frontends.onnx.operand import Operand
from plait.frontends.onnx.registry import lowers
from plait.ir import IntLike, TensorType, Value
from plait.ir import types as t
from plait.ir.ops import core

#: Real and imaginary part; the latter is None where it is zero.
Pair = tuple[Value, "Value | None"]


def _parts(call: Call, x: Value) -> Pair:
    """The parts of numbers whose last axis holds 1 (real) or 2 (complex) of them."""
    *lead, count = x.shaped.shape
    if count == 1:
        return call.reshape(x, lead), None
    if count != 2:
        raise call.error(f"the last axis of {x.type} holds {count} numbers", why="1 is real and 2 complex")
    last = len(lead)
    first, second = (call.step(core.Slice(x, axes=(last,), starts=(i,), stops=(i + 1,))) for i in range(2))
    return call.reshape(first, lead), call.reshape(second, lead)


def _sized(call: Call, x: Value | None, axis: int, size: IntLike) -> Value | None:
    """An axis cut off, or filled up with zeros, at a length."""
    if x is None or x.shaped.shape[axis] == size:
        return x
    present = x.shaped.shape[axis]
    if isinstance(present, int) and isinstance(size, int) and present > size:
        return call.step(core.Slice(x, axes=(axis,), starts=(0,), stops=(size,)))
    missing = size - present
    if not isinstance(missing, int) or missing < 0:
        raise call.error(f"an axis of {present} is brought to {size}", why="the difference has to be known")
    after = [0] * x.shaped.rank
    after[axis] = missing
    return call.step(core.Pad(x, before=(0,) * x.shaped.rank, after=tuple(after)))


def _joined(call: Call, pair: Pair) -> Value:
    """The parts on a last axis of 2."""
    first, second = pair
    assert second is not None
    shape = first.shaped.shape
    columns = tuple(call.reshape(part, (*shape, 1)) for part in (first, second))
    return call.emit(core.Concat(columns, axis=len(shape)))


def _transformed(call: Call, pair: Pair, axis: int, inverse: bool, onesided: bool) -> Pair:
    """The transform; the inverse one is over its length."""
    first, second = pair
    op = core.Dft(first, second, axis=axis, inverse=inverse, onesided=onesided)
    real, imag = call.builder.add(op, f"{call.name}.dft").results
    if not inverse:
        return real, imag
    size = call.cast(call.step(core.DimValue(dim=first.shaped.shape[axis])), real.shaped.dtype)
    return call.step(core.Div(real, size)), call.step(core.Div(imag, size))


@lowers("DFT", since=17)
def discrete_fourier_transform(call: Call) -> Value:
    """The axis is an attribute to opset 19 and an input from 20 on, where it counts the last axis too."""
    x = call.value(0)
    rank = x.shaped.rank
    if call.version < 20:
        axis = call.normalise(call.integer("axis", 1), rank)
    else:
        axis = call.normalise(int(call.number(2, "the axis")) if call.has(2) else -2, rank)
    inverse, onesided = bool(call.integer("inverse", 0)), bool(call.integer("onesided", 0))
    first, second = _parts(call, x)
    size = first.shaped.shape[axis]
    if inverse and onesided:
        size = call.dims(1, "the length")[0] if call.has(1) else (size - 1) * 2
        return _real_inverse(call, (first, second), axis, size)
    if call.has(1):
        size = call.dims(1, "the length")[0]
        real = _sized(call, first, axis, size)
        assert real is not None
        first, second = real, _sized(call, second, axis, size)
    return _joined(call, _transformed(call, (first, second), axis, inverse, onesided))


def _real_inverse(call: Call, pair: Pair, axis: int, size: IntLike) -> Value:
    """Real numbers from the first half of their transform: the other half is its mirror image."""
    half = size // 2 + 1
    first, second = (_sized(call, part, axis, half) for part in pair)
    assert first is not None
    mirrored = size - half
    if mirrored != 0:

        def mirror(part: Value) -> Value:
            inner = call.step(core.Slice(part, axes=(axis,), starts=(1,), stops=(mirrored + 1,)))
            return call.step(core.Flip(inner, axes=(axis,)))

        first = call.step(core.Concat((first, mirror(first)), axis=axis))
        if second is not None:
            tail = call.step(core.Neg(mirror(second)))
            second = call.step(core.Concat((second, tail), axis=axis))
    real, _ = _transformed(call, (first, second), axis, True, False)
    return call.emit(core.Reshape(real, out=real.shaped.with_shape((*real.shaped.shape, 1))))


@lowers("STFT", since=17)
def short_time_fourier_transform(call: Call) -> Value:
    """Frames of the signal, each a step behind the one before, under a window and transformed."""
    first, second = _parts(call, call.value(0)) if call.rank(0) == 3 else (call.value(0), None)
    step = int(call.number(1, "the step between frames"))
    if call.has(3):
        width: IntLike = int(call.number(3, "the length of a frame"))
    elif call.has(2):
        width = call.shape(2)[0]
    else:
        raise call.error("neither a window nor the length of a frame is given", why="one of them is needed")
    frames = (first.shaped.shape[1] - width) // step + 1
    start = call.step(core.Iota(axis=0, step=step, out=TensorType(t.i64, (frames, 1))))
    offset = call.step(core.Iota(axis=1, out=TensorType(t.i64, (1, width))))
    places = call.step(core.Add(start, offset))

    def framed(part: Value | None) -> Value | None:
        if part is None:
            return None
        cut = call.step(core.Take(part, places, axis=1))
        return call.step(core.Mul(cut, call.value(2))) if call.has(2) else cut

    real = framed(first)
    assert real is not None
    onesided = bool(call.integer("onesided", 1)) and second is None
    return _joined(call, _transformed(call, (real, framed(second)), 2, False, onesided))


@lowers("MelWeightMatrix", since=17)
def mel_weight_matrix(call: Call) -> Operand:
    """Triangles over the bins of a transform, evenly spaced on the mel scale 2595 log10(1 + f / 700)."""
    words = (
        "the number of mel bins",
        "the length of the transform",
        "the sample rate",
        "the lowest frequency",
    )
    bands, length, rate = (int(call.number(i, words[i])) for i in range(3))
    low, high = float(call.number(3, words[3])), float(call.number(4, "the highest frequency"))
    bottom, top = (2595.0 * np.log10(1.0 + frequency / 700.0) for frequency in (low, high))
    mels = bottom + np.arange(bands + 2) * ((top - bottom) / (bands + 2))
    edges = ((length + 1) * (700.0 * (10.0 ** (mels / 2595.0) - 1.0)) // rate).astype(np.int64)
    weights = np.zeros((length // 2 + 1, bands))
    for band, (start, middle, stop) in enumerate(zip(edges, edges[1:], edges[2:])):
        rise, fall = middle - start, stop - middle
        weights[start : middle + 1, band] = np.arange(rise + 1) / rise if rise else 1.0
        if fall > 0:
            weights[middle:stop, band] = np.arange(fall, 0, -1) / fall
    element = call.element_of(call.integer("output_datatype", 1))
    return call.known(weights.astype(element.numpy), element)
