"""Native kernels, written in LLVM IR, for what a dense compiler does badly: layers of sparse spikes.

Importing this package does not import llvmlite; compiling the first kernel does.
"""

from plait.backends.llvm.calls import event_conv2d, event_linear, first_spike_conv2d, popcount_conv2d
from plait.backends.llvm.machine import Processor
from plait.backends.llvm.native import Kernel, compile_kernel, emit_object
from plait.backends.llvm.packing import pack_spike_bits, pack_weight_bits, pack_weights
from plait.backends.llvm.specification import (
    EventConv2d,
    FirstSpikeConv2d,
    Pool,
    PopcountConv2d,
    Specification,
    gather_rows,
)

__all__ = [
    "EventConv2d",
    "FirstSpikeConv2d",
    "Kernel",
    "Pool",
    "PopcountConv2d",
    "Processor",
    "Specification",
    "compile_kernel",
    "emit_object",
    "event_conv2d",
    "event_linear",
    "first_spike_conv2d",
    "gather_rows",
    "pack_spike_bits",
    "pack_weight_bits",
    "pack_weights",
    "popcount_conv2d",
]
