"""Host emulation of the CUDA execution model: runs the exact CUDA C text with no GPU."""

from plait.backends.cuda.emulator.module import EmulatedModule, LaneOrder

__all__ = ["EmulatedModule", "LaneOrder"]
