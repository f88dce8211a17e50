"""What a kernel needs of a streaming multiprocessor, as told by the real assembler."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass

from plait.backends.cuda.nvrtc import CudaBinary
from plait.backends.cuda.occupancy import SM_80
from plait.ir.errors import CompileError

_ENTRY = re.compile(r"Compiling entry function '(\w+)'")
_FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_LIMIT = re.compile(r"\.entry\s+(\w+)\s*\([^)]*\)[^{;]*?\.maxntid\s+(\d+)(?:\s*,\s*(\d+))?(?:\s*,\s*(\d+))?")


@dataclass(frozen=True)
class KernelResources:
    """Static resources of one kernel; sizes in bytes, registers and stack per thread.

    Attributes:
        registers: 32-bit registers of a thread.
        shared_bytes: static shared memory of a block.
        spill_store_bytes, spill_load_bytes: traffic of spilled registers, by instruction size.
        stack_bytes: local memory frame of a thread.
        constant_bytes: all constant banks, the parameters among them.
        barriers: named barriers in use.
        max_threads: largest block, from `__launch_bounds__`; 1024 without.
    """

    registers: int
    shared_bytes: int = 0
    spill_store_bytes: int = 0
    spill_load_bytes: int = 0
    stack_bytes: int = 0
    constant_bytes: int = 0
    barriers: int = 0
    max_threads: int = 1024

    @property
    def spills(self) -> bool:
        """Whether registers did not suffice."""
        return self.spill_store_bytes + self.spill_load_bytes > 0

    def to_dict(self) -> dict[str, int]:
        return asdict(self)


def kernel_resources(binary: CudaBinary) -> dict[str, KernelResources]:
    """Resources of every kernel of `binary`, by kernel name, as the assembler inside NVRTC reports them.

    Raises:
        CompileError: the log holds no report.
    """
    frames: dict[str, tuple[int, int, int]] = {}
    found: dict[str, KernelResources] = {}
    limits = {m[1]: int(m[2]) * int(m[3] or 1) * int(m[4] or 1) for m in _LIMIT.finditer(binary.ptx)}
    kernel = None
    for line in binary.log.splitlines():
        if entry := _ENTRY.search(line):
            kernel = entry[1]
        elif kernel is None:
            continue
        elif frame := _FRAME.search(line):
            frames.setdefault(kernel, (int(frame[1]), int(frame[2]), int(frame[3])))
        elif used := re.search(r"Used (\d+) registers(.*)", line):
            stack, stores, loads = frames.get(kernel, (0, 0, 0))
            rest = used[2]
            found[kernel] = KernelResources(
                registers=int(used[1]),
                shared_bytes=_number(r"(\d+) bytes smem", rest),
                spill_store_bytes=stores,
                spill_load_bytes=loads,
                stack_bytes=max(stack, _number(r"(\d+) bytes cumulative stack size", rest)),
                constant_bytes=sum(map(int, re.findall(r"(\d+) bytes cmem\[\d+\]", rest))),
                barriers=_number(r"used (\d+) barriers", rest),
                max_threads=limits.get(kernel, SM_80.threads_per_block),
            )
            kernel = None
    if not found:
        raise CompileError(
            "the binary carries no resource report",
            why="the report is in the log of the assembler, and this log has none",
            remedy="compile the text with plait.backends.cuda.nvrtc.compile_cuda",
        )
    return found


def _number(pattern: str, text: str) -> int:
    match = re.search(pattern, text)
    return int(match[1]) if match else 0
