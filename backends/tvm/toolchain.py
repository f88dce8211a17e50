"""TVM as this backend uses it: the version check, targets, errors."""

from __future__ import annotations

import importlib.metadata
import os
import warnings
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from plait.backends.targets import CpuTarget, GpuTarget, Target, host_cpu
from plait.ir import CompileError, Op

#: From this release of tvm-ffi on, every tensorised schedule of TVM 0.27 crashes the process.
_BROKEN_FFI = (0, 1, 15)


@lru_cache(maxsize=1)
def require_tvm() -> None:
    """Import TVM.  Raises CompileError when it is missing or its tvm-ffi is one that crashes."""
    try:
        version = importlib.metadata.version("apache-tvm-ffi")
    except importlib.metadata.PackageNotFoundError:
        raise CompileError(
            "TVM is not installed",
            why="no package apache-tvm-ffi",
            remedy="install plait with its dependencies",
        ) from None
    check_ffi(version)
    # By default TVM leaves every second processor idle, taking it for a hyper-thread of the first.
    os.environ.setdefault("TVM_NUM_THREADS", str(host_cpu().threads))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tvm  # noqa: F401


def check_ffi(version: str) -> None:
    """Raise CompileError for a release of tvm-ffi that crashes."""
    numbers = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    if numbers >= _BROKEN_FFI:
        raise CompileError(
            f"apache-tvm-ffi {version} cannot be used",
            why="from 0.1.15 on, TVM 0.27 crashes the process when it schedules tensor instructions",
            remedy='pip install "apache-tvm-ffi==0.1.14.post1"',
        )


def tvm_target(target: Target) -> Any:
    """The TVM target of a plait target."""
    import tvm

    if isinstance(target, CpuTarget):
        described = {"kind": "llvm", "mcpu": target.processor, "num-cores": target.threads}
        if target.vector_bits == 512:
            # LLVM halves vectors of 512 bits on processors that once slowed down for them.
            described["mattr"] = ["-prefer-256-bit"]
        return tvm.target.Target(described)
    assert isinstance(target, GpuTarget)
    return tvm.target.Target(
        {
            "kind": "cuda",
            "arch": target.architecture,
            "max_threads_per_block": target.max_threads,
            "max_num_threads": target.max_threads,
            "max_shared_memory_per_block": target.shared_bytes,
            "thread_warp_size": 32,
            "registers_per_block": target.registers,
        },
        host="llvm",
    )


def compile_error(error: Exception, ops: Iterable[Op], doing: str) -> CompileError:
    """A TVM error as one that names the ops; TVM's own text is cut to five lines."""
    involved = list(ops)
    names = ", ".join(f"%{op.name} ({op.opname})" for op in involved[:4])
    lines = [line for line in str(error).strip().splitlines() if line.strip()][:5]
    return CompileError(
        f"TVM cannot {doing} {names or 'the module'}",
        where=involved[0].loc.readable() if involved else None,
        why=f"{type(error).__name__}: " + "\n       ".join(line[:200] for line in lines),
        remedy="report it with the text of the graph (print(graph))",
    )
