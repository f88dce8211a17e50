"""What all kernels written by hand share: buffers, the launch, named values, the function around."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tvm import te, tirx
from tvm.ir import Expr
from tvm.s_tir.stmt import SBlock, SBlockRealize
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from plait.backends.tvm.emit.table import Stage
from plait.backends.tvm.gpu.inline import Readers
from plait.backends.tvm.gpu.product import extent, narrow

#: Beyond so many elements, offsets within a buffer need 64 bits.
_NARROW_ELEMENTS = 2**31

Buffers = dict[Any, Any]


def integer(value: int) -> Expr:
    """A 32-bit integer."""
    return tirx.IntImm("int32", value)


def named(name: str, value: Expr) -> Expr:
    """A variable of the kernel that holds a value."""
    if isinstance(value, tirx.IntImm):
        return value
    return T.bind(value, var=tirx.Var(name, str(value.ty.dtype)))


def local_array(name: str, size: int, dtype: str) -> Any:
    """An array of one thread, which the compiler keeps in registers where all places are constants."""
    return IRBuilder.name(name, T.alloc_buffer([size], dtype, scope="local", layout=None))


def register(name: str, value: Expr) -> Expr:
    """A value that is computed once, where this stands; TVM would repeat the computation at each use."""
    if isinstance(value, tirx.IntImm):
        return value
    cell = local_array(name, 1, str(value.ty.dtype))
    T.buffer_store(cell, value, [integer(0)])
    return cell[integer(0)]


def shared_bytes(size: int) -> Any:
    """Dynamic shared memory of a block.

    All kernels declare it as bytes, since CUDA knows one type of it for all kernels of a text.
    """
    return IRBuilder.name("shared", T.alloc_buffer([size], "uint8", scope="shared.dyn", layout=None))


def pointer(buffer: Any, offset: Expr, count: Expr | int) -> Expr:
    """Address of an element, through which `count` elements are read or written.

    TVM cuts a buffer down to what is accessed, so it must know how far an access goes.
    """
    return tirx.tvm_access_ptr(str(buffer.dtype), buffer.data, offset, count, 3)


@contextmanager
def launch(blocks: Expr, threads: int) -> Iterator[tuple[Expr, Expr]]:
    """The body of a kernel of `blocks` blocks, with the number of the block and of the thread in it."""
    block, thread = te.thread_axis("blockIdx.x"), te.thread_axis("threadIdx.x")
    frames = [
        T.attr(block, "thread_extent", narrow(blocks)),
        T.attr(thread, "thread_extent", threads),
        # Loops are left to NVRTC, which unrolls them as well; the text stays short.
        T.attr(integer(0), "pragma_unroll_explicit", tirx.const(False, "bool")),
    ]
    with T.frame_scope(frames):
        yield block.var, thread.var


def _buffer(tensor: te.Tensor) -> Any:
    """The buffer of a tensor; its fixed dims in 32 bits, so that so are offsets."""
    sizes = [extent(dim) for dim in tensor.shape]
    count = 1
    for size in sizes:
        count *= size or 1
    shape = list(tensor.shape)
    if count < _NARROW_ELEMENTS:
        shape = [dim if size is None else integer(size) for dim, size in zip(shape, sizes, strict=True)]
    return tirx.decl_buffer(shape, tensor.dtype, tensor.op.name, layout=None)


def kernel_function(stage: Stage, write: Callable[[Buffers, Sequence[Any]], None]) -> tirx.PrimFunc:
    """The function of a stage whose body `write` writes, given buffers by operation and those of results."""
    buffers = {tensor.op: _buffer(tensor) for tensor in stage.inputs}
    results = [_buffer(tensor) for tensor in stage.outputs]
    with IRBuilder() as builder:
        write(buffers, results)
        body = builder.get()
    root = SBlockRealize([], True, SBlock([], [], [], "root", body))
    function = tirx.PrimFunc([*buffers.values(), *stage.scalars, *results], root)
    return function.with_attr("tirx.noalias", True).with_attr("tirx.is_scheduled", True)


def loads(buffers: Buffers) -> dict[Any, Callable[[tuple[Expr, ...]], Expr]]:
    """How elements of a kernel's inputs are read."""

    def load(buffer: Any) -> Callable[[tuple[Expr, ...]], Expr]:
        return lambda place: buffer[place]

    return {operation: load(buffer) for operation, buffer in buffers.items()}


__all__ = [
    "Buffers",
    "Readers",
    "integer",
    "kernel_function",
    "launch",
    "loads",
    "local_array",
    "named",
    "pointer",
    "register",
    "shared_bytes",
]
