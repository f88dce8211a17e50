"""Loops of a CPU kernel: vectors, unrolled tiles and parallel strips."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tvm import te, tirx
from tvm.ir import Expr
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from plait.backends.tvm.emit.cpu.reader import Reader
from plait.backends.tvm.emit.expressions import size_of
from plait.backends.tvm.emit.loops import product, when, whole

#: How many elements a thread should have at least when a map is spread over threads.
_SHARE = 2048


def element_bits(dtype: str) -> int:
    """Bits of one element in memory."""
    return 8 if dtype == "bool" else int("".join(c for c in dtype if c.isdigit()))


def places(number: Expr, extents: Sequence[Expr]) -> tuple[Expr, ...]:
    """Item `number` of a row-major grid as its coordinates; axes of extent 1 are constant."""
    found: list[Expr] = []
    rest = number
    significant = [k for k, extent in enumerate(extents) if size_of(extent) != 1]
    for k in reversed(range(len(extents))):
        if k not in significant:
            found.insert(0, whole(0))
        elif k == significant[0]:
            found.insert(0, rest)
        else:
            found.insert(0, tirx.floormod(rest, extents[k]))
            rest = tirx.floordiv(rest, extents[k])
    return tuple(found)


def local(dtype: str, size: int) -> Any:
    """A small array of one thread, which becomes registers where all its indices are constant.

    TVM puts an array on the stack only in its global scope and below 1,024 bytes; any other
    costs a call of the allocator.
    """
    return T.alloc_buffer([size], dtype, layout=None)


def scratch(dtype: str, shape: Sequence[Expr]) -> Any:
    """An array that lives while the kernel runs."""
    return T.alloc_buffer(list(shape), dtype, layout=None)


def vector(width: int) -> Any:
    """`with vector(8) as lane`: the statements inside act on all lanes at once."""
    return T.vectorized(whole(0), whole(width))


@contextmanager
def parallel(extent: Expr) -> Iterator[Expr]:
    """A loop whose rounds are shared by the threads."""
    with T.parallel(whole(0), extent) as index:
        yield index


def store_vectors(
    buffer: Any,
    place: Callable[[Expr], Sequence[Expr]],
    value: Callable[[Expr], Expr],
    start: Expr,
    width: int,
    limit: Expr | None,
) -> None:
    """Store `value(lane)` at `place(lane)` for one vector of columns that starts at `start`.

    Args:
        limit: the number of columns; None where no vector passes it.
    """

    def whole_vector() -> None:
        with vector(width) as lane:
            T.buffer_store(buffer, value(lane), list(place(lane)))

    if limit is None:
        whole_vector()
        return
    known = size_of(limit)
    if known is not None and known % width == 0:
        with when(start < limit):
            whole_vector()
        return
    with T.If(start + width <= limit):
        with T.Then():
            whole_vector()
        with T.Else(), T.serial(whole(0), whole(width)) as lane, when(start + lane < limit):
            T.buffer_store(buffer, value(lane), list(place(lane)))


def store_map(tensor: te.Tensor, buffer: Any, read: Reader, lanes: int) -> None:
    """Compute a map into a buffer of its shape: rows in parallel, vectors along the last axis."""
    shape = list(tensor.shape)
    last = size_of(shape[-1])
    outer = shape[:-1]

    def row(place: tuple[Expr, ...]) -> None:
        def value(column: Expr) -> Expr:
            return read.computed(tensor, (*place, column))

        if last is None or last < lanes:
            with T.serial(whole(0), shape[-1]) as column:
                T.buffer_store(buffer, value(column), [*place, column])
            return
        with T.serial(whole(0), whole(last // lanes)) as step, vector(lanes) as lane:
            T.buffer_store(buffer, value(step * lanes + lane), [*place, step * lanes + lane])
        if last % lanes:
            with T.serial(whole(last // lanes * lanes), whole(last)) as column:
                T.buffer_store(buffer, value(column), [*place, column])

    total = product(shape)
    if not outer:
        row(())
    elif (size := size_of(total)) is not None and size < _SHARE:
        with T.serial(whole(0), product(outer)) as index:
            row(places(index, outer))
    else:
        with parallel(product(outer)) as index:
            row(places(index, outer))


def loops_kernel(
    inputs: Sequence[te.Tensor],
    shape: Sequence[Expr],
    dtype: str,
    name: str,
    body: Callable[[Reader, Any], None],
) -> te.Tensor:
    """A tensor computed by `body(read, result buffer)`, where `read` knows all inputs."""

    def generate(ins: Sequence[Any], outs: Sequence[Any]) -> Any:
        read = Reader()
        for tensor, buffer in zip(inputs, ins, strict=True):
            read.bind(tensor, buffer)
        with IRBuilder() as builder:
            # Several statements in a row want a frame around them.
            with T.attr(whole(0), "plait.kernel", 1):
                body(read, outs[0])
            return builder.get()

    result = tirx.decl_buffer(list(shape), dtype, f"{name}_result", layout=None)
    return te.extern([list(shape)], list(inputs), generate, dtype=[dtype], out_buffers=[result], name=name)
