"""Graphs on disk: IR text beside a safetensors file of the constants.

`save` writes one zip file with `graph.plait` and `constants.safetensors`, or,
with `sidecar=True`, the text itself and `<path>.safetensors` next to it.  Both
are written to a temporary name and renamed.  `load` reads either, checks every
constant against its content hash, and verifies the graph.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import safetensors.numpy

from plait.ir.errors import InputError
from plait.ir.files import read_bytes, write_atomically
from plait.ir.graph import Graph
from plait.ir.tensors import Buffer, read_tensors
from plait.ir.text.parser import parse
from plait.ir.text.printer import print_graph
from plait.ir.value import hash_content

TEXT = "graph.plait"
CONSTANTS = "constants.safetensors"
ZIP_MAGIC = b"PK\x03\x04"


def save(graph: Graph, path: str | Path, *, sidecar: bool = False) -> None:
    """Write a graph.  Raises InputError when a constant has no data or the path is not writable."""
    text, constants = print_graph(graph).encode(), pack_constants(graph)
    if sidecar:
        with write_atomically(f"{path}.safetensors") as stream:
            stream.write(constants)
        with write_atomically(path) as stream:
            stream.write(text)
        return
    with write_atomically(path) as stream, zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(TEXT, text, zipfile.ZIP_DEFLATED)
        archive.writestr(CONSTANTS, constants, zipfile.ZIP_STORED)


def load(path: str | Path) -> Graph:
    """Read a graph: an archive, or IR text with its sidecar if there is one.

    Raises:
        InputError: when the file is missing, truncated or damaged.
        VerifyError: when its text breaks a rule of the IR.
    """
    content = read_bytes(path, "graph")
    if not content.startswith(ZIP_MAGIC):
        beside = Path(f"{path}.safetensors")
        return parse_with(decode(content, path), str(path), beside.read_bytes() if beside.exists() else None)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            text, constants = archive.read(TEXT), archive.read(CONSTANTS)
    except (zipfile.BadZipFile, KeyError, EOFError) as problem:
        raise InputError(
            f"{path} is no complete plait archive",
            why=f"reading it ended with: {problem}",
            remedy="write it again with graph.save()",
        ) from None
    return parse_with(decode(text, path), f"{path}:{TEXT}", constants)


def entries(path: str | Path) -> frozenset[str]:
    """Names of the files in a zip archive; empty for any other file, or none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return frozenset(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return frozenset()


def decode(content: bytes, path: str | Path) -> str:
    """Bytes as text.  Raises InputError when they are binary."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise InputError(
            f"{path} is neither IR text nor a plait archive",
            why="it is binary and does not start like a zip file",
            remedy="pass a .plait file, or lower the model first",
        ) from None


def parse_with(text: str, file: str, packed: Buffer | None, *, checked: bool = False) -> Graph:
    """Parse text with packed constants.

    Args:
        checked: text and constants have been checked already, and are taken as they are.

    Raises:
        InputError: data does not fit its hash.
    """
    graph = parse(text, file=file, verify=not checked and packed is None)
    if packed is None:
        return graph
    for name, array in unpack_constants(graph, packed, file).items():
        graph.constants[name].attach(array)
    if checked:
        return graph
    graph.verify()
    for name, constant in graph.constants.items():
        if hash_content(constant.data) != constant.content_hash:
            raise InputError(
                f"data of constant @{name} does not fit its hash",
                where=file,
                why=f"the text says {constant.content_hash}, the data gives {hash_content(constant.data)}",
                remedy="the file is damaged, or text and constants come from different saves: save again",
            )
    return graph


def pack_constants(graph: Graph) -> bytes:
    """The constants as safetensors bytes, keyed by name."""
    return bytes(safetensors.numpy.save({name: _storable(c.data) for name, c in graph.constants.items()}))


def unpack_constants(graph: Graph, packed: Buffer, file: str) -> dict[str, np.ndarray]:
    """Arrays by constant name, of the element types that the graph declares, over the memory of `packed`."""
    try:
        stored = read_tensors(packed)
    except (KeyError, TypeError, ValueError) as problem:
        raise InputError(
            f"the constants of {file} cannot be read", why=str(problem), remedy="save the graph again"
        ) from None
    found = {}
    for name, constant in graph.constants.items():
        if name not in stored:
            raise InputError(
                f"constant @{name} is missing from the constants of {file}", remedy="save the graph again"
            )
        wanted = constant.shaped.dtype.numpy
        array = stored[name]
        if array.dtype != wanted and array.dtype.itemsize == wanted.itemsize:
            array = array.view(wanted)
        elif wanted.kind == "c":
            array = array.view(wanted)[..., 0]
        found[name] = array
    return found


def _storable(array: np.ndarray) -> np.ndarray:
    """The array in an element type that every safetensors reader knows."""
    if array.dtype.kind == "c":
        return np.asarray(array, order="C")[..., None].view(array.real.dtype)
    if array.dtype.isbuiltin != 1:  # bfloat16 and the minifloats
        return np.asarray(array, order="C").view(f"u{array.dtype.itemsize}")
    return np.asarray(array, order="C")
