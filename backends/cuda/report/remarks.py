"""What is worth knowing about a kernel, in words."""

from __future__ import annotations

from collections.abc import Iterator

from plait.backends.cuda.occupancy import WARP
from plait.backends.cuda.report.access import SECTOR
from plait.backends.cuda.report.classes import MULTIPLY_CLASSES, TENSOR_CLASSES
from plait.backends.cuda.report.rows import KernelReport

#: Thresholds of the remarks.
LOW_OCCUPANCY = 0.25
LOW_USED_SHARE = 0.6
BANK_CONFLICTS = 1.5
PADDING = 1.25
EMPTY_TAIL = 0.75
MULTIPLYING = 0.25
OVERHEAD = 4
_TENSOR_MODES = ("fp16", "bf16", "int8")


def remarks(row: KernelReport, multiprocessors: int) -> Iterator[str]:
    """The remarks on one kernel."""
    if row.spill_bytes:
        yield f"spills {row.spill_bytes} bytes of registers to local memory"
    if row.occupancy <= LOW_OCCUPANCY:
        fit = f"{row.resident_warps} of 64 warps fit a multiprocessor"
        yield f"low occupancy: {fit}, limited by {_limit(row)}"
    yield from _grid(row, multiprocessors)
    yield from _memory(row)
    yield from _arithmetic(row)
    if (
        row.bound == "issue"
        and row.instructions_per_flop is not None
        and row.instructions_per_flop > OVERHEAD
    ):
        each = f"{row.instructions_per_flop:.1f} instructions of a thread for each FLOP of its ops"
        yield f"overhead: the time goes into issuing {each}"
    if not row.complete:
        yield "its warps run too long to be counted to the end: counts and time are lower bounds"
    elif row.assumed_conditions:
        yield f"{row.assumed_conditions} conditions depend on data and were assumed: counts are estimates"


def _limit(row: KernelReport) -> str:
    if row.limited_by == "registers":
        return f"registers ({row.registers} of each thread)"
    if row.limited_by == "shared memory":
        return f"shared memory ({row.shared_bytes + row.dynamic_shared_bytes:,} bytes of each block)"
    if row.limited_by == "blocks":
        return f"the number of blocks (32 of {row.threads // WARP or 1} warps each)"
    return f"warps (blocks of {row.threads} threads)"


def _grid(row: KernelReport, multiprocessors: int) -> Iterator[str]:
    if row.blocks < multiprocessors:
        idle = f"{multiprocessors - row.blocks} of {multiprocessors} multiprocessors idle"
        verb = "block leaves" if row.blocks == 1 else "blocks leave"
        yield f"less than one wave: {row.blocks} {verb} {idle}"
        return
    busiest = -(-row.blocks // multiprocessors)
    filled = row.blocks / (busiest * multiprocessors)
    if filled < EMPTY_TAIL:
        yield (
            f"uneven: {row.blocks} blocks give the busiest multiprocessor {busiest}, and "
            f"{1 - filled:.0%} of all slots stay empty"
        )


def _memory(row: KernelReport) -> Iterator[str]:
    if row.used_share is not None and row.used_share < LOW_USED_SHARE:
        yield (
            f"uncoalesced: a request to global memory touches {row.sectors_per_request:.1f} sectors of "
            f"{SECTOR} bytes, of which threads use {row.used_share:.0%}"
        )
    if row.bank_conflicts is not None and row.bank_conflicts > BANK_CONFLICTS:
        yield f"bank conflicts: shared memory takes {row.bank_conflicts:.1f} times the passes it needs"


def _arithmetic(row: KernelReport) -> Iterator[str]:
    if row.tensor_share is None or not _multiplies(row):
        return
    if row.tensor_share < 0.5 and row.mode in _TENSOR_MODES:
        why = "depth and columns divide by 8" if row.divisible else "a depth or column does not divide by 8"
        yield f"no tensor cores: {1 - row.tensor_share:.0%} of its {row.mode} MACs run on other units; {why}"
    if row.padding is not None and row.padding > PADDING:
        yield f"padding: executes {row.padding:.2f} times the MACs of its ops"


def _multiplies(row: KernelReport) -> bool:
    """Whether a kernel does the MACs of its ops: others of the same ops may."""
    total = sum(row.mix.values())
    return any(name in row.mix for name in TENSOR_CLASSES) or (
        sum(row.mix.get(name, 0.0) for name in MULTIPLY_CLASSES) > MULTIPLYING * total
    )
