"""Executables on disk: one zip file.

manifest.json            format, versions, target, order of dims and parameters, places of intermediate
                         arrays, kernel table, SHA-256 of each other entry
graph.plait              the text of the graph
constants.safetensors    constants of the graph
parameters.safetensors   those that the kernels take in another layout
library.so               host code
kernels.cu               on a GPU: CUDA text of all kernels
cubin/<kernel>.cubin     on a GPU: machine code for the architecture of the target
ptx/<kernel>.ptx         on a GPU: what a driver compiles for a newer device
"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import safetensors.numpy

from plait.backends.arena import Arena
from plait.backends.container import Container, DamagedError, write_container
from plait.backends.images import image_entries, read_images
from plait.backends.kernels import Kernel
from plait.backends.targets import CpuTarget, Target, host_cpu
from plait.ir import CompileError, Graph, InputError, PlaitError
from plait.ir.archive import pack_constants, parse_with
from plait.ir.files import write_atomically
from plait.ir.tensors import Buffer, read_tensors
from plait.ir.text.printer import print_graph

if TYPE_CHECKING:
    from plait.backends.executable import Code, Executable

FORMAT = 3
_MAGIC = "plait-executable"
#: Packages that decide what is compiled, and how it runs.
PACKAGES = (
    "plait",
    "apache-tvm",
    "apache-tvm-ffi",
    "numpy",
    "llvmlite",
    "cuda-bindings",
    "nvidia-cuda-nvrtc",
    "nvidia-cuda-runtime",
)


def save(executable: Executable, code: Code, path: str | Path) -> None:
    """Write an executable; the file appears only when it is complete."""
    with write_atomically(path) as stream:
        write(executable.graph, executable.target, code, stream)


def write(graph: Graph, target: Target, code: Code, stream: BinaryIO) -> None:
    """Write what was compiled from a graph.  Raises CompileError when there is no linker."""
    own, order = _parameters(code.parameters, graph)
    entries: dict[str, Buffer] = {
        "graph.plait": print_graph(graph).encode(),
        "constants.safetensors": pack_constants(graph),
        "parameters.safetensors": bytes(safetensors.numpy.save(own)),
        "library.so": library_of(code.module),
    }
    if code.cuda_source is not None:
        entries["kernels.cu"] = code.cuda_source.encode()
    entries.update(image_entries(code.images))
    manifest = {
        "magic": _MAGIC,
        "format": FORMAT,
        "versions": package_versions(),
        "machine": platform.machine(),
        "target": target.to_dict(),
        "dims": code.dims,
        "parameters": order,
        "kernels": [kernel.to_dict() for kernel in code.kernels],
        "arena": code.arena.to_dict() if code.arena is not None else None,
        "calling": {name: image.calling() for name, image in code.images.items()},
    }
    write_container(stream, manifest, entries)


def load_executable(path: str | Path) -> Executable:
    """Read an executable.

    Raises:
        InputError: the file is missing, damaged, no executable, written by another
            version of the format, or compiled for another kind of processor.
    """
    try:
        return _executable(Container.read(path), path)
    except DamagedError as problem:
        raise _damaged(path, str(problem)) from None


def map_executable(path: Path, graph: Graph | None = None) -> Executable:
    """Read an executable from a file that nobody writes to: its weights are loaded as they are used.

    Args:
        graph: what it was compiled from; by default it is read, too.

    Raises:
        InputError: as `load_executable`.
    """
    try:
        return _executable(Container.map(path), path, graph)
    except (DamagedError, OSError, ValueError) as problem:
        raise _damaged(path, str(problem)) from None


def _executable(container: Container, path: str | Path, graph: Graph | None = None) -> Executable:
    from plait.backends.executable import Executable

    target = _target(container.manifest, path)
    entries = container.entries()
    try:
        if graph is None:
            text = bytes(entries["graph.plait"]).decode()
            graph = parse_with(text, f"{path}:graph.plait", entries["constants.safetensors"], checked=True)
        return Executable(graph, target, _code(container.manifest, entries, graph))
    except PlaitError:
        raise
    except (KeyError, TypeError, ValueError) as problem:
        raise DamagedError(f"{type(problem).__name__}: {problem}") from None


def _code(manifest: Mapping[str, Any], entries: Mapping[str, Buffer], graph: Graph) -> Code:
    """What the entries of an executable hold.  Raises KeyError, TypeError or ValueError."""
    from plait.backends.executable import Code

    stored = read_tensors(entries["parameters.safetensors"])
    parameters: dict[str, np.ndarray] = {}
    for index, (name, dtype, constant) in enumerate(manifest["parameters"]):
        parameters[name] = (
            graph.constants[constant].data if constant is not None else _typed(stored[str(index)], dtype)
        )
    return Code(
        StoredLibrary(bytes(entries["library.so"])),
        parameters,
        list(manifest["dims"]),
        tuple(Kernel.from_dict(entry) for entry in manifest["kernels"]),
        bytes(entries["kernels.cu"]).decode() if "kernels.cu" in entries else None,
        read_images(manifest["calling"], entries),
        Arena.from_dict(manifest["arena"]) if manifest["arena"] is not None else None,
    )


def _damaged(path: str | Path, why: str) -> InputError:
    return InputError(f"{path} is damaged", why=why, remedy="write it again with executable.save()")


def _target(manifest: Any, path: str | Path) -> Target:
    """The target of a manifest.  Raises InputError where it cannot be read, or does not run, here."""
    if not isinstance(manifest, dict) or manifest.get("magic") != _MAGIC:
        raise InputError(f"{path} is no plait executable", why="its manifest is of another program")
    if manifest.get("format") != FORMAT:
        age = "a newer" if manifest.get("format", 0) > FORMAT else "an older"
        raise InputError(
            f"{path} was written by {age} plait",
            why=f"its format is {manifest.get('format')} and this plait reads {FORMAT}",
            remedy="compile its graph again with this one, or use the plait that wrote it",
        )
    try:
        target = Target.from_dict(manifest["target"])
    except (KeyError, TypeError) as problem:
        raise DamagedError(f"its target cannot be read: {problem}") from None
    if not isinstance(target, CpuTarget):
        return target
    here = host_cpu()
    if manifest.get("machine") != platform.machine() or target.vector_bits > here.vector_bits:
        raise InputError(
            f"{path} was compiled for {target.processor} ({manifest.get('machine')}, "
            f"{target.vector_bits}-bit vectors)",
            why=f"this is a {here.processor} ({platform.machine()}, {here.vector_bits}-bit vectors)",
            remedy="compile its graph here: plait.compile(path)",
        )
    return target


def _parameters(
    parameters: Mapping[str, np.ndarray], graph: Graph
) -> tuple[dict[str, np.ndarray], list[tuple[str, str, str | None]]]:
    """Arrays to store, by their place; and for each parameter its name, element type and constant.

    A parameter that is the very array of a constant is not stored a second time.
    """
    stored: dict[str, np.ndarray] = {}
    order: list[tuple[str, str, str | None]] = []
    for index, (name, array) in enumerate(parameters.items()):
        constant = graph.constants.get(name)
        if constant is not None and constant.data is array:
            order.append((name, array.dtype.name, name))
            continue
        plain = array if array.dtype.isbuiltin == 1 else array.view(f"u{array.dtype.itemsize}")
        stored[str(index)] = np.asarray(plain, order="C")
        order.append((name, array.dtype.name, None))
    return stored, order


def _typed(array: np.ndarray, dtype: str) -> np.ndarray:
    if array.dtype.name != dtype:
        import ml_dtypes

        return array.view(getattr(ml_dtypes, dtype))
    return array


def package_versions() -> dict[str, str]:
    """Versions of the packages that code generation and running depend on."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "unknown"
    return found


def library_of(module: Any) -> bytes:
    """The shared library of a module; the module itself may have been loaded from one.

    Raises CompileError when it cannot be linked.
    """
    if isinstance(module, StoredLibrary):
        return module.content
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "library.so"
        try:
            module.export_library(str(path))
        except Exception as error:  # the linker's failures share no base class
            raise CompileError(
                "the executable cannot be linked",
                why=str(error).strip().partition("\n")[0][:300],
                remedy="install a C++ compiler (g++), which links shared libraries",
            ) from error
        return path.read_bytes()


@dataclass(frozen=True)
class StoredLibrary:
    """A shared library as bytes, loaded when it is to run: one for a GPU cannot be where there is none."""

    content: bytes

    def load(self) -> Any:
        """The library as a TVM module.  Raises InputError when the system refuses it."""
        import tvm

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "library.so"
            path.write_bytes(self.content)
            try:
                # The mapping stays valid after the file is gone.
                return tvm.runtime.load_module(str(path))
            except Exception as error:  # of the dynamic linker or of TVM
                raise InputError(
                    "the library inside the executable cannot be loaded",
                    why=str(error).strip().partition("\n")[0][:300],
                    remedy="compile the graph again on this machine",
                ) from error
