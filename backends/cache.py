"""Caches on disk: folders of files named by the hash of what they were made from.

An entry appears by renaming, so that processes may share a folder. Reading an entry
makes it the youngest; when the entries outgrow the limit, the oldest are removed.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from plait.ir.errors import InputError
from plait.ir.files import write_atomically

#: What plait caches, and how many bytes each cache may hold.
LIMITS = {
    "compile": 4 << 30,  # executables: a large model is some hundred megabytes
    "kernels": 512 << 20,  # machine code of CUDA kernels
    "emulator": 1 << 30,  # host libraries of CUDA kernels
}
#: A temporary file this old belongs to a process that died while writing.
_ABANDONED_SECONDS = 3600.0


@dataclass(frozen=True)
class CacheInfo:
    """What a cache holds.

    Attributes:
        name: "compile", "kernels" or "emulator".
        folder: where it is.
        entries: number of files.
        bytes: of all of them.
        limit_bytes: above which the least recently used are removed.
    """

    name: str
    folder: str
    entries: int
    bytes: int
    limit_bytes: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def cache_root() -> Path:
    """`$XDG_CACHE_HOME/plait`, or the same below `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "plait"


class Cache:
    """One cache.

    Args:
        name: of the cache, a key of `LIMITS`.
        folder: where it is; by default below `cache_root()`.
        limit_bytes: by default that of `LIMITS`.
    """

    def __init__(self, name: str, folder: str | Path | None = None, limit_bytes: int | None = None) -> None:
        self.name = name
        self.folder = cache_root() / name if folder is None else Path(folder)
        self.limit_bytes = LIMITS[name] if limit_bytes is None else limit_bytes

    def create(self) -> Path:
        """The folder, made where it is missing.  Raises InputError when it cannot be made."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise InputError(
                f"the cache folder {self.folder} cannot be made",
                why=str(problem),
                remedy="set XDG_CACHE_HOME to a folder that can be written, or pass cache=False",
            ) from None
        return self.folder

    def path(self, key: str) -> Path:
        """Where the entry of a key is, if there is one."""
        return self.folder / key

    def find(self, key: str) -> Path | None:
        """The file of an entry, which becomes the youngest; None where there is none."""
        path = self.path(key)
        try:
            os.utime(path)
        except FileNotFoundError:
            return None
        except OSError:  # of another user, say: still readable
            return path if path.is_file() else None
        return path

    @contextlib.contextmanager
    def writing(self, key: str) -> Iterator[BinaryIO]:
        """A file that becomes the entry of a key when the block ends without an error.

        Raises InputError when the folder is not writable.
        """
        self.create()
        with write_atomically(self.path(key), durable=False) as stream:
            yield stream
        self.trim(keep=key)

    def remove(self, key: str) -> None:
        """Remove an entry, if it is there."""
        with contextlib.suppress(OSError):
            self.path(key).unlink()

    def trim(self, keep: str | None = None) -> None:
        """Remove the least recently used entries until the rest is within the limit, `keep` never."""
        self._remove_abandoned()
        files = self._files()
        excess = sum(size for _, size, _ in files) - self.limit_bytes
        for path, size, _ in sorted(files, key=lambda item: item[2]):
            if excess <= 0:
                return
            if path.name != keep:
                self.remove(path.name)
                excess -= size

    def info(self) -> CacheInfo:
        """How many entries there are, and how large."""
        sizes = [size for _, size, _ in self._files()]
        return CacheInfo(self.name, str(self.folder), len(sizes), sum(sizes), self.limit_bytes)

    def clear(self) -> CacheInfo:
        """Remove all entries; what there was."""
        found = self.info()
        for path, _, _ in self._files(temporary=True):
            self.remove(path.name)
        return found

    def _files(self, *, temporary: bool = False) -> list[tuple[Path, int, float]]:
        """Path, bytes and time of last use of every entry."""
        found = []
        with contextlib.suppress(OSError), os.scandir(self.folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):  # removed by another process meanwhile
                    if entry.is_file() and (temporary or not entry.name.endswith(".tmp")):
                        status = entry.stat()
                        found.append((Path(entry.path), status.st_size, status.st_mtime))
        return found

    def _remove_abandoned(self) -> None:
        oldest = time.time() - _ABANDONED_SECONDS
        for path, _, used in self._files(temporary=True):
            if path.name.endswith(".tmp") and used < oldest:
                self.remove(path.name)


def caches() -> list[Cache]:
    """All caches at their default places."""
    return [Cache(name) for name in LIMITS]
