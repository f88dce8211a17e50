"""Where the time of a model goes on the CPU: by kernel in plait, by kind of operator in ONNX Runtime.

Both sides are instrumented, which costs some microseconds a kernel: for the time of a
whole call see `cpu_inference.py`.

Run: python bench/cpu_kernels.py MODEL [--batch N] [--threads N] [--calls N] [--rows N]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpu_contenders import Case, onnx_session
from main_job import console, export_onnx
from rich.table import Table

from plait.backends.targets import host_cpu
from plait.frontends.families import example, examples
from plait.ir.cost import graph_cost

MICRO = 1e-6


@dataclass(frozen=True)
class KernelTime:
    """One kernel of an executable.

    Attributes:
        name: of the kernel, or of a function of the runtime that is called between kernels.
        calls: of one run.
        us: microseconds of one run, all its calls together.
        gflop: of the ops that it computes, in one run; None for what is no kernel or has no known cost.
        gflops: those per second of all kernels that compute the same ops together.
        opnames: the kinds of those ops.
    """

    name: str
    calls: int
    us: float
    gflop: float | None
    gflops: float | None
    opnames: tuple[str, ...]


def plait_times(executable: Any, inputs: dict[str, Any], calls: int) -> list[KernelTime]:
    """The time of each kernel, the median over some calls of the executable; the slowest first.

    TVM tells before and after each function that it calls.
    """
    executable(**inputs)
    runs: list[defaultdict[str, float]] = []
    counts: Counter[str] = Counter()
    started: list[float] = []

    def instrument(function: Any, name: str, before: bool, result: Any, *arguments: Any) -> int:
        if before:
            started.append(time.perf_counter())
        else:
            runs[-1][name] += time.perf_counter() - started.pop()
            counts[name] += 1
        return 0  # go on

    executable._machine.set_instrument(instrument)
    for _ in range(calls):
        runs.append(defaultdict(float))
        executable(**inputs)
    medians = {name: statistics.median(run[name] for run in runs) / MICRO for name in counts}
    return _with_cost(executable, medians, {name: count // calls for name, count in counts.items()})


def _with_cost(executable: Any, us: dict[str, float], calls: dict[str, int]) -> list[KernelTime]:
    costs = {row.name: row.cost.flops for row in graph_cost(executable.graph).rows}
    kernels = {kernel.name: kernel for kernel in executable.kernels}
    together: defaultdict[tuple[str, ...], float] = defaultdict(float)
    for name, kernel in kernels.items():
        together[kernel.ops] += us.get(name, 0.0)
    found = []
    for name, time_us in us.items():
        kernel = kernels.get(name)
        flops = [costs.get(op) for op in kernel.ops] if kernel is not None else [None]
        gflop = None if None in flops else sum(f for f in flops if f is not None) / 1e9
        rate = gflop / (together[kernel.ops] * MICRO) if kernel is not None and gflop is not None else None
        opnames = kernel.opnames if kernel is not None else ()
        found.append(KernelTime(name, calls[name], time_us, gflop, rate, opnames))
    return sorted(found, key=lambda row: -row.us)


def onnxruntime_times(case: Case, calls: int) -> dict[str, tuple[int, float]]:
    """Nodes and microseconds of one run by kind of operator, from ONNX Runtime's profile; slowest first.

    The microseconds of a node are the median over some calls.
    """
    feeds = {name: tensor.numpy() for name, tensor in case.inputs.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = export_onnx(example(case.name), case.model, case.seed, Path(folder), batch=case.batch)
        session = onnx_session(path, case.threads, profile=Path(folder) / "profile")
        for _ in range(calls + 1):
            session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text())
    nodes: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            nodes[event["args"]["op_name"], event["name"]].append(event["dur"])
    found: dict[str, tuple[int, float]] = {}
    for (kind, _), durations in nodes.items():
        count, us = found.get(kind, (0, 0.0))
        found[kind] = count + 1, us + statistics.median(durations[1:])
    return dict(sorted(found.items(), key=lambda item: -item[1][1]))


def show_plait(rows: list[KernelTime], limit: int) -> None:
    """The slowest kernels."""
    total = sum(row.us for row in rows)
    table = Table(title=f"plait: {total / 1e3:.2f} ms in {sum(row.calls for row in rows)} calls of functions")
    for heading in ("kernel", "calls", "ms", "share", "GFLOP", "GFLOP/s", "ops"):
        table.add_column(
            heading, justify="left" if heading in ("kernel", "ops") else "right", overflow="fold"
        )
    for row in rows[:limit]:
        cost = ["" if figure is None else f"{figure:.{digits}f}" for figure, digits in
                ((row.gflop, 3), (row.gflops, 1))]  # fmt: skip
        share = f"{row.us / total:.1%}"
        table.add_row(row.name, str(row.calls), f"{row.us / 1e3:.3f}", share, *cost, " ".join(row.opnames))
    console.print(table)


def show_onnxruntime(kinds: dict[str, tuple[int, float]]) -> None:
    """The time by kind of operator."""
    total = sum(us for _, us in kinds.values())
    table = Table(title=f"ONNX Runtime: {total / 1e3:.2f} ms in {sum(n for n, _ in kinds.values())} nodes")
    for heading in ("operator", "nodes", "ms", "share"):
        table.add_column(heading, justify="left" if heading == "operator" else "right")
    for kind, (count, us) in kinds.items():
        table.add_row(kind, str(count), f"{us / 1e3:.3f}", f"{us / total:.1%}")
    console.print(table)


def main() -> None:
    """Measure one model and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", choices=examples(), metavar="MODEL", help=", ".join(examples()))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--calls", type=int, default=15, help="over which the medians are taken")
    parser.add_argument("--rows", type=int, default=30, help="kernels to print, slowest first")
    parser.add_argument("--no-onnxruntime", action="store_true")
    chosen = parser.parse_args()
    case = Case(chosen.model, chosen.batch, chosen.threads)
    case.use_threads()
    show_plait(plait_times(case.compile(host_cpu()), case.inputs, chosen.calls), chosen.rows)
    if not chosen.no_onnxruntime:
        show_onnxruntime(onnxruntime_times(case, chosen.calls))


if __name__ == "__main__":
    main()
