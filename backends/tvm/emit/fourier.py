"""Emission of the discrete Fourier transform: sums against a table of the roots of unity.

A length n = a b is transformed in two steps (Cooley and Tukey, 1965), b sums of a terms
for each of them, so that a line takes n (a + b) complex MACs; a prime or symbolic length
takes n^2 in one step.  With j = j1 + a j2 and k = k2 + b k1,

    y[k] = sum_j1 w^(j1 k) sum_j2 w^(a j2 k2) x[j1 + a j2],    w = exp(-+2 pi i / n).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx
from tvm.ir import Expr

from plait.backends.tvm.emit.expressions import number
from plait.backends.tvm.emit.loops import whole
from plait.backends.tvm.emit.table import Arguments, Emitter, Kind, emit
from plait.ir import IntLike
from plait.ir.ops import core

Pair = tuple[te.Tensor, te.Tensor]


def divisor(size: IntLike) -> int:
    """The divisor of a length nearest its root from below; 1 where it is prime or symbolic."""
    if not isinstance(size, int):
        return 1
    return next(a for a in range(math.isqrt(size), 0, -1) if size % a == 0)


def _roots(emitter: Emitter, size: IntLike, dtype: str, inverse: bool) -> Pair:
    """cos and sin of the angle of each power of w, computed in f64 and reduced mod n beforehand."""
    wide = "float64"
    turn = number((2.0 if inverse else -2.0) * math.pi, wide) / tirx.Cast(wide, emitter.read_dim(size))

    def angle(power: Expr) -> Expr:
        return tirx.Cast(wide, power) * turn

    shape = [emitter.dim(size)]
    cosines = te.compute(shape, lambda p: tirx.Cast(dtype, tirx.cos(angle(p))), name="cosines")
    sines = te.compute(shape, lambda p: tirx.Cast(dtype, tirx.sin(angle(p))), name="sines")
    return emitter.stage("cosines", cosines), emitter.stage("sines", sines)


def _sums(
    emitter: Emitter,
    shape: Sequence[Expr],
    terms: IntLike,
    read: Callable[[te.Tensor, Sequence[Expr], Expr], Expr],
    power: Callable[[Sequence[Expr], Expr], Expr],
    x: tuple[te.Tensor, te.Tensor | None],
    roots: Pair,
    name: str,
) -> Pair:
    """Complex sums of `terms` products of an element of `x` and a power of w, by parts."""
    real, imag = x
    cosines, sines = roots

    def part(of_real: te.Tensor, of_imag: te.Tensor, sign: int, suffix: str) -> te.Tensor:
        over = emitter.axis(terms, "j")

        def at(*i: Expr) -> Expr:
            place = power(i, over.var)
            total = read(real, i, over.var) * of_real(place)
            if imag is not None:
                total = total + read(imag, i, over.var) * of_imag(place) * number(sign, str(real.dtype))
            return te.sum(total, axis=over)

        return emitter.stage(suffix, te.compute(shape, at, name=f"{name}_{suffix}"))

    return part(cosines, sines, -1, "real"), part(sines, cosines, 1, "imag")


@emit(core.Dft, kind=Kind.ALONE)
def _dft(op: Any, args: Arguments, emitter: Emitter) -> Pair:
    kind = op.real.type
    axis = op.axis % kind.rank
    size = kind.shape[axis]
    count = op.results[0].type.shape[axis]
    outer = divisor(size)
    n = emitter.read_dim(size)
    x = (args.real, args.imag)
    roots = _roots(emitter, size, emitter.dtype(kind), op.inverse)

    def at(i: Sequence[Expr], *places: Expr) -> list[Expr]:
        """An index with the place on the axis replaced."""
        return [*i[:axis], *places, *i[axis + 1 :]]

    def shape(*dims: IntLike) -> list[Expr]:
        return emitter.shape((*kind.shape[:axis], *dims, *kind.shape[axis + 1 :]))

    if outer == 1:
        return _sums(
            emitter,
            shape(count),
            size,
            lambda tensor, i, j: tensor(*at(i, j)),
            lambda i, j: tirx.floormod(j * i[axis], n),
            x,
            roots,
            "dft",
        )
    inner = size // outer
    step, width = whole(outer), whole(inner)
    # Axes [.., j1, k2, ..] of the inner sums: one axis more than the operand.
    first = _sums(
        emitter,
        shape(outer, inner),
        inner,
        lambda tensor, i, j: tensor(*i[:axis], i[axis] + step * j, *i[axis + 2 :]),
        lambda i, j: tirx.floormod(step * j * i[axis + 1], n),
        x,
        roots,
        "inner",
    )
    return _sums(
        emitter,
        shape(count),
        outer,
        lambda tensor, i, j: tensor(*at(i, j, tirx.floormod(i[axis], width))),
        lambda i, j: tirx.floormod(j * i[axis], n),
        first,
        roots,
        "dft",
    )
