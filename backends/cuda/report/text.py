"""A quality report as plain text: a summary, a table of kernels, and the remarks."""

from __future__ import annotations

from plait.backends.cuda.report.rows import KernelReport, QualityReport
from plait.backends.kernels import extents_text
from plait.ir.cost import engineering

_HEAD = (
    *("kernel", "runs", "grid", "regs", "shared", "spill", "occ", "limit", "waves", "tensor", "sect/req"),
    *("FLOP/B", "roofline us", "modelled us", "ratio", "bound"),
)
_LEFT = {0, 2, 7, 15}
_LIMITS = {"registers": "reg", "shared memory": "smem", "warps": "warps", "blocks": "blocks"}
#: Instruction classes shown of each kernel's mix.
_SHOWN_CLASSES = 4


def summary(report: QualityReport) -> str:
    """One line: kernels, tensor-core share, modelled and roofline time."""
    totals = report.totals
    share = "no MACs" if totals.tensor_share is None else f"{totals.tensor_share:.0%} on tensor cores"
    ratio = "" if totals.ratio is None else f" ({totals.ratio:.1f}x)"
    return (
        f"{len(report.kernels)} kernels, {totals.launches} launches, {totals.spilling} spilling; "
        f"{engineering(totals.macs, 'MAC')}, {share}; modelled {totals.modelled_us / 1e3:.3f} ms, "
        f"roofline {totals.roofline_us / 1e3:.3f} ms{ratio} on {report.device}"
    )


def render(report: QualityReport) -> str:
    """Summary, table, instruction mixes and remarks."""
    rows = [_cells(row) for row in report.kernels]
    widths = [max(len(row[i]) for row in (_HEAD, *rows)) for i in range(len(_HEAD))]
    dims = ", ".join(f"{name}={size}" for name, size in report.dims.items())
    lines = [f"@{report.model}{' at ' + dims if dims else ''}: {summary(report)}", ""]
    for line in (_HEAD, *rows):
        cells = [c.ljust(w) if i in _LEFT else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths))]
        lines.append("  ".join(cells).rstrip())
    lines += ["", "instructions of an average warp:"]
    width = widths[0]
    lines += [f"  {row.name.ljust(width)}  {_mix(row)}" for row in report.kernels]
    noted = [row for row in report.kernels if row.remarks]
    if noted or report.remarks:
        lines += ["", "remarks:", *(f"  {remark}" for remark in report.remarks)]
    for row in noted:
        lines.append(f"  {row.name} ({_names(row)})")
        lines += [f"    {remark}" for remark in row.remarks]
    return "\n".join(lines)


def _names(row: KernelReport) -> str:
    more = f" and {len(row.ops) - 2} more" if len(row.ops) > 2 else ""
    return ", ".join(f"%{name}" for name in row.ops[:2]) + more


def _cells(row: KernelReport) -> tuple[str, ...]:
    shared = row.shared_bytes + row.dynamic_shared_bytes
    return (
        row.name,
        str(row.runs),
        extents_text((row.grid[0], row.grid[1], row.grid[2])),
        str(row.registers),
        str(shared),
        str(row.spill_bytes),
        f"{row.occupancy:.0%}",
        _LIMITS.get(row.limited_by, row.limited_by),
        f"{row.waves:.2f}",
        _optional(row.tensor_share, "{:.0%}"),
        _optional(row.sectors_per_request, "{:.1f}"),
        _optional(row.intensity, "{:.1f}"),
        f"{row.roofline_us:.2f}",
        f"{row.modelled_us:.2f}" + ("" if row.exact else "~"),
        _optional(row.ratio, "{:.1f}"),
        row.bound,
    )


def _optional(number: float | None, form: str) -> str:
    return "-" if number is None else form.format(number)


def _mix(row: KernelReport) -> str:
    total = sum(row.mix.values())
    largest = sorted(row.mix.items(), key=lambda item: -item[1])[:_SHOWN_CLASSES]
    shown = ", ".join(f"{name} {count / total:.0%}" for name, count in largest) if total else ""
    return f"{total:,.0f}: {shown}" if shown else "0"
