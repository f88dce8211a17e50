"""Mutation test of the emulation: mistakes put into generated CUDA kernels, and what finds them.

The kernels of several models (convolution, matrix product, reductions with shuffles, tensor cores,
int8, message passing, spiking neurons, pooling) are captured with their arguments. Each mutant makes
one mistake in one of them; it runs under the detectors in up to three orders of threads and counts as
caught when a detector has a finding, the execution fails, or a result differs from the original's.

A mutant that survives is shown to be equivalent where that can be decided by execution: an expression,
where the original and the mutated one have the same value in every execution (the witness); a
barrier, where no race is found in any order although addresses do not depend on data; an
initialisation, where neither NaN nor an infinity of either sign reaches a result; a predicate in front
of padding or an index into it, where neither zero nor another value there, NaN if it can be, reaches a result
and every load stays in bounds; and any mistake in a kernel whose addresses do not depend on data, where
three more sets of random inputs give the results of the original.

Run: python bench/mutate_kernels.py [MODEL ...] [--each N] [--seed N] [--json PATH].
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from common import write_results
from isolated import run_isolated
from mutants import NOT_A_NUMBER, Mutant, mutants
from proof_models import MODELS
from rich.console import Console
from rich.table import Table

import plait
from plait.backends.cuda.emulator import EmulatedModule
from plait.backends.cuda.emulator.capture import CapturedLaunch, captured_launches
from plait.backends.cuda.source_text import parse_source
from plait.ir import CompileError

ORDERS: tuple[str | int, ...] = ("forward", "reversed", 7)
SECONDS = 240.0  # for one mutant, with compiling
#: Relative tolerance of results by element type; others are compared exactly.
TOLERANCES = {"float32": 1e-4, "float64": 1e-9, "float16": 2e-2}
console = Console(highlight=False, width=170)


@dataclass(frozen=True)
class Subject:
    """A kernel to mutate: its text alone, and a launch of it."""

    model: str
    text: str
    launch: CapturedLaunch


def subjects(names: Iterable[str]) -> list[Subject]:
    """The distinct kernels of the small versions of models, each with its first launch."""
    found = []
    for name in names:
        graph, inputs = MODELS[name].build(name != "half")
        executable = plait.compile(graph, target="a100")
        with captured_launches() as launches:
            # In an order of its own, so that lists that threads fill together are not sorted by chance.
            executable.emulate(**inputs, check=True, lane_order=7)
        source = parse_source(executable.cuda_source)
        found += [Subject(name, source.keeping((launch.kernel,)), launch) for launch in launches]
    return found


def differs(found: list[np.ndarray], wanted: list[np.ndarray]) -> bool:
    """Whether results differ by more than rounding; NaN in the same place is the same."""
    for a, b in zip(found, wanted, strict=True):
        tolerance = TOLERANCES.get(a.dtype.name)
        if tolerance is None:
            if not np.array_equal(a, b):
                return True
        else:
            known = np.abs(b[np.isfinite(b)]).astype(np.float64)
            floor = tolerance * (float(known.mean()) if known.size else 1.0)
            if not np.allclose(a, b, rtol=tolerance, atol=floor, equal_nan=True):
                return True
    return False


def judge(subject: Subject, mutant: Mutant) -> tuple[str, str]:
    """What catches a mutant, and the first words about it; "survived" or "invalid" when nothing does."""
    try:
        module = EmulatedModule(mutant.text, check=True)
    except CompileError as error:
        return "invalid", str(error)[:200]
    wanted = subject.launch.expected(module)
    for order in ORDERS:
        module.lane_order = order
        try:
            found = subject.launch.repeat(module)
        except CompileError as error:
            findings = getattr(error, "findings", ())
            if findings:
                return findings[0].kind, f"{order}: {findings[0]}"
            return "execution error", f"{order}: {error}"
        if differs(found, wanted):
            return "wrong result", str(order)
    return "survived", ""


def argue(subject: Subject, mutant: Mutant) -> str:
    """Why a survivor is equivalent to its original; empty when that is not shown."""
    if mutant.witness is not None and _runs_alike(subject, mutant.witness):
        return "where it is executed, if at all, the mutated expression has the value of the original one"
    for text, what in (
        (mutant.other_padding, "the predicate guards"),
        (mutant.other_value, "the index loads"),
    ):
        if text is None:
            continue
        if _runs_alike(subject, text):
            return f"what {what} is padding: other values there, NaN among them, reach no result"
        if _runs_alike(subject, text.replace(NOT_A_NUMBER, "3.0f")):
            return f"what {what} is padding that meets zeros: other finite values there reach no result"
    if mutant.operator == "remove_barrier" and not _addresses_depend_on_data(subject):
        return (
            "no two threads that the barrier separated touch the same bytes, one of them writing: addresses"
            " do not depend on data, so that one execution without a race speaks for every order"
        )
    if mutant.operator == "remove_initialisation":
        return "three different initial values, such as NaN and both infinities, leave every result as it is"
    if not _addresses_depend_on_data(subject) and _alike_on_other_inputs(subject, mutant):
        return (
            "addresses do not depend on data, and three more sets of random inputs give the results of the"
            " original in every order: for these extents, it computes the same function"
        )
    return ""


def _alike_on_other_inputs(subject: Subject, mutant: Mutant) -> bool:
    """Whether a mutant agrees with the original on three more sets of random inputs, in every order."""
    original, mutated = (EmulatedModule(text, check=True) for text in (subject.text, mutant.text))
    parameters = original.signature(subject.launch.kernel).parameters
    for seed in range(3):
        random = np.random.default_rng(seed)
        arguments = []
        for parameter, content in zip(parameters, subject.launch.arguments, strict=True):
            drawn = _drawn(random, parameter.type, content) if parameter.pointer else None
            arguments.append(content if drawn is None else drawn)
        launch = replace(subject.launch, arguments=arguments)
        try:
            wanted = launch.repeat(original)
            for order in ORDERS:
                mutated.lane_order = order
                if differs(launch.repeat(mutated), wanted):
                    return False
        except CompileError:
            return False
    return True


def _drawn(random: np.random.Generator, kind: str, content: np.ndarray) -> np.ndarray | None:
    """Other elements for an array, as bytes; None for those that may be indices."""
    dtype = {"float": np.float32, "half": np.float16, "double": np.float64}.get(kind.rstrip("* "))
    if dtype is not None:
        return random.standard_normal(content.size // np.dtype(dtype).itemsize).astype(dtype).view(np.uint8)
    if kind.rstrip("* ") in ("signed char", "int8_t", "char"):
        return random.integers(-128, 128, content.size).astype(np.int8).view(np.uint8)
    return None


def _runs_alike(subject: Subject, text: str) -> bool:
    """Whether another text of the kernel runs without a finding to the same results, in every order."""
    try:
        module = EmulatedModule(text, check=True)
        wanted = subject.launch.expected(module)
        for order in ORDERS:
            module.lane_order = order
            if differs(subject.launch.repeat(module), wanted):
                return False
    except CompileError:  # a finding, the trap of a witness, or a text that cannot be compiled
        return False
    return True


def _addresses_depend_on_data(subject: Subject) -> bool:
    """Whether an index of the text holds another index, or a branch an array element."""
    text = parse_source(subject.text).masked
    return bool(re.search(r"\[[^\[\];]*\w\[", text) or re.search(r"\b(?:if|while|for) \([^{;]*\w\[", text))


def work(job: tuple[Subject, Mutant]) -> dict[str, Any]:
    """The row of one mutant."""
    subject, mutant = job
    verdict, detail = judge(subject, mutant)
    row = _row(subject, mutant, verdict, detail)
    if verdict == "survived":
        row["equivalent"] = argue(subject, mutant)
    return row


def _row(subject: Subject, mutant: Mutant, verdict: str, detail: str) -> dict[str, Any]:
    return {
        "model": subject.model,
        "kernel": mutant.kernel,
        "operator": mutant.operator,
        "line": mutant.line,
        "before": mutant.before[:160],
        "after": mutant.after[:160],
        "verdict": verdict,
        "detail": detail[:300],
        "equivalent": "",
    }


def run(
    names: Iterable[str], *, each: int, seed: int, workers: int = 2, limit: int | None = None
) -> list[dict[str, Any]]:
    """Mutants of the kernels of models, judged; a hang or crash of the process counts as caught."""
    jobs = _jobs(names, each, seed)
    console.print(f"{len(jobs)} mutants")
    if limit is not None and len(jobs) > limit:
        jobs = jobs[:: -(-len(jobs) // limit)]
    return _judged(jobs, workers)


def examine_survivors(
    rows: list[dict[str, Any]], *, each: int, seed: int, workers: int = 2
) -> list[dict[str, Any]]:
    """Rows of an earlier run with its unexplained survivors judged once more."""

    def place(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["kernel"], row["operator"], row["line"], row["before"], row["after"]

    open_ones = [row for row in rows if row["verdict"] == "survived" and not row["equivalent"]]
    wanted = {place(row) for row in open_ones}
    jobs = [
        (subject, mutant)
        for subject, mutant in _jobs(dict.fromkeys(row["model"] for row in open_ones), each, seed)
        if place(_row(subject, mutant, "", "")) in wanted
    ]
    judged = {place(row): row for row in _judged(jobs, workers)}
    return [judged.get(place(row), row) for row in rows]


def _jobs(names: Iterable[str], each: int, seed: int) -> list[tuple[Subject, Mutant]]:
    return [
        (subject, mutant)
        for subject in subjects(names)
        for mutant in mutants(subject.text, each=each, seed=seed)
    ]


def _judged(jobs: list[tuple[Subject, Mutant]], workers: int) -> list[dict[str, Any]]:
    rows = []
    for (subject, mutant), row in run_isolated(jobs, work, workers=workers, seconds=SECONDS):
        if isinstance(row, Exception):
            row = _row(subject, mutant, "hang or crash", str(row))
        rows.append(row)
        done = f"{len(rows)}/{len(jobs)} {row['kernel']} line {row['line']} {row['operator']}"
        console.print(f"{done}: {row['verdict']} {row['equivalent'][:40]}", markup=False)
    return sorted(rows, key=lambda row: (row["model"], row["kernel"], row["line"], row["operator"]))


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts over all mutants that compile."""
    valid = [row for row in rows if row["verdict"] != "invalid"]
    survivors = [row for row in valid if row["verdict"] == "survived"]
    equivalent = sum(bool(row["equivalent"]) for row in survivors)
    caught = len(valid) - len(survivors)
    return {
        "mutants": len(valid),
        "invalid": len(rows) - len(valid),
        "caught": caught,
        "equivalent": equivalent,
        "unexplained": len(survivors) - equivalent,
        "caught_share": caught / len(valid) if valid else 0.0,
        "caught_share_of_others": caught / (len(valid) - equivalent) if len(valid) > equivalent else 0.0,
        "by_verdict": dict(Counter(row["verdict"] for row in valid).most_common()),
    }


def show(rows: list[dict[str, Any]]) -> None:
    """A table by operator, and every survivor."""
    verdicts = [name for name in summary(rows)["by_verdict"] if name != "survived"]
    table = Table(title="mutants of generated CUDA kernels, by what caught them")
    for column in ("operator", "mutants", *verdicts, "equivalent", "unexplained"):
        table.add_column(column)
    for operator in dict.fromkeys(row["operator"] for row in rows):
        of = [row for row in rows if row["operator"] == operator and row["verdict"] != "invalid"]
        alive = [row for row in of if row["verdict"] == "survived"]
        explained = sum(bool(row["equivalent"]) for row in alive)
        cells = [operator, len(of), *(sum(row["verdict"] == v for row in of) for v in verdicts)]
        table.add_row(*map(str, [*cells, explained, len(alive) - explained]))
    console.print(table)
    for row in rows:
        if row["verdict"] == "survived":
            place = f"{row['kernel']} line {row['line']} {row['operator']}: {row['before']} -> {row['after']}"
            console.print(f"{place}\n    {row['equivalent'] or 'NOT EXPLAINED'}", markup=False)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(MODELS)}")
    parser.add_argument("--each", type=int, default=1, help="mutants of an operator in a kernel")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="at most about this many, spread evenly")
    parser.add_argument("--again", action="store_true", help="judge unexplained survivors of --json again")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--json", type=Path, default=Path(__file__).parent / "results" / "mutate_kernels.json", metavar="PATH"
    )
    options = parser.parse_args()
    started = time.perf_counter()
    if options.again:
        rows = examine_survivors(
            json.loads(options.json.read_text())["rows"],
            each=options.each,
            seed=options.seed,
            workers=options.workers,
        )
    else:
        rows = run(
            options.models or MODELS,
            each=options.each,
            seed=options.seed,
            workers=options.workers,
            limit=options.limit,
        )
    show(rows)
    totals = summary(rows)
    console.print(totals)
    seconds = time.perf_counter() - started
    write_results(options.json, "mutate_kernels", {**totals, "seconds": seconds, "rows": rows})
    if totals["unexplained"] > 0.05 * totals["mutants"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
