"""The constants that were fitted on whole models, and the errors seen on models that were not.

All else in the roofline is a datasheet figure or a micro-benchmark (see
`plait.predictors.devices`).  The regime is eager PyTorch on A100-80GB: FP32
tensors, TF32 convolutions, FP32 matrix products.  Latency has two fitted
constants, both from ResNet-50 at batches 1 and 64 to 256 on the 7g.80gb slice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True)
class Calibration:
    """Fitted constants.

    Args:
        eager_dispatch_us: time that the host needs to issue one eager operator.
        convolution_fraction: per arithmetic mode, the share of a large matrix
            product's rate that an implicit-GEMM convolution reaches.
        context_mb: memory of a CUDA context with its libraries, MiB, at zero SMs.
        context_mb_per_sm: what each SM adds (local memory and stacks are reserved per SM).
        eager_latency_band, eager_memory_band: interval of a figure relative to its value, in
            the regime calibrated on.
        latency_band, energy_band, memory_band: the same elsewhere.
        sources: where each figure comes from.
    """

    eager_dispatch_us: float
    convolution_fraction: Mapping[str, float]
    context_mb: float
    context_mb_per_sm: float
    eager_latency_band: tuple[float, float]
    eager_memory_band: tuple[float, float]
    latency_band: tuple[float, float]
    energy_band: tuple[float, float]
    memory_band: tuple[float, float]
    sources: Mapping[str, str] = field(repr=False)

    def context_on(self, sm_count: int) -> float:
        """Context memory in MiB on a GPU or slice with so many SMs."""
        return self.context_mb + self.context_mb_per_sm * sm_count


# Measured per op, not fitted on whole models: the median of the 522 convolutions of
# NeuSight (A100-80GB PCIe) that take over 2 ms reaches 0.60 of the peak, a large
# matrix product 0.93.
_PLAIN_CONVOLUTION = 0.65
# Fitted; no measurement for fp16, bf16 and int8 was used, so they share it.
_TENSOR_CONVOLUTION = 0.58

CALIBRATION = Calibration(
    eager_dispatch_us=29.6,
    convolution_fraction=MappingProxyType(
        {
            "fp64": _PLAIN_CONVOLUTION,
            "fp32": _PLAIN_CONVOLUTION,
            "tf32": _TENSOR_CONVOLUTION,
            "fp16": _TENSOR_CONVOLUTION,
            "bf16": _TENSOR_CONVOLUTION,
            "int8": _TENSOR_CONVOLUTION,
        }
    ),
    context_mb=1280.0,
    context_mb_per_sm=4.27,
    eager_latency_band=(0.8, 1.5),
    eager_memory_band=(0.95, 1.15),
    latency_band=(0.5, 2.0),
    energy_band=(0.5, 2.0),
    memory_band=(0.8, 1.3),
    sources=MappingProxyType(
        {
            "eager_dispatch_us": (
                "ResNet-50 at batch 1 on 7g.80gb, 174 operators: 5.11 ms in ParvaGPU, 5.21 in MIGProfiler"
            ),
            "convolution_fraction": (
                "tensor cores: where the geometric mean of predicted over measured is 1 for ResNet-50 at "
                "batches 64, 128 and 256 on 7g.80gb in ParvaGPU and MIGProfiler; plain cores: NeuSight, "
                "median of large convolutions"
            ),
            "context_mb": (
                "MIGProfiler, ResNet-50 at batch 1: framebuffer use less weights and activations is a line "
                "in the SMs of the slice (1,340 MiB at 14, 1,699 at 98; residuals under 10 MiB)"
            ),
            "context_mb_per_sm": "slope of the same line",
            "eager_latency_band": (
                "bench/roofline_vs_measured.py: of 165 rows that were not fitted (ResNet-101 and -152, "
                "DenseNet-121, and ResNet-50 on small slices), 90 % lie at 0.85 to 1.25 of the prediction; "
                "widened because they are of two families only"
            ),
            "eager_memory_band": (
                "bench/roofline_vs_measured.py: 90 % of 36 rows of ResNet-50 lie at 0.99 to 1.11 of the "
                "prediction; widened because they are of one model, whose batch 1 fixed the context"
            ),
            "latency_band": "assumed: no whole model measured with fused kernels or otherwise was compared",
            "energy_band": "assumed: no measured energy of a CNN inference is published for the A100",
            "memory_band": "assumed: no other regime was compared",
        }
    ),
)
