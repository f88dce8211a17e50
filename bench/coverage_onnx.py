"""onnx's own backend tests through the reference interpreter and through the CPU target.

Every test ends as passed, failed, refused (an error of plait says that it cannot be
lowered or compiled) or excluded (training, sequence, optional, string, ai.onnx.ml).
Tests hand over axes, shapes and the like as run-time inputs; where the model is refused
that way, these inputs are fixed to their values and the test counts as `fixed` besides.
Each worker is a process, so a native crash or a hang fails one test and no more.

Run: python bench/coverage_onnx.py [--kind KIND ...] [--only PATTERN] [--target T] [--jobs N]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from common import write_results
from onnx_suite import KINDS, Case, difference, load_cases
from rich.console import Console
from rich.progress import track
from rich.table import Table

Run = Callable[[list[np.ndarray]], list[np.ndarray]]

TARGETS = ("interpreter", "cpu")
OUTCOMES = ("passed", "failed", "refused", "excluded")
console = Console(highlight=False)
if not console.is_terminal:
    console = Console(highlight=False, width=200)


# -- one test, in a worker ----------------------------------------------------------
def _fixings(case: Case) -> Iterator[frozenset[int]]:
    """Which inputs to fix to their values, from none to all."""
    inputs = [np.asarray(x) for x in case.data_sets[0][0]]
    small = {i for i, x in enumerate(inputs) if x.ndim <= 1 and (x.dtype.kind in "iub" or x.ndim == 0)}
    every = set(range(len(inputs)))
    tried: set[frozenset[int]] = set()
    for chosen in (set(), small - {0}, every - {0}, small, every):
        if frozenset(chosen) not in tried:
            tried.add(frozenset(chosen))
            yield frozenset(chosen)


def _fixed(case: Case, chosen: frozenset[int]) -> onnx.ModelProto:
    """The model with the chosen inputs as initialisers."""
    if not chosen:
        return case.model
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    initialised = {tensor.name for tensor in model.graph.initializer}
    ports = [info for info in case.model.graph.input if info.name not in initialised]
    for index in chosen:
        array = np.asarray(case.data_sets[0][0][index])
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, ports[index].name))
    names = {ports[index].name for index in chosen}
    kept = [info for info in model.graph.input if info.name not in names]
    model.graph.ClearField("input")
    model.graph.input.extend(kept)
    return model


def _interpreter(graph: Any) -> Run:
    from plait.ir.interpret import interpret
    from plait.ir.reference.tensors import to_numpy

    def run(arrays: list[np.ndarray]) -> list[np.ndarray]:
        found = interpret(graph, arrays)
        return [to_numpy(x.resolve_conj(), v.type) for x, v in zip(found, graph.outputs, strict=True)]

    return run


def _compiled(graph: Any, target: str) -> Run:
    import plait

    executable = plait.compile(graph, target=target, threads=1, isolate=False, cache=False)

    def run(arrays: list[np.ndarray]) -> list[np.ndarray]:
        found = executable(*arrays)
        return list(found) if isinstance(found, tuple) else [found]

    return run


def _prepare(case: Case, target: str) -> tuple[Any, Run, bool]:
    """The graph, a function that runs it, and whether inputs had to be fixed.  Raises PlaitError."""
    import plait

    refusal: plait.PlaitError | None = None
    for chosen in _fixings(case):
        try:
            graph = plait.lower(_fixed(case, chosen))
            graph.verify()
            run = _interpreter(graph) if target == "interpreter" else _compiled(graph, target)
        except (plait.LoweringError, plait.CompileError, plait.VerifyError) as error:
            refusal = error  # the last one: what is missing even where everything is known
            continue
        return graph, run, bool(chosen)
    assert refusal is not None
    raise refusal


def run_case(case: Case, target: str) -> dict[str, Any]:
    """Outcome of one test on one target: `outcome`, `why` and `fixed`."""
    import plait

    try:
        graph, run, fixed = _prepare(case, target)
    except plait.VerifyError as error:
        return {"outcome": "failed", "why": _line(error)}
    except plait.PlaitError as error:
        return {"outcome": "refused", "why": _line(error)}
    except Exception as error:  # whatever it is, the test has failed by it
        return {"outcome": "failed", "why": f"{type(error).__name__}: {_line(error)}"}
    try:
        for inputs, expected in case.data_sets:
            why = _run_set(case, graph, run, inputs, expected)
            if why:
                return {"outcome": "failed", "why": why, "fixed": fixed}
    except Exception as error:
        return {"outcome": "failed", "why": f"{type(error).__name__}: {_line(error)}", "fixed": fixed}
    return {"outcome": "passed", "why": "", "fixed": fixed}


def _run_set(case: Case, graph: Any, run: Run, inputs: list[Any], expected: list[Any]) -> str:
    names = {value.name for value in graph.inputs}
    initialised = {tensor.name for tensor in case.model.graph.initializer}
    ports = [info.name for info in case.model.graph.input if info.name not in initialised]
    by_name = dict(zip(ports, inputs, strict=False))
    kept = [by_name[p] for p in ports] if len(names) == len(ports) else None
    if kept is None:
        from plait.frontends.onnx.places import readable

        kept = [x for p, x in by_name.items() if p in names or readable(p) in names]
    arrays = []
    for value, given in zip(graph.inputs, kept, strict=True):
        arrays.append(np.ascontiguousarray(np.asarray(given).astype(value.type.dtype.numpy)))
        arrays[-1] = arrays[-1].reshape(np.shape(given))
    results = run(arrays)
    for index, (value, wanted) in enumerate(zip(graph.outputs, expected, strict=True)):
        element = _element(np.asarray(wanted).dtype)
        if not _stores(value.type, element):
            return f"result {index} is {value.type}, expected {element}"
    return difference(case, inputs, results, expected)


def _element(kind: np.dtype) -> Any:
    from plait.frontends.onnx.elements import element_of

    return element_of(onnx.helper.np_dtype_to_tensor_dtype(kind), "expected result")


def _stores(kind: Any, element: Any) -> bool:
    """Whether a type is a tensor of the element type, or quantised with such stored integers."""
    from plait.ir import QuantType

    if isinstance(kind, QuantType):
        return kind.bits == element.bits and element.kind == ("int" if kind.signed else "uint")
    return bool(kind.dtype == element)


def _line(error: BaseException) -> str:
    """The message on one line."""
    return " ".join(str(error).split())[:160]


# -- workers ----------------------------------------------------------------------
@dataclass
class _Worker:
    """A process that runs tests, one at a time, and the test that it has."""

    process: multiprocessing.process.BaseProcess
    pipe: Connection
    job: tuple[int, str] | None = None
    deadline: float = 0.0


def _serve(cases: list[Case], pipe: Connection) -> None:
    """Answer (index, target) with the outcome, until None comes."""
    warnings.filterwarnings("ignore")
    import torch

    torch.set_num_threads(1)
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 2)  # native warnings; errors are caught and sent
    pipe.send("ready")
    while (job := pipe.recv()) is not None:
        index, target = job
        torch.manual_seed(0)
        started = time.perf_counter()
        outcome = run_case(cases[index], target)
        outcome["seconds"] = round(time.perf_counter() - started, 3)
        pipe.send(outcome)


def _start(cases: list[Case]) -> _Worker:
    # A fork shares the loaded tests; this process must not have imported torch or tvm.
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(cases, theirs), daemon=True)
    process.start()
    theirs.close()
    ours.recv()
    return _Worker(process, ours)


def run_all(
    cases: list[Case], targets: tuple[str, ...], jobs: int, timeout: float
) -> dict[tuple[int, str], dict[str, Any]]:
    """Outcome by index of the case and target."""
    found: dict[tuple[int, str], dict[str, Any]] = {}
    remaining: list[tuple[int, str]] = []
    for index, case in enumerate(cases):
        for target in targets:
            if case.left_out:
                found[index, target] = {"outcome": "excluded", "why": case.left_out}
            else:
                remaining.append((index, target))
    pending = iter(remaining)
    workers = [_start(cases) for _ in range(min(jobs, max(len(remaining), 1)))]
    for _ in track(range(len(remaining)), "tests", console=console, disable=not console.is_terminal):
        while not (finished := _step(workers, pending, cases, timeout)):
            continue
        found.update(finished)
    for worker in workers:
        worker.pipe.send(None)
        worker.process.join(timeout)
    return found


def _step(
    workers: list[_Worker], pending: Iterator[tuple[int, str]], cases: list[Case], timeout: float
) -> dict[tuple[int, str], dict[str, Any]]:
    """Hand out jobs and wait for one outcome; none where the wait was in vain."""
    for worker in workers:
        if worker.job is None and (job := next(pending, None)) is not None:
            limit = timeout * (10 if cases[job[0]].kind == "real" else 1)
            worker.job, worker.deadline = job, time.monotonic() + limit
            worker.pipe.send(job)
    busy = [worker for worker in workers if worker.job is not None]
    ready = wait([worker.pipe for worker in busy], timeout=1.0)
    for worker in busy:
        outcome: dict[str, Any]
        if worker.pipe in ready:
            try:
                outcome = worker.pipe.recv()
            except EOFError:
                worker.process.join()
                outcome = {"outcome": "failed", "why": f"native crash, exit code {worker.process.exitcode}"}
                _replace(workers, worker, cases)
        elif time.monotonic() > worker.deadline:
            worker.process.kill()
            outcome = {"outcome": "failed", "why": f"no result within {timeout:g} s"}
            _replace(workers, worker, cases)
        else:
            continue
        job, worker.job = worker.job, None
        assert job is not None
        return {job: outcome}
    return {}


def _replace(workers: list[_Worker], worker: _Worker, cases: list[Case]) -> None:
    workers[workers.index(worker)] = _start(cases)


# -- report -----------------------------------------------------------------------
def summary(cases: list[Case], found: dict[tuple[int, str], dict[str, Any]], target: str) -> dict[str, Any]:
    """Counts by kind: the four outcomes, their sum, those with fixed inputs, and the score in percent."""
    rows = {}
    for kind in dict.fromkeys(case.kind for case in cases):
        chosen = [found[i, target] for i, case in enumerate(cases) if case.kind == kind]
        counts = Counter(row["outcome"] for row in chosen)
        scored = len(chosen) - counts["excluded"]
        rows[kind] = {
            **{outcome: counts[outcome] for outcome in OUTCOMES},
            "tests": len(chosen),
            "passed_with_fixed_inputs": sum(r["outcome"] == "passed" and r["fixed"] for r in chosen),
            "percent": round(100 * counts["passed"] / scored, 2) if scored else None,
        }
    return rows


def show(cases: list[Case], found: dict[tuple[int, str], dict[str, Any]], targets: tuple[str, ...]) -> None:
    """Print what is not passed, operators, and the totals."""
    for target in targets:
        wrong = [(c, found[i, target]) for i, c in enumerate(cases)]
        wrong = [(c, row) for c, row in wrong if row["outcome"] in ("failed", "refused")]
        if wrong:
            console.print(f"\n[bold]{target}: {len(wrong)} tests failed or refused[/]")
        for case, row in sorted(wrong, key=lambda pair: (pair[1]["outcome"], pair[0].operator)):
            console.print(
                f"  {row['outcome']} {case.operator} {case.name}: {row['why']}", markup=False, soft_wrap=True
            )
        table = Table(title=f"operators with failed or refused tests, {target}")
        for column in ("operator", *OUTCOMES):
            table.add_column(column)
        counts: dict[str, Counter[str]] = {}
        for index, case in enumerate(cases):
            counts.setdefault(case.operator, Counter())[found[index, target]["outcome"]] += 1
        for operator, count in sorted(counts.items()):
            if count["failed"] or count["refused"]:
                table.add_row(operator, *(str(count[outcome]) for outcome in OUTCOMES))
        console.print(table)
    table = Table(title="onnx's backend tests")
    for column in ("target", "kind", *OUTCOMES, "tests", "with fixed inputs", "passed of scored"):
        table.add_column(column)
    for target in targets:
        for kind, row in summary(cases, found, target).items():
            cells = (*(row[o] for o in OUTCOMES), row["tests"], row["passed_with_fixed_inputs"])
            table.add_row(target, kind, *map(str, cells), f"{row['percent']} %")
    console.print(table)


def main() -> None:
    """Run the suite and write the results."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--kind", nargs="*", choices=KINDS, default=KINDS)
    options.add_argument("--only", default="", help="regular expression that names of tests must match")
    options.add_argument("--target", choices=TARGETS, help="one target; by default both")
    options.add_argument("--jobs", type=int, default=2)
    options.add_argument(
        "--timeout", type=float, default=60.0, help="seconds for a test; ten times for `real`"
    )
    options.add_argument("--json", type=Path, help="by default results/coverage_onnx.json for a whole run")
    chosen = options.parse_args()
    warnings.filterwarnings("ignore")
    started = time.perf_counter()
    cases = load_cases(chosen.kind, chosen.only)
    targets = (chosen.target,) if chosen.target else TARGETS
    found = run_all(cases, targets, chosen.jobs, chosen.timeout)
    show(cases, found, targets)
    whole = not chosen.only and tuple(chosen.kind) == KINDS and not chosen.target
    path = chosen.json or (Path(__file__).parent / "results" / "coverage_onnx.json" if whole else None)
    if path is not None:
        rows = []
        for index, case in enumerate(cases):
            row: dict[str, Any] = {"test": case.name, "kind": case.kind, "operator": case.operator}
            for target in targets:
                row[target] = {k: v for k, v in found[index, target].items() if k != "seconds"}
            rows.append(row)
        totals = {target: summary(cases, found, target) for target in targets}
        seconds = round(time.perf_counter() - started, 1)
        write_results(path, "coverage_onnx", {"seconds": seconds, "totals": totals, "rows": rows})
        console.print(f"written to {path}")


if __name__ == "__main__":
    main()
