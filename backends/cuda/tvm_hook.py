"""Runs whole TVM executables for CUDA on the host, with the exact CUDA text of every kernel.

Two functions of TVM's registry are replaced while the hook is open. `target.build.cuda`
still generates the CUDA text, but hands TVM a host library whose packed functions run
that text in the emulation. `device_api.cuda` answers with the CPU device, so that
device memory is host memory. Everything else, the Relax virtual machine, its memory
plan, the host code and its launch parameters, is what runs on a real device.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from plait.backends.cuda.emulator.build import HostLibrary, build_library, load_runtime
from plait.backends.cuda.emulator.module import Dim3, LaneOrder, encode_lane_order, worker_count
from plait.backends.cuda.source_text import KernelText, parse_source
from plait.ir.errors import CompileError, InputError

_AXES = {
    "blockIdx.x": "X",
    "blockIdx.y": "Y",
    "blockIdx.z": "Z",
    "threadIdx.x": "x",
    "threadIdx.y": "y",
    "threadIdx.z": "z",
    "tirx.use_dyn_shared_memory": "S",
}
_SCALARS = {"float": "f", "double": "d"}
_UNSUPPORTED_SCALARS = frozenset({"half", "__half", "nv_bfloat16", "__nv_bfloat16"})
_SHIM = """\
#include <stdint.h>
namespace cuda_emulation { struct Launch; }
struct PackedValue;
typedef int (*Entry)(const cuda_emulation::Launch*, void**);
extern "C" int cuda_emulation_packed_call(const char*, Entry, const char*, const PackedValue*, int32_t,
                                          PackedValue*);
"""


_emulated = False


def was_emulated() -> bool:
    """Whether a device was emulated in this process, which TVM does not forget."""
    return _emulated


@dataclass(frozen=True)
class LaunchRecord:
    """One kernel launch of a run."""

    kernel: str
    grid: Dim3
    block: Dim3
    dynamic_shared_bytes: int


class _LogEntry(ctypes.Structure):
    _fields_ = (
        ("kernel", ctypes.c_char_p),
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("dynamic_shared_bytes", ctypes.c_uint64),
    )


class EmulatedDevice:
    """What `emulated_cuda_device` yields.

    Attributes:
        sources: CUDA text of every module built while the hook was open, in order.
        libraries: what was built of them.
        check, count: whether kernels run under the detectors, and whether those count memory traffic.
    """

    def __init__(self, lane_order: LaneOrder, optimize: str, check: bool, count: bool) -> None:
        self.sources: list[str] = []
        self.libraries: list[HostLibrary] = []
        self.check = check
        self.count = count
        self._optimize = optimize
        self._runtime = load_runtime()
        self._runtime.cuda_emulation_log_size.restype = ctypes.c_uint64
        self._error_sink = _error_sink()
        # So that an error crosses the FFI, in either direction, as what it is.
        import tvm_ffi

        for kind in (CompileError, InputError):
            tvm_ffi.register_error(kind.__name__, kind)
        self.lane_order = lane_order
        self.clear_launches()

    @property
    def lane_order(self) -> LaneOrder:
        """Order in which threads, warps and blocks run; assign to change it between runs."""
        return self._lane_order

    @lane_order.setter
    def lane_order(self, lane_order: LaneOrder) -> None:
        order, seed = encode_lane_order(lane_order)
        self._lane_order = lane_order
        self._runtime.cuda_emulation_configure(
            ctypes.c_int32(order),
            ctypes.c_uint32(seed),
            ctypes.c_uint32(worker_count()),
            ctypes.c_uint32(self.check),
            ctypes.c_uint32(self.check and self.count),
            self._error_sink,
        )

    @property
    def source(self) -> str:
        """CUDA text of the module built last; raises CompileError before the first."""
        if not self.sources:
            raise CompileError("no CUDA module has been built under the hook")
        return self.sources[-1]

    @property
    def launches(self) -> list[LaunchRecord]:
        """Every launch since the hook was opened, or since `clear_launches`."""
        records, entry = [], _LogEntry()
        for index in range(self._runtime.cuda_emulation_log_size()):
            self._runtime.cuda_emulation_log_read(ctypes.c_uint64(index), ctypes.byref(entry))
            grid, block = (tuple(int(extent) for extent in axis) for axis in (entry.grid, entry.block))
            extents = ((grid[0], grid[1], grid[2]), (block[0], block[1], block[2]))
            records.append(LaunchRecord(entry.kernel.decode(), *extents, entry.dynamic_shared_bytes))
        return records

    def clear_launches(self) -> None:
        """Empties the launch log."""
        self._runtime.cuda_emulation_log_clear()

    def build(self, source: str, launch_tags: Mapping[str, list[str]]) -> Any:
        """A TVM library module that runs the kernels of `source`.

        Args:
            source: CUDA C text.
            launch_tags: for each kernel, the launch values its caller appends to the arguments.
        """
        import tvm

        self.sources.append(source)
        kernels = parse_source(source)
        functions = [_packed_function(kernels.kernel(name), tags) for name, tags in launch_tags.items()]
        shim = _SHIM + "\n".join(functions)
        library = build_library(source, optimize=self._optimize, extra_units=[shim], check=self.check)
        self.libraries.append(library)
        return tvm.runtime.load_module(str(library.path))


def _error_sink() -> Any:
    """Address of the FFI function that turns a message into the exception of the running call."""
    import tvm_ffi

    library = ctypes.CDLL(tvm_ffi.libinfo.find_libtvm_ffi())
    return ctypes.cast(library.TVMFFIErrorSetRaisedFromCStr, ctypes.c_void_p)


def _packed_function(kernel: KernelText, tags: list[str]) -> str:
    """C++ of the packed function `__tvm_ffi_<kernel>` that TVM's host code calls."""
    layout = ""
    for parameter in kernel.parameters:
        if not parameter.pointer and parameter.type in _UNSUPPORTED_SCALARS:
            raise CompileError(f"kernel {kernel.name} takes {parameter} by value; pass it through memory")
        layout += "p" if parameter.pointer else _SCALARS.get(parameter.type, "i")
    unknown = [tag for tag in tags if tag not in _AXES]
    if unknown:
        raise CompileError(
            f"kernel {kernel.name} is launched with {', '.join(unknown)}",
            why="the emulation has no such axis",
        )
    layout += "".join(_AXES[tag] for tag in tags)
    name = kernel.name
    return (
        f'extern "C" int cuda_emulation_launch_{name}(const cuda_emulation::Launch*, void**);\n'
        f'extern "C" __attribute__((visibility("default"))) int __tvm_ffi_{name}('
        "void*, const PackedValue* values, int32_t count, PackedValue* result) {\n"
        f'  return cuda_emulation_packed_call("{name}", cuda_emulation_launch_{name}, "{layout}",\n'
        "                                    values, count, result);\n}\n"
    )


@contextmanager
def emulated_cuda_device(
    *,
    lane_order: LaneOrder = "forward",
    optimize: str = "-O1",
    check: bool = False,
    count: bool = False,
    rewrite: Callable[[str], str] | None = None,
) -> Iterator[EmulatedDevice]:
    """While open, TVM builds CUDA modules as host libraries and runs them on the host.

    Build the module and run it (`relax.VirtualMachine(executable, tvm.cuda(0))`) inside the
    context. Afterwards TVM generates real CUDA modules again; TVM itself remembers the device of a
    kind once it was used, so in this process `tvm.cuda(0)` stays the host's memory.

    Args:
        lane_order: "forward", "reversed", or the seed of a shuffle.
        optimize: optimisation flag of the host compiler.
        check: run the detectors. The memory that kernels work on has to be declared: see
            plait.backends.tvm.device_memory.
        count: with `check`, count memory traffic.
        rewrite: gives the text that is built in place of a generated one, with the same kernels.

    Raises:
        CompileError: from the build inside, when a text cannot be emulated; from a run, when a kernel
            breaks a rule of the execution model (divergent barrier, deadlock, launch limits).
    """
    import tvm
    import tvm_ffi

    global _emulated
    _emulated = True
    device = EmulatedDevice(lane_order, optimize, check, count)
    generate = tvm.get_global_func("target.build.cuda")
    host_device = tvm.get_global_func("device_api.cpu")

    def build_on_host(module: Any, target: Any) -> Any:
        text = str(generate(module, target).inspect_source("cuda"))
        tags = {
            str(function.attrs["global_symbol"]): [
                str(tag) for tag in function.attrs["tirx.kernel_launch_params"]
            ]
            for _, function in module.functions.items()
        }
        return device.build(rewrite(text) if rewrite else text, tags)

    replacements = {
        "target.build.cuda": build_on_host,
        "tvm_callback_cuda_compile": lambda code, *rest: bytearray(b"\0"),
        "device_api.cuda": lambda: host_device(),
    }
    saved = {name: tvm.get_global_func(name, allow_missing=True) for name in replacements}
    for name, function in replacements.items():
        tvm.register_global_func(name, function, override=True)
    try:
        yield device
    finally:
        for name, function in saved.items():
            if function is None:
                tvm_ffi.registry.remove_global_func(name)
            else:
                tvm.register_global_func(name, function, override=True)
