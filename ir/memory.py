"""Liveness and a static memory plan: where each intermediate lives in one arena, as data.

A value lives from the op that computes it to the last op that reads it.  Views
(reshape) share the storage of their operand.  Offsets are given greedily by
decreasing size, each at the lowest place that no live neighbour holds (Pisarchyk
and Lee, "Efficient memory management for deep neural net inference", 2020).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from plait.ir.bind import default_dims
from plait.ir.graph import Graph
from plait.ir.op import Op
from plait.ir.ops.core.shape import Reshape
from plait.ir.types import GraphType, ShapedType
from plait.ir.value import Value

ALIGNMENT = 64  # bytes: a cache line, and the widest vector register


@dataclass(frozen=True)
class LiveRange:
    """A storage, in op numbers: written at `start`, last read at `end`; `values` share it."""

    values: tuple[str, ...]
    start: int
    end: int
    size_bytes: int


@dataclass(frozen=True)
class Allocation:
    """A storage at its place in the arena."""

    values: tuple[str, ...]
    offset_bytes: int
    size_bytes: int
    start: int
    end: int


@dataclass(frozen=True)
class MemoryPlan:
    """Memory of one run at fixed dims.

    Attributes:
        dims: dim values that the plan holds for.
        arena_bytes: size of the arena that holds all intermediates.
        peak_bytes: most bytes of intermediates alive at once, a lower bound of the arena.
        peak_op: name of the op at which that is.
        constant_bytes, input_bytes, output_bytes: storage beside the arena; outputs
            that are computed are counted here and not in the arena.
    """

    dims: dict[str, int]
    arena_bytes: int
    peak_bytes: int
    peak_op: str | None
    constant_bytes: int
    input_bytes: int
    output_bytes: int
    allocations: tuple[Allocation, ...]

    @property
    def total_bytes(self) -> int:
        """Arena, constants, inputs and outputs together."""
        return self.arena_bytes + self.constant_bytes + self.input_bytes + self.output_bytes

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data."""
        return {**asdict(self), "total_bytes": self.total_bytes}

    def __str__(self) -> str:
        mebi = 1 << 20
        return (
            f"arena {self.arena_bytes / mebi:.2f} MiB (peak {self.peak_bytes / mebi:.2f} MiB at "
            f"%{self.peak_op}), constants {self.constant_bytes / mebi:.2f} MiB, inputs "
            f"{self.input_bytes / mebi:.2f} MiB, outputs {self.output_bytes / mebi:.2f} MiB, "
            f"{len(self.allocations)} storages"
        )


def storage_of(value: Value) -> Value:
    """The value whose storage a view shares: reshapes are followed to their operand."""
    while isinstance(value.producer, Reshape):
        value = value.producer.x
    return value


def live_ranges(graph: Graph, dims: Mapping[str, int]) -> list[LiveRange]:
    """Live range of each storage that an op writes and the function does not return.

    A region's intermediates live while the op that holds it runs.
    """
    position: dict[Op, int] = {}
    for index, op in enumerate(graph.ops):
        position[op] = index
        for region in op.regions:
            position.update(dict.fromkeys(region.walk(), index))
    returned = {storage_of(value) for value in graph.outputs}
    spans: dict[Value, tuple[int, int, list[str]]] = {}
    for op, index in position.items():
        for value in op.results:
            root = storage_of(value)
            if root.producer is None or root in returned:
                continue
            last = max((position[user] for user in value.users if isinstance(user, Op)), default=index)
            start, end, names = spans.get(root, (position[root.producer], index, []))
            spans[root] = (start, max(end, last), [*names, value.name])
    return [
        LiveRange(tuple(names), start, end, _bytes(root, dims)) for root, (start, end, names) in spans.items()
    ]


def _bytes(value: Value, dims: Mapping[str, int]) -> int:
    kind = value.type
    size = kind.bytes_at(dims) if isinstance(kind, (ShapedType, GraphType)) else 0
    return -(-size // ALIGNMENT) * ALIGNMENT


def plan_memory(graph: Graph, dims: Mapping[str, int] | None = None) -> MemoryPlan:
    """Place all intermediates of a graph.

    Args:
        dims: values of the dim symbols; by default each dim's upper bound.

    Raises:
        InputError: when a dim has neither a value nor an upper bound.
    """
    values = default_dims(graph, dims, upper=True)
    ranges = live_ranges(graph, values)
    placed: list[Allocation] = []
    for item in sorted(ranges, key=lambda r: (-r.size_bytes, r.start, r.values)):
        offset = 0
        for other in sorted(placed, key=lambda a: a.offset_bytes):
            if other.end < item.start or item.end < other.start:
                continue
            if offset + item.size_bytes <= other.offset_bytes:
                break
            offset = max(offset, other.offset_bytes + other.size_bytes)
        placed.append(Allocation(item.values, offset, item.size_bytes, item.start, item.end))
    peak, peak_op = _peak(graph, ranges)
    return MemoryPlan(
        dims=values,
        arena_bytes=max((a.offset_bytes + a.size_bytes for a in placed), default=0),
        peak_bytes=peak,
        peak_op=peak_op,
        constant_bytes=sum(_bytes(c, values) for c in graph.constants.values()),
        input_bytes=sum(_bytes(v, values) for v in graph.inputs),
        output_bytes=sum(_bytes(v, values) for v in {storage_of(o): o for o in graph.outputs} if v.producer),
        allocations=tuple(sorted(placed, key=lambda a: (a.start, a.offset_bytes))),
    )


def _peak(graph: Graph, ranges: list[LiveRange]) -> tuple[int, str | None]:
    """Most bytes alive at once and the op at which that is, by a sweep over starts and ends."""
    names = [op.name for op in graph.ops]
    change = [0] * (len(names) + 1)
    for item in ranges:
        change[item.start] += item.size_bytes
        change[item.end + 1] -= item.size_bytes
    peak, alive, peak_op = 0, 0, names[0] if names else None
    for index, name in enumerate(names):
        alive += change[index]
        if alive > peak:
            peak, peak_op = alive, name
    return peak, peak_op
