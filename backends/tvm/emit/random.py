"""Emission of random numbers: Philox 4x32-10, as `plait.ir.reference.philox` defines it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx
from tvm.ir import Expr

from plait.backends.tvm.emit.expressions import number
from plait.backends.tvm.emit.table import Arguments, Emitter, Kind, emit
from plait.ir.dims import product
from plait.ir.ops import core

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_MASK = 0xFFFFFFFF
#: Bits of the significand by element type, that of f64 aside.
_SIGNIFICANDS = {"float32": 24, "float16": 11, "bfloat16": 8}


def philox(place: Expr, seed: int, result: Callable[[Sequence[Expr]], Expr]) -> Expr:
    """`result` of the four 32-bit words of the element at `place`."""
    wide = tirx.Cast("uint64", place)  # TVM narrows what it knows as an index, but no unsigned number
    words = [_low(wide), _low(wide >> number(32, "uint64")), number(0, "uint32"), number(0, "uint32")]
    keys = [seed & _MASK, (seed >> 32) & _MASK]
    products: list[tuple[tirx.Var, Expr]] = []
    for step in range(_ROUNDS):
        halves = []
        for word, factor, name in zip((words[0], words[2]), _MULTIPLIERS, "ab", strict=True):
            # Bound to a name, since the next round reads it twice.
            whole = tirx.Var(f"{name}{step}", "uint64")
            products.append((whole, tirx.Cast("uint64", word) * number(factor, "uint64")))
            halves.append((_low(whole >> number(32, "uint64")), _low(whole)))
        (high0, low0), (high1, low1) = halves
        words = [
            high1 ^ words[1] ^ number(keys[0], "uint32"),
            low1,
            high0 ^ words[3] ^ number(keys[1], "uint32"),
            low0,
        ]
        keys = [(key + more) & _MASK for key, more in zip(keys, _KEY_STEPS, strict=True)]
    found = result(words)
    for var, value in reversed(products):
        found = tirx.Let(var, value, found)
    return found


def _low(word: Expr) -> Expr:
    """The lower 32 bits."""
    return tirx.Cast("uint32", word)


def _fraction(words: Sequence[Expr], dtype: str, bits: int, more: int = 0) -> Expr:
    """The upper bits of one word (of two for f64) plus `more`, as a fraction of 1."""
    first, second = words
    if dtype == "float64":
        wide = tirx.Cast("uint64", first) << number(21, "uint64")
        whole = wide | tirx.Cast("uint64", second >> number(11, "uint32"))
    else:
        whole = first >> number(32 - bits, "uint32")
    # Divided, since TVM writes f64 constants into CUDA text with 15 decimals: 2**-53 would be 0.
    return tirx.Cast(dtype, whole + number(more, whole.ty.dtype)) / number(2.0**bits, dtype)


@emit(core.Random, kind=Kind.ALONE)
def _random(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    shape, dtype = op.out.shape, emitter.dtype(op.out)
    wide = dtype if dtype == "float64" else "float32"
    strides = [emitter.read_dim(product(shape[axis + 1 :])) for axis in range(len(shape))]

    def uniform(words: Sequence[Expr]) -> Expr:
        return _fraction(words[:2], wide, 53 if wide == "float64" else _SIGNIFICANDS[dtype])

    def normal(words: Sequence[Expr]) -> Expr:
        bits = 53 if wide == "float64" else 24
        radius = tirx.sqrt(number(-2.0, wide) * tirx.log(_fraction(words[:2], wide, bits, more=1)))
        return radius * tirx.cos(_fraction(words[2:], wide, bits) * number(2 * math.pi, wide))

    draw = uniform if op.distribution == "uniform" else normal

    def element(*i: Expr) -> Expr:
        place: Expr = number(0, "int64")
        for index, stride in zip(i, strides, strict=True):
            place = place + tirx.Cast("int64", index) * stride
        return philox(place, op.seed, draw)

    drawn = te.compute(emitter.shape(shape), element, name="random")
    if wide == dtype:
        return drawn
    # TVM reads the operand of a narrowing several times over, which names cannot stand.
    drawn = emitter.stage("wide", drawn)
    return te.compute(drawn.shape, lambda *i: tirx.Cast(dtype, drawn(*i)), name="narrow")
