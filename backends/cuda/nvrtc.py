"""CUDA C text to PTX and machine code through NVRTC, with packages from PyPI only: no GPU, no system CUDA."""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

from plait.backends.cuda.source_text import parse_source
from plait.backends.cuda.toolkit import toolkit_path
from plait.ir.errors import CompileError, InputError

_FILE = "kernel.cu"
_ARCHITECTURE = re.compile(r"sm_\d+[a-z]?")
_TYPEDEFS = (
    "typedef signed char int8_t; typedef short int16_t; typedef int int32_t; typedef long long int64_t; "
    "typedef unsigned char uint8_t; typedef unsigned short uint16_t; typedef unsigned int uint32_t; "
    "typedef unsigned long long uint64_t;"
)
# TVM opens its texts with headers of libcu++ for NVRTC and of the system for nvcc.
_TVM_PRELUDE = re.compile(
    r"^#ifdef __CUDACC_RTC__\n.*?^#else\n(?:\s*#include[^\n]*\n)*#endif[^\n]*$", re.S | re.M
)
_STANDARD_HEADERS = re.compile(r"^[ \t]*#include[ \t]*<(?:cstdint|stdint\.h|cuda\.h|cuda_runtime\.h)>", re.M)
_HAS_INCLUDE = re.compile(r"^[ \t]*#[ \t]*include", re.M)
_ERROR = re.compile(rf"^{re.escape(_FILE)}\((\d+)\): (?:catastrophic )?error: (.*)$", re.M)
_EXCERPT_WIDTH = 120


@dataclass(frozen=True)
class CudaBinary:
    """Machine code of a CUDA text.

    Attributes:
        ptx: PTX text.
        cubin: ELF image for `architecture`.
        log: what NVRTC and the assembler printed, with the resources of every kernel.
        seconds: wall time of the compilation.
        architecture: for example "sm_80".
    """

    ptx: str
    cubin: bytes
    log: str
    seconds: float
    architecture: str = "sm_80"

    def __repr__(self) -> str:
        return (
            f"CudaBinary({self.architecture}, {len(self.ptx)} characters of PTX, {len(self.cubin)} bytes of "
            f"machine code, {self.seconds:.2f} s)"
        )


@lru_cache(maxsize=1)
def _load_nvrtc() -> ModuleType:
    """The NVRTC bindings, bound to the library of the wheel.

    The library is loaded by its full path first: the bindings then find it in the process and
    search neither CUDA_HOME nor the linker's folders.
    """
    ctypes.CDLL(str(toolkit_path("lib/libnvrtc.so.13")), mode=ctypes.RTLD_GLOBAL)
    try:
        from cuda.bindings import nvrtc
    except ImportError as error:
        raise CompileError(
            "the NVRTC bindings are missing", why=str(error), remedy='pip install "cuda-bindings>=13,<14"'
        ) from error
    module: ModuleType = nvrtc
    return module


def prepare_source(source: str) -> str:
    """The text with TVM's header prelude replaced by plain typedefs; line numbers are kept.

    The headers are only needed by texts that use `std::`; without them NVRTC is 4 to 10 times faster.
    """
    if re.search(r"\bstd::", _TVM_PRELUDE.sub("", source)):
        return source

    def replacement(match: re.Match[str]) -> str:
        aliases = "\n#define __asm__ asm\n#define __volatile__ volatile"
        return _TYPEDEFS + aliases + "\n" * (match[0].count("\n") - 2)

    prepared, count = _TVM_PRELUDE.subn(replacement, source, count=1)
    if count == 0 and re.search(r"\bu?int(?:8|16|32|64)_t\b", source) and not _HAS_INCLUDE.search(source):
        return f"{_TYPEDEFS}\n#line 1\n{source}"
    return _STANDARD_HEADERS.sub(f"{_TYPEDEFS} //", prepared, count=1) if count == 0 else prepared


def _options(source: str, architecture: str) -> list[str]:
    options = [
        f"--gpu-architecture={architecture}",
        "--ptxas-options=-v",
        "--device-as-default-execution-space",
        "--disable-warnings",
    ]
    if _HAS_INCLUDE.search(source):
        include = toolkit_path("include/cuda_fp16.h").parent
        options += [f"--include-path={include}"]
        if "<mma.h>" in source:
            toolkit_path("include/crt/mma.h")  # of a package of its own: missing, it has a clear message
        if "cuda/" in source or "std::" in source:
            options += [f"--include-path={toolkit_path('include/cccl')}"]
    return options


def _read(
    size_of: Callable[[Any], tuple[Any, int]], read: Callable[[Any, bytes], Any], program: Any
) -> bytes:
    size = size_of(program)[1]
    buffer = b"\0" * size
    if size:
        read(program, buffer)
    return buffer


def compile_cuda(
    source: str, *, architecture: str = "sm_80", kernels: Iterable[str] | None = None
) -> CudaBinary:
    """Compiles a CUDA C text to PTX and to machine code.

    Args:
        source: the text; TVM's prelude of headers is replaced by typedefs.
        architecture: real architecture, such as "sm_80".
        kernels: compile only these kernels of the text; all by default.

    Raises:
        CompileError: NVRTC refuses the text: with its message, the line and a caret.
        InputError: `architecture` is not the name of a real architecture.
    """
    if not _ARCHITECTURE.fullmatch(architecture):
        raise InputError(
            f"{architecture!r} is no real CUDA architecture", remedy='give a name such as "sm_80"'
        )
    if kernels is not None:
        parsed = parse_source(source)
        source = parsed.keeping(tuple(parsed.kernel(name).name for name in kernels))
    nvrtc = _load_nvrtc()
    text = prepare_source(source)
    options = _options(text, architecture)
    started = time.perf_counter()
    status, program = nvrtc.nvrtcCreateProgram(text.encode(), _FILE.encode(), 0, [], [])
    _require(nvrtc, status)
    try:
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
        log = _read(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program).rstrip(b"\0 \n").decode()
        if status == nvrtc.nvrtcResult.NVRTC_ERROR_COMPILATION:
            raise _compile_error(log, source)
        _require(nvrtc, status, log)
        ptx = _read(nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX, program).rstrip(b"\0").decode()
        cubin = _read(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program)
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    return CudaBinary(ptx, cubin, log, time.perf_counter() - started, architecture)


def _require(nvrtc: ModuleType, status: Any, log: str = "") -> None:
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        reason = log[:1000] or nvrtc.nvrtcGetErrorString(status)[1].decode()
        raise CompileError(f"NVRTC failed with {status.name}", why=reason)


def _compile_error(log: str, source: str) -> CompileError:
    """The first error of an NVRTC log, with the source line and the caret below it."""
    found = _ERROR.search(log)
    if found is None:
        return CompileError("NVRTC rejects the CUDA text", why=log[:2000])
    count = len(_ERROR.findall(log))
    line = int(found[1])
    following = log[found.end() :].split("\n")[1:4]
    # NVRTC indents the source line, and with it the caret, by two.
    column = next((text.index("^") - 2 for text in following if text.strip() == "^"), None)
    lines = source.split("\n")
    excerpt = _excerpt(lines[line - 1] if line <= len(lines) else "", column)
    return CompileError(
        f"NVRTC rejects the CUDA text: {found[2]}" + (f" (the first of {count} errors)" if count > 1 else ""),
        where=f"{_FILE}:{line}" + (f":{column + 1}" if column is not None else ""),
        why=excerpt,
    )


def _excerpt(text: str, column: int | None) -> str:
    """A source line and a caret below it; a long line is cut around the caret."""
    if column is None:
        return text[:_EXCERPT_WIDTH]
    start = max(0, column - _EXCERPT_WIDTH // 2)
    label = " " * len("  why: ")  # of the first line, in the message
    return f"{text[start : start + _EXCERPT_WIDTH]}\n{label}{' ' * (column - start)}^"
