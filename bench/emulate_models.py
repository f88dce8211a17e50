"""Every CUDA kernel of whole models, executed on the host under all detectors, against the interpreter.

The detectors look for data races, conflicts between blocks, accesses outside a buffer, reads of what
nobody wrote, misaligned accesses and divergent barriers; a finding ends the model's run. Results are
compared with the reference interpreter.

Run: python bench/emulate_models.py [MODEL ...] [--order ORDER ...] [--small] [--json PATH].
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import write_results
from proof_models import MODELS
from rich.console import Console
from rich.table import Table

import plait
from plait.ir import CompileError

console = Console(highlight=False, width=150)


def worst_error(results: Any, expected: Any, tolerance: float) -> float:
    """Largest |a - b| / (tolerance / 10 + tolerance * |b|), over all results: at most 1 when they agree."""
    results = results if isinstance(results, tuple) else (results,)
    errors = []
    for found, wanted in zip(results, expected, strict=True):
        a, b = (torch.as_tensor(x).detach().double().numpy() for x in (found, wanted))
        errors.append(
            float(np.max(np.abs(a - b) / (tolerance / 10 + tolerance * np.abs(b)))) if a.size else 0.0
        )
        if np.isnan(errors[-1]):
            return float("inf")
    return max(errors)


def measure(
    name: str, *, orders: tuple[str | int, ...] = ("forward",), small: bool = False
) -> dict[str, Any]:
    """One model: what its kernels did, what the detectors found, and how far results are off.

    Times are wall seconds; `build_s` is TVM's code generation and the host compiler.
    """
    model = MODELS[name]
    graph, inputs = model.build(small)
    expected = plait.interpret(graph, inputs)
    expected = expected if isinstance(expected, (tuple, list)) else (expected,)
    started = time.perf_counter()
    executable = plait.compile(graph, target="a100")
    row: dict[str, Any] = {
        "model": name,
        "kernels": len(executable.kernels),
        "launches": 0,
        "blocks": 0,
        "threads": 0,
        "findings": [],
        "error": 0.0,
        "compile_s": time.perf_counter() - started,
        "orders": list(orders),
    }
    times = []
    for number, order in enumerate(orders):
        started = time.perf_counter()
        try:
            results = executable.emulate(**inputs, lane_order=order, check=True, count=number == 0)
        except CompileError as error:
            row["findings"] = [finding.to_dict() for finding in getattr(error, "findings", ())]
            row["failure"] = str(error)
            return row
        times.append(time.perf_counter() - started)
        row["error"] = max(row["error"], worst_error(results, expected, model.tolerance))
    row["first_run_s"], row["other_runs_s"] = times[0], times[1:]
    counts = executable.emulation_counts
    for field in ("launches", "blocks", "threads"):
        row[field] = sum(getattr(entry, field) for entry in counts.values())
    row["executed_kernels"] = len(counts)
    row["counts"] = {kernel: entry.to_dict() for kernel, entry in counts.items()}
    return row


def passed(row: dict[str, Any]) -> bool:
    """Whether every kernel ran without a finding and the results agree."""
    return "failure" not in row and not row["findings"] and row["error"] <= 1.0


def show(rows: list[dict[str, Any]]) -> None:
    """The rows as a table."""
    table = Table(title="CUDA kernels executed on the host under all detectors")
    columns = (
        "model",
        "kernels",
        "launches",
        "blocks",
        "threads",
        "findings",
        "worst error / tolerance",
        "build + first run s",
        "further runs s",
    )
    for column in columns:
        table.add_column(column)
    for row in rows:
        further = ", ".join(f"{s:.1f}" for s in row.get("other_runs_s", []))
        cells = [
            row["model"],
            row["kernels"],
            f"{row['launches']:,}",
            f"{row['blocks']:,}",
            f"{row['threads']:,}",
        ]
        cells += [len(row["findings"]), f"{row['error']:.3f}", f"{row.get('first_run_s', 0):.1f}", further]
        table.add_row(*map(str, cells))
    console.print(table)
    for row in rows:
        if "failure" in row:
            console.print(f"{row['model']}: {row['failure']}", markup=False)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(MODELS)}")
    parser.add_argument("--order", action="append", help='"forward", "reversed" or a seed; may repeat')
    parser.add_argument("--small", action="store_true", help="small versions, as the tests run them")
    parser.add_argument(
        "--json", type=Path, default=Path(__file__).parent / "results" / "emulate_models.json", metavar="PATH"
    )
    options = parser.parse_args()
    unknown = set(options.models) - set(MODELS)
    if unknown:
        parser.error(f"no model {', '.join(sorted(unknown))}; there are {', '.join(MODELS)}")
    orders = tuple(int(o) if o.lstrip("-").isdigit() else o for o in options.order or ("forward", "reversed"))
    started = time.perf_counter()
    rows = []
    for name in options.models or MODELS:
        rows.append(measure(name, orders=orders, small=options.small))
        console.print(f"{name}: {'ok' if passed(rows[-1]) else 'FAILED'}", markup=False)
    show(rows)
    write_results(
        options.json,
        "emulate_models",
        {"small": options.small, "seconds": time.perf_counter() - started, "rows": rows},
    )
    if not all(map(passed, rows)):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
