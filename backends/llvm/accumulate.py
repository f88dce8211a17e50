"""Sums of weight rows in vector registers, shared by the kernels that walk event lists."""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from plait.backends.llvm.events import EventLists
from plait.backends.llvm.structure import F32, Code, Lanes, Variable


def block_vectors(width: int) -> int:
    """Accumulators held at a time: AVX-512 has 32 vector registers, other x86 processors 16."""
    return 24 if width == 16 else 12


class Accumulators:
    """One f32 vector for each of `block`; unused lanes hold `idle`."""

    def __init__(self, code: Code, block: Sequence[Lanes], idle: float = 0.0) -> None:
        self.code, self.block = code, block
        self.sums = []
        for lanes in block:
            start = [0.0] * lanes.used + [idle] * (lanes.width - lanes.used)
            kind = ir.VectorType(F32, lanes.width)
            self.sums.append(Variable(code, kind, ir.Constant(kind, start)))

    def add_range(
        self, events: EventLists, weights: ir.Value, column: ir.Value, begin: ir.Value, end: ir.Value
    ) -> None:
        """Adds the weight rows of the events [begin, end) of the window that starts at padded `column`."""
        code, b, spec = self.code, self.code.b, events.spec
        # Offsets count from column 0 of the padded row.
        base = code.scaled((column, spec.in_channels * spec.out_channels))
        origin = code.at(weights, b.sub(code.number(0), base), F32)
        with code.counting(begin, end) as event:
            row = code.index(events.band_events, event)
            for lanes, total in zip(self.block, self.sums):
                place = b.add(row, code.number(lanes.start))
                total.set(b.fadd(total.get(), code.load_lanes(origin, place, F32, lanes)))
