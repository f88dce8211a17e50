"""Generator of `EventConv2d`: the current that each frame of spikes sends into every neuron.

The maps of a network may lie channels first in memory: `PlanesConv2d` reads its spikes so, and
`planes_text` is a function that turns a map of sums over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

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
    Lanes,
    Workspace,
    channel_blocks,
    workspace_function,
)

#: f32 lanes of AVX-512, which has loads of bytes with a mask.
_MASKED_BYTES = 16


@dataclass(frozen=True, kw_only=True)
class PlanesConv2d(EventConv2d):
    """`EventConv2d` of spikes u8 [F,C,H,W]; the result is the same, [F,Ho,Wo,Co]."""

    name: ClassVar[str] = "planes_conv2d"


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
        if isinstance(spec, PlanesConv2d):
            events.scan_planes(source, masked=width >= _MASKED_BYTES)
        else:
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


def planes_text(pixels: int, channels: int, *, lanes: int) -> tuple[str, str]:
    """A function in LLVM's language that puts the channels of a map first, and its C name.

    C: void symbol(const float *from, float *to)
    takes f32 [pixels, channels] to [channels, pixels], a square of `lanes` by `lanes` at a time.
    """
    symbol = f"plait_planes_{pixels}_{channels}_{lanes}"
    module = ir.Module(symbol)
    code = Code(module, symbol, [POINTER, POINTER])
    b = code.b
    source, target = code.function.args

    def square(pixel: ir.Value, channel: ir.Value, height: int, width: int) -> None:
        """Turns `height` pixels by `width` channels over."""
        rows = [
            code.load_lanes(
                source,
                code.scaled((b.add(pixel, code.number(r)), channels), (channel, 1)),
                F32,
                Lanes(0, lanes, width),
            )
            for r in range(height)
        ]
        rows += [ir.Constant(ir.VectorType(F32, lanes), None)] * (lanes - height)
        for c, column in enumerate(_turned(code, rows)[:width]):
            place = code.scaled((b.add(channel, code.number(c)), pixels), (pixel, 1))
            code.store_lanes(column, target, place, Lanes(0, lanes, height))

    down, across = divmod(pixels, lanes), divmod(channels, lanes)
    with code.counting(code.number(0), code.number(down[0])) as block:
        pixel = code.scaled((block, lanes))
        with code.counting(code.number(0), code.number(across[0])) as step:
            square(pixel, code.scaled((step, lanes)), lanes, lanes)
        if across[1]:
            square(pixel, code.number(channels - across[1]), lanes, across[1])
    if down[1]:
        pixel = code.number(pixels - down[1])
        with code.counting(code.number(0), code.number(across[0])) as step:
            square(pixel, code.scaled((step, lanes)), down[1], lanes)
        if across[1]:
            square(pixel, code.number(channels - across[1]), down[1], across[1])
    code.finish()
    module.triple = ""
    return str(module), symbol


def _turned(code: Code, rows: Sequence[ir.Value]) -> list[ir.Value]:
    """The columns of a square of vectors: halves of ever shorter runs change places."""
    found, size = list(rows), len(rows)
    span = size // 2
    while span:
        for first in range(size):
            if first & span:
                continue
            upper, lower = found[first], found[first + span]
            for place, offset in ((first, 0), (first + span, span)):
                order = [(k & ~span) + offset + (size if k & span else 0) for k in range(size)]
                mask = ir.Constant(ir.VectorType(ir.IntType(32), size), order)
                found[place] = code.b.shuffle_vector(upper, lower, mask)
        span //= 2
    return found
