"""What a run of a pipeline did, pass by pass."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from plait.ir import Graph

Status = Literal["changed", "unchanged", "disabled", "not reached"]


@dataclass(frozen=True)
class PassRow:
    """One pass of a run.

    Attributes:
        index: place in the pipeline, from 1.
        name: the pass as pipeline text, options included.
        status: what became of it.
        rewrites: places that changed; 0 where the pass does not count them.
        ops_before: ops, those in regions included.
        ops_after: the same after the pass.
        delta: change of the number of ops by op name, zeros left out.
        time_s: wall time of the pass without verification, in seconds.
        verify_s: wall time of the verification, in seconds.
        rules: how often each rewrite rule applied.
        remarks: sentences of the pass for the user.
        file: dump of the graph after the pass, where one was written.
    """

    index: int
    name: str
    status: Status
    rewrites: int = 0
    ops_before: int = 0
    ops_after: int = 0
    delta: dict[str, int] = field(default_factory=dict)
    time_s: float = 0.0
    verify_s: float = 0.0
    rules: dict[str, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    file: str | None = None

    @property
    def delta_text(self) -> str:
        """`nn.batch_norm -9`, most removed first."""
        ordered = sorted(self.delta.items(), key=lambda item: (item[1], item[0]))
        return ", ".join(f"{name} {count:+d}" for name, count in ordered)


@dataclass
class PassReport:
    """All passes of a run, in order.  `str(report)` is the table that users see."""

    graph: str
    pipeline: str
    rows: list[PassRow] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        return any(row.status == "changed" for row in self.rows)

    @property
    def time_s(self) -> float:
        """Wall time of all passes and verifications, in seconds."""
        return sum(row.time_s + row.verify_s for row in self.rows)

    def row(self, name: str) -> PassRow:
        """The first row of the pass called `name`.  Raises KeyError."""
        for row in self.rows:
            if row.name.partition("{")[0] == name:
                return row
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data, for JSON."""
        return {
            "graph": self.graph,
            "pipeline": self.pipeline,
            "changed": self.changed,
            "time_s": self.time_s,
            "passes": [{**asdict(row), "remarks": list(row.remarks)} for row in self.rows],
        }

    def cells(self) -> list[tuple[str, ...]]:
        """Head and rows of the table as text."""
        head = ("#", "pass", "changed", "ops", "delta", "time", "file")
        return [head, *(_cells(row) for row in self.rows)]

    def __str__(self) -> str:
        cells = self.cells()
        if not any(row.file for row in self.rows):
            cells = [row[:-1] for row in cells]
        widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
        right = {0, 3, 5}
        lines = []
        for row in cells:
            parts = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths))]
            lines.append("  ".join(parts).rstrip())
        lines += [f"note: {row.name}: {remark}" for row in self.rows for remark in row.remarks]
        return "\n".join(lines)

    def to_markdown(self) -> str:
        """The table in Markdown."""
        head, *rows = self.cells()
        lines = [" | ".join(head), " | ".join("---" for _ in head)]
        lines += [" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows]
        return "\n".join(f"| {line} |" for line in lines)


def _cells(row: PassRow) -> tuple[str, ...]:
    if row.status in ("disabled", "not reached"):
        return (str(row.index), row.name, row.status, "", "", "", "")
    changed = "." if row.status == "unchanged" else str(row.rewrites or "yes")
    return (
        str(row.index),
        row.name,
        changed,
        str(row.ops_after),
        row.delta_text,
        duration(row.time_s),
        row.file or "",
    )


def duration(seconds: float) -> str:
    """A time with three digits or fewer and its unit."""
    for limit, factor, unit in ((1e-3, 1e6, "us"), (1.0, 1e3, "ms")):
        if seconds < limit:
            return f"{seconds * factor:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds:.0f} s"


def op_counts(graph: Graph) -> Counter[str]:
    """Number of ops by op name, regions included."""
    return Counter(op.opname for op in graph.walk())


def count_delta(before: Counter[str], after: Counter[str]) -> dict[str, int]:
    """Change of op counts, zeros left out."""
    names = sorted(before.keys() | after.keys())
    return {name: after[name] - before[name] for name in names if after[name] != before[name]}
