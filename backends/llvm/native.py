"""Compiled kernels: one per specification and processor, callable on numpy arrays or emitted as an object.

Every kernel exports two C functions: `void <symbol>(...)`, whose arguments its specification documents,
and `int64_t <symbol>_workspace(void)`, the bytes of scratch memory of one call.  A call handles the
samples [begin, end) of its arrays; calls on disjoint ranges may run at the same time, each with its own
workspace, aligned to 64 bytes.  Kernels allocate nothing, keep no state and need of libc at most memset.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from plait.backends.llvm.machine import Loaded, Processor, object_code, vector_lanes
from plait.backends.llvm.specification import EventConv2d, FirstSpikeConv2d, PopcountConv2d, Specification
from plait.ir.errors import CompileError

if TYPE_CHECKING:
    from llvmlite import ir

_HOST = Processor()
_ALIGNMENT = 64
#: llvmlite's state is shared by the process: one compilation at a time.
_COMPILING = threading.Lock()


def _generate(spec: Specification, symbol: str, width: int) -> tuple[ir.Module, int]:
    """The module and workspace bytes of a specification."""
    # llvmlite is imported with the generators.
    if isinstance(spec, FirstSpikeConv2d):
        from plait.backends.llvm import first_spike

        return first_spike.generate(spec, symbol, width)
    if isinstance(spec, EventConv2d):
        from plait.backends.llvm import increments

        return increments.generate(spec, symbol, width)
    if isinstance(spec, PopcountConv2d):
        from plait.backends.llvm import popcount

        return popcount.generate(spec, symbol, width)
    raise CompileError(
        f"no kernel for {type(spec).__name__}",
        where="backends.llvm",
        why="kernels exist for EventConv2d, FirstSpikeConv2d and PopcountConv2d",
        remedy="use one of these specifications",
    )


def emit_object(spec: Specification, *, symbol: str | None = None, processor: Processor = _HOST) -> bytes:
    """The kernel as a relocatable object file, position independent.

    Args:
        symbol: the C name, `spec.symbol` by default.
        processor: what to generate code for.

    Raises:
        CompileError: no kernel for the specification, or a symbol that is no C identifier.
    """
    name = spec.symbol if symbol is None else symbol
    if not (name.isidentifier() and name.isascii()):
        raise CompileError(
            f"{name!r} is no C identifier",
            where="emit_object.symbol",
            why="the symbol is called from C",
            remedy="use letters, digits and underscores",
        )
    with _COMPILING:
        module, _ = _generate(spec, name, vector_lanes(processor))
        return object_code(module, processor)


def kernel_text(spec: Specification, *, lanes: int) -> tuple[str, int]:
    """The kernel in LLVM's language, for a code generator to take into a module of its own.

    The text names no processor.

    Args:
        lanes: f32 lanes of a vector.

    Returns:
        The text, and the bytes of workspace of one call.

    Raises:
        CompileError: no kernel for the specification.
    """
    with _COMPILING:
        module, workspace_bytes = _generate(spec, spec.symbol, lanes)
    module.triple = ""
    return str(module), workspace_bytes


class Kernel:
    """A kernel in the memory of this process.

    Attributes:
        spec: what it computes.
        workspace_bytes: scratch memory of one call.
        address: of the C function.
    """

    def __init__(self, spec: Specification, processor: Processor) -> None:
        self.spec = spec
        module, expected = _generate(spec, spec.symbol, vector_lanes(processor))
        self._loaded = Loaded(module, processor)
        self.address = self._loaded.address(spec.symbol)
        query = ctypes.CFUNCTYPE(ctypes.c_int64)(self._loaded.address(spec.symbol + "_workspace"))
        self.workspace_bytes = int(query())
        assert self.workspace_bytes == expected
        self._pointers = {FirstSpikeConv2d: 5, EventConv2d: 3, PopcountConv2d: 4}[type(spec)]
        self._scratch = 0 if isinstance(spec, PopcountConv2d) else 1
        arguments = [ctypes.c_void_p] * (self._pointers + self._scratch) + [ctypes.c_int64] * 2
        self._function: Any = ctypes.CFUNCTYPE(None, *arguments)(self.address)

    def run(self, arrays: Sequence[np.ndarray | None], samples: int, *, threads: int = 1) -> None:
        """Calls the kernel on `samples` samples, split evenly between `threads` threads.

        Args:
            arrays: contiguous arrays in the order of the C pointers, without the workspace; None is NULL.

        Raises:
            CompileError: a number of threads or of arrays that does not fit.
        """
        if threads < 1:
            raise CompileError(
                f"{threads} threads",
                where=self.spec.symbol,
                why="at least one thread must work",
                remedy="pass threads=1 or more",
            )
        if len(arrays) != self._pointers:
            raise CompileError(
                f"{len(arrays)} arrays",
                where=self.spec.symbol,
                why=f"the kernel takes {self._pointers} arrays",
                remedy="pass them in the order of the C signature",
            )
        pointers = [None if array is None else array.ctypes.data for array in arrays]
        threads = min(threads, samples)
        if threads <= 1:
            self._range(pointers, 0, samples)
            return
        cuts = [samples * part // threads for part in range(threads + 1)]
        with ThreadPoolExecutor(threads) as pool:
            # list() raises what a thread raised.
            list(pool.map(lambda begin, end: self._range(pointers, begin, end), cuts[:-1], cuts[1:]))

    def _range(self, pointers: list[int | None], begin: int, end: int) -> None:
        if not self._scratch:
            self._function(*pointers, begin, end)
            return
        scratch = np.empty(self.workspace_bytes + _ALIGNMENT, np.uint8)
        place = -(-scratch.ctypes.data // _ALIGNMENT) * _ALIGNMENT
        self._function(*pointers, place, begin, end)


@functools.lru_cache(maxsize=256)
def _compiled(spec: Specification, processor: Processor) -> Kernel:
    with _COMPILING:
        return Kernel(spec, processor)


def compile_kernel(spec: Specification, *, processor: Processor = _HOST) -> Kernel:
    """The kernel of a specification, compiled once per processor.

    Raises:
        CompileError: no kernel for the specification.
    """
    return _compiled(spec, processor)
