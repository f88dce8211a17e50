"""What lowering rules build with: named, located ops and the small idioms they share."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import NoReturn

import numpy as np

from plait.frontends.pytorch.dtypes import promote
from plait.frontends.pytorch.registry import Refusal
from plait.ir import types as t
from plait.ir.dims import Dim, IntLike, product
from plait.ir.graph import Graph
from plait.ir.loc import UNKNOWN, Loc
from plait.ir.op import Op
from plait.ir.ops import core
from plait.ir.region import Region
from plait.ir.types import DType, Shape, TensorType
from plait.ir.value import Constant, Value

Scalar = int | float | bool
#: What an elementwise operator accepts: a tensor, a Python number or a symbolic size.
Operand = Value | Dim | int | float | bool


def add_constant(graph: Graph, hint: str, array: np.ndarray) -> Constant:
    """Add a constant called `hint`, or that with a number behind it where the name is taken."""
    return graph.add_constant(graph.free_name(hint), array)


class Builder:
    """Emits ops for one torch operator at a time.

    Attributes:
        graph: the graph under construction.
        results: types that torch computed for the results of the current operator.
        counts: dims of these types that the current operator gives their values, one after another.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.results: tuple[TensorType, ...] = ()
        self.counts: tuple[Dim, ...] = ()
        self._name = "v"
        self._loc: Loc = UNKNOWN
        self._emitted: set[Op] = set()
        self._region: Region | None = None

    # -- the current operator ---------------------------------------------------
    def start(
        self, name: str, loc: Loc, results: tuple[TensorType, ...], counts: tuple[Dim, ...] = ()
    ) -> None:
        """Begin an operator: ops emitted from now on carry this name and location."""
        self._name, self._loc, self.results, self.counts = name, loc, results, counts
        self._emitted.clear()

    def finish(self, values: Sequence[Value]) -> None:
        """Give the results of the operator its plain name; helpers keep their longer ones."""
        for value in values:
            if value.producer in self._emitted:
                self._rename(value)
        self._emitted.clear()

    @contextlib.contextmanager
    def inside(self, region: Region) -> Iterator[None]:
        """Emit into a region of the current operator; the operators there have names of their own."""
        kept = (self._region, self._name, self._loc, self.results, self._emitted)
        self._region, self._emitted = region, set()
        try:
            yield
        finally:
            self._region, self._name, self._loc, self.results, self._emitted = kept

    def declare_count(self, name: str) -> Dim:
        """A dim of its own, 0 and above, for a size that an op finds in the data."""
        free = (name if number == 0 else f"{name}_{number}" for number in itertools.count())
        return self.graph.declare_dim(next(each for each in free if each not in self.graph.dims), 0)

    def count(self) -> Dim:
        """The dim that the only op of unknown result size of the current operator binds."""
        if len(self.counts) != 1:
            self.refuse("torch computed the size of the result in advance, or joined it with another")
        return self.counts[0]

    def name_for(self, suffix: str) -> str:
        """A hint for the name of something that belongs to the current operator."""
        return f"{self._name}.{suffix}"

    def _rename(self, value: Value) -> None:
        self.graph.rename(value, self.graph.free_name(self._name))

    @property
    def out(self) -> TensorType:
        """The type of the first result of the current operator."""
        return self.results[0]

    def refuse(self, why: str) -> NoReturn:
        """Put the current operator into the report of unsupported ones."""
        raise Refusal(why)

    # -- emission -----------------------------------------------------------------
    def emit(self, op: Op) -> Value:
        """Add an op with one result."""
        return self.emit_all(op)[0]

    def emit_all(self, op: Op) -> tuple[Value, ...]:
        """Add an op and return all its results."""
        hint = f"{self._name}.{op.opname.rpartition('.')[2]}"
        self.graph.add(op, name=hint, loc=self._loc, region=self._region)
        self._emitted.add(op)
        return op.results

    def constant(self, suffix: str, array: np.ndarray) -> Constant:
        """Add a constant that the rule computed."""
        return add_constant(self.graph, f"{self._name}.{suffix}", array)

    # -- types ----------------------------------------------------------------------
    @staticmethod
    def kind(x: Value) -> TensorType:
        """The dense type of a value."""
        kind = x.shaped
        if not isinstance(kind, TensorType):
            raise Refusal(f"{x} is {kind}, not a dense tensor")
        return kind

    def axis(self, axis: int, rank: int) -> int:
        """`axis` counted from the front; a scalar has the one axis 0 as in torch."""
        return axis % max(rank, 1)

    def axes(self, axes: int | Sequence[int] | None, rank: int) -> tuple[int, ...]:
        """Axes counted from the front, ascending; all of them for None or an empty list."""
        if axes is None or (not isinstance(axes, int) and not len(axes)):
            return tuple(range(rank))
        listed = (axes,) if isinstance(axes, int) else axes
        return tuple(sorted(axis % rank for axis in listed)) if rank else ()

    # -- scalars and element types ------------------------------------------------------
    def full(self, value: Scalar, dtype: DType, shape: Shape = ()) -> Value:
        """A tensor filled with one number; a scalar by default."""
        if dtype in core.PARTS:
            number, part = complex(value), core.PARTS[dtype]
            real, imag = self.full(number.real, part, shape), self.full(number.imag, part, shape)
            return self.emit(core.Complex(real, imag))
        number = bool(value) if dtype == t.boolean else float(value) if dtype.is_float else int(value)
        return self.emit(core.Full(value=number, out=TensorType(dtype, shape)))

    def size(self, dim: IntLike, dtype: DType) -> Value:
        """A size as a scalar tensor."""
        if isinstance(dim, int):
            return self.full(dim, dtype)
        return self.cast(self.emit(core.DimValue(dim=dim)), dtype)

    def cast(self, x: Value, dtype: DType) -> Value:
        """`x` in another element type; anything but zero is true."""
        kind = self.kind(x)
        if kind.dtype == dtype:
            return x
        if dtype == t.boolean:
            return self.emit(core.Ne(x, self.full(0, kind.dtype)))
        return self.emit(core.Cast(x, out=TensorType(dtype, kind.shape)))

    def operand(self, x: Operand, dtype: DType) -> Value:
        """A tensor, number or size as a value of the element type."""
        if isinstance(x, Value):
            return self.cast(x, dtype)
        return self.size(x, dtype) if isinstance(x, Dim) else self.full(x, dtype)

    def common(self, *operands: Operand) -> tuple[Value, ...]:
        """Operands in the type to which torch promotes them."""
        dtype = promote(operands)
        return tuple(self.operand(operand, dtype) for operand in operands)

    # -- arithmetic ----------------------------------------------------------------------
    def add(self, left: Value, right: Operand) -> Value:
        return self.emit(core.Add(left, self.operand(right, self.kind(left).dtype)))

    def sub(self, left: Value, right: Operand) -> Value:
        return self.emit(core.Sub(left, self.operand(right, self.kind(left).dtype)))

    def mul(self, left: Value, right: Operand) -> Value:
        return self.emit(core.Mul(left, self.operand(right, self.kind(left).dtype)))

    def div(self, left: Value, right: Operand) -> Value:
        return self.emit(core.Div(left, self.operand(right, self.kind(left).dtype)))

    # -- shapes ------------------------------------------------------------------------------
    def reshape(self, x: Value, shape: Sequence[IntLike]) -> Value:
        """The elements of `x` in another shape; nothing where it has that shape."""
        kind = self.kind(x)
        if kind.shape == tuple(shape):
            return x
        return self.emit(core.Reshape(x, out=kind.with_shape(tuple(shape))))

    def broadcast(self, x: Value, shape: Sequence[IntLike]) -> Value:
        """`x` stretched to a shape; nothing where it has that shape."""
        kind = self.kind(x)
        if kind.shape == tuple(shape):
            return x
        return self.emit(core.Broadcast(x, out=kind.with_shape(tuple(shape))))

    def transpose(self, x: Value, permutation: Sequence[int]) -> Value:
        """Axes in another order; nothing where the order stays."""
        if list(permutation) == list(range(len(permutation))):
            return x
        return self.emit(core.Transpose(x, permutation=tuple(permutation)))

    def swap(self, x: Value, first: int, second: int) -> Value:
        """Two axes exchanged."""
        order = list(range(self.kind(x).rank))
        order[first], order[second] = order[second], order[first]
        return self.transpose(x, order)

    def slice(self, x: Value, axis: int, start: IntLike, stop: IntLike, step: int = 1) -> Value:
        """x[start:stop:step] along one axis; nothing where that is all of it."""
        if start == 0 and step == 1 and stop == self.kind(x).shape[axis]:
            return x
        return self.emit(
            core.Slice(x, axes=(axis,), starts=(start,), stops=(stop,), steps=() if step == 1 else (step,))
        )

    def insert_axis(self, x: Value, axis: int) -> Value:
        """`x` with an axis of size 1 in front of `axis`."""
        shape = self.kind(x).shape
        return self.reshape(x, (*shape[:axis], 1, *shape[axis:]))

    def drop_axis(self, x: Value, axis: int) -> Value:
        """`x` without an axis of size 1."""
        shape = self.kind(x).shape
        return self.reshape(x, (*shape[:axis], *shape[axis + 1 :]))

    def concat(self, xs: Sequence[Value], axis: int) -> Value:
        """Tensors joined along an axis."""
        return xs[0] if len(xs) == 1 else self.emit(core.Concat(tuple(xs), axis=axis))

    def flatten(self, x: Value) -> Value:
        """All elements on one axis."""
        return self.reshape(x, (product(self.kind(x).shape),))

    def iota(self, size: IntLike, dtype: DType, start: int | float = 0, step: int | float = 1) -> Value:
        """start, start + step, ... on one axis."""
        return self.emit(core.Iota(start=start, step=step, out=TensorType(dtype, (size,))))
