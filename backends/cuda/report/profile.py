"""What an average warp of a kernel does: instructions, pipes, memory, and how long it takes alone."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from plait.backends.cuda.report.classes import CLASSES, kind
from plait.backends.cuda.report.execution import Execution
from plait.backends.cuda.report.semantics import results
from plait.backends.cuda.sass import Instruction, MachineCode

#: Cycles until a result can be used, by class.  Memory and shuffles: Abdelkhalik et al., "Demystifying
#: the Nvidia Ampere Architecture through Microbenchmarking and Instruction-level Analysis", 2022; tensor
#: cores: Sun et al., "Dissecting Tensor Cores via Microbenchmarks", 2022.  The others are rounded.
_LATENCY = {
    "LDG": 290,
    "LDL": 290,
    "atomic": 290,
    "other memory": 290,
    "LDS": 23,
    "LDSM": 29,
    "SHFL": 23,
    "HMMA": 25,
    "IMMA": 25,
    "DMMA": 25,
    "MUFU": 18,
    "conversion": 14,
    "FP64": 8,
    "BAR": 20,
}
_ALU_LATENCY = 4
_READ = re.compile(r"\bU?[RP]\d+")


@dataclass(frozen=True)
class WarpProfile:
    """Averages over the executed warps.

    Attributes:
        mix: warp instructions by class, memory by width, in the order of CLASSES.
        issued: warp instructions in all.
        pipes: cycles on each kind of unit of a partition.
        latency: cycles that the warp takes when it has a multiprocessor for itself.
        tensor_macs, scalar_macs: multiply-accumulates executed, idle lanes among them.
        global_requests, global_sectors: accesses to global memory and 32-byte sectors of them.
        distinct_sectors: sectors that no earlier access of the block touched.
        used_share: share of the bytes of those sectors that lanes asked for; None without any.
        shared_requests, shared_wavefronts: accesses to shared memory and passes through its banks.
        ideal_wavefronts: the passes that they would take without bank conflicts.
    """

    mix: dict[str, float]
    issued: float
    pipes: dict[str, float]
    latency: float
    tensor_macs: float
    scalar_macs: float
    global_requests: float
    global_sectors: float
    distinct_sectors: float
    used_share: float | None
    shared_requests: float
    shared_wavefronts: float
    ideal_wavefronts: float


def warp_profile(code: MachineCode, execution: Execution) -> WarpProfile:
    """What an average executed warp does."""
    mix: Counter[str] = Counter()
    pipes: Counter[str] = Counter()
    tensor = scalar = issued = latency = 0.0
    counts = (execution.block_counts / execution.warps).tolist()
    for block, count, cycles in zip(code.blocks, counts, block_latencies(code), strict=True):
        if not count:
            continue
        latency += count * cycles
        issued += count * len(block.instructions)
        for instruction in block.instructions:
            found = kind(instruction)
            mix[found.name] += count
            tensor += count * found.tensor_macs
            scalar += count * found.scalar_macs
            if found.pipe:
                pipes[found.pipe] += count * found.cycles
    requests, sectors, lane_bytes = _global_memory(execution)
    wavefronts = _shared_memory(execution)
    return WarpProfile(
        mix={name: mix[name] for name in sorted(mix, key=_order)},
        issued=issued,
        pipes=dict(pipes),
        latency=latency,
        tensor_macs=tensor,
        scalar_macs=scalar,
        global_requests=requests,
        global_sectors=sectors,
        distinct_sectors=execution.distinct_sectors(),
        used_share=min(1.0, lane_bytes / (sectors * 32)) if sectors else None,
        shared_requests=wavefronts[0],
        shared_wavefronts=wavefronts[1],
        ideal_wavefronts=wavefronts[2],
    )


def _order(name: str) -> tuple[int, str]:
    return CLASSES.index(name.partition(".")[0]), name


def _global_memory(execution: Execution) -> tuple[float, float, float]:
    """Requests, sectors and bytes asked for; unmeasured requests are taken to be like the measured."""
    requests = sectors = lane_bytes = 0.0
    for access in execution.accesses.values():
        if access.kind.space == "global":
            requests += access.requests
            if access.measured:
                scale = access.requests / access.measured
                sectors += access.sectors * scale
                lane_bytes += access.lane_bytes * scale
    return requests / execution.warps, sectors / execution.warps, lane_bytes / execution.warps


def _shared_memory(execution: Execution) -> tuple[float, float, float]:
    """Requests, wavefronts, and the wavefronts that they would take without bank conflicts."""
    requests = wavefronts = ideal = 0.0
    for access in execution.accesses.values():
        if access.kind.space == "shared" and access.requests:
            requests += access.requests
            least = max(1, access.kind.bytes // 4)
            ideal += access.requests * least
            per_request = access.wavefronts / access.measured if access.measured else least
            wavefronts += access.requests * per_request
    return requests / execution.warps, wavefronts / execution.warps, ideal / execution.warps


def block_latencies(code: MachineCode) -> list[float]:
    """Cycles that each basic block takes a lone warp: in order, one issue a cycle, waiting for operands.

    Results on their way at the end of a block are waited for in the next one in address order.
    """
    ready: dict[str, float] = {}
    found: list[float] = []
    for block in code.blocks:
        time = 0.0
        for instruction in block.instructions:
            time = max([time + 1, *(ready.get(name, 0.0) for name in _reads(instruction))])
            done = time + _latency(instruction)
            registers, predicates = results(instruction)
            for name in (*registers, *predicates):
                ready[name] = done
            if instruction.base == "LDGSTS":
                ready["copies"] = done
            elif instruction.base == "DEPBAR" and instruction.operands[-1:] == ("0x0",):
                time = max(time, ready.get("copies", 0.0))
            elif instruction.base == "BAR":
                time = done
        found.append(time)
        ready = {name: left for name, at in ready.items() if (left := at - time) > 0}
    return found


def _latency(instruction: Instruction) -> int:
    found = kind(instruction)
    if instruction.base == "LDGSTS":
        return _LATENCY["LDG"]
    return 1 if found.writes else _LATENCY.get(found.name.partition(".")[0], _ALU_LATENCY)


def _reads(instruction: Instruction) -> list[str]:
    """Registers and predicates that an instruction reads, or overwrites."""
    return _READ.findall(f"{instruction.guard} {' '.join(instruction.operands)}")
