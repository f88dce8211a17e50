"""Inference on the CPU at hand: plait against ONNX Runtime, torch eager, torch.compile and TVM's default.

Twelve models in f32 with seeded random weights, at batch 1 and 8, all contenders with the
same number of threads.  Each model and batch is a process of its own; how the contenders
take turns in it is written in `cpu_contenders.py`.  TVM's default pipeline is tens of times
slower than the others and runs alone, by few calls and under a time limit.

With --levers: plait against itself with one feature of the code generation switched off
at a time (`cpu_levers.py`).

Run: python bench/cpu_inference.py [--models MODEL ...] [--batches 1 8] [--peers PEER ...]
Models that are named replace their rows in the results and leave the others.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import warnings
from pathlib import Path
from typing import Any

import tables
from common import write_results
from cpu_contenders import PEERS, Case, Prepare, prepare_plait, race, time_slow
from cpu_levers import LEVERS, measure_levers, without
from isolated import run_isolated
from main_job import ABSOLUTE, RELATIVE, console
from rich.table import Table

from plait.backends.targets import host_cpu

MODELS = (
    "resnet18", "resnet50", "mobilenet_v2", "efficientnet_b0", "densenet121", "vgg16",
    "convnext_tiny", "vit_tiny", "swin_tiny", "gpt2_small", "bert_base", "mlp",
)  # fmt: skip
#: The contender that runs alone.
SLOW = "tvm_default"
RESULTS = Path(__file__).parent / "results"


def measure(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """One row: every contender on one model and batch.  A contender that cannot run has a `failure`."""
    entrants: dict[str, Prepare] = {"plait": prepare_plait}
    entrants |= {name: PEERS[name] for name in options.peers if name != SLOW}
    jobs = ["race"]
    if SLOW in options.peers and case.batch in options.tvm_batches:
        jobs.append(SLOW)

    def work(job: str) -> dict[str, Any]:
        if job == "race":
            return race(case, entrants, **turns(options))
        found = time_slow(case, PEERS[SLOW], seconds=options.tvm_limit, calls=options.tvm_calls)
        return {SLOW: found}

    row: dict[str, Any] = {"model": case.name, "batch": case.batch, "threads": case.threads}
    row |= {"rounds": options.rounds, "load_before": options.load_before, "contenders": {}}
    for job in jobs:
        limit = options.tvm_limit if job == SLOW else options.limit
        ((_, found),) = run_isolated([job], work, workers=1, seconds=limit)
        if isinstance(found, TimeoutError) and job == SLOW:
            found = {SLOW: {"over_s": limit}}
        elif isinstance(found, Exception):
            found = {name: {"failure": str(found)} for name in (entrants if job == "race" else [SLOW])}
        row["contenders"] |= found
    return row


def turns(options: argparse.Namespace) -> dict[str, Any]:
    """The options of `take_turns`."""
    return {"rounds": options.rounds, "pause_s": options.pause, "turn_s": options.turn}


def summary(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By peer, and by batch or "all": the geometric mean of how many times faster plait is, and the lowest.

    Rows in which either has no time do not count; `rows` says how many do.
    """
    found: dict[str, dict[str, Any]] = {}
    for peer in PEERS:
        of_peer: dict[str, Any] = {}
        for group in (*sorted({row["batch"] for row in rows}), "all"):
            ratios = {
                f"{row['model']} at batch {row['batch']}": ratio
                for row in rows
                if group in (row["batch"], "all") and (ratio := tables.speedup(row, peer)) is not None
            }
            if ratios:
                lowest = min(ratios, key=lambda name: ratios[name])
                of_peer[str(group)] = {
                    "geometric_mean": statistics.geometric_mean(ratios.values()),
                    "lowest": ratios[lowest],
                    "lowest_at": lowest,
                    "rows": len(ratios),
                }
        if of_peer:
            found[peer] = of_peer
    return found


def faults(row: dict[str, Any]) -> list[str]:
    """What went wrong in a row: no time of plait, or a result outside the tolerance."""
    own = row["contenders"]["plait"]
    place = f"{row['model']} at batch {row['batch']}"
    if "failure" in own:
        return [f"{place}: {own['failure']}"]
    return [f"{place}: error {own['error']:.2f} times the tolerance"] if own["error"] > 1.0 else []


def show(title: str, headings: list[str], rows: list[list[str]]) -> None:
    """Rows of the README's table on the terminal."""
    table = Table(title=title)
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for cells in rows:
        table.add_row(*cells)
    console.print(table)


def known_rows(path: Path, options: argparse.Namespace) -> dict[tuple[str, int], dict[str, Any]]:
    """The rows that stay, by model and batch: those of the file where models are named, else none."""
    if not options.models or not path.is_file():
        return {}
    return {(row["model"], row["batch"]): row for row in json.loads(path.read_text())["rows"]}


def cases(options: argparse.Namespace) -> list[Case]:
    """What to measure, in order."""
    return [
        Case(name, batch, options.threads) for name in options.models or MODELS for batch in options.batches
    ]


def in_order(rows: dict[tuple[str, int], dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows in the order of the models and batches."""
    place = {name: index for index, name in enumerate(MODELS)}
    return [rows[key] for key in sorted(rows, key=lambda key: (key[1], place.get(key[0], len(place)), key))]


def run_race(options: argparse.Namespace) -> None:
    """All models against the peers."""
    path = options.json or RESULTS / "cpu_inference.json"
    known = known_rows(path, options)
    record: dict[str, Any] = {}
    for case in cases(options):
        row = known[case.name, case.batch] = measure(case, options)
        times = {name: found.get("ms", found) for name, found in row["contenders"].items()}
        console.print(f"{case.name} at batch {case.batch}: {times}")
        rows = in_order(known)
        record = {"tolerance": [RELATIVE, ABSOLUTE], "models": MODELS}
        record |= {"summary": summary(rows), "rows": rows}
        write_results(path, "cpu_inference", record)
    show("CPU inference, ms (how many times faster plait is)", *tables.cpu_inference_rows(record))
    console.print(tables.cpu_inference_lowest(record))
    wrong = [fault for row in record["rows"] for fault in faults(row)]
    if wrong:
        raise SystemExit("\n".join(wrong))
    console.print(f"details in {path}")


def run_levers(options: argparse.Namespace) -> None:
    """All models with one lever off at a time."""
    if not LEVERS:
        raise SystemExit("no lever is listed: see LEVERS in bench/cpu_levers.py")
    for label, overrides in LEVERS:
        without(host_cpu(), label, overrides)  # a wrong one ends the run before it starts
    path = options.json or RESULTS / "cpu_levers.json"
    known = known_rows(path, options)

    def work(case: Case) -> dict[str, Any]:
        return measure_levers(case, LEVERS, **turns(options))

    for case, row in run_isolated(cases(options), work, workers=1, seconds=options.limit):
        if isinstance(row, Exception):
            console.print(f"{case.name} at batch {case.batch}: {row}")
            continue
        known[case.name, case.batch] = row
        write_results(path, "cpu_levers", {"levers": dict(LEVERS), "rows": in_order(known)})
    headings, rows = tables.cpu_levers_rows({"levers": dict(LEVERS), "rows": in_order(known)})
    show("ms, and times slower with one feature switched off", headings, rows)
    missing = [case.name for case in cases(options) if (case.name, case.batch) not in known]
    if missing:
        raise SystemExit(f"no times of {', '.join(missing)}")
    console.print(f"details in {path}")


def main() -> None:
    """Run the benchmark and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, metavar="MODEL", help=", ".join(MODELS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--threads", type=int, default=2, help="of each contender")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each contender")
    parser.add_argument("--turn", type=float, default=0.5, help="seconds of one turn")
    parser.add_argument("--pause", type=float, default=0.25, help="idle seconds before a turn")
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds for a model and batch")
    parser.add_argument("--tvm-batches", nargs="*", type=int, default=[1], help="of TVM's default pipeline")
    parser.add_argument("--tvm-limit", type=float, default=240.0, help="its seconds for a model and batch")
    parser.add_argument(
        "--tvm-calls", type=int, default=2, help="its calls that count, after one that does not"
    )
    parser.add_argument("--levers", action="store_true", help="plait with one feature off at a time")
    parser.add_argument("--json", type=Path, help="results; by default a file in bench/results")
    options = parser.parse_args()
    # torch.export copies its own trees by a class that torch has deprecated.
    warnings.filterwarnings("ignore", category=FutureWarning)
    options.load_before = round(os.getloadavg()[0], 2)
    (run_levers if options.levers else run_race)(options)


if __name__ == "__main__":
    main()
