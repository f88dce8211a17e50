"""The kernel table: what runs, from which ops, with which resources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

Extent = int | str
Grid = tuple[Extent, Extent, Extent]


@dataclass(frozen=True)
class Kernel:
    """One kernel of an executable.

    Resources are None on a CPU.  Extents are whole numbers, or dim expressions
    such as `2*B` where they depend on a symbolic dim.

    Attributes:
        name: of the function; on a GPU, of the `__global__` function.
        ops: results of the ops it computes, over all its call sites, without %.
        opnames: the kinds of those ops at the first call site.
        locations: where those ops come from in the model's source.
        calls: how often one run calls it.
        source: CUDA C text on a GPU, scheduled TIR on a CPU.
        registers: 32-bit registers of one thread.
        shared_bytes: static shared memory of one block.
        dynamic_shared_bytes: shared memory that the launch asks for.
        spill_bytes: bytes of registers spilled, stores and loads together.
        grid: blocks along x, y, z.
        block: threads of a block along x, y, z.
        method: how it is computed. On a CPU "product 6 x 32" (its register tile), "Winograd F(4, 3), ...",
            "rows by vectors of 16", "loops" of its own, or a "schedule" of a tensor expression; on a GPU
            "tensor cores", "rows", "loops", or the rule of TVM that scheduled it.
        notes: where a schedule rule did not fit, and what was done instead.
    """

    name: str
    ops: tuple[str, ...]
    opnames: tuple[str, ...]
    locations: tuple[str, ...]
    calls: int
    source: str = field(repr=False)
    registers: int | None = None
    shared_bytes: int | None = None
    dynamic_shared_bytes: int | None = None
    spill_bytes: int | None = None
    grid: Grid | None = None
    block: Grid | None = None
    method: str = ""
    notes: tuple[str, ...] = ()

    @property
    def spills(self) -> int:
        """Bytes of registers spilled; 0 where the registers sufficed, and on a CPU."""
        return self.spill_bytes or 0

    def to_dict(self) -> dict[str, Any]:
        """All fields, as JSON can hold them."""
        return {
            item.name: list(value) if isinstance(value := getattr(self, item.name), tuple) else value
            for item in fields(self)
        }

    @staticmethod
    def from_dict(entry: Mapping[str, Any]) -> Kernel:
        """The kernel that `to_dict` described.  Raises TypeError on unknown fields."""
        given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
        return Kernel(**given)


def kernel_table(kernels: Sequence[Kernel], *, width: int = 120) -> str:
    """The table as plain text, one kernel a line; the list of ops is cut to fit `width` columns."""
    head = ("kernel", "calls", "method", "registers", "shared bytes", "spills", "grid", "block", "ops")
    rows = [
        (
            kernel.name,
            str(kernel.calls),
            kernel.method,
            _text(kernel.registers),
            _text(kernel.shared_bytes),
            _text(kernel.spill_bytes),
            extents_text(kernel.grid),
            extents_text(kernel.block),
            " ".join(kernel.ops),
        )
        for kernel in kernels
    ]
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head) - 1)]
    left = {0, 2, 6, 7}
    lines = []
    for row in (head, *rows):
        cells = [
            cell.ljust(w) if i in left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths))
        ]
        start = "  ".join(cells)
        room = max(20, width - len(start) - 2)
        last = row[-1] if len(row[-1]) <= room else row[-1][: room - 3] + "..."
        lines.append(f"{start}  {last}".rstrip())
    return "\n".join(lines)


def _text(number: int | None) -> str:
    return "-" if number is None else str(number)


def extents_text(extents: Grid | None) -> str:
    """`98 x 4`: extents without trailing ones."""
    if extents is None:
        return "-"
    shown = list(map(str, extents))
    while len(shown) > 1 and shown[-1] == "1":
        shown.pop()
    return " x ".join(shown)
