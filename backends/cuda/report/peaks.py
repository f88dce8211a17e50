"""What an A100 can do at best, for rooflines and modelled times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from plait.ir.errors import InputError, did_you_mean


@dataclass(frozen=True)
class DevicePeaks:
    """Peak rates of a device.

    Attributes:
        name: of the device.
        multiprocessors: how many it has.
        clock_mhz: boost clock, at which the peaks hold.
        tflops: dense peak by arithmetic mode, in TFLOP/s (TOP/s for int8); two for each MAC.
        dram_gb_s: bandwidth of device memory.
        l2_bytes_per_clock: read bandwidth of the level-2 cache, all multiprocessors together.
        l1_bytes_per_clock: bandwidth of shared memory and level-1 cache of one multiprocessor.
        sm_bytes_per_clock: what one multiprocessor can take from the level-2 cache.
        launch_us: time that the shortest kernel takes.
    """

    name: str
    multiprocessors: int
    clock_mhz: int
    tflops: Mapping[str, float] = field(repr=False)
    dram_gb_s: float
    l2_bytes_per_clock: int
    l1_bytes_per_clock: int
    sm_bytes_per_clock: int
    launch_us: float

    def peak(self, mode: str) -> float:
        """FLOP/us of an arithmetic mode.  Raises InputError when the device has no such mode."""
        if mode not in self.tflops:
            raise InputError(
                f"{self.name} has no arithmetic mode '{mode}'{did_you_mean(mode, self.tflops)}",
                why=f"its modes are {', '.join(self.tflops)}",
            )
        return self.tflops[mode] * 1e6

    def microseconds(self, cycles: float) -> float:
        """Time of clock cycles."""
        return cycles / self.clock_mhz


#: Peaks, clock, bandwidths: NVIDIA A100 data sheet and GA100 whitepaper (cache: 5,120 bytes a clock; a
#: multiprocessor: 128 bytes of shared memory and 64 of the level-2 cache a clock).  Launch: the shortest
#: kernels that AIConfigurator measured on an A100-SXM4.
A100_40GB = DevicePeaks(
    name="a100-sxm4-40gb",
    multiprocessors=108,
    clock_mhz=1410,
    tflops=MappingProxyType(
        {"fp64": 9.7, "fp32": 19.5, "tf32": 156.0, "fp16": 312.0, "bf16": 312.0, "int8": 624.0}
    ),
    dram_gb_s=1555.0,
    l2_bytes_per_clock=5120,
    l1_bytes_per_clock=128,
    sm_bytes_per_clock=64,
    launch_us=2.4,
)
