"""Writing files so that a failure never leaves a half-written one."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from plait.ir.errors import InputError


@contextlib.contextmanager
def write_atomically(path: str | Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """A binary file that takes the place of `path` only when the block ends without an error.

    Args:
        durable: wait until the content is on the disk, so that it outlives a power failure.

    Raises:
        InputError: the folder is missing or not writable.
    """
    target = Path(path)
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    except OSError as problem:
        raise InputError(
            f"cannot write {target}", why=str(problem), remedy="create the folder, or choose another path"
        ) from None
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_bytes(path: str | Path, what: str) -> bytes:
    """The content of a file.  Raises InputError when it is missing or unreadable."""
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(
            f"{what} {path} does not exist",
            why="no such file",
            remedy="check the path and the current folder",
        ) from None
    except OSError as problem:
        raise InputError(f"cannot read {what} {path}", why=str(problem)) from None
