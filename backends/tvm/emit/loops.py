"""Kernels written as loops, for algorithms whose steps depend on one another.

A tensor expression cannot say that an element is computed from earlier ones of the same
tensor.  `item_loops` writes such a kernel: independent items (a matrix of a batch, a
column) run in parallel, one thread each, and the body of an item is sequential.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tvm import te, tirx
from tvm.ir import Expr
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from plait.backends.tvm.emit.table import Emitter

#: Threads of a block where each item is one thread.
THREADS = 64


def whole(value: int) -> Expr:
    """A 64-bit integer."""
    return tirx.IntImm("int64", value)


@dataclass(frozen=True)
class View:
    """The array of one item in a stack of them: `view[i, j]` reads and writes it.

    `lead` and `trail` are the places on the axes before and after those of the array.
    """

    buffer: Any
    lead: tuple[Expr, ...]
    trail: tuple[Expr, ...] = ()

    def _place(self, indices: Any) -> list[Expr]:
        given = indices if isinstance(indices, tuple) else (indices,)
        inner = [whole(index) if isinstance(index, int) else index for index in given]
        return [*self.lead, *inner, *self.trail]

    def __getitem__(self, indices: Any) -> Expr:
        return self.buffer[tuple(self._place(indices))]

    def __setitem__(self, indices: Any, value: Expr) -> None:
        T.buffer_store(self.buffer, value, self._place(indices))


def product(extents: Sequence[Expr]) -> Expr:
    """The product of extents."""
    total = whole(1)
    for extent in extents:
        total = total * extent
    return total


def coordinates(item: Expr, extents: Sequence[Expr]) -> tuple[Expr, ...]:
    """The place of item number `item` on each of some axes that count items, row-major."""
    places: list[Expr] = []
    rest = item
    for extent in reversed(extents):
        places.insert(0, tirx.floormod(rest, extent) if len(places) + 1 < len(extents) else rest)
        rest = tirx.floordiv(rest, extent)
    return tuple(places)


def part(buffer: Any, item: Expr, lead: Sequence[Expr]) -> View:
    """Array number `item` of a buffer whose leading axes `lead` count arrays."""
    return View(buffer, coordinates(item, lead))


def line(buffer: Any, item: Expr, shape: Sequence[Expr], axis: int) -> View:
    """Line number `item` along an axis of a buffer of `shape`."""
    places = coordinates(item, [*shape[:axis], *shape[axis + 1 :]])
    return View(buffer, places[:axis], places[axis:])


def local(dtype: str) -> View:
    """A variable of one item, read and written as `local[0]`."""
    return View(T.alloc_buffer([1], dtype, scope="local", layout=None), ())


def serial(start: Expr | int, stop: Expr | int) -> Any:
    """A sequential loop: `with serial(0, n) as i`."""
    low = whole(start) if isinstance(start, int) else start
    high = whole(stop) if isinstance(stop, int) else stop
    return T.serial(low, high)


@contextmanager
def when(condition: Expr) -> Iterator[None]:
    """The statements inside run where the condition holds."""
    with T.If(condition), T.Then():
        yield


Body = Callable[[Expr, Sequence[Any], Sequence[Any]], None]


def item_loops(
    emitter: Emitter,
    items: Expr,
    body: Body,
    inputs: Sequence[te.Tensor],
    outputs: Sequence[tuple[Sequence[Expr], str]],
    name: str,
) -> tuple[te.Tensor, ...]:
    """Run `body(item, inputs, outputs)` for each item, on the buffers of all tensors.

    Args:
        items: how many independent items there are.
        inputs: tensors that the body reads.
        outputs: shape and element type of each result; the body writes all of it.
    """

    def generate(ins: Sequence[Any], outs: Sequence[Any]) -> Any:
        with IRBuilder() as builder:
            if emitter.is_cpu:
                with T.parallel(whole(0), items) as item:
                    body(item, ins, outs)
            else:
                thread, block = te.thread_axis("threadIdx.x"), te.thread_axis("blockIdx.x")
                blocks = tirx.floordiv(items + (THREADS - 1), whole(THREADS))
                extents = [
                    T.attr(block, "thread_extent", tirx.Cast("int32", blocks)),
                    T.attr(thread, "thread_extent", THREADS),
                ]
                with T.frame_scope(extents):
                    item = tirx.Cast("int64", block) * THREADS + tirx.Cast("int64", thread)
                    with when(item < items):
                        body(item, ins, outs)
            return builder.get()

    buffers = [
        tirx.decl_buffer(list(shape), dtype, f"{name}_{number}", layout=None)
        for number, (shape, dtype) in enumerate(outputs)
    ]
    found = te.extern(
        [list(shape) for shape, _ in outputs],
        list(inputs),
        generate,
        dtype=[dtype for _, dtype in outputs],
        out_buffers=buffers,
        name=name,
    )
    if isinstance(found, te.Tensor):
        return (found,)
    # Results of one operation are told apart by the kernel's outputs.
    cut: tuple[te.Tensor, ...] = emitter.stage(name, *found)
    return cut
