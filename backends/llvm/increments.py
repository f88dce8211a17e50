"""Generator of `EventConv2d`: the current that each frame of spikes sends into every neuron."""

from __future__ import annotations

from llvmlite import ir

from plait.backends.llvm.accumulate import Accumulators, block_vectors
from plait.backends.llvm.events import EventLists
from plait.backends.llvm.specification import EventConv2d
from plait.backends.llvm.structure import (
    F32,
    I64,
    POINTER,
    U8,
    Code,
    Workspace,
    channel_blocks,
    workspace_function,
)


def generate(spec: EventConv2d, symbol: str, width: int) -> tuple[ir.Module, int]:
    """The LLVM module of the kernel, and the bytes of workspace of one call.

    Args:
        symbol: the C name.
        width: f32 lanes of a vector.
    """
    module = ir.Module(symbol)
    code = Code(module, symbol, [POINTER, POINTER, POINTER, POINTER, I64, I64])
    b = code.b
    spikes, weights, out, workspace, begin, end = code.function.args
    space = Workspace()
    events = EventLists(code, spec, 0, space, workspace)
    blocks = channel_blocks(spec.out_channels, width, block_vectors(width))
    row = spec.out_width * spec.out_channels
    with code.counting(begin, end) as frame:
        source = code.at(spikes, code.scaled((frame, spec.height * spec.width * spec.in_channels)), U8)
        result = code.at(out, code.scaled((frame, spec.out_height * row)), F32)
        code.fill(result, 0, spec.out_height * row * 4)
        events.scan(source)
        with code.counting(code.number(0), code.number(spec.out_height)) as y:
            total = events.band(y)
            with (
                b.if_then(b.icmp_signed(">", total, code.number(0))),
                code.counting(code.number(0), code.number(spec.out_width)) as x,
            ):
                column = code.scaled((x, spec.stride[1]))
                first, past = events.range_of_window(column, None)
                with b.if_then(b.icmp_signed("<", first, past)):
                    pixel = code.scaled((y, row), (x, spec.out_channels))
                    for block in blocks:
                        sums = Accumulators(code, block)
                        sums.add_range(events, weights, column, first, past)
                        for lanes, value in zip(block, sums.sums):
                            place = b.add(pixel, code.number(lanes.start))
                            code.store_lanes(value.get(), result, place, lanes)
    code.finish()
    workspace_function(module, symbol, space.size_bytes)
    return module, space.size_bytes
