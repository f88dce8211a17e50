"""Time of a kernel on a device, modelled from its machine code.

    time = launch + max(issue, pipe, shared, cache, memory, latency)

Blocks are dealt to multiprocessors evenly; the busiest one has ceil(blocks /
multiprocessors) of them, so a partial wave counts as a whole one.

issue    its warp instructions, one a cycle on each of four partitions
pipe     the same for the busiest kind of execution unit
shared   wavefronts of shared memory and of the level-1 cache, 128 bytes a cycle
cache    sectors that a block touches first, from the level-2 cache
memory   the bytes that the ops must move, at the bandwidth of device memory
latency  the cycles of a lone warp, once for each round of resident blocks

Not modelled: reuse between blocks in the level-1 cache, contention, clocks below
boost, and overlap that is less than perfect.  It is a bound from below with causes,
not a prediction: `plait predict` is that.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from plait.backends.cuda.occupancy import Occupancy
from plait.backends.cuda.report.access import SECTOR
from plait.backends.cuda.report.peaks import DevicePeaks
from plait.backends.cuda.report.profile import WarpProfile

_PARTITIONS = 4


@dataclass(frozen=True)
class KernelTime:
    """Modelled time of one launch.

    Attributes:
        launch_us: floor.
        parts_us: each bound of the model by name.
    """

    launch_us: float
    parts_us: dict[str, float]

    @property
    def total_us(self) -> float:
        """Time of the launch."""
        return self.launch_us + max(self.parts_us.values())

    @property
    def bound(self) -> str:
        """What takes most of the time: a part, the busiest pipe as `pipe:fma`, or `launch`."""
        name = max(self.parts_us, key=lambda part: self.parts_us[part])
        return name if self.parts_us[name] > self.launch_us else "launch"


def waves(blocks: int, occupancy: Occupancy, peaks: DevicePeaks) -> float:
    """How often the device would be filled with resident blocks."""
    return blocks / (peaks.multiprocessors * occupancy.blocks)


def kernel_time(
    profile: WarpProfile,
    blocks: int,
    warps_per_block: int,
    occupancy: Occupancy,
    bytes_moved: float,
    peaks: DevicePeaks,
) -> KernelTime:
    """The modelled time of a launch of `blocks` blocks.

    Args:
        bytes_moved: bytes that the ops of the kernel must read and write.
    """
    busiest = ceil(blocks / peaks.multiprocessors)
    resident = min(occupancy.blocks, busiest)
    warps = busiest * warps_per_block
    partitions = min(_PARTITIONS, resident * warps_per_block)
    wavefronts = profile.shared_wavefronts + profile.global_sectors * SECTOR / peaks.l1_bytes_per_clock
    first_touched = profile.distinct_sectors * SECTOR
    cycles = {
        "issue": warps * profile.issued / partitions,
        "shared": warps * wavefronts,
        "cache": max(
            blocks * warps_per_block * first_touched / peaks.l2_bytes_per_clock,
            warps * first_touched / peaks.sm_bytes_per_clock,
        ),
        "latency": ceil(busiest / occupancy.blocks) * profile.latency,
    }
    if profile.pipes:
        pipe = max(profile.pipes, key=lambda name: profile.pipes[name])
        cycles[f"pipe:{pipe}"] = warps * profile.pipes[pipe] / partitions
    parts = {name: peaks.microseconds(count) for name, count in cycles.items()}
    parts["memory"] = bytes_moved / (peaks.dram_gb_s * 1e3)
    return KernelTime(peaks.launch_us, parts)
