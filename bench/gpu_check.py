"""What the A100 executables compute, and how long they take, on a real GPU.

For each model and batch: results of the executable and of each of its kernels against
the reference interpreter, and the median latency of both.  Without a GPU it says what
is missing, and ends with code 2; with a wrong result it ends with code 1.

Run: python bench/gpu_check.py [MODEL ...] [--batch 1 8] [--repeats 50] [--json PATH]

The JSON file, beside date, machine and versions:

  device    name, capability ("8.0"), multiprocessors, driver_cuda ("13.0")
  models    one entry for each model and batch: model, batch, max_error, median_us, p10_us, p90_us, repeats
  rows      one for each call of a kernel: model, batch, function, ops (names in the graph), opnames (kinds),
            dims (shape of each array, results last), dtypes, device, driver, median_us, repeats, max_error

Times are in microseconds; those of models hold the copies of inputs and results. Errors
are the largest |a - b| / (1e-4 + 1e-3 |b|), so that 1 is the tolerance; null where a kernel
computes an intermediate that no op of the graph names.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from common import write_results

import plait
from plait.backends.cuda.driver import CudaDevice
from plait.backends.executable import Executable
from plait.backends.targets import A100
from plait.frontends.families import example, examples
from plait.ir.interpret import interpret

RELATIVE, ABSOLUTE = 1e-3, 1e-4
_WARM_UP = 5


def error_of(found: np.ndarray, wanted: np.ndarray) -> float | None:
    """The largest difference in units of the tolerance; None for another shape."""
    if found.shape != wanted.shape:
        return None
    difference = np.abs(found.astype(np.float64) - wanted.astype(np.float64))
    return float(np.max(difference / (ABSOLUTE + RELATIVE * np.abs(wanted)), initial=0.0))


def check_model(
    executable: Executable, inputs: dict[str, Any], repeats: int
) -> tuple[dict[str, Any], list[Any]]:
    """Errors and latency of a whole executable, and one row for each call of a kernel."""
    from plait.backends.tvm.measure import last_of_each_site

    values: dict[str, np.ndarray] = {}
    outputs = interpret(
        executable.graph,
        inputs,
        observe=lambda value, tensor: values.__setitem__(value.name, tensor.detach().cpu().numpy()),
    )
    results = executable(**inputs)
    found = results if isinstance(results, tuple) else (results,)
    errors = [error_of(np.asarray(a), b.detach().numpy()) for a, b in zip(found, outputs, strict=True)]
    for _ in range(_WARM_UP):
        executable(**inputs)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        executable(**inputs)
        times.append((time.perf_counter() - start) * 1e6)
    calls = executable.measure_kernels(**inputs, repeats=repeats)
    compared = {id(call) for call in last_of_each_site(calls)}
    results_of = {op.name: [value.name for value in op.results] for op in executable.graph.walk()}
    rows = []
    for call in calls:
        differences: list[float | None] = []
        if id(call) in compared:
            pairs = zip(results_of[call.ops[-1]], call.results, strict=True)
            differences = [error_of(array, values[name]) for name, array in pairs]
        known = [difference for difference in differences if difference is not None]
        rows.append({**call.to_dict(), "max_error": max(known) if known else None})
    deciles = statistics.quantiles(times, n=10)
    whole = {
        "max_error": max(error if error is not None else float("inf") for error in errors),
        "median_us": statistics.median(times),
        "p10_us": deciles[0],
        "p90_us": deciles[-1],
        "repeats": repeats,
    }
    return whole, rows


def device_or_exit() -> CudaDevice:
    """The GPU; without one, a message that says what is missing, and code 2."""
    from plait.backends.tvm.toolchain import require_tvm

    require_tvm()
    from plait.backends.tvm.device import require_device

    try:
        return require_device(A100)
    except plait.InputError as missing:
        print(missing, file=sys.stderr)
        sys.exit(2)


def main() -> None:
    """Entry point."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("models", nargs="*", help="names of examples; by default all of them")
    options.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    options.add_argument("--repeats", type=int, default=50)
    options.add_argument("--json", type=Path, default=Path("build/gpu_check.json"))
    given = options.parse_args()
    device = device_or_exit()
    described = {**asdict(device), "capability": ".".join(map(str, device.capability))}
    models, rows = [], []
    for name in given.models or sorted(examples()):
        graph = plait.lower(name)
        for batch in given.batch:
            executable = plait.compile(graph, target=A100, dims=dict.fromkeys(graph.dims, batch))
            inputs = example(name).inputs(batch, 0)
            whole, kernels = check_model(executable, inputs, given.repeats)
            models.append({"model": name, "batch": batch, **whole})
            common = {"model": name, "batch": batch, "device": device.name, "driver": device.driver_cuda}
            rows += [{**common, **row} for row in kernels]
            print(f"{name} batch {batch}: error {whole['max_error']:.3f}, {whole['median_us']:,.0f} us")
    write_results(given.json, "gpu_check", {"device": described, "models": models, "rows": rows})
    errors = [entry["max_error"] for entry in (*models, *rows) if entry["max_error"] is not None]
    worst = max(errors, default=0.0)
    print(f"wrote {given.json}: {len(rows)} kernel calls, worst error {worst:.3f} of the tolerance")
    sys.exit(1 if any(not error <= 1 for error in errors) else 0)


if __name__ == "__main__":
    main()
