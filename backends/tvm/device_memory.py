"""Tells the emulation which memory a running executable works on, and who wrote it."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Any

import tvm_ffi

from plait.backends.cuda.emulator.build import load_runtime

_ALLOCATE = "vm.builtin.alloc_tensor"
_GO_ON = 0  # VMInstrumentReturnKind.NO_OP


class DeviceMemory:
    """Follows the calls of a Relax virtual machine, as its instrument.

    A tensor that the machine allocates is unwritten until a kernel writes it; inputs, constants and
    what functions of the host return or take are written. The tensors of a kernel's call bound what
    its pointers lead to.

    Args:
        kernels: names of the functions that launch kernels.
        functions: names of other functions of the module, whose calls say nothing by themselves.
    """

    def __init__(self, kernels: Iterable[str], functions: Iterable[str]) -> None:
        self._runtime = load_runtime()
        self._kernels = frozenset(kernels)
        self._functions = frozenset(functions)

    def start(self, written: Iterable[Any]) -> None:
        """Forgets everything but the tensors `written`."""
        self._runtime.cuda_emulation_memory_clear()
        for tensor in written:
            self._declare(tensor, written=True)

    def __call__(self, function: Any, name: str, before: bool, result: Any, *arguments: Any) -> int:
        if name in self._kernels:
            if before:
                self._runtime.cuda_emulation_memory_clear_bounds()
                for tensor in _tensors(arguments):
                    self._call("bound", tensor)
        elif before or name in self._functions:
            pass
        elif name == _ALLOCATE:
            self._declare(result, written=False)
        elif not name.startswith("vm.builtin."):
            for tensor in (*_tensors(arguments), *_tensors([result])):
                self._call("mark_written", tensor)
        return _GO_ON

    def _declare(self, tensor: Any, *, written: bool) -> None:
        self._runtime.cuda_emulation_memory_declare(*_extent(tensor), ctypes.c_int32(written))

    def _call(self, what: str, tensor: Any) -> None:
        self._runtime[f"cuda_emulation_memory_{what}"](*_extent(tensor))


def _extent(tensor: Any) -> tuple[ctypes.c_uint64, ctypes.c_uint64]:
    """Address and bytes."""
    import tvm

    kind = tvm.runtime.DataType(str(tensor.dtype))
    count = 1
    for extent in tensor.shape:
        count *= int(extent)
    size = (count * kind.bits * kind.lanes + 7) // 8
    return ctypes.c_uint64(tensor.data_ptr()), ctypes.c_uint64(size)


def _tensors(values: Iterable[Any]) -> Iterable[Any]:
    """The tensors among values, also inside of lists."""
    for value in values:
        if isinstance(value, tvm_ffi.Tensor):
            yield value
        elif isinstance(value, (list, tuple, tvm_ffi.Array)):
            yield from _tensors(value)
