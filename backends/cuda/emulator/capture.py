"""Launches of a running executable, kept so that they can be repeated with other texts of the kernel."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from plait.backends.cuda.emulator.build import load_runtime
from plait.backends.cuda.emulator.module import Dim3, EmulatedModule, LaunchParameters, element_type

_SCALAR_BYTES = 8
_NUMPY_STAND_INS = {"bfloat16": "uint16"}
_Observer = ctypes.CFUNCTYPE(
    None,
    ctypes.c_char_p,
    ctypes.c_int32,
    ctypes.POINTER(LaunchParameters),
    ctypes.c_uint32,
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.POINTER(ctypes.c_uint64),
    ctypes.POINTER(ctypes.c_void_p),
)


@dataclass
class CapturedLaunch:
    """One launch: its extents, what its arguments held before, and what its arrays held behind it.

    Attributes:
        arguments: bytes of the array behind a pointer, or the 8 bytes of a scalar; in kernel order.
        pointers, unwritten: by argument, whether it is a pointer, and to memory nobody had written.
        results: bytes behind each pointer after the launch; empty for scalars, and where it failed.
    """

    kernel: str
    grid: Dim3
    block: Dim3
    dynamic_shared_bytes: int
    arguments: list[np.ndarray]
    pointers: list[bool]
    unwritten: list[bool]
    results: list[np.ndarray] = field(default_factory=list)

    def repeat(self, module: EmulatedModule) -> list[np.ndarray]:
        """Launches the kernel of this name in a module on the same arguments.

        Returns the arrays behind its pointers, in kernel order, of the element types of its parameters.

        Raises:
            CompileError: the kernel breaks a rule of the execution model.
        """
        parameters = module.signature(self.kernel).parameters
        given: list[np.ndarray | int | float] = []
        for parameter, content in zip(parameters, self.arguments, strict=True):
            dtype = self._dtype(parameter.type)
            values = content.copy().view(dtype) if parameter.pointer else content.view(dtype)
            given.append(values if parameter.pointer else values[0].item())
        module.launch(
            self.kernel,
            self.grid,
            self.block,
            given,
            dynamic_shared_bytes=self.dynamic_shared_bytes,
            uninitialised=[p.name for p, is_new in zip(parameters, self.unwritten) if is_new],
        )
        return [values for values in given if isinstance(values, np.ndarray)]

    def expected(self, module: EmulatedModule) -> list[np.ndarray]:
        """The results in the form that `repeat` returns them."""
        parameters = module.signature(self.kernel).parameters
        return [
            content.view(self._dtype(parameter.type))
            for parameter, content in zip(parameters, self.results, strict=True)
            if parameter.pointer
        ]

    @staticmethod
    def _dtype(kind: str) -> np.dtype:
        name = element_type(kind) or "uint8"
        return np.dtype(_NUMPY_STAND_INS.get(name, name))


@contextmanager
def captured_launches(limit: int = 1) -> Iterator[list[CapturedLaunch]]:
    """While open, launches of executables that run under the detectors are added to the list it yields.

    Args:
        limit: how many of each kernel.
    """
    found: list[CapturedLaunch] = []
    runtime = load_runtime()

    def observe(name, behind, launch, count, arguments, sizes, states) -> None:  # type: ignore[no-untyped-def]
        kernel = name.decode()
        if behind:
            if found and found[-1].kernel == kernel and not found[-1].results:
                found[-1].results = [_content(arguments[i], sizes[i], scalar=False) for i in range(count)]
            return
        if sum(entry.kernel == kernel for entry in found) >= limit:
            return
        grid, block = (tuple(int(x) for x in extents) for extents in (launch[0].grid, launch[0].block))
        found.append(
            CapturedLaunch(
                kernel,
                (grid[0], grid[1], grid[2]),
                (block[0], block[1], block[2]),
                int(launch[0].dynamic_shared_bytes),
                [_content(arguments[i], sizes[i], scalar=True) for i in range(count)],
                [bool(sizes[i]) for i in range(count)],
                [bool(states[i]) and not any(ctypes.string_at(states[i], sizes[i])) for i in range(count)],
            )
        )

    callback = _Observer(observe)
    runtime.cuda_emulation_observe(callback)
    try:
        yield found
    finally:
        runtime.cuda_emulation_observe(None)


def _content(argument: int, size: int, *, scalar: bool) -> np.ndarray:
    """A copy of the array behind the pointer at an address, or of the scalar there."""
    if size:
        (target,) = np.frombuffer(ctypes.string_at(argument, _SCALAR_BYTES), np.uint64)
        return np.frombuffer(ctypes.string_at(int(target), int(size)), np.uint8).copy()
    return np.frombuffer(ctypes.string_at(argument, _SCALAR_BYTES if scalar else 0), np.uint8).copy()
