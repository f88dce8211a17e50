"""Kernels that go over rows several times: softmax and the normalisations, vectors along the row.

    for each row (in parallel)
        total = fold(row)            lane by lane in a few registers, then over the lanes
        kept = map(row, total)       where a later pass reads it again
        result[row, :] = epilogue(...)

A row is longer than a vector by some remainder: folds take it element by element, maps by
a last vector that overlaps the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import te, tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from plait.backends.targets import CpuTarget
from plait.backends.tvm.emit.cpu.reader import Reader
from plait.backends.tvm.emit.cpu.writer import local, parallel, places, scratch, vector
from plait.backends.tvm.emit.expressions import number, size_of
from plait.backends.tvm.emit.loops import product, whole
from plait.backends.tvm.emit.table import Emitter
from plait.ir import Value
from plait.ir.types import ShapedType

#: Registers that a fold fills, so that its operations do not wait for one another.
_CHAINS = 4
#: Below this many elements, starting threads costs more than it saves.
_SMALL = 4096

Element = Callable[[Expr], Expr]
Combine = Callable[[Expr, Expr], Expr]


@dataclass(frozen=True)
class Row:
    """One row while its kernel is written.

    Attributes:
        place: its coordinates on the axes before the last.
        size: how many elements it has.
        width: lanes of a vector.
        read: expands tensor expressions.
    """

    place: tuple[Expr, ...]
    size: Expr
    width: int
    read: Reader

    def fold(self, element: Element, combine: Combine, start: Expr) -> Expr:
        """`combine` over all elements, in an order of its own; a scalar that can be read again."""
        dtype, width = str(start.ty.dtype), self.width
        known = size_of(self.size)
        chains = _CHAINS if known is None else max(1, min(_CHAINS, known // width))
        found = local(dtype, chains * width)
        for first in range(0, chains * width, width):
            with vector(width) as lane:
                T.buffer_store(found, start, [first + lane])

        def take(chain: int, column: Expr) -> None:
            with vector(width) as lane:
                here = chain * width + lane
                T.buffer_store(found, combine(found[here], self.read(element(column + lane))), [here])

        block = chains * width
        with T.serial(whole(0), tirx.floordiv(self.size, whole(block))) as step:
            for chain in range(chains):
                take(chain, step * block + chain * width)
        if known is None:
            done = tirx.floordiv(self.size, whole(block)) * (block // width)
            with T.serial(done, tirx.floordiv(self.size, whole(width))) as step:
                take(0, step * width)
        else:
            for chain, column in enumerate(range(known // block * block, known - width + 1, width)):
                take(chain, whole(column))
        span = chains * width
        while span > 1:
            half = width * (span // width // 2) if span > width else span // 2
            rest = span - half
            with vector(half) as lane:
                T.buffer_store(found, combine(found[lane], found[rest + lane]), [lane])
            span = rest
        with T.serial(tirx.floordiv(self.size, whole(width)) * width, self.size) as column:
            T.buffer_store(found, combine(found[0], self.read(element(column))), [whole(0)])
        return found[0]

    def total(self, element: Element) -> Expr:
        """The sum of all elements, in f32."""
        return self.fold(element, lambda a, b: a + b, number(0.0, "float32"))

    def scalar(self, value: Expr) -> Expr:
        """A number that is computed once."""
        found = local(str(value.ty.dtype), 1)
        T.buffer_store(found, self.read(value), [whole(0)])
        return found[0]

    def kept(self, element: Element, dtype: str = "float32") -> Element:
        """Elements that are computed once."""
        array = scratch(dtype, [self.size])
        self.each(element, lambda column, value: T.buffer_store(array, value, [column]))
        return lambda column: array[column]

    def each(self, element: Element, store: Callable[[Expr, Expr], None]) -> None:
        """Store every element, some of the last ones perhaps twice."""
        width, known = self.width, size_of(self.size)
        with T.serial(whole(0), tirx.floordiv(self.size, whole(width))) as step, vector(width) as lane:
            column = step * width + lane
            store(column, self.read(element(column)))
        if known is None:
            with T.serial(tirx.floordiv(self.size, whole(width)) * width, self.size) as column:
                store(column, self.read(element(column)))
        elif known % width:
            with vector(width) as lane:
                column = whole(known - width) + lane
                store(column, self.read(element(column)))


@dataclass
class Rows:
    """A map over rows whose elements depend on their whole row.

    Attributes:
        sums: stands for the map [..., row] in the epilogue.
        width: lanes of a vector, at most the length of a row.
        body: writes the passes over a row; how its elements are found after them.
    """

    sums: te.Tensor
    width: int
    body: Callable[[Row], Element]

    @property
    def method(self) -> str:
        """How it is computed."""
        return f"rows by vectors of {self.width}"

    def write(self, read: Reader, result: te.Tensor, axes: Sequence[int], buffer: Any) -> None:
        """Write the loops; see `Product.write`."""
        *lead, size = self.sums.shape
        elements = size_of(product(self.sums.shape))
        if elements is not None and elements < _SMALL:
            with T.serial(whole(0), product(lead)) as index:
                self._row(read, result, axes, buffer, places(index, lead), size)
        else:
            with parallel(product(lead)) as index:
                self._row(read, result, axes, buffer, places(index, lead), size)

    def _row(
        self, read: Reader, result: te.Tensor, axes: Sequence[int], buffer: Any, lead: Any, size: Expr
    ) -> None:
        row = Row(tuple(lead), size, self.width, read)
        element = self.body(row)

        def where(column: Expr) -> list[Expr]:
            place = (*lead, column)
            return [place[axis] for axis in axes]

        def finished(column: Expr) -> Expr:
            read.bind_function(self.sums, lambda _: element(column))
            return read.element(result, where(column))

        row.each(finished, lambda column, value: T.buffer_store(buffer, value, where(column)))


def row_map(
    emitter: Emitter,
    x: te.Tensor,
    kind: ShapedType,
    axis: int,
    body: Callable[[Row], Element],
    name: str,
    value: Value | None = None,
) -> te.Tensor | None:
    """A map over the rows of a tensor, as loops; None where rows are no vectors of f32 in memory.

    Args:
        x: the only tensor that `body` reads.
        axis: along which rows run.
        value: what `x` is, where it comes from outside of the kernel.
    """
    target = emitter.target
    if not isinstance(target, CpuTarget) or emitter.dtype(kind) != "float32" or axis != kind.rank - 1:
        return None
    layout = emitter.layouts.get(value) if value is not None else None
    if layout is not None and layout[-1] != axis:
        return None
    size = kind.shape[-1]
    width = target.lanes
    while isinstance(size, int) and width > max(size, 1):
        width //= 2
    sums = te.compute(emitter.shape(kind.shape), lambda *i: x(*i), name=name)
    emitter.products[sums.op] = Rows(sums, width, body)
    return sums


__all__ = ["Element", "Row", "Rows", "row_map"]
