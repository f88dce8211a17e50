"""The static quality report of GPU kernels: occupancy, instructions, memory, roofline and modelled time."""

from plait.backends.cuda.report.peaks import A100_40GB, DevicePeaks
from plait.backends.cuda.report.quality import quality_report
from plait.backends.cuda.report.rows import KernelReport, MemoryCounts, QualityReport, Totals

__all__ = [
    "A100_40GB",
    "DevicePeaks",
    "KernelReport",
    "MemoryCounts",
    "QualityReport",
    "Totals",
    "quality_report",
]
