"""Compiles the host form of CUDA kernels with the C++ compiler of the machine; results are cached on disk."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import shutil
import subprocess
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from plait.backends.cache import Cache
from plait.backends.cuda.emulator.rewrite import rewrite_kernels
from plait.backends.cuda.source_text import KernelText, parse_source
from plait.ir.errors import CompileError

_HERE = Path(__file__).parent
_RUNTIME_SOURCES = (
    "cuda_emulation.cc",
    "grid.cc",
    "guarded_buffers.cc",
    "async_copies.cc",
    "packed_calls.cc",
    "checked_launch.cc",
    "device_memory.cc",
    "traffic.cc",
)
_CHECK_HOOKS = "check_hooks.cc"
_PRELUDE = "kernel_prelude.h"

_COMPILERS = ("g++", "c++", "clang++")
_PROCESSES = 2
_FLAGS = (
    "-std=c++17",
    "-march=native",
    "-ffp-contract=fast",  # the device compiler contracts a*b+c as well
    "-fno-math-errno",
    "-fno-strict-aliasing",  # CUDA code reinterprets memory freely
    "-fvisibility=hidden",
    "-fPIC",
    "-pthread",
    "-w",
)


# Every access calls a hook; -g1 maps the code to lines.  Local variables start with a pattern.
_CHECK_FLAGS = (
    "-DCUDA_EMULATION_CHECKED",
    "-fsanitize=thread",
    "--param=tsan-distinguish-volatile=1",
    "--param=tsan-instrument-func-entry-exit=0",
    "-ftrivial-auto-var-init=pattern",
    "-gdwarf-4",
    "-g1",
)


@dataclass(frozen=True)
class HostLibrary:
    """A shared library that runs the kernels of one CUDA text on the host.

    Attributes:
        shared_variables: by kernel, the names of its shared variables by number.
    """

    path: Path
    kernels: tuple[KernelText, ...]
    shared_variables: dict[str, tuple[str, ...]]


def find_compiler() -> str:
    """Path of the first C++ compiler on PATH among g++, c++ and clang++."""
    for name in _COMPILERS:
        if path := shutil.which(name):
            return path
    raise CompileError(
        "no C++ compiler to run CUDA kernels on the host",
        why=f"none of {', '.join(_COMPILERS)} is on PATH",
        remedy="install g++ (Debian: apt-get install g++), or compile without emulation",
    )


@lru_cache(maxsize=8)
def _toolchain_identity(compiler: str) -> str:
    """What a binary depends on besides its text: the compiler, and the processor -march=native stands for."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    features = platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        features += next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    except OSError:
        features += platform.processor()
    return version + features


@lru_cache(maxsize=1)
def _emulator_identity() -> str:
    files = sorted(path for path in _HERE.iterdir() if path.suffix in (".h", ".cc"))
    return "".join(f"{path.name}\n{path.read_text(encoding='utf-8')}" for path in files)


def _key(compiler: str, *parts: str) -> str:
    digest = hashlib.sha256()
    for part in (_toolchain_identity(compiler), _emulator_identity(), *_FLAGS, *parts):
        digest.update(part.encode())
        digest.update(b"\0")
    return digest.hexdigest()


def _run_compiler(command: list[str], target: Path) -> None:
    """Runs `command` with output into a temporary name beside `target`, then renames."""
    temporary = target.with_name(f"{target.name}.{os.getpid()}.{uuid.uuid4().hex}.tmp")
    done = subprocess.run([*command, "-o", str(temporary)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        temporary.unlink(missing_ok=True)
        raise _compiler_error(done.stderr)
    os.replace(temporary, target)


def _compiler_error(log: str) -> CompileError:
    found = re.search(r"^(\S+?):(\d+):(\d+): (?:fatal )?error: (.*)$", log, re.M)
    excerpt = "\n".join(line[:200] for line in log.splitlines()[:12])
    return CompileError(
        "the host compiler rejects the emulated CUDA text" + (f": {found[4][:300]}" if found else ""),
        where=f"{found[1]}:{found[2]}:{found[3]}" if found else None,
        why=excerpt,
        remedy="if NVRTC accepts the text, an intrinsic is missing from the emulation headers",
    )


def _precompiled_prelude(compiler: str, flags: tuple[str, ...]) -> tuple[str, ...]:
    """Options by which GCC finds the compiled form of the header that all kernels start with."""
    if not _is_gcc(compiler):
        return ()
    folder = Cache("emulator").create() / f"{_key(compiler, *flags, _PRELUDE)}.headers"
    target = folder / f"{_PRELUDE}.gch"
    if not target.exists():
        folder.mkdir(exist_ok=True)
        header = str(_HERE / _PRELUDE)
        _run_compiler([compiler, *_FLAGS, *flags, "-I", str(_HERE), "-x", "c++-header", header], target)
    return ("-I", str(folder))


def _compile_object(compiler: str, unit: str, flags: tuple[str, ...]) -> Path:
    """Object file of one translation unit, from the cache when it is there."""
    key = f"{_key(compiler, *flags, unit)}.o"
    cache = Cache("emulator")
    if found := cache.find(key):
        return found
    target = cache.create() / key
    text = target.with_name(f"{target.name}.{os.getpid()}.{uuid.uuid4().hex}.cc")
    text.write_text(unit, encoding="utf-8")
    try:
        headers = (*_precompiled_prelude(compiler, flags), "-I", str(_HERE))
        _run_compiler([compiler, *_FLAGS, *flags, *headers, "-c", str(text)], target)
    finally:
        text.unlink(missing_ok=True)
    return target


@lru_cache(maxsize=1)
def load_runtime() -> ctypes.CDLL:
    """The scheduler, loaded once into the process with its symbols visible to the kernel libraries."""
    compiler = find_compiler()
    key, cache = f"{_key(compiler, 'runtime')}.so", Cache("emulator")
    target = cache.find(key)
    if target is None:
        target = cache.create() / key
        sources = [str(_HERE / name) for name in _RUNTIME_SOURCES]
        _run_compiler([compiler, "-O2", *_FLAGS, "-shared", "-I", str(_HERE), *sources], target)
    return ctypes.CDLL(str(target), mode=ctypes.RTLD_GLOBAL)


def build_library(
    source: str, *, optimize: str = "-O1", extra_units: Iterable[str] = (), check: bool = False
) -> HostLibrary:
    """Builds the library of a CUDA text: one object for each kernel, at most two compilers at a time.

    Args:
        source: CUDA C text.
        optimize: optimisation flag of the host compiler.
        extra_units: further C++ translation units to link in.
        check: make the kernels tell the detectors of every access; needs g++.

    Raises:
        CompileError: the text is malformed, no compiler is there, or it rejects the text.
    """
    parsed = parse_source(source)
    if not parsed.kernels:
        raise CompileError(
            "the CUDA text defines no kernel", remedy="hand in a text with a __global__ function"
        )
    hosts = rewrite_kernels(parsed, check=check)
    compiler = find_compiler()
    plain = (optimize,)
    flags = (optimize, *_CHECK_FLAGS) if check else plain
    work = [(host.unit, flags) for host in hosts] + [(unit, plain) for unit in extra_units]
    if check:
        _require_gcc(compiler)
        work.append(((_HERE / _CHECK_HOOKS).read_text(encoding="utf-8"), ("-O2",)))
    key, cache = f"{_key(compiler, *flags, *(unit for unit, _ in work))}.so", Cache("emulator")
    target = cache.find(key)
    if target is None:
        target = cache.create() / key
        # The longest first, so that the two processes end together.
        order = sorted(work, key=lambda item: len(item[0]), reverse=True)
        _precompiled_prelude(compiler, flags)  # before two processes want it
        with ThreadPoolExecutor(_PROCESSES) as executor:
            objects = list(executor.map(lambda item: _compile_object(compiler, *item), order))
        # Device functions of the text are in every object; they are identical.
        link = [compiler, "-shared", "-pthread", "-Wl,--allow-multiple-definition"]
        _run_compiler([*link, *map(str, objects)], target)
        cache.trim(keep=key)
    names = {host.kernel.name: host.shared_variables for host in hosts}
    return HostLibrary(target, parsed.kernels, names)


def _is_gcc(compiler: str) -> bool:
    return "Free Software Foundation" in _toolchain_identity(compiler)


def _require_gcc(compiler: str) -> None:
    if not _is_gcc(compiler):
        raise CompileError(
            f"the detectors need g++, and the compiler found is {compiler}",
            why="they rely on how GCC instruments accesses to memory",
            remedy="install g++ (Debian: apt-get install g++), or emulate without check",
        )
