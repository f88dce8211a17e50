"""Dynamic counts of kernels: memory requests, sectors and wavefronts, as the emulation saw them."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from plait.ir.errors import InputError


@dataclass(frozen=True)
class KernelCounts:
    """What the launches of one kernel did, added up.

    A request is what the lanes of one warp do at one place of the text in the same turn. It moves
    sectors of 32 bytes of global memory, at least one for each distinct sector it touches, or needs
    wavefronts of shared memory, each of which serves the 32 banks once. Requests are those of the host
    compiler's code: the device compiler may merge or widen some. What `wmma` loads and stores counts
    element by element, since its layout is not documented; `ldmatrix` and `cp.async` count as they are.

    Attributes:
        launches, blocks, threads: how often it ran.
        barriers: released `__syncthreads`, over all blocks.
        load_bytes, store_bytes, atomic_bytes: what the lanes asked for, not what the sectors moved.
    """

    launches: int
    blocks: int
    threads: int
    barriers: int
    load_requests: int
    load_sectors: int
    load_bytes: int
    store_requests: int
    store_sectors: int
    store_bytes: int
    atomic_requests: int
    atomic_sectors: int
    atomic_bytes: int
    shared_load_requests: int
    shared_load_wavefronts: int
    shared_store_requests: int
    shared_store_wavefronts: int

    @property
    def sectors_per_request(self) -> float:
        """Sectors a request to global memory moves; 4 is what 32 lanes of 4 bytes side by side need."""
        requests = self.load_requests + self.store_requests + self.atomic_requests
        return (self.load_sectors + self.store_sectors + self.atomic_sectors) / requests if requests else 0.0

    @property
    def sector_efficiency(self) -> float:
        """Bytes asked for in a byte moved from or to global memory; above 1 where lanes share bytes."""
        sectors = self.load_sectors + self.store_sectors + self.atomic_sectors
        return (self.load_bytes + self.store_bytes + self.atomic_bytes) / (32 * sectors) if sectors else 0.0

    @property
    def wavefronts_per_request(self) -> float:
        """Wavefronts a request to shared memory needs; more than its bytes / 128 are bank conflicts."""
        requests = self.shared_load_requests + self.shared_store_requests
        return (self.shared_load_wavefronts + self.shared_store_wavefronts) / requests if requests else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Counts and ratios, as JSON can hold them."""
        ratios = ("sectors_per_request", "sector_efficiency", "wavefronts_per_request")
        return {**asdict(self), **{name: getattr(self, name) for name in ratios}}


class _Record(ctypes.Structure):
    """The C struct `cuda_emulation::KernelTraffic`."""

    _fields_ = tuple((name, ctypes.c_uint64) for name in KernelCounts.__dataclass_fields__)


def clear_counts(runtime: ctypes.CDLL) -> None:
    """Forgets what was counted so far."""
    runtime.cuda_emulation_traffic_clear()


def read_counts(runtime: ctypes.CDLL, kernels: Iterable[str]) -> dict[str, KernelCounts]:
    """Counts since they were cleared, of those of the kernels that ran with counting on and no finding."""
    found, record = {}, _Record()
    for name in kernels:
        if runtime.cuda_emulation_traffic_read(name.encode(), ctypes.byref(record)):
            values = {field: int(getattr(record, field)) for field in KernelCounts.__dataclass_fields__}
            found[name] = KernelCounts(**values)
    return found


def nothing_counted() -> InputError:
    """The error of asking for counts before there are any."""
    return InputError(
        "no kernel has been counted", why="counting is off by default", remedy="emulate with count=True first"
    )
