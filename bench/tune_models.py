"""Tunes the models of the README for the processor at hand, into the database that ships for it.

A search measures each distinct product of a model by a few of its register tiles; see
`plait.backends.tvm.search`.  What the database holds already is kept, and not measured again.

Run: python bench/tune_models.py [--models MODEL ...] [--batches 1 8] [--seconds S] [--threads N]
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from common import write_results
from cpu_contenders import Case
from cpu_inference import MODELS
from isolated import run_isolated
from main_job import console

import plait
from plait.backends import CpuTarget, resolve_target
from plait.backends.tuning import machine_of, read_for, shipped_path
from plait.ir.bind import bind_dims

RESULTS = Path(__file__).parent / "results" / "tune_models.json"


def tune_case(case: Case, seconds: float, path: Path, seed: int) -> dict[str, Any]:
    """Tune one model at one batch and add what is found to a database."""
    from plait.backends.tvm.search import tune

    target = resolve_target("cpu", threads=case.threads)
    assert isinstance(target, CpuTarget)
    database = read_for(target, path)
    graph = plait.optimize(bind_dims(case.graph, {"B": case.batch}))
    found = tune(graph, target, seconds, database, seed=seed)
    database.write(path)
    return {"model": case.name, "batch": case.batch, "summary": str(found), **found.to_dict()}


def main() -> None:
    """Run all searches, one after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), metavar="MODEL")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--seconds", type=float, default=60.0, help="of one search")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    target = resolve_target("cpu", threads=options.threads)
    assert isinstance(target, CpuTarget)
    path = shipped_path(target)
    cases = [Case(name, batch, options.threads) for batch in options.batches for name in options.models]
    rows = []
    load = round(os.getloadavg()[0], 2)
    jobs = run_isolated(
        cases,
        lambda case: tune_case(case, options.seconds, path, options.seed),
        workers=1,
        seconds=options.seconds + 1200,
    )
    for case, row in jobs:
        if isinstance(row, Exception):
            row = {"model": case.name, "batch": case.batch, "failure": str(row)}
        console.print(f"{case.name} at batch {case.batch}: {row.get('summary', row.get('failure'))}")
        rows.append(row)
        record = {"seconds": options.seconds, "seed": options.seed, "load_before": load}
        record |= {"database": path.name, "machine": machine_of(target), "rows": rows}
        write_results(RESULTS, "tune_models", record)


if __name__ == "__main__":
    main()
