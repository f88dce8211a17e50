"""A zip file with a manifest that holds the hash of every other entry.

Entries that are not compressed start at multiples of 64 bytes, so that arrays in
them can be used where they lie, in memory or in a mapped file.
"""

from __future__ import annotations

import hashlib
import io
import json
import mmap
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, BinaryIO

from plait.ir import InputError
from plait.ir.files import read_bytes
from plait.ir.tensors import Buffer

MANIFEST = "manifest.json"
_ALIGNMENT = 64
_LOCAL_HEADER = 30  # bytes, in front of the name
#: Number of an extra field of zip entries that is padding and nothing else.
_PADDING_FIELD = 0xD935
#: Text compresses well; weights and machine code are to be read in place.
_COMPRESSED = (".json", ".plait", ".cu", ".ptx")


class DamagedError(Exception):
    """A container cannot be read; the message says which entry, and why."""


def write_container(stream: BinaryIO, manifest: Mapping[str, Any], entries: Mapping[str, Buffer]) -> None:
    """Write a container, from the present position of a seekable stream that is at its start."""
    hashes = dict(zip(entries, _hashes(list(entries.values()))))
    text = json.dumps({**manifest, "sha256": hashes}, indent=1).encode()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in {MANIFEST: text, **entries}.items():
            info = zipfile.ZipInfo(name)
            if name.endswith(_COMPRESSED):
                info.compress_type = zipfile.ZIP_DEFLATED
            else:
                behind_name = stream.tell() + _LOCAL_HEADER + len(name.encode())
                padding = -(behind_name + 4) % _ALIGNMENT
                info.extra = struct.pack("<HH", _PADDING_FIELD, padding) + bytes(padding)
            archive.writestr(info, bytes(content) if isinstance(content, memoryview) else content)


def _hashes(contents: list[Buffer]) -> list[str]:
    """SHA-256 of each, on all processors."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda content: hashlib.sha256(content).hexdigest(), contents))


class Container:
    """An open container.

    Args:
        content: all of the file.
        stream: the same, to seek in.
        path: for messages.

    Attributes:
        manifest: the manifest.
        names: of the other entries.

    Raises:
        InputError: the file is no zip file, or has no manifest.
        DamagedError: it is one, and cut or changed.
    """

    def __init__(self, content: bytes | mmap.mmap, stream: IO[bytes], path: str | Path) -> None:
        self._content = memoryview(content)
        if bytes(self._content[:2]) != b"PK":
            raise InputError(
                f"{path} is no plait executable",
                why="it is no zip file",
                remedy="pass a file that executable.save() wrote",
            )
        try:
            self._archive = zipfile.ZipFile(stream)
            self.names = [name for name in self._archive.namelist() if name != MANIFEST]
            if len(self.names) == len(self._archive.namelist()):
                hint = (
                    "it holds a graph: use plait.load()"
                    if "graph.plait" in self.names
                    else "pass another file"
                )
                raise InputError(f"{path} is no plait executable", why=f"it has no {MANIFEST}", remedy=hint)
            self.manifest = json.loads(self._archive.read(MANIFEST))
        except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError) as problem:
            raise DamagedError(str(problem)) from None

    @staticmethod
    def read(path: str | Path) -> Container:
        """The container in a file, read into memory: the file may change afterwards."""
        content = read_bytes(path, "executable")
        return Container(content, io.BytesIO(content), path)

    @staticmethod
    def map(path: Path) -> Container:
        """The container in a file that nobody writes to, read as it is needed."""
        stream = path.open("rb")
        return Container(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ), stream, path)

    def entries(self) -> dict[str, Buffer]:
        """All entries.  Raises DamagedError naming an entry that is missing or does not fit its hash."""
        found = {name: self._entry(name) for name in self.names}
        wanted = self.manifest.get("sha256", {})
        for name in wanted:
            if name not in found:
                raise DamagedError(f"{name} is missing")
        for name in found:
            if name not in wanted:
                raise DamagedError(f"{name} is not in its manifest")
        for name, digest in zip(found, _hashes(list(found.values()))):
            if digest != wanted[name]:
                raise DamagedError(f"{name} does not fit its hash")
        return found

    def _entry(self, name: str) -> Buffer:
        info = self._archive.getinfo(name)
        try:
            if info.compress_type != zipfile.ZIP_STORED:
                return self._archive.read(name)
            at = info.header_offset
            name_size, extra_size = struct.unpack("<HH", self._content[at + 26 : at + _LOCAL_HEADER])
        except (zipfile.BadZipFile, zlib.error, struct.error, EOFError) as problem:
            raise DamagedError(f"{name}: {problem}") from None
        start = at + _LOCAL_HEADER + name_size + extra_size
        return self._content[start : start + info.file_size]
