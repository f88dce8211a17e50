"""CUDA text, launch shapes and machine code of the kernels of one module.

TVM's code generator is listened to while a module is lowered: it hands over the
device functions with their thread extents and gives the CUDA text of all of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

from plait.backends.cuda.nvrtc import CudaBinary, compile_cuda
from plait.backends.cuda.resources import KernelResources, kernel_resources
from plait.backends.cuda.source_text import parse_source
from plait.backends.kernels import Grid, Kernel
from plait.backends.targets import GpuTarget
from plait.backends.tvm.build import KernelFunction, Module
from plait.backends.tvm.shapes import from_expression
from plait.ir import CompileError, InputError
from plait.ir.files import write_atomically

_AXES = ("x", "y", "z")
#: Starts the comment over each kernel that names its ops.
_ANNOTATION = "// plait: "


@dataclass(frozen=True)
class Launch:
    """How a device function is launched."""

    grid: Grid
    block: Grid
    dynamic_shared_bytes: int


@dataclass
class DeviceCode:
    """What TVM generated for the device."""

    source: str = ""
    functions: dict[str, tirx.PrimFunc] = field(default_factory=dict)

    def assemble(
        self, module: Module, target: GpuTarget, notes: dict[str, list[str]], progress: Any = None
    ) -> tuple[tuple[Kernel, ...], str, bytes]:
        """Kernel table, annotated CUDA text and machine code.

        Raises CompileError when a kernel does not assemble, or comes from no op.
        """
        from plait.backends.tvm.compile import kernel_row

        owners = {name: _owner(module, name) for name in self.functions}
        source = _annotated(self.source, owners)
        if progress is not None:
            progress("assemble", 0, 1)
        resources, cubin = assembled(source, target.architecture)
        parsed = parse_source(source)
        rows = []
        for name, owner in owners.items():
            found, launch = resources[name], _launch(self.functions[name])
            text = parsed.keeping((name,))
            rows.append(
                kernel_row(
                    owner,
                    notes.get(owner.name, []),
                    name=name,
                    source=text,
                    registers=found.registers,
                    shared_bytes=found.shared_bytes,
                    spill_bytes=found.spill_store_bytes + found.spill_load_bytes,
                    dynamic_shared_bytes=launch.dynamic_shared_bytes,
                    grid=launch.grid,
                    block=launch.block,
                )
            )
        order = {kernel.name: index for index, kernel in enumerate(module.kernels)}
        rows.sort(key=lambda row: (order[owners[row.name].name], row.name))
        return tuple(rows), source, cubin


@contextmanager
def device_code() -> Iterator[DeviceCode]:
    """While open, lowering a module fills the device code that this yields."""
    device = DeviceCode()
    generate = tvm.get_global_func("target.build.cuda")

    def listen(module: Any, target: Any) -> Any:
        for function in module.functions.values():
            device.functions[str(function.attrs["global_symbol"])] = function
        built = generate(module, target)
        device.source += str(built.inspect_source("cuda"))
        return built

    tvm.register_global_func("target.build.cuda", listen, override=True)
    try:
        yield device
    finally:
        tvm.register_global_func("target.build.cuda", generate, override=True)


def _launch(function: tirx.PrimFunc) -> Launch:
    extents: dict[str, int | str] = {}
    shared = 0

    def visit(node: Any) -> None:
        if node.attr_key == "thread_extent":
            extents[str(node.node.thread_tag)] = _extent(node.value)

    def visit_buffer(node: Any) -> None:
        nonlocal shared
        buffer = node.buffer
        if str(buffer.scope()) == "shared.dyn":
            size = 1
            for dim in buffer.shape:
                size *= int(dim)
            shared = max(shared, size * max(1, tvm.runtime.DataType(str(buffer.dtype)).bits // 8))

    tvm_ffi.structural_walk(function.body, [(tirx.AttrStmt, visit), (tirx.AllocBuffer, visit_buffer)])
    grid, block = ([extents.get(f"{kind}.{axis}", 1) for axis in _AXES] for kind in ("blockIdx", "threadIdx"))
    return Launch((grid[0], grid[1], grid[2]), (block[0], block[1], block[2]), shared)


def _extent(value: Any) -> int | str:
    """A launch extent: a number, or the text of a dim expression."""
    dim = from_expression(value)
    return dim if isinstance(dim, int) else str(dim)


def _owner(module: Module, name: str) -> KernelFunction:
    """The kernel function that a device function was split from: `f` gives f_kernel, f_kernel_1, ..."""
    found = [k for k in module.kernels if re.fullmatch(re.escape(k.name) + r"_kernel(?:_\d+)?", name)]
    if not found:
        raise CompileError(
            f"device function {name} comes from no op",
            why="TVM renamed it",
            remedy="report it with print(graph)",
        )
    return max(found, key=lambda kernel: len(kernel.name))


def _annotated(source: str, owners: dict[str, KernelFunction]) -> str:
    """The CUDA text with a comment over each kernel that names its ops and their origin."""
    parsed = parse_source(source)
    text, shift = source, 0
    for kernel in parsed.kernels:
        owner = owners.get(kernel.name)
        if owner is None:
            continue
        parts = []
        for op in owner.sites[0]:
            origin = op.loc.origins[0] if op.loc.origins else None
            place = (
                f" ({origin.file}:{origin.line})" if origin is not None and origin.file is not None else ""
            )
            parts.append(f"%{op.name}{place}")
        comment = f"{_ANNOTATION}{', '.join(parts)}\n"
        at = kernel.start + shift
        text = text[:at] + comment + text[at:]
        shift += len(comment)
    return text


def without_annotations(source: str) -> str:
    """The CUDA text as TVM generated it."""
    return "".join(line for line in source.splitlines(keepends=True) if not line.startswith(_ANNOTATION))


def assembled(source: str, architecture: str) -> tuple[dict[str, KernelResources], bytes]:
    """Resources and machine code of a CUDA text, from the cache where it was assembled before."""
    key = hashlib.sha256(f"{architecture}\n{source}".encode()).hexdigest()
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "plait" / "nvrtc"
    table, image = folder / f"{key}.json", folder / f"{key}.cubin"
    try:
        entries = json.loads(table.read_text())
        return {name: KernelResources(**entry) for name, entry in entries.items()}, image.read_bytes()
    except (OSError, ValueError, TypeError):
        binary: CudaBinary = compile_cuda(source, architecture=architecture)
    resources = kernel_resources(binary)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with write_atomically(image) as stream:
            stream.write(binary.cubin)
        with write_atomically(table) as stream:
            stream.write(json.dumps({name: asdict(entry) for name, entry in resources.items()}).encode())
    except (OSError, InputError):
        pass  # a folder that cannot be written only costs time
    return resources, binary.cubin
