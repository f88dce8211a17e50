"""The NVIDIA driver of this machine: whether it is there, and what its first device is."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from plait.backends.cuda.toolkit import toolkit_path
from plait.ir.errors import CompileError, InputError

#: CUDA version of the runtime library of TVM, as the driver counts: 1000 * major + 10 * minor.
_NEEDED_CUDA = 13000
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
_MULTIPROCESSORS = 16  # CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT
_RUNTIME = "libcudart.so.13"
_REMEDY = "call .emulate(...) to run the CUDA text on the host, or compile for target='cpu'"


@dataclass(frozen=True)
class CudaDevice:
    """A CUDA device.

    Attributes:
        name: as the driver gives it.
        capability: compute capability, (8, 0) for an A100.
        multiprocessors: streaming multiprocessors.
        driver_cuda: highest CUDA version of the driver, such as "13.0".
    """

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    driver_cuda: str

    @property
    def architecture(self) -> str:
        """Of machine code for it, such as "sm_80"."""
        return f"sm_{self.capability[0]}{self.capability[1]}"


def find_device() -> CudaDevice:
    """The first CUDA device.

    Raises:
        InputError: what is missing: the driver library, a driver that is new enough, or a device.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1", mode=ctypes.RTLD_GLOBAL)
    except OSError as problem:
        raise _missing("there is no NVIDIA driver", f"libcuda.so.1 cannot be loaded: {problem}") from None
    status = driver.cuInit(0)
    if status:
        raise _missing("the NVIDIA driver finds no device", f"cuInit failed with {_error(driver, status)}")
    number = ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(number))
    version = f"{number.value // 1000}.{number.value % 1000 // 10}"
    if number.value < _NEEDED_CUDA:
        raise InputError(
            f"the NVIDIA driver is for CUDA {version}",
            why="TVM's CUDA runtime needs a driver for CUDA 13.0",
            remedy="install driver 580 or newer",
        )
    driver.cuDeviceGetCount(ctypes.byref(number))
    if number.value == 0:
        raise _missing("the NVIDIA driver finds no device", "cuDeviceGetCount gives 0")
    device = ctypes.c_int()
    driver.cuDeviceGet(ctypes.byref(device), 0)
    name = ctypes.create_string_buffer(256)
    driver.cuDeviceGetName(name, len(name), device)

    def attribute(which: int) -> int:
        driver.cuDeviceGetAttribute(ctypes.byref(number), which, device)
        return number.value

    capability = attribute(_CAPABILITY_MAJOR), attribute(_CAPABILITY_MINOR)
    return CudaDevice(name.value.decode(), capability, attribute(_MULTIPROCESSORS), version)


def load_runtime_library() -> None:
    """Load CUDA's runtime library into the process, the system's or else that of the wheel.

    Raises:
        InputError: neither can be loaded.
    """
    try:
        ctypes.CDLL(_RUNTIME, mode=ctypes.RTLD_GLOBAL)
        return
    except OSError:
        pass
    try:
        ctypes.CDLL(str(toolkit_path(f"lib/{_RUNTIME}")), mode=ctypes.RTLD_GLOBAL)
    except (OSError, CompileError) as problem:
        raise InputError(
            f"CUDA's runtime library {_RUNTIME} cannot be loaded",
            why=str(problem).partition("\n")[0],
            remedy='pip install "nvidia-cuda-runtime>=13,<14"',
        ) from None


def _missing(what: str, why: str) -> InputError:
    return InputError(f"{what}: there is no GPU here", why=why, remedy=_REMEDY)


def _error(driver: ctypes.CDLL, status: int) -> str:
    name = ctypes.c_char_p()
    driver.cuGetErrorName(status, ctypes.byref(name))
    return f"{name.value.decode() if name.value else 'an unknown error'} ({status})"
