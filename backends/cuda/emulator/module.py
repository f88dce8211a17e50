"""A CUDA text as a module whose kernels run on the host."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from plait.backends.cuda.emulator.build import build_library, load_runtime
from plait.backends.cuda.emulator.counts import KernelCounts, clear_counts, nothing_counted, read_counts
from plait.backends.cuda.emulator.findings import detection_error, read_findings
from plait.backends.cuda.source_text import KernelText, Parameter
from plait.ir.errors import CompileError, InputError

LaneOrder = str | int
Dim3 = tuple[int, int, int]

_INTEGER_TYPES = {
    "bool": "uint8",
    "char": "int8",
    "signed char": "int8",
    "int8_t": "int8",
    "unsigned char": "uint8",
    "uchar": "uint8",
    "uint8_t": "uint8",
    "short": "int16",
    "int16_t": "int16",
    "unsigned short": "uint16",
    "ushort": "uint16",
    "uint16_t": "uint16",
    "int": "int32",
    "int32_t": "int32",
    "unsigned": "uint32",
    "unsigned int": "uint32",
    "uint": "uint32",
    "uint32_t": "uint32",
    "long": "int64",
    "long long": "int64",
    "int64_t": "int64",
    "unsigned long": "uint64",
    "unsigned long long": "uint64",
    "uint64_t": "uint64",
    "size_t": "uint64",
}
_REAL_TYPES = {"float": "float32", "double": "float64"}
_HALF_TYPES = {"half": "float16", "__half": "float16", "nv_bfloat16": "bfloat16", "__nv_bfloat16": "bfloat16"}
_SCALAR_TYPES = {**_INTEGER_TYPES, **_REAL_TYPES, **_HALF_TYPES}
_VECTOR_BASES = {
    "half": "half",
    "__half": "half",
    "__nv_bfloat16": "nv_bfloat16",
    "nv_bfloat16": "nv_bfloat16",
}


class LaunchParameters(ctypes.Structure):
    """The C struct `cuda_emulation::Launch`."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("dynamic_shared_bytes", ctypes.c_uint64),
        ("order", ctypes.c_int32),
        ("seed", ctypes.c_uint32),
        ("workers", ctypes.c_uint32),
        ("argument_count", ctypes.c_uint32),
        ("guarded_bytes", ctypes.POINTER(ctypes.c_uint64)),
        ("states", ctypes.POINTER(ctypes.c_void_p)),
        ("check", ctypes.c_uint32),
        ("count", ctypes.c_uint32),
    )


def encode_lane_order(lane_order: LaneOrder) -> tuple[int, int]:
    """(`order`, `seed`) of the C side for "forward", "reversed" or the seed of a shuffle."""
    if lane_order == "forward":
        return 0, 0
    if lane_order == "reversed":
        return 1, 0
    if isinstance(lane_order, int) and not isinstance(lane_order, bool):
        return 2, lane_order & 0xFFFFFFFF
    raise InputError(
        f"lane_order is {lane_order!r}",
        remedy='give "forward", "reversed", or an integer seed for a shuffled order',
    )


def worker_count() -> int:
    """OS threads that share the blocks of a grid: the processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class EmulatedModule:
    """The kernels of a CUDA text, compiled for the host under an emulation of CUDA's execution model.

    Threads are fibers, blocks are spread over OS threads. Found while running and raised as
    CompileError: divergent barriers, deadlocks and mismatched masks of warp collectives, accesses
    outside the arrays, launch limits of sm_80, PTX outside the emulation. Shared memory starts as
    NaN (0xFF bytes). A missing barrier shows as a result that depends on `lane_order`. Stores to
    volatile shared memory run in lockstep within a warp, as the reductions that use them expect.

    With `check`, every access to global and shared memory passes the detectors. Found are: data races
    within a block (barriers, warp collectives and lockstep of volatile stores order accesses), conflicts
    between blocks other than of two atomics, accesses outside a buffer or a local array by as little as
    one byte, reads of bytes that nobody wrote or that cp.async has not delivered, and addresses that do
    not fit the size of the access. Local arrays start with NaN or an infinity. Each finding names the
    line, both threads and the buffer.

    Not modelled: time, caches, the weak memory model between blocks, grid-wide synchronisation,
    indices that leave one part of dynamic shared memory for another. Rounding differs in the last bits
    (fast intrinsics, order of sums in tensor cores).

    Args:
        source: CUDA C text.
        optimize: optimisation flag of the host compiler.
        lane_order: order in which threads, warps and blocks run: "forward", "reversed", or the seed
            of a shuffle. May be assigned later; nothing is recompiled.
        check: run the detectors; five to ten times slower.

    Raises:
        CompileError: the text is malformed, no C++ compiler is there, or it rejects the text.
    """

    def __init__(
        self,
        source: str,
        *,
        optimize: str = "-O1",
        lane_order: LaneOrder = "forward",
        check: bool = False,
    ) -> None:
        encode_lane_order(lane_order)
        self.source = source
        self.lane_order = lane_order
        self.check = check
        library = build_library(source, optimize=optimize, check=check)
        self._host_library = library
        self._runtime = load_runtime()
        self._runtime.cuda_emulation_last_error.restype = ctypes.c_char_p
        self._library = ctypes.CDLL(str(library.path))
        self._kernels = {kernel.name: kernel for kernel in library.kernels}

    @property
    def kernels(self) -> tuple[str, ...]:
        """Names of the kernels, in text order."""
        return tuple(self._kernels)

    def signature(self, name: str) -> KernelText:
        """The kernel's place and parameters in the text."""
        if name not in self._kernels:
            raise InputError(f"the module has no kernel {name!r}", why=f"it has {', '.join(self._kernels)}")
        return self._kernels[name]

    def launch(
        self,
        name: str,
        grid: Dim3,
        block: Dim3,
        arguments: Sequence[np.ndarray | int | float],
        *,
        dynamic_shared_bytes: int = 0,
        check_bounds: bool = True,
        uninitialised: Sequence[str] = (),
        count: bool = False,
    ) -> None:
        """Runs one grid to its end; arrays are read and written in place.

        Args:
            name: kernel.
            grid, block: extents (x, y, z).
            arguments: one for each kernel parameter: a C-contiguous array of the pointed-to element
                type for a pointer, a number for a scalar.
            dynamic_shared_bytes: size of the `extern __shared__` array.
            check_bounds: run on copies of the arrays that end at protected pages, so that an access
                behind the end (beyond padding to 16 bytes) or up to a page in front is an error.
                The detectors check bounds in any case.
            uninitialised: names of pointer parameters whose arrays count as not written yet; only
                the detectors look at that.
            count: count memory traffic, for `counts`; needs `check`.

        Raises:
            InputError: unknown kernel, or an argument that does not fit the signature.
            CompileError: the kernel breaks a rule of the execution model.
        """
        kernel = self.signature(name)
        if count and not self.check:
            raise InputError(
                "memory traffic is counted by the detectors", remedy="make the module with check=True"
            )
        if count:
            clear_counts(self._runtime)
        if len(arguments) != len(kernel.parameters):
            raise InputError(
                f"{len(arguments)} arguments for kernel {name}, which takes {len(kernel.parameters)}",
                why=f"its signature is {kernel}",
            )
        order, seed = encode_lane_order(self.lane_order)
        values = [
            _argument(kernel, position, parameter, argument)
            for position, (parameter, argument) in enumerate(zip(kernel.parameters, arguments))
        ]
        states = [
            (ctypes.c_uint8 * argument.nbytes)()
            if isinstance(argument, np.ndarray) and parameter.name in uninitialised
            else None
            for parameter, argument in zip(kernel.parameters, arguments)
        ]
        unknown = set(uninitialised) - {p.name for p in kernel.parameters if p.pointer}
        if unknown:
            raise InputError(f"kernel {name} has no pointer parameter {', '.join(sorted(unknown))}")
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        sizes = (ctypes.c_uint64 * len(values))(
            *(argument.nbytes if isinstance(argument, np.ndarray) else 0 for argument in arguments)
        )
        parameters = LaunchParameters(
            grid=_extents("grid", grid),
            block=_extents("block", block),
            dynamic_shared_bytes=dynamic_shared_bytes,
            order=order,
            seed=seed,
            workers=worker_count(),
            argument_count=len(values),
            guarded_bytes=sizes if check_bounds or self.check else None,
            states=(ctypes.c_void_p * len(values))(
                *(ctypes.addressof(entry) if entry is not None else None for entry in states)
            ),
            check=self.check,
            count=count,
        )
        entry: Callable[..., int] = self._library[f"cuda_emulation_launch_{name}"]
        if entry(ctypes.byref(parameters), pointers) != 0:
            if findings := read_findings(self._runtime, [self._host_library], self.source):
                raise detection_error(findings)
            raise execution_error(self._runtime.cuda_emulation_last_error().decode())

    def counts(self, name: str) -> KernelCounts:
        """What the last launch with count=True did; raises InputError when it was of another kernel."""
        found = read_counts(self._runtime, [self.signature(name).name])
        if not found:
            raise nothing_counted()
        return found[name]


def execution_error(message: str) -> CompileError:
    """The error of a launch that the emulation stopped."""
    return CompileError(
        message, why="the kernel breaks a rule of the CUDA execution model", where="host emulation"
    )


def _extents(what: str, extents: Sequence[int]) -> ctypes.Array[Any]:
    if len(extents) != 3 or any(not 0 < int(extent) < 2**32 for extent in extents):
        raise InputError(f"{what} is {tuple(extents)}", remedy="give three positive extents (x, y, z)")
    return (ctypes.c_uint * 3)(*map(int, extents))


def _argument(kernel: KernelText, position: int, parameter: Parameter, argument: Any) -> Any:
    """The argument as a ctypes object whose address the launch takes."""
    where = f"{kernel.name} argument {position} ({parameter})"
    if parameter.pointer:
        return _pointer(where, parameter, argument)
    return _scalar(where, parameter, argument)


def _pointer(where: str, parameter: Parameter, argument: Any) -> ctypes.c_void_p:
    if not isinstance(argument, np.ndarray):
        raise InputError(f"a pointer takes a numpy array, not {type(argument).__name__}", where=where)
    if not argument.flags.c_contiguous:
        raise InputError(
            "the array is not C-contiguous", where=where, remedy="pass np.ascontiguousarray(array)"
        )
    expected = element_type(parameter.type)
    found = "uint8" if argument.dtype == np.bool_ else argument.dtype.name
    raw_bits = expected in ("float16", "bfloat16") and found == "uint16"
    if parameter.type != "void" and expected != found and not raw_bits:
        raise InputError(
            f"the array holds {argument.dtype.name}, the kernel reads {parameter.type}",
            where=where,
            remedy=f"pass an array of {expected}"
            if expected
            else "this element type has no numpy counterpart",
        )
    return ctypes.c_void_p(argument.ctypes.data)


def element_type(name: str) -> str | None:
    """numpy name of the elements of a C type; a vector type counts as its elements."""
    if name in _SCALAR_TYPES:
        return _SCALAR_TYPES[name]
    base = name.rstrip("1234")
    return _SCALAR_TYPES.get(_VECTOR_BASES.get(base, base)) if base != name else None


def _scalar(where: str, parameter: Parameter, argument: Any) -> Any:
    kind = _SCALAR_TYPES.get(parameter.type)
    number = isinstance(argument, int | float | np.integer | np.floating | np.bool_)
    if kind is None or kind in _HALF_TYPES.values():
        raise InputError(f"scalars of type {parameter.type} cannot be passed", where=where)
    if not number:
        raise InputError(f"a {parameter.type} takes a number, not {type(argument).__name__}", where=where)
    if kind in _REAL_TYPES.values():
        return np.ctypeslib.as_ctypes_type(np.dtype(kind))(float(argument))
    if not isinstance(argument, int | np.integer | np.bool_):
        raise InputError(f"a {parameter.type} takes an integer, not {argument!r}", where=where)
    limits = np.iinfo(kind)
    if not limits.min <= int(argument) <= limits.max:
        raise InputError(f"{int(argument)} does not fit in {parameter.type}", where=where)
    return np.ctypeslib.as_ctypes_type(np.dtype(kind))(int(argument))
