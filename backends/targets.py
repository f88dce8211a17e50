"""What a graph is compiled for: the host's processor, or an A100."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar, Literal

from plait.ir.errors import CompileError, did_you_mean


@dataclass(frozen=True)
class Target:
    """Base of the targets.

    Attributes:
        name: as the user writes it.
        kind: "cpu" runs here; "gpu" is compiled with no GPU present and emulated or run elsewhere.
    """

    kind: ClassVar[Literal["cpu", "gpu"]]
    name: str

    def to_dict(self) -> dict[str, Any]:
        """All fields, for manifests and reports."""
        return {"kind": self.kind, **{key: getattr(self, key) for key in self.__dataclass_fields__}}

    @staticmethod
    def from_dict(entry: Mapping[str, Any]) -> Target:
        """The target that `to_dict` described.  Raises KeyError or TypeError on other fields."""
        given = dict(entry)
        return _KINDS[given.pop("kind")](**given)


@dataclass(frozen=True)
class CpuTarget(Target):
    """A processor that runs the code in this process.

    Attributes:
        processor: LLVM's name of the processor.
        vector_bits: width of its vector registers.
        registers: number of its vector registers.
        threads: how many threads share the parallel loops.
        layouts: whether values may lie in memory in another order than the logical one.
        polynomials: whether exp, tanh and erf of f32 are computed by polynomials, in vectors.
        winograd: whether 3 x 3 convolutions may go through Winograd's transforms.
        dot_products: whether it adds four products of 8-bit integers at once, and may do so.
        tuned: whether measured choices of register tiles go before estimates.
    """

    kind = "cpu"
    processor: str
    vector_bits: int
    registers: int
    threads: int
    layouts: bool = True
    polynomials: bool = True
    winograd: bool = True
    dot_products: bool = False
    tuned: bool = True

    @property
    def lanes(self) -> int:
        """f32 elements in one vector register."""
        return self.vector_bits // 32


@dataclass(frozen=True)
class GpuTarget(Target):
    """A CUDA device.

    Attributes:
        architecture: of the machine code, such as "sm_80".
        multiprocessors: streaming multiprocessors of the whole device.
        max_threads: of one block.
        shared_bytes: static shared memory of one block.
        max_shared_bytes: shared memory of one block when the launch asks for it.
        registers: 32-bit registers of one multiprocessor.
        tf32: whether products of f32 run on tensor cores, which read 10 bits of a mantissa.
    """

    kind = "gpu"
    architecture: str
    multiprocessors: int
    max_threads: int
    shared_bytes: int
    max_shared_bytes: int
    registers: int
    tf32: bool = False


_KINDS: dict[str, type[Target]] = {cls.kind: cls for cls in (CpuTarget, GpuTarget)}

#: NVIDIA A100 (compute capability 8.0); CUDA C++ Programming Guide, technical specifications.
A100 = GpuTarget(
    name="a100",
    architecture="sm_80",
    multiprocessors=108,
    max_threads=1024,
    shared_bytes=48 * 1024,
    max_shared_bytes=163 * 1024,
    registers=65536,
)

#: The same with f32 products on tensor cores: about eight times the throughput, three decimal digits.
A100_TF32 = replace(A100, name="a100-tf32", tf32=True)

TARGETS = ("cpu", "a100", "a100-tf32")


@lru_cache(maxsize=1)
def host_cpu() -> CpuTarget:
    """The processor of this machine, as LLVM detects it; one thread for each processor it may use."""
    from llvmlite import binding

    features = binding.get_host_cpu_features()
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    dots = False
    if features.get("avx512f"):
        bits, registers, dots = 512, 32, bool(features.get("avx512vnni"))
    elif features.get("avx2"):
        bits, registers, dots = 256, 16, bool(features.get("avxvnni"))
    else:
        # Both SSE2 and the NEON of 64-bit ARM are 128 bits wide.
        bits, registers = 128, 32 if platform.machine() in ("aarch64", "arm64") else 16
    return CpuTarget("cpu", binding.get_host_cpu_name(), bits, registers, threads, dot_products=dots)


def resolve_target(target: str | Target, *, threads: int | None = None) -> Target:
    """The target that `target` names.

    Args:
        target: "cpu", "a100", "a100-tf32" (f32 products in TF32), or a target, taken as it is.
        threads: for "cpu", how many threads to use instead of all.

    Raises:
        CompileError: no such target, with the nearest name, or `threads` below 1.
    """
    if isinstance(target, Target):
        found = target
    elif target == "cpu":
        found = host_cpu()
    elif target in (A100.name, A100_TF32.name):
        found = A100 if target == A100.name else A100_TF32
    else:
        raise CompileError(
            f"no target '{target}'{did_you_mean(str(target), TARGETS)}",
            why=f"the targets are {', '.join(TARGETS)}",
            remedy="pass one of them, or a plait.backends.targets.Target",
        )
    if threads is None:
        return found
    if threads < 1:
        raise CompileError(f"threads={threads} is below 1", remedy="give 1 or more, or leave it out for all")
    return replace(found, threads=threads) if isinstance(found, CpuTarget) else found
