"""CUDA text, launch shapes and machine code of the kernels of one module.

TVM's code generator is listened to while a module is lowered: it hands over the
device functions with their thread extents and gives the CUDA text of all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import PointerType

from plait.backends.cuda.assemble import assemble
from plait.backends.cuda.source_text import parse_source
from plait.backends.images import KernelImage
from plait.backends.kernels import Grid, Kernel
from plait.backends.targets import GpuTarget
from plait.backends.tvm.build import KernelFunction, Module
from plait.backends.tvm.shapes import from_expression
from plait.ir import CompileError

_AXES = ("x", "y", "z")
#: What TVM's CUDA runtime calls to compile a text.
_COMPILE = "tvm_callback_cuda_compile"
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
    ) -> tuple[tuple[Kernel, ...], str, dict[str, KernelImage]]:
        """Kernel table, annotated CUDA text, and machine code by kernel.

        Raises CompileError when a kernel does not assemble, or comes from no op.
        """
        from plait.backends.tvm.compile import kernel_row

        owners = {name: _owner(module, name) for name in self.functions}
        plain = parse_source(self.source)
        texts = {name: plain.keeping((name,)) for name in owners}

        def step(done: int, name: str) -> None:
            if progress is not None:
                progress("assemble", done, len(texts), owners[name].sites[0])

        assembled = assemble(texts, target.architecture, step)
        source = _annotated(self.source, owners)
        parsed = parse_source(source)
        rows, images = [], {}
        for name, owner in owners.items():
            function, found = self.functions[name], assembled[name].resources
            launch = _launch(function)
            images[name] = KernelImage(
                name,
                assembled[name].cubin,
                assembled[name].ptx,
                tuple(map(_argument_type, function.params)),
                tuple(str(tag) for tag in function.attrs["tirx.kernel_launch_params"]),
            )
            rows.append(
                kernel_row(
                    owner,
                    notes.get(owner.name, []),
                    name=name,
                    source=parsed.keeping((name,)),
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
        return tuple(rows), source, {row.name: images[row.name] for row in rows}


@contextmanager
def device_code() -> Iterator[DeviceCode]:
    """While open, lowering a module fills the device code that this yields.

    Where there is a GPU, TVM would compile the text at once, with a compiler of its own choice.
    """
    device = DeviceCode()
    generate = tvm.get_global_func("target.build.cuda")

    def listen(module: Any, target: Any) -> Any:
        for function in module.functions.values():
            device.functions[str(function.attrs["global_symbol"])] = function
        built = generate(module, target)
        device.source += str(built.inspect_source("cuda"))
        return built

    replacements = {"target.build.cuda": listen, _COMPILE: lambda code, *rest: b"\0"}
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


def _argument_type(parameter: tirx.Var) -> str:
    """TVM's name of the type of a parameter, as its runtime reads it."""
    return "handle" if isinstance(parameter.ty, PointerType) else str(parameter.ty)


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
