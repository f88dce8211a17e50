"""Reductions along rows: sums, softmax and norms by a warp, or a block, for each row.

A row is what the last axes of an operand hold for one place of the others.  Its elements are
read once, in vectors where their number allows, and stay in registers for all passes over
them; lanes exchange partial results by shuffles.  Half precision is reduced in f32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm import te, tirx
from tvm.ir import Expr
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from plait.backends.tvm.emit.table import CHANNELS_LAST, Stage
from plait.backends.tvm.gpu import instructions
from plait.backends.tvm.gpu.inline import NotInlined, Readers, element_of, substituted
from plait.backends.tvm.gpu.instructions import ceil_div
from plait.backends.tvm.gpu.kernel import (
    Buffers,
    integer,
    kernel_function,
    launch,
    loads,
    local_array,
    named,
)
from plait.backends.tvm.gpu.product import extent, narrow, total, unflatten

_WARP = 32
#: Threads of a block; with a warp for each row it takes several rows.
_WARP_BLOCK, _ROW_BLOCK = 128, 256
#: The longest row that a warp takes, and the most elements of a row that a lane keeps.
_WARP_LENGTH, _KEPT = 1024, 64
_WIDE = {"float16": "float32", "bfloat16": "float32"}
_REDUCED = ("float32", "float64", "int32", "int64")
_BITS = 128


@dataclass(frozen=True)
class Rows:
    """How a stage works on rows.

    Attributes:
        reductions: in the order in which they depend on one another.
        lead: extents of the axes of what a reduction gives.
        outer: those that count rows, which are the first axes of the operand: `lead` without
            the axes of extent 1 that a reduction may leave for those it takes.
        inner: extents of the axes of a row.
        whole: whether the result has the elements of the rows, rather than one number for each.
    """

    reductions: tuple[te.Tensor, ...]
    lead: tuple[Expr, ...]
    outer: tuple[Expr, ...]
    inner: tuple[Expr, ...]
    whole: bool


def _same(a: Sequence[Expr], b: Sequence[Expr]) -> bool:
    return len(a) == len(b) and all(
        tvm_ffi.structural_equal(x, y) or (extent(x) is not None and extent(x) == extent(y))
        for x, y in zip(a, b, strict=True)
    )


def _reductions(tensor: te.Tensor, found: dict[Any, te.Tensor]) -> None:
    for below in tensor.op.input_tensors:
        _reductions(below, found)
    if isinstance(tensor.op, te.ComputeOp) and tensor.op.reduce_axis:
        found.setdefault(tensor.op, tensor)


def find_rows(stage: Stage) -> Rows | None:
    """The rows of a stage; None where it reduces nothing, or not the last axes of its operands."""
    if len(stage.outputs) != 1:
        return None
    (output,) = stage.outputs
    found: dict[Any, te.Tensor] = {}
    _reductions(output, found)
    if not found or not isinstance(output.op, te.ComputeOp) or CHANNELS_LAST in output.op.attrs:
        return None
    first, *others = reductions = tuple(found.values())
    lead = tuple(first.shape)
    inner = tuple(axis.dom.extent for axis in first.op.reduce_axis)
    for other in others:
        extents = [axis.dom.extent for axis in other.op.reduce_axis]
        if not _same(other.shape, lead) or not _same(extents, inner):
            return None
    for reduction in reductions:
        (body,) = reduction.op.body
        held = _WIDE.get(str(reduction.dtype), str(reduction.dtype))
        if len(body.combiner.lhs) != 1 or held not in _REDUCED:
            return None
    outer = _outer(stage, lead, inner)
    if outer is None:
        return None
    if _same(output.shape, lead):
        return Rows(reductions, lead, outer, inner, whole=False)
    if _same(output.shape, (*outer, *inner)):
        return Rows(reductions, lead, outer, inner, whole=True)
    return None


def _outer(stage: Stage, lead: tuple[Expr, ...], inner: tuple[Expr, ...]) -> tuple[Expr, ...] | None:
    """The axes in front of those of a row in some operand; None where no rows lie together."""
    kept = len(lead) - len(inner)
    candidates = [lead]
    if kept >= 0 and all(extent(size) == 1 for size in lead[kept:]):
        candidates.append(lead[:kept])
    for outer in candidates:
        if any(_same(tensor.shape, (*outer, *inner)) for tensor in stage.inputs):
            return outer
    return None


class _RowKernel:
    """Writes the body of the kernel of a stage for each of whose rows `lanes` threads stand together."""

    def __init__(self, stage: Stage, rows: Rows, buffers: Buffers, result: Any) -> None:
        self.rows = rows
        self.result = result
        (self.output,) = stage.outputs
        self.length = total(rows.inner)
        known = extent(self.length)
        self.lanes = _WARP if known is not None and known <= _WARP_LENGTH else _ROW_BLOCK
        self.threads = _WARP_BLOCK if self.lanes == _WARP else _ROW_BLOCK
        self.streams = [tensor for tensor in stage.inputs if _same(tensor.shape, (*rows.outer, *rows.inner))]
        self.vector = self._vector_length(known)
        self.turns: Expr = ceil_div(self.length, self.lanes * self.vector)
        self.keeps = known is not None and int(self.turns) * self.vector <= _KEPT
        self.buffers = buffers
        self.kept: dict[Any, Any] = {}
        self.values: dict[Any, Expr] = {}

    def _vector_length(self, known: int | None) -> int:
        """How many neighbouring elements a lane reads at once."""
        tensors = [*self.streams, *([self.output] if self.rows.whole else [])]
        inner = extent(self.rows.inner[-1])
        if known is None or inner is None or not tensors:
            return 1
        widest = max(tvm.runtime.DataType(str(tensor.dtype)).bits for tensor in tensors)
        vector = max(1, _BITS // widest) if widest >= 8 else 1
        while vector > 1 and (inner % vector or vector * self.lanes > max(known, self.lanes)):
            vector //= 2
        return vector

    # -- places ---------------------------------------------------------------------------
    def place(self, position: Expr) -> tuple[Expr, ...]:
        """The place in the operand of an element of this thread's row."""
        return (*self.row[: len(self.rows.outer)], *unflatten(position, self.rows.inner))

    def readers(self, slot: Expr | None, position: Expr | None) -> Readers:
        """How tensors are read at an element of the row, number `slot` of those that a lane keeps."""
        here = None if position is None else self.place(position)

        def stream(tensor: te.Tensor) -> Any:
            def read(place: tuple[Expr, ...]) -> Expr:
                if here is not None and slot is not None and _same(place, here):
                    return self.kept[tensor.op][slot]
                return self.buffers[tensor.op][place]

            return read

        def reduced(tensor: te.Tensor) -> Any:
            def read(place: tuple[Expr, ...]) -> Expr:
                if tensor.op not in self.values or not _same(place, self.row):
                    raise NotInlined(f"{tensor.op.name} of another row")
                value = self.values[tensor.op]
                dtype = str(tensor.dtype)
                return value if str(value.ty.dtype) == dtype else tirx.Cast(dtype, value)

            return read

        found = loads(self.buffers)
        if self.kept:
            found.update({tensor.op: stream(tensor) for tensor in self.streams})
        found.update({tensor.op: reduced(tensor) for tensor in self.rows.reductions})
        return found

    # -- the kernel -------------------------------------------------------------------------
    def write(self) -> None:
        """The launch and all of its statements."""
        count = total(self.rows.lead)
        at_once = self.threads // self.lanes
        with launch(ceil_div(count, at_once), self.threads) as (block, thread):
            row = named("row", block * at_once + tirx.truncdiv(thread, self.lanes))
            self.lane = named("lane", tirx.truncmod(thread, self.lanes))
            self.thread = thread
            self.row = tuple(named("place", index) for index in unflatten(row, self.rows.lead))
            if at_once == 1:
                self._row()
                return
            # The lanes of a warp have one row: all of them go in or none.
            with T.If(row < narrow(count)), T.Then():
                self._row()

    def _row(self) -> None:
        if self.keeps:
            self._keep()
        for reduction in self.rows.reductions:
            self._reduce(reduction)
        if self.rows.whole:
            self._write_elements()
            return
        with T.If(self.lane == 0), T.Then():
            value = element_of(self.output, self.row, self.readers(None, None))
            T.buffer_store(self.result, value, list(self.row))

    def _position(self, turn: Expr) -> Expr:
        """The first of the elements that this lane takes in a turn."""
        return (turn * self.lanes + self.lane) * self.vector

    def _inside(self, turn: Expr, position: Expr) -> Any:
        """The condition that a lane's elements exist, which fails in the last turn only."""
        known = extent(self.length)
        if known is not None and known % (self.lanes * self.vector) == 0:
            return turn >= 0
        return position < narrow(self.length)

    def _turns(self) -> Any:
        """A loop over the turns of a row."""
        if self.keeps:
            return T.unroll(0, int(self.turns))
        return T.serial(integer(0), narrow(self.turns))

    def _keep(self) -> None:
        size = int(self.turns) * self.vector
        for tensor in self.streams:
            kept = self.kept[tensor.op] = local_array("kept", size, str(tensor.dtype))
            with self._turns() as turn:
                position = named("position", self._position(turn))
                with T.If(self._inside(turn, position)), T.Then(), T.vectorized(0, self.vector) as k:
                    value = self.buffers[tensor.op][self.place(position + k)]
                    T.buffer_store(kept, value, [turn * self.vector + k])

    def _reduce(self, tensor: te.Tensor) -> None:
        (body,) = tensor.op.body
        dtype = _WIDE.get(str(tensor.dtype), str(tensor.dtype))

        def widened(value: Expr) -> Expr:
            return value if str(value.ty.dtype) == dtype else tirx.Cast(dtype, value)

        def combine(a: Expr, b: Expr) -> Expr:
            return _combination(body.combiner, a, b, dtype)

        partial = local_array("partial", 1, dtype)
        T.buffer_store(partial, widened(body.combiner.identity_element[0]), [integer(0)])
        with self._turns() as turn:
            start = named("position", self._position(turn))
            with T.If(self._inside(turn, start)), T.Then(), T.unroll(0, self.vector) as k:
                position = start + k
                names = {axis.var: index for axis, index in zip(tensor.op.axis, self.row, strict=True)}
                inner = unflatten(position, self.rows.inner)
                names |= {axis.var: index for axis, index in zip(tensor.op.reduce_axis, inner, strict=True)}
                slot = turn * self.vector + k if self.keeps else None
                value = substituted(body.source[0], names, self.readers(slot, position))
                combined = combine(partial[integer(0)], widened(value))
                T.buffer_store(partial, combined, [integer(0)])
        step = _WARP // 2
        while step:
            other = instructions.shuffle_xor(partial[integer(0)], step)
            T.buffer_store(partial, combine(partial[integer(0)], other), [integer(0)])
            step //= 2
        if self.lanes > _WARP:
            self._across_warps(partial, combine, dtype)
        self.values[tensor.op] = partial[integer(0)]

    def _across_warps(self, partial: Any, combine: Any, dtype: str) -> None:
        """Combine the results of the block's warps, in their order, for all threads."""
        warps = _ROW_BLOCK // _WARP
        shared = IRBuilder.name("warps", T.alloc_buffer([warps], dtype, scope="shared", layout=None))
        with T.If(tirx.truncmod(self.thread, _WARP) == 0), T.Then():
            T.buffer_store(shared, partial[integer(0)], [tirx.truncdiv(self.thread, _WARP)])
        instructions.barrier()
        T.buffer_store(partial, shared[integer(0)], [integer(0)])
        with T.unroll(1, warps) as k:
            T.buffer_store(partial, combine(partial[integer(0)], shared[k]), [integer(0)])
        instructions.barrier()

    def _write_elements(self) -> None:
        with self._turns() as turn:
            start = named("position", self._position(turn))
            with T.If(self._inside(turn, start)), T.Then():
                found = local_array("found", self.vector, str(self.output.dtype))
                with T.unroll(0, self.vector) as k:
                    slot = turn * self.vector + k if self.keeps else None
                    position = start + k
                    value = element_of(self.output, self.place(position), self.readers(slot, position))
                    T.buffer_store(found, value, [k])
                with T.vectorized(0, self.vector) as k:
                    T.buffer_store(self.result, found[k], list(self.place(start + k)))


def _combination(combiner: tirx.CommReducer, a: Expr, b: Expr, dtype: str) -> Expr:
    """`a` and `b` combined; in `dtype`, which may be wider than that of the reduction."""
    given = str(combiner.lhs[0].ty.dtype)
    if given == dtype:
        return substituted(combiner.result[0], {combiner.lhs[0]: a, combiner.rhs[0]: b}, {})
    # Built anew on wider variables: sums and products of halves are kept in f32.
    result = combiner.result[0]
    for kind, operation in ((tirx.Add, lambda x, y: x + y), (tirx.Mul, lambda x, y: x * y)):
        if isinstance(result, kind):
            return operation(a, b)
    narrow_a, narrow_b = tirx.Cast(given, a), tirx.Cast(given, b)
    names = {combiner.lhs[0]: narrow_a, combiner.rhs[0]: narrow_b}
    return tirx.Cast(dtype, substituted(result, names, {}))


def row_function(stage: Stage, rows: Rows) -> tirx.PrimFunc:
    """The kernel of a stage that works on rows.

    Raises NotInlined when an element of the result reads the reduction of another row.
    """

    def write(buffers: Buffers, results: Sequence[Any]) -> None:
        _RowKernel(stage, rows, buffers, results[0]).write()

    return kernel_function(stage, write)


__all__ = ["Rows", "find_rows", "row_function"]
