"""core: creation and movement of elements without arithmetic."""

from __future__ import annotations

from dataclasses import KW_ONLY, replace
from typing import Literal

from plait.ir.dims import IntLike, product
from plait.ir.op import Op, check_shape_dims, op, shaped
from plait.ir.ops.common import dense, normalise_axes, normalise_axis
from plait.ir.types import QuantType, ShapedType, TensorType, Type, i64
from plait.ir.value import Value


@op("core.full")
class Full(Op):
    """A tensor with every element equal to `value`."""

    _: KW_ONLY
    value: float | int | bool
    out: TensorType

    def infer(self) -> tuple[Type, ...]:
        if not isinstance(self.out, TensorType):
            raise self.error(f"cannot fill {self.out}", why="a dense tensor is wanted")
        return (self.out,)


@op("core.iota")
class Iota(Op):
    """start + step * i along `axis`, the same along all others."""

    _: KW_ONLY
    axis: int = 0
    start: float | int = 0
    step: float | int = 1
    out: TensorType

    def infer(self) -> tuple[Type, ...]:
        if not isinstance(self.out, TensorType) or self.out.dtype.kind == "bool":
            raise self.error(f"cannot count in {self.out}", why="a numeric tensor is wanted")
        normalise_axis(self, self.axis, self.out.rank)
        return (self.out,)


@op("core.dim_value")
class DimValue(Op):
    """The run-time value of a dim expression as an i64 scalar."""

    _: KW_ONLY
    dim: IntLike

    def infer(self) -> tuple[Type, ...]:
        return (TensorType(i64, ()),)


@op("core.reshape")
class Reshape(Op):
    """The same elements in row-major order under the shape of the result type."""

    x: Value
    _: KW_ONLY
    out: ShapedType

    def infer(self) -> tuple[Type, ...]:
        kind = shaped(self, self.x, "x")
        if not isinstance(self.out, ShapedType) or self.out != kind.with_shape(self.out.shape):
            raise self.error(
                f"cannot reshape {self.x} : {kind} to {self.out}", why="a reshape keeps the elements"
            )
        if product(self.out.shape) != product(kind.shape):
            raise self.error(
                f"cannot reshape {self.x} : {kind} to {self.out}",
                why=f"{product(kind.shape)} elements do not fill {product(self.out.shape)}",
            )
        return (self.out,)


@op("core.broadcast")
class Broadcast(Op):
    """The operand stretched to the shape of the result type, aligned at the right."""

    x: Value
    _: KW_ONLY
    out: ShapedType

    def infer(self) -> tuple[Type, ...]:
        kind = shaped(self, self.x, "x")
        if not isinstance(self.out, ShapedType) or self.out != kind.with_shape(self.out.shape):
            raise self.error(
                f"cannot broadcast {self.x} : {kind} to {self.out}", why="the element type is kept"
            )
        offset = self.out.rank - kind.rank
        if offset < 0:
            raise self.error(f"cannot broadcast {self.x} : {kind} to {self.out}", why="the rank would shrink")
        for index, dim in enumerate(kind.shape):
            if dim not in (1, self.out.shape[index + offset]):
                raise self.error(
                    f"cannot broadcast {self.x} : {kind} to {self.out}",
                    why=f"dim {dim} is neither 1 nor {self.out.shape[index + offset]}",
                )
        return (self.out,)


@op("core.transpose")
class Transpose(Op):
    """Axes in another order: axis i of the result is axis permutation[i] of the operand."""

    x: Value
    _: KW_ONLY
    permutation: tuple[int, ...]

    def infer(self) -> tuple[Type, ...]:
        kind = shaped(self, self.x, "x")
        if sorted(self.permutation) != list(range(kind.rank)):
            raise self.error(
                f"{list(self.permutation)} is no permutation of the {kind.rank} axes of {self.x}"
            )
        moved = kind.with_shape(tuple(kind.shape[axis] for axis in self.permutation))
        if isinstance(moved, QuantType) and moved.axis is not None:
            if moved.group is not None and self.permutation != tuple(range(kind.rank)):
                raise self.error(f"{self.x} is {kind}", why="its scales per group would lie in another order")
            moved = replace(moved, axis=self.permutation.index(moved.axis))
        return (moved,)


@op("core.concat")
class Concat(Op):
    """Tensors joined along an axis; all other dims agree."""

    xs: tuple[Value, ...]
    _: KW_ONLY
    axis: int

    def infer(self) -> tuple[Type, ...]:
        if not self.xs:
            raise self.error("there is nothing to join")
        first = shaped(self, self.xs[0], "xs")
        axis = normalise_axis(self, self.axis, first.rank)
        total: IntLike = 0
        for value in self.xs:
            kind = shaped(self, value, "xs")
            if kind.rank != first.rank or kind.with_shape(first.shape) != first:
                raise self.error(
                    f"{value} is {kind} but {self.xs[0]} is {first}", why="rank and element type agree"
                )
            for i, (a, b) in enumerate(zip(kind.shape, first.shape, strict=True)):
                if i != axis and a != b:
                    raise self.error(f"{value} is {kind} but {self.xs[0]} is {first}", why=f"dim {i} differs")
            total = total + kind.shape[axis]
        return (first.with_shape((*first.shape[:axis], total, *first.shape[axis + 1 :])),)


@op("core.slice")
class Slice(Op):
    """x[start:stop:step] along each of `axes`.

    Bounds are whole numbers or dims with 0 <= start <= stop <= size; negative steps
    are written with core.flip.
    """

    x: Value
    _: KW_ONLY
    axes: tuple[int, ...]
    starts: tuple[IntLike, ...]
    stops: tuple[IntLike, ...]
    steps: tuple[int, ...] = ()

    def infer(self) -> tuple[Type, ...]:
        kind = shaped(self, self.x, "x")
        steps = self.steps or (1,) * len(self.axes)
        if not len(self.axes) == len(self.starts) == len(self.stops) == len(steps):
            raise self.error("axes, starts, stops and steps differ in length")
        normalise_axes(self, self.axes, kind.rank)
        shape = list(kind.shape)
        for axis, start, stop, step in zip(self.axes, self.starts, self.stops, steps, strict=True):
            where = normalise_axis(self, axis, kind.rank)
            if step < 1:
                raise self.error(f"step {step} is below 1", remedy="use core.flip to reverse")
            size, span = shape[where], stop - start
            known = all(isinstance(v, int) for v in (start, stop, size))
            if known and not 0 <= start <= stop <= size:  # type: ignore[operator]  # all are ints here
                raise self.error(f"slice {start}..{stop} leaves axis {axis} of {self.x} : {kind}")
            if isinstance(span, int) and span < 0:
                raise self.error(f"slice {start}..{stop} is negative")
            shape[where] = span if step == 1 else (span + step - 1) // step
        return (kind.with_shape(tuple(shape)),)


@op("core.pad")
class Pad(Op):
    """Elements added in front of and behind each axis."""

    x: Value
    _: KW_ONLY
    before: tuple[int, ...]
    after: tuple[int, ...]
    mode: Literal["constant", "reflect", "edge"] = "constant"
    value: float = 0.0

    def infer(self) -> tuple[Type, ...]:
        kind = dense(self, self.x, "x")
        if not len(self.before) == len(self.after) == kind.rank:
            raise self.error(f"before and after need one number for each of the {kind.rank} axes of {self.x}")
        if min((*self.before, *self.after), default=0) < 0:
            raise self.error("pads are negative", remedy="use core.slice to crop")
        if kind.dtype.is_minifloat and self.value:
            raise self.error(f"{self.x} : {kind} is padded with {self.value}", why="minifloats take 0")
        if self.mode == "reflect":
            for dim, low, high in zip(kind.shape, self.before, self.after, strict=True):
                if isinstance(dim, int) and max(low, high) >= max(dim, 1):
                    raise self.error(f"reflection by {max(low, high)} exceeds a dim of {dim}")
        shape = tuple(
            low + dim + high for dim, low, high in zip(kind.shape, self.before, self.after, strict=True)
        )
        return (kind.with_shape(shape),)


@op("core.flip")
class Flip(Op):
    """Elements in reverse order along axes."""

    x: Value
    _: KW_ONLY
    axes: tuple[int, ...]

    def infer(self) -> tuple[Type, ...]:
        kind = shaped(self, self.x, "x")
        normalise_axes(self, self.axes, kind.rank)
        return (kind,)


@op("core.roll")
class Roll(Op):
    """Elements moved along axes, those that leave at one end enter at the other."""

    x: Value
    _: KW_ONLY
    shifts: tuple[int, ...]
    axes: tuple[int, ...]

    def infer(self) -> tuple[Type, ...]:
        kind = shaped(self, self.x, "x")
        if len(self.shifts) != len(self.axes):
            raise self.error("shifts and axes differ in length")
        normalise_axes(self, self.axes, kind.rank)
        return (kind,)


@op("core.triangle")
class Triangle(Op):
    """The lower (or upper) triangle of the last two axes, zeros elsewhere; `diagonal` as in numpy.tril."""

    x: Value
    _: KW_ONLY
    upper: bool = False
    diagonal: int = 0

    def infer(self) -> tuple[Type, ...]:
        kind = dense(self, self.x, "x")
        check_shape_dims(self, kind.shape)
        if kind.rank < 2:
            raise self.error(f"{self.x} is {kind}", why="a matrix is wanted")
        return (kind,)
