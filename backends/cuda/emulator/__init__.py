"""Host emulation of the CUDA execution model: runs the exact CUDA C text with no GPU."""

from plait.backends.cuda.emulator.counts import KernelCounts
from plait.backends.cuda.emulator.findings import Finding
from plait.backends.cuda.emulator.module import EmulatedModule, LaneOrder

__all__ = ["EmulatedModule", "Finding", "KernelCounts", "LaneOrder"]
