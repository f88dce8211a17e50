"""The GPUs that predictions can be made for, with the source of every figure.

Peak figures are NVIDIA's; achieved fractions and power constants come from
published measurements.  Fields carry their unit; `memory_mb` is in MiB.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from plait.ir.errors import PredictError, did_you_mean

#: Arithmetic of a kernel: what multiplies, and in which units.
MODES = ("fp32", "tf32", "fp16", "bf16", "int8", "fp64")

_DATASHEET = "NVIDIA A100 datasheet and GA100 whitepaper"
_QUERY = "nvidia-smi -q -x of an idle A100-SXM4-40GB, NVIDIA/k8s-test-infra qx-a100.xml"
_FLAGPERF = "FlagPerf base benchmarks, A100-40GB SXM"
_FLAGPERF_OPS = "FlagPerf operation benchmarks, A100-40GB SXM: (watts - active floor) over rate"
_POWER_FIT = "least-squares fit of 344 power readings of gpu-benches on A100-40GB, RMSE 6.4 W, R2 0.959"


@dataclass(frozen=True)
class Device:
    """One GPU model.

    Args:
        name: as the user writes it.
        achieved_fraction: per arithmetic mode, the share of the peak that a large matrix product reaches.
        achieved_bandwidth_gb_s: what a large streaming kernel moves per second.
        l2_bandwidth_gb_s: measured bandwidth of hits in the level-2 cache, all SMs together.
        launch_floor_us: time that the shortest kernel takes.
        active_floor_w: power draw of a GPU whose context is active and whose SMs wait.
        stream_pj_per_byte: DRAM and core energy of streaming kernels, per byte moved.
        transcendental_pj_per_byte: the same for kernels that evaluate exp, erf, sin and the like.
        contraction_pj_per_byte: DRAM energy per byte of a matrix product's operands and result.
        pj_per_flop: per mode, energy of a FLOP in a matrix product, on-chip data movement included.
        sources: for each field, where its figure comes from.
    """

    name: str
    product: str
    sm_count: int
    boost_clock_mhz: int
    memory_mb: int
    dram_bandwidth_gb_s: float
    achieved_bandwidth_gb_s: float
    l2_mb: float
    l2_bandwidth_gb_s: float
    fp64_tflops: float
    fp32_tflops: float
    tf32_tflops: float
    fp16_tflops: float
    bf16_tflops: float
    int8_tops: float
    achieved_fraction: Mapping[str, float]
    tdp_w: float
    idle_w: float
    active_floor_w: float
    launch_floor_us: float
    stream_pj_per_byte: float
    transcendental_pj_per_byte: float
    contraction_pj_per_byte: float
    pj_per_flop: Mapping[str, float]
    sources: Mapping[str, str] = field(repr=False)

    def peak_tflops(self, mode: str) -> float:
        """Dense peak in TFLOP/s (TOP/s for int8) of an arithmetic mode.  Raises PredictError on another."""
        peaks = {
            "fp64": self.fp64_tflops,
            "fp32": self.fp32_tflops,
            "tf32": self.tf32_tflops,
            "fp16": self.fp16_tflops,
            "bf16": self.bf16_tflops,
            "int8": self.int8_tops,
        }
        if mode not in peaks:
            raise PredictError(
                f"{self.name} has no arithmetic mode '{mode}'{did_you_mean(mode, peaks)}",
                why=f"its modes are {', '.join(peaks)}",
            )
        return peaks[mode]


_SHARED_SOURCES = {
    "name": "plait",
    "product": _DATASHEET,
    "sm_count": f"{_DATASHEET}; deviceQuery of the Paderborn PC2 wiki",
    "boost_clock_mhz": f"techpowerup; {_QUERY}",
    "memory_mb": _DATASHEET,
    "l2_mb": "41,943,040 bytes by deviceQuery (Paderborn PC2 wiki)",
    "l2_bandwidth_gb_s": "gpu-benches cache sweep on A100-80GB: 5.4 TB/s for sets that fit",
    "fp64_tflops": f"{_DATASHEET}: 9.7 without, 19.5 with tensor cores; the former",
    "fp32_tflops": _DATASHEET,
    "tf32_tflops": _DATASHEET,
    "fp16_tflops": _DATASHEET,
    "bf16_tflops": _DATASHEET,
    "int8_tops": _DATASHEET,
    "achieved_fraction": (
        "fp32 18.1 of 19.5 (NeuSight linear, A100-PCIe-40GB); tf32 123.7 of 156, fp16 251.5 and "
        f"bf16 259.2 of 312, fp64 17.8 of 19.5 ({_FLAGPERF}); "
        "int8 586 of 624 (AIConfigurator, A100-SXM4-80GB)"
    ),
    "active_floor_w": _POWER_FIT,
    "launch_floor_us": "AIConfigurator: shortest GEMM kernels on A100-SXM4-80GB",
    "stream_pj_per_byte": f"{_FLAGPERF_OPS}; abs FP32, 256 W at 1,386 GB/s",
    "transcendental_pj_per_byte": f"{_FLAGPERF_OPS}; gelu FP32, 326 W at 1,399 GB/s",
    "contraction_pj_per_byte": _POWER_FIT,
    "pj_per_flop": (
        f"{_FLAGPERF_OPS}; fp16, bf16 and tf32 8192^3 mm, fp32 4096^3 bmm; "
        "int8 taken as half of fp16 and fp64 as twice fp32: assumed, not measured"
    ),
}

_SHARED_ACHIEVED: Mapping[str, float] = MappingProxyType(
    {
        "fp64": round(17.8 / 19.5, 3),
        "fp32": round(18.1 / 19.5, 3),
        "tf32": round(123.7 / 156, 3),
        "fp16": round(251.5 / 312, 3),
        "bf16": round(259.2 / 312, 3),
        "int8": round(586 / 624, 3),
    }
)
_SHARED_PJ_PER_FLOP: Mapping[str, float] = MappingProxyType(
    {"fp64": 28.6, "fp32": 14.3, "tf32": 2.6, "fp16": 1.28, "bf16": 1.23, "int8": 0.64}
)


def _a100(
    name: str,
    product: str,
    *,
    memory_mb: int,
    bandwidth: tuple[float, float],
    tdp_w: float,
    idle_w: float,
    sources: Mapping[str, str],
) -> Device:
    return Device(
        name=name,
        product=product,
        sm_count=108,
        boost_clock_mhz=1410,
        memory_mb=memory_mb,
        dram_bandwidth_gb_s=bandwidth[0],
        achieved_bandwidth_gb_s=bandwidth[1],
        l2_mb=40.0,
        l2_bandwidth_gb_s=5400.0,
        fp64_tflops=9.7,
        fp32_tflops=19.5,
        tf32_tflops=156.0,
        fp16_tflops=312.0,
        bf16_tflops=312.0,
        int8_tops=624.0,
        achieved_fraction=_SHARED_ACHIEVED,
        tdp_w=tdp_w,
        idle_w=idle_w,
        active_floor_w=66.5,
        launch_floor_us=2.4,
        stream_pj_per_byte=137.0,
        transcendental_pj_per_byte=185.0,
        contraction_pj_per_byte=118.0,
        pj_per_flop=_SHARED_PJ_PER_FLOP,
        sources=MappingProxyType({**_SHARED_SOURCES, **sources}),
    )


_DEVICES: dict[str, Device] = {
    d.name: d
    for d in (
        _a100(
            "a100-sxm4-40gb",
            "NVIDIA A100-SXM4-40GB",
            memory_mb=40960,
            bandwidth=(1555.0, 1328.0),
            tdp_w=400.0,
            idle_w=49.7,
            sources={
                "dram_bandwidth_gb_s": "NeuSight device_configs",
                "achieved_bandwidth_gb_s": f"{_FLAGPERF}: 1,328 GB/s copy, 85 % of the peak",
                "tdp_w": f"{_QUERY}: settable 100 to 400 W",
                "idle_w": f"{_QUERY}: 49.68 W in P0 at 210 MHz",
            },
        ),
        _a100(
            "a100-sxm4-80gb",
            "NVIDIA A100-SXM4-80GB",
            memory_mb=81920,
            bandwidth=(2039.0, 1794.0),
            tdp_w=400.0,
            idle_w=60.0,
            sources={
                "dram_bandwidth_gb_s": "AIConfigurator a100_sxm.yaml",
                "achieved_bandwidth_gb_s": "gpu-benches stream triad, 1,794 GB/s, 88 % of the peak",
                "tdp_w": "AIConfigurator a100_sxm.yaml",
                "idle_w": "57 to 62 W in the CodeCarbon logs of co2_inference",
            },
        ),
        _a100(
            "a100-pcie-40gb",
            "NVIDIA A100-PCIE-40GB",
            memory_mb=40960,
            bandwidth=(1555.0, 1328.0),
            tdp_w=250.0,
            idle_w=49.7,
            sources={
                "dram_bandwidth_gb_s": "NeuSight device_configs",
                "achieved_bandwidth_gb_s": f"{_FLAGPERF}, taken over from the SXM4 card with the same memory",
                "tdp_w": "thundercompute A100 table",
                "idle_w": f"taken over from the SXM4 card: {_QUERY}",
            },
        ),
        _a100(
            "a100-pcie-80gb",
            "NVIDIA A100-PCIE-80GB",
            memory_mb=81920,
            bandwidth=(1935.0, 1703.0),
            tdp_w=300.0,
            idle_w=60.0,
            sources={
                "dram_bandwidth_gb_s": "AIConfigurator a100_pcie.yaml",
                "achieved_bandwidth_gb_s": "88 % of the peak, the fraction that the SXM4-80GB card reaches",
                "tdp_w": "AIConfigurator a100_pcie.yaml",
                "idle_w": "taken over from the SXM4-80GB card",
            },
        ),
    )
}

#: Names of all devices.
DEVICES: tuple[str, ...] = tuple(_DEVICES)


def device(name: str | Device) -> Device:
    """The device called `name`.  Raises PredictError with the nearest name when there is none."""
    if isinstance(name, Device):
        return name
    found = _DEVICES.get(name.lower().replace("_", "-"))
    if found is None:
        raise PredictError(
            f"unknown device '{name}'{did_you_mean(name.lower(), _DEVICES)}",
            why=f"known devices are {', '.join(_DEVICES)}",
            remedy="pass one of them, for instance device='a100-sxm4-40gb'",
        )
    return found


def devices() -> tuple[Device, ...]:
    """All devices, for listings."""
    return tuple(_DEVICES.values())
