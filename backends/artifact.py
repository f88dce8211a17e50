"""Executables on disk: one zip file.

manifest.json            format, versions, target, order of dims and constants, kernel table
graph.plait              the text of the graph
constants.safetensors    constants of the graph
parameters.safetensors   constants as the kernels take them
library.so               host code, and on a GPU the CUDA text inside
kernels.cu, kernels.cubin    on a GPU
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.numpy

from plait.backends.kernels import Kernel
from plait.backends.targets import CpuTarget, GpuTarget, Target, host_cpu
from plait.ir import CompileError, InputError, PlaitError
from plait.ir.archive import pack_constants, parse_with
from plait.ir.files import read_bytes, write_atomically
from plait.ir.text.printer import print_graph

if TYPE_CHECKING:
    from plait.backends.executable import Code, Executable

FORMAT = 1
_MAGIC = "plait-executable"


def save(executable: Executable, code: Code, path: str | Path) -> None:
    """Write an executable; the file appears only when it is complete."""
    entries: dict[str, bytes] = {
        "graph.plait": print_graph(executable.graph).encode(),
        "constants.safetensors": pack_constants(executable.graph),
        "parameters.safetensors": _pack(code.parameters),
        "library.so": _library(code.module),
    }
    if code.cuda_source is not None:
        entries["kernels.cu"] = code.cuda_source.encode()
    if code.cubin is not None:
        entries["kernels.cubin"] = code.cubin
    manifest = {
        "magic": _MAGIC,
        "format": FORMAT,
        "versions": _versions(),
        "machine": platform.machine(),
        "target": executable.target.to_dict(),
        "dims": code.dims,
        "parameters": [[name, array.dtype.name] for name, array in code.parameters.items()],
        "kernels": [kernel.to_dict() for kernel in code.kernels],
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in entries.items()},
    }
    with write_atomically(path) as stream, zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("manifest.json", json.dumps(manifest, indent=1), zipfile.ZIP_DEFLATED)
        for name, content in entries.items():
            packed = zipfile.ZIP_STORED if name.endswith("safetensors") else zipfile.ZIP_DEFLATED
            archive.writestr(name, content, packed)


def load_executable(path: str | Path) -> Executable:
    """Read an executable.

    Raises:
        InputError: the file is missing, damaged, no executable, written by a newer
            plait, or compiled for another kind of processor.
    """
    from plait.backends.executable import Code, Executable
    from plait.backends.tvm.toolchain import require_tvm

    content = read_bytes(path, "executable")
    manifest, entries = _open(content, path)
    target = _target(manifest, path)
    require_tvm()
    try:
        graph = parse_with(
            entries["graph.plait"].decode(), f"{path}:graph.plait", entries["constants.safetensors"]
        )
        stored = safetensors.numpy.load(entries["parameters.safetensors"])
        parameters = {
            name: _typed(stored[str(i)], dtype) for i, (name, dtype) in enumerate(manifest["parameters"])
        }
        kernels = tuple(Kernel.from_dict(entry) for entry in manifest["kernels"])
        source = entries["kernels.cu"].decode() if "kernels.cu" in entries else None
        code = Code(
            StoredLibrary(entries["library.so"]),
            parameters,
            list(manifest["dims"]),
            kernels,
            source,
            entries.get("kernels.cubin"),
        )
    except PlaitError:
        raise
    except (KeyError, TypeError, ValueError, safetensors.SafetensorError) as problem:
        raise _damaged(path, f"{type(problem).__name__}: {problem}") from None
    return Executable(graph, target, code)


def _damaged(path: str | Path, why: str) -> InputError:
    return InputError(f"{path} is damaged", why=why, remedy="write it again with executable.save()")


def _open(content: bytes, path: str | Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The manifest and all other entries, checked against their hashes."""
    if not content.startswith(b"PK"):
        raise InputError(
            f"{path} is no plait executable",
            why="it is no zip file",
            remedy="pass a file that executable.save() wrote",
        )
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
            if "manifest.json" not in names:
                hint = "it holds a graph: use plait.load()" if "graph.plait" in names else "pass another file"
                raise InputError(f"{path} is no plait executable", why="it has no manifest.json", remedy=hint)
            manifest = json.loads(archive.read("manifest.json"))
            if not isinstance(manifest, dict) or manifest.get("magic") != _MAGIC:
                raise InputError(f"{path} is no plait executable", why="its manifest is of another program")
            if manifest.get("format", 0) > FORMAT:
                raise InputError(
                    f"{path} was written by a newer plait",
                    why=f"its format is {manifest['format']} and this plait reads up to {FORMAT}",
                    remedy="upgrade plait, or save it again with this one",
                )
            entries = {name: archive.read(name) for name in names if name != "manifest.json"}
    except (zipfile.BadZipFile, json.JSONDecodeError, EOFError, OSError) as problem:
        raise _damaged(path, str(problem)) from None
    for name, digest in manifest.get("sha256", {}).items():
        if name not in entries:
            raise _damaged(path, f"{name} is missing")
        if hashlib.sha256(entries[name]).hexdigest() != digest:
            raise _damaged(path, f"{name} does not fit its hash")
    return manifest, entries


def _target(manifest: dict[str, Any], path: str | Path) -> Target:
    entry = dict(manifest["target"])
    kind = entry.pop("kind")
    if kind == "gpu":
        return GpuTarget(**entry)
    target = CpuTarget(**entry)
    here = host_cpu()
    if manifest.get("machine") != platform.machine() or target.vector_bits > here.vector_bits:
        raise InputError(
            f"{path} was compiled for {target.processor} ({manifest.get('machine')}, "
            f"{target.vector_bits}-bit vectors)",
            why=f"this is a {here.processor} ({platform.machine()}, {here.vector_bits}-bit vectors)",
            remedy="compile its graph here: plait.compile(path)",
        )
    return target


def _pack(parameters: dict[str, np.ndarray]) -> bytes:
    arrays = {}
    for index, array in enumerate(parameters.values()):
        plain = array if array.dtype.isbuiltin == 1 else array.view(f"u{array.dtype.itemsize}")
        arrays[str(index)] = np.asarray(plain, order="C")
    return bytes(safetensors.numpy.save(arrays))


def _typed(array: np.ndarray, dtype: str) -> np.ndarray:
    if array.dtype.name != dtype:
        import ml_dtypes

        return array.view(getattr(ml_dtypes, dtype))
    return array


def _versions() -> dict[str, str]:
    from importlib import metadata

    found = {}
    for package in ("plait", "apache-tvm", "apache-tvm-ffi", "numpy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "unknown"
    return found


def _library(module: Any) -> bytes:
    """The shared library of a module; the module itself may have been loaded from one."""
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
