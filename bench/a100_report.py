"""The quality of the A100 kernels of the ten families: spills, tensor cores, modelled against roofline time.

Run: python bench/a100_report.py [MODEL ...] [--batch 8] [--json FILE] [--show]
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common import write_results
from rich.console import Console
from rich.table import Table

import plait
from plait.frontends.families import examples

SMALL = ("small_cnn", "small_transformer")
console = Console()


def measure(name: str, batch: int, seed: int, show: bool) -> dict[str, Any]:
    """The totals of one model, and what its kernels are bound by."""
    graph = plait.lower(name, seed=seed)
    start = time.perf_counter()
    executable = plait.compile(graph, target="a100", dims={"B": batch})
    compiled = time.perf_counter()
    report = executable.report()
    finished = time.perf_counter()
    if show:
        console.print(str(report), markup=False, soft_wrap=True)
    totals = report.totals
    bounds: dict[str, float] = {}
    for row in report.kernels:
        bounds[row.bound] = bounds.get(row.bound, 0.0) + row.modelled_us * row.runs
    return {
        "model": name,
        "batch": batch,
        "kernels": len(report.kernels),
        **asdict(totals),
        "ratio": totals.ratio,
        "inexact_kernels": sum(not row.exact for row in report.kernels),
        "below_one_wave": sum(row.blocks < 108 for row in report.kernels),
        "mean_occupancy": sum(r.occupancy * r.modelled_us * r.runs for r in report.kernels)
        / totals.modelled_us,
        "time_by_bound_us": dict(sorted(bounds.items(), key=lambda item: -item[1])),
        "compile_s": compiled - start,
        "report_s": finished - compiled,
    }


def table(rows: list[dict[str, Any]]) -> Table:
    """The rows for a terminal."""
    found = Table(title="A100 kernels as compiled; times are modelled, not measured")
    for column in (
        *("model", "kernels", "launches", "spilling", "tensor cores", "occupancy", "modelled ms"),
        *("roofline ms", "ratio", "bound", "report s"),
    ):
        found.add_column(column)
    for row in rows:
        share = row["tensor_share"]
        found.add_row(
            row["model"],
            str(row["kernels"]),
            str(row["launches"]),
            str(row["spilling"]),
            "-" if share is None else f"{share:.0%}",
            f"{row['mean_occupancy']:.0%}",
            f"{row['modelled_us'] / 1e3:.3f}",
            f"{row['roofline_us'] / 1e3:.3f}",
            f"{row['ratio']:.1f}",
            next(iter(row["time_by_bound_us"])),
            f"{row['report_s']:.1f}",
        )
    return found


def main() -> None:
    """Report on the models and write the rows."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("models", nargs="*", help="names of examples; by default the ten families")
    options.add_argument("--batch", type=int, default=8)
    options.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "a100_report.json")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--show", action="store_true", help="print the whole report of each model")
    chosen = options.parse_args()
    names = chosen.models or [name for name in examples() if name not in SMALL]
    rows = []
    for name in names:
        rows.append(measure(name, chosen.batch, chosen.seed, chosen.show))
        console.print(f"{name}: compiled in {rows[-1]['compile_s']:.1f} s", markup=False)
        write_results(chosen.json, "a100_report", {"seed": chosen.seed, "rows": rows})
    console.print(table(rows))


if __name__ == "__main__":
    main()
