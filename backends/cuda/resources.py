"""What a kernel needs of a streaming multiprocessor, as told by the real assembler, and what fits on one."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from plait.backends.cuda.nvrtc import CudaBinary
from plait.backends.cuda.toolkit import run_tool
from plait.ir.errors import CompileError, InputError

_WARP = 32
_ENTRY = re.compile(r"Compiling entry function '(\w+)'")
_FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_LIMIT = re.compile(r"\.entry\s+(\w+)\s*\([^)]*\)[^{;]*?\.maxntid\s+(\d+)(?:\s*,\s*(\d+))?(?:\s*,\s*(\d+))?")
_SECTION = re.compile(r"^\.text\.(\w+):")
_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P[T\d]+\s+)?([A-Z][A-Z0-9_.]*)")


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


@dataclass(frozen=True)
class DeviceLimits:
    """Limits of one streaming multiprocessor (SM); the defaults are those of sm_80.

    Shared memory is in bytes; granularities are units of allocation. Source: CUDA C++ Programming
    Guide, table of technical specifications per compute capability.
    """

    registers: int = 65536
    register_granularity: int = 256
    registers_per_thread: int = 255
    partitions: int = 4
    warps: int = 64
    blocks: int = 32
    threads_per_block: int = 1024
    shared_bytes: int = 164 * 1024
    shared_bytes_per_block: int = 163 * 1024
    shared_granularity: int = 128
    shared_reserved_per_block: int = 1024


SM_80 = DeviceLimits()


@dataclass(frozen=True)
class Occupancy:
    """Resident work of one SM.

    Attributes:
        blocks: resident blocks.
        warps: resident warps.
        fraction: `warps` over the most the SM can hold, 0 to 1.
        limited_by: "registers", "shared memory", "warps" or "blocks".
    """

    blocks: int
    warps: int
    fraction: float
    limited_by: str


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


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def occupancy(
    resources: KernelResources,
    block: int | tuple[int, int, int],
    *,
    dynamic_shared_bytes: int = 0,
    limits: DeviceLimits = SM_80,
) -> Occupancy:
    """Blocks and warps of a kernel that one SM holds at a time.

    A warp takes registers in units of 256 out of one of four partitions; a block takes its static
    and dynamic shared memory and 1 KiB that the system reserves.

    Args:
        resources: of the kernel.
        block: threads of a block, as a number or as extents.
        dynamic_shared_bytes: size of the `extern __shared__` array.
        limits: of the SM.

    Raises:
        InputError: such a block cannot be launched at all.
    """
    threads = block if isinstance(block, int) else block[0] * block[1] * block[2]
    shared = resources.shared_bytes + dynamic_shared_bytes
    allowed = min(limits.threads_per_block, resources.max_threads)
    if not 0 < threads <= allowed:
        raise InputError(
            f"a block of {threads} threads cannot be launched", why=f"the kernel allows {allowed}"
        )
    if shared > limits.shared_bytes_per_block:
        raise InputError(
            f"a block with {shared} bytes of shared memory cannot be launched",
            why=f"the device allows {limits.shared_bytes_per_block}",
        )
    warps = -(-threads // _WARP)
    warp_registers = _round_up(max(resources.registers, 1) * _WARP, limits.register_granularity)
    partition_warps = limits.registers // limits.partitions // warp_registers
    if warp_registers * _round_up(warps, limits.partitions) > limits.registers:
        raise InputError(
            f"a block of {threads} threads with {resources.registers} registers each cannot be launched",
            why=f"there are registers for {partition_warps * limits.partitions} warps, the block has {warps}",
            remedy="bound the registers with __launch_bounds__",
        )
    # Of equal bounds the first is named.
    bounds = {
        "warps": limits.warps // warps,
        "blocks": limits.blocks,
        "registers": partition_warps * limits.partitions // warps,
        "shared memory": limits.shared_bytes
        // _round_up(shared + limits.shared_reserved_per_block, limits.shared_granularity),
    }
    limited_by = min(bounds, key=lambda name: bounds[name])
    blocks = bounds[limited_by]
    return Occupancy(blocks, blocks * warps, blocks * warps / limits.warps, limited_by)


def sass_histogram(cubin: bytes, *, modifiers: bool = False) -> dict[str, Counter[str]]:
    """Counts of machine instructions, by kernel and opcode, from the disassembler.

    Counts are static: a loop body counts once. Padding (`NOP`) is left out.

    Args:
        cubin: ELF image.
        modifiers: keep them (`LDG.E.128`) instead of counting by base opcode (`LDG`).
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        listing = run_tool("bin/nvdisasm", "--print-code", str(path))
    counts: dict[str, Counter[str]] = {}
    current: Counter[str] = Counter()
    for line in listing.splitlines():
        if section := _SECTION.match(line):
            current = counts.setdefault(section[1], Counter())
        elif instruction := _INSTRUCTION.match(line):
            opcode = instruction[1] if modifiers else instruction[1].split(".")[0]
            if opcode != "NOP":
                current[opcode] += 1
    return counts
