"""Machine code of many kernels: each on its own, several at a time, and once only.

NVRTC compiles one text at a time in one process, whatever the number of threads, so
that several texts are shared among processes.
"""

from __future__ import annotations

import base64
import faulthandler
import hashlib
import importlib.metadata
import io
import json
import os
import queue
import threading
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from plait.backends.cache import Cache
from plait.backends.cuda.nvrtc import CudaBinary, compile_cuda
from plait.backends.cuda.resources import KernelResources, kernel_resources
from plait.backends.worker.process import Worker, WorkerDied
from plait.ir.errors import CompileError, InputError

#: Below so many characters of CUDA text to compile (about 2 s), processes of their own do not pay.
_WORTH_SHARING = 400_000
_MAX_PROCESSES = 8
#: A single kernel takes a second; the largest that were seen took ten.
_SECONDS = 600.0


@dataclass(frozen=True)
class AssembledKernel:
    """Machine code of one kernel, the same as PTX text, and what the assembler said about it."""

    resources: KernelResources
    cubin: bytes
    ptx: str


def assemble(
    texts: Mapping[str, str], architecture: str, progress: Callable[[int, str], None] | None = None
) -> dict[str, AssembledKernel]:
    """Assemble kernels, those that were assembled before from the cache.

    Args:
        texts: for each kernel, a CUDA text that defines it and no other.
        architecture: such as "sm_80".
        progress: called with the number of kernels done and the name of one that is begun.

    Raises:
        CompileError: a text is rejected, or crashes the compiler.
    """
    cache = Cache("kernels")
    keys = {name: _key(text, architecture) for name, text in texts.items()}
    found = {name: entry for name in texts if (entry := _read(cache, keys[name])) is not None}
    # The longest first, so that the processes end together.
    missing = sorted(texts.keys() - found.keys(), key=lambda name: (-len(_squeezed(texts[name])), name))
    done = len(found)
    for name, binary in _compiled({name: texts[name] for name in missing}, architecture, done, progress):
        found[name] = AssembledKernel(kernel_resources(binary)[name], binary.cubin, binary.ptx)
        _write(cache, keys[name], found[name])
    return {name: found[name] for name in texts}


def prepare() -> None:
    """What a worker does before its first job."""
    faulthandler.enable()


def run(job: dict[str, Any], report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """The job of a worker: one text; an error is part of the answer."""
    try:
        binary = compile_cuda(job["text"], architecture=job["architecture"])
    except CompileError as error:
        return {"error": error.to_dict()}
    return {
        "ptx": binary.ptx,
        "cubin": base64.b64encode(binary.cubin).decode(),
        "log": binary.log,
        "seconds": binary.seconds,
    }


def _compiled(
    texts: dict[str, str], architecture: str, done: int, progress: Callable[[int, str], None] | None
) -> list[tuple[str, CudaBinary]]:
    """Binaries of texts, from processes where that is faster."""
    size = sum(len(_squeezed(text)) for text in texts.values())
    processes = min(len(texts), os.cpu_count() or 1, _MAX_PROCESSES)
    if processes < 2 or size < _WORTH_SHARING:
        found = []
        for number, (name, text) in enumerate(texts.items()):
            if progress is not None:
                progress(done + number, name)
            found.append((name, compile_cuda(text, architecture=architecture)))
        return found
    return _Sharing(texts, architecture, done, progress).compile(processes)


class _Sharing:
    """Compiles texts in several processes, each of which takes the next when it is done with one."""

    def __init__(
        self,
        texts: dict[str, str],
        architecture: str,
        done: int,
        progress: Callable[[int, str], None] | None,
    ) -> None:
        self._architecture = architecture
        self._progress, self._done = progress, done
        self._waiting: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        for item in texts.items():
            self._waiting.put(item)
        self._lock = threading.Lock()
        self._found: list[tuple[str, CudaBinary]] = []
        self._failures: list[Exception] = []

    def compile(self, processes: int) -> list[tuple[str, CudaBinary]]:
        """All binaries.  Raises the first failure."""
        threads = [threading.Thread(target=self._serve) for _ in range(processes)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._failures:
            raise self._failures[0]
        return self._found

    def _serve(self) -> None:
        worker = Worker(f"{__name__}:run")
        try:
            while not self._failures:
                try:
                    name, text = self._waiting.get_nowait()
                except queue.Empty:
                    return
                with self._lock:
                    if self._progress is not None:
                        self._progress(self._done + len(self._found), name)
                binary = self._one(worker, name, text)
                with self._lock:
                    self._found.append((name, binary))
        except Exception as error:  # raised again by the thread that waits
            self._failures.append(error)
        finally:
            worker.close()

    def _one(self, worker: Worker, name: str, text: str) -> CudaBinary:
        job = {"text": text, "architecture": self._architecture}
        try:
            answer = worker.run(job, seconds=_SECONDS)
        except WorkerDied as death:
            raise CompileError(
                f"NVRTC {death.reason} while it compiled kernel {name}",
                why=death.cause or death.output.strip()[-500:] or None,
                remedy="report it with the CUDA text of the kernel",
            ) from None
        if "error" in answer:
            kept = answer["error"]
            raise CompileError(kept["what"], where=kept["where"], why=kept["why"], remedy=kept["remedy"])
        cubin = base64.b64decode(answer["cubin"])
        return CudaBinary(answer["ptx"], cubin, answer["log"], answer["seconds"], self._architecture)


# -- the cache ---------------------------------------------------------------------------
@lru_cache(maxsize=1)
def _compiler() -> str:
    return importlib.metadata.version("nvidia-cuda-nvrtc")


def _squeezed(text: str) -> str:
    """The text without the empty lines in the place of the other kernels."""
    return "\n".join(line for line in text.splitlines() if line.strip())


def _key(text: str, architecture: str) -> str:
    content = "\0".join((_compiler(), architecture, _squeezed(text)))
    return hashlib.sha256(content.encode()).hexdigest() + ".zip"


def _read(cache: Cache, key: str) -> AssembledKernel | None:
    """An entry of the cache; None when there is none, or it is damaged."""
    path = cache.find(key)
    if path is None:
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            resources = KernelResources(**json.loads(archive.read("resources.json")))
            return AssembledKernel(resources, archive.read("cubin"), archive.read("ptx").decode())
    except (OSError, ValueError, TypeError, KeyError, EOFError, zlib.error, zipfile.BadZipFile):
        cache.remove(key)
        return None


def _write(cache: Cache, key: str, kernel: AssembledKernel) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("resources.json", json.dumps(asdict(kernel.resources)))
        archive.writestr("cubin", kernel.cubin)
        archive.writestr("ptx", kernel.ptx)
    try:
        with cache.writing(key) as stream:
            stream.write(content.getvalue())
    except (OSError, InputError):
        pass  # a folder that cannot be written only costs time
