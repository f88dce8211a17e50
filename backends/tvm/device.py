"""Running on a CUDA device: TVM's runtime for it, and the kernels as modules of that runtime."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tvm
from tvm import relax

from plait.backends.cuda.driver import CudaDevice, find_device, load_runtime_library
from plait.backends.cuda.tvm_hook import was_emulated
from plait.backends.images import CUBIN, PTX, KernelImage
from plait.backends.targets import GpuTarget
from plait.ir import InputError

_CREATE = "ffi.Module.create.cuda"
#: Modules of TVM that hold host code: compiled in this process, or loaded.
_HOST_KINDS = ("llvm", "library")


def require_device(target: GpuTarget) -> CudaDevice:
    """A device that can run code for `target`, with TVM's runtime for it loaded.

    Raises:
        InputError: naming what is missing: driver, device, compute capability, or a library.
    """
    device = find_device()
    if was_emulated():
        raise InputError(
            "this process has emulated a CUDA device",
            why="TVM takes the memory of the host for that of the device from then on",
            remedy="run the executable in a process that does not emulate",
        )
    if device.capability < _capability(target):
        raise InputError(
            f"{device.name} cannot run code for {target.name}",
            why=f"it is {device.architecture}, and the code is for {target.architecture} and newer",
            remedy="run it on a newer device, or compile for target='cpu'",
        )
    load_runtime_library()
    _load_tvm_runtime()
    return device


def _load_tvm_runtime() -> None:
    """Load TVM's CUDA runtime, which `import tvm` leaves out where the linker does not find its libraries."""
    if tvm.get_global_func(_CREATE, allow_missing=True) is not None:
        return
    path = Path(tvm.__file__).parent / "lib" / "libtvm_runtime_cuda.so"
    try:
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    except OSError as problem:
        raise InputError(
            "TVM's CUDA runtime cannot be loaded",
            why=str(problem),
            remedy='install "apache-tvm==0.27.0.post1" and a driver of 580 or newer',
        ) from None


def load_machine(
    module: Any, images: Mapping[str, KernelImage], target: GpuTarget, device: CudaDevice
) -> Any:
    """The virtual machine of host code whose kernels are loaded on a device.

    A device of the architecture's generation takes the machine code; for a newer one
    the driver compiles the PTX text.

    Args:
        module: a Relax executable, or a loaded library.
        device: from `require_device`.
    """
    form = CUBIN if device.capability[0] == _capability(target)[0] else PTX
    root = getattr(module, "mod", module)
    host = _host_module(root)
    for image in images.values():
        host.import_module(kernel_module(image, form))
    return relax.VirtualMachine(root, tvm.cuda(0))


def kernel_module(image: KernelImage, form: str) -> Any:
    """A kernel as a module of TVM's CUDA runtime, from its machine code or its PTX text."""
    entry = {
        "name": image.name,
        "arg_types": list(image.argument_types),
        "launch_param_tags": list(image.launch_tags),
    }
    described = json.dumps({"tvm_version": tvm.__version__, "func_info": {image.name: entry}})
    functions = tvm.get_global_func("runtime.LoadMetaDataFromJSON")(described)
    # The driver reads a text up to a zero byte.
    content = image.cubin if form == CUBIN else image.ptx.encode() + b"\0"
    return tvm.get_global_func(_CREATE)(content, form, functions, {})


def _host_module(root: Any) -> Any:
    """The module below `root` that holds the host functions and launches the kernels that it imports."""
    waiting = [root]
    while waiting:
        module = waiting.pop()
        if module.kind in _HOST_KINDS:
            return module
        waiting.extend(module.imports)
    raise InputError("the executable holds no host code", remedy="compile its graph again")


def _capability(target: GpuTarget) -> tuple[int, int]:
    """Compute capability of an architecture: (8, 0) for sm_80."""
    digits = target.architecture.removeprefix("sm_").rstrip("abcdefghijklmnopqrstuvwxyz")
    return int(digits[:-1]), int(digits[-1])
