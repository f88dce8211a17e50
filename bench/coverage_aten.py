"""Coverage of the core ATen operators, by the samples of torch's own OpInfo database.

Every distinct call of a core operator that the samples lead to (float32 and int64; see
opinfo_samples.py) is lowered on its own, run by the reference interpreter and by the CPU
target, and compared with torch: element type, shape and values.  An operator counts as
covered where every one of its samples agrees.

Run: python bench/coverage_aten.py [--only TEXT ...] [--target interpreter cpu] [--jobs N] [--json PATH]
"""

from __future__ import annotations

import argparse
import collections
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from common import write_results
from isolated import run_isolated
from opinfo_samples import Sample, core_operators, record
from rich.console import Console
from rich.table import Table
from torch.utils._pytree import tree_flatten, tree_unflatten

import plait

RELATIVE, ABSOLUTE = 1e-4, 1e-5
TARGETS = ("interpreter", "cpu")
#: Samples that are compiled together; apart again where the whole does not pass.
BATCH = 12
#: Samples that one child process works through.
CHUNK = 240
#: Their values are random or left open by torch: element type, shape and range are compared.
UNSPECIFIED = (
    "empty",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
    "rand",
    "randn",
    "randperm",
    "native_dropout",
)
console = Console(highlight=False, width=170)


class Calls(torch.nn.Module):
    """One operator on several samples; the tensors among the arguments are the inputs.

    Arguments that the operator writes are copies, which are returned behind its results: what it
    writes is compared too, and inputs stay as they are (torch.export refuses to resize them).
    """

    def __init__(self, operator: Any, samples: list[Sample]) -> None:
        super().__init__()
        self.operator = operator
        self.written = [
            place
            for place, argument in enumerate(operator._schema.arguments)
            if argument.alias_info is not None and argument.alias_info.is_write
        ]
        self.forms = []
        self.inputs: list[torch.Tensor] = []
        for sample in samples:
            leaves, form = tree_flatten((sample.args, sample.kwargs))
            places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
            self.inputs += [leaves[i] for i in places]
            self.forms.append(
                ([None if i in places else leaf for i, leaf in enumerate(leaves)], form, places)
            )

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        results: list[torch.Tensor] = []
        rest = list(tensors)
        for leaves, form, places in self.forms:
            filled = list(leaves)
            for place in places:
                filled[place] = rest.pop(0)
            args, kwargs = tree_unflatten(filled, form)
            copies = {i: args[i].clone() for i in self.written if i < len(args)}
            found = self.operator(*(copies.get(i, value) for i, value in enumerate(args)), **kwargs)
            results += [r for r in tree_flatten(found)[0] if isinstance(r, torch.Tensor)]
            results += copies.values()
        return tuple(results)


def check(name: str, samples: list[Sample], target: str) -> str | None:
    """None where samples lower and agree with torch, else what went wrong."""
    module = Calls(core_operators()[name], samples)
    inputs = tuple(tensor.clone(memory_format=torch.preserve_format) for tensor in module.inputs)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            expected = module(*(tensor.clone(memory_format=torch.preserve_format) for tensor in inputs))
            graph = plait.lower(module, inputs)
            if target == "interpreter":
                results: Any = plait.interpret(graph, list(inputs))
            else:
                results = plait.compile(graph, target="cpu", threads=1, isolate=False, cache=False)(*inputs)
            found = [
                result if isinstance(result, torch.Tensor) else torch.from_numpy(result)
                for result in (results if isinstance(results, (tuple, list)) else (results,))
            ]
            if len(found) != len(expected):
                return f"{len(found)} results for {len(expected)}"
            if name == "aten.topk.default":
                found, expected = without_ties(samples, found), without_ties(samples, expected)
            problem = differences(name, found, expected)
            if problem is not None and all(x.dtype == torch.float32 for x in inputs):
                # torch's own rounding may be the larger one: the same operator in double precision decides
                exact = module(*(x.double() for x in inputs))
                if differences(name, found, [e.to(w.dtype) for e, w in zip(exact, expected)]) is None:
                    return None
            return problem
    except plait.PlaitError as error:
        return f"{type(error).__name__}: {_flat(error)}"
    except Exception as error:  # anything else is a defect of plait, and shown as one
        return f"defect, {type(error).__name__}: {_flat(error)}"


def without_ties(samples: list[Sample], results: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Results of topk with the elements in the place of their indices, and whether these are distinct.

    torch leaves open which of equal elements come first.
    """
    found: list[torch.Tensor] = []
    for sample, values, indices in zip(samples, results[::2], results[1::2], strict=True):
        axis = sample.kwargs.get("dim", (*sample.args, -1)[2])
        x, places = torch.atleast_1d(sample.args[0]), torch.atleast_1d(indices)
        ordered = places.sort(dim=axis).values
        distinct = torch.tensor(bool((ordered.diff(dim=axis) > 0).all()))
        found += [values, x.gather(axis, places).reshape(indices.shape), distinct]
    return found


def differences(name: str, results: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> str | None:
    """What makes one of the results differ from torch's; None where nothing does."""
    problems = (difference(name, *pair) for pair in zip(results, expected, strict=True))
    return next((problem for problem in problems if problem is not None), None)


def difference(name: str, result: torch.Tensor, wanted: torch.Tensor) -> str | None:
    """What makes a result differ from torch's; None where nothing does."""
    if result.dtype != wanted.dtype or result.shape != wanted.shape:
        return f"{result.dtype}{list(result.shape)} for {wanted.dtype}{list(wanted.shape)}"
    packet = name.split(".")[1]
    if packet in UNSPECIFIED:
        if packet == "rand" and wanted.numel() and not 0 <= float(result.min()) <= float(result.max()) < 1:
            return "a uniform number lies outside [0, 1)"
        if packet == "randperm" and sorted(result.tolist()) != list(range(result.numel())):
            return "no permutation"
        return None
    try:
        torch.testing.assert_close(result, wanted, rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True)
    except AssertionError as error:
        return f"values differ: {_flat(error)}"
    return None


def _flat(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def measure(job: tuple[str, str, list[Sample]]) -> list[str]:
    """Samples of one operator on one target: what failed, a line each."""
    name, target, samples = job
    torch.set_num_threads(1)
    logging.disable(logging.ERROR)
    failures: list[str] = []

    def visit(part: list[Sample]) -> None:
        problem = check(name, part, target)
        if problem is None:
            return
        if len(part) == 1:
            failures.append(f"{part[0]}: {problem}")
            return
        middle = len(part) // 2 if len(part) > 4 else 1
        for start in range(0, len(part), middle):
            visit(part[start : start + middle])

    for start in range(0, len(samples), BATCH):
        visit(samples[start : start + BATCH])
    return failures


def main() -> None:
    """Run the samples and print the tables."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--only", nargs="*", help="operators whose name contains one of these")
    options.add_argument("--target", nargs="*", choices=TARGETS, default=list(TARGETS))
    options.add_argument("--jobs", type=int, default=2)
    options.add_argument("--seconds", type=float, default=1200.0, help="limit for one operator on one target")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--verbose", action="store_true", help="print every failing sample")
    options.add_argument("--json", type=Path, help="where the results go; a whole run has a place of its own")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    every = sorted(core_operators())
    names = [n for n in every if not chosen.only or any(text in n for text in chosen.only)]
    samples = record(set(names), chosen.seed)
    for name in list(samples)[:1]:  # what capture imports is there, then, before the children are forked
        check(name, samples[name][:1], "interpreter")
    jobs = [
        (name, target, samples[name][start : start + CHUNK])
        for name in sorted(samples, key=lambda name: -len(samples[name]))
        for target in chosen.target
        for start in range(0, len(samples[name]), CHUNK)
    ]
    rows: dict[str, dict[str, Any]] = {
        name: {"operator": name, "samples": len(samples.get(name, ()))} for name in names
    }
    for (name, target, part), found in run_isolated(
        jobs, measure, workers=chosen.jobs, seconds=chosen.seconds
    ):
        failures = [str(found)] * len(part) if isinstance(found, Exception) else found
        row = rows[name].setdefault(target, {"failed": 0, "failures": []})
        row["failed"] += len(failures)
        row["failures"] = [*row["failures"], *failures][: None if chosen.verbose else 5]
        mark = "passed" if not failures else f"{len(failures)} of {len(part)} samples failed"
        console.print(f"{name} on {target}: {mark}")
        for failure in failures if chosen.verbose else failures[:1]:
            console.print(f"    {failure}", markup=False)
    summary = report(list(rows.values()), chosen.target)
    path = chosen.json or (None if chosen.only else Path(__file__).parent / "results" / "coverage_aten.json")
    if path is not None:
        write_results(path, "coverage_aten", {"seed": chosen.seed, **summary, "rows": list(rows.values())})
        console.print(f"details in {path}")


def report(rows: list[dict[str, Any]], targets: list[str]) -> dict[str, Any]:
    """Print what is not covered, and the shares."""
    table = Table(title="core ATen operators that are not covered")
    for column in ("operator", "samples", *(f"failed on {target}" for target in targets), "first reason"):
        table.add_column(column, overflow="fold")
    for row in rows:
        failed = [row.get(target, {}).get("failed", 0) for target in targets]
        if any(failed):
            reasons = [row[t]["failures"][0] for t in targets if row.get(t, {}).get("failures")]
            table.add_row(row["operator"], str(row["samples"]), *map(str, failed), reasons[0])
    console.print(table)
    unsampled = [row["operator"] for row in rows if not row["samples"]]
    summary: dict[str, Any] = {
        "operators": len(rows),
        "samples": sum(row["samples"] for row in rows),
        "without_samples": unsampled,
        "tolerance": {"relative": RELATIVE, "absolute": ABSOLUTE},
    }
    console.print(
        f"{len(unsampled)} operators that no OpInfo sample reaches: {', '.join(unsampled) or 'none'}"
    )
    for target in targets:
        tried = [row for row in rows if row["samples"]]
        passed = sum(row[target]["failed"] == 0 for row in tried)
        counts = collections.Counter(row[target]["failed"] == 0 for row in tried)
        share = passed / max(1, len(tried))
        summary[target] = {"covered": counts[True], "not_covered": counts[False], "share": share}
        console.print(f"{target}: every sample agrees for {passed} of {len(tried)} operators ({share:.1%})")
    return summary


if __name__ == "__main__":
    main()
