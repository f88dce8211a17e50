"""Keras coverage: all of keras.applications into the IR, the smallest ones through the CPU target.

Each model is built with random weights in a process of its own.  All must lower, with no
transpose between two convolutions after the standard passes.  The smallest ones (by
parameters) must match Keras on `target="cpu"`: logits at batch 2 and 3 from one
executable with a symbolic batch.  Batch normalisation gets the statistics of a seeded
batch, and all its parameters are then perturbed, so that every one of them counts.

Run: python bench/coverage_keras.py [MODEL ...] [--lower-only] [--json PATH]; all by default.
Named models replace their rows of an existing file and leave the others.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import write_results
from rich.console import Console
from rich.table import Table

import plait
from plait.ir import Graph, Op
from plait.ir.ops import core, nn
from plait.ir.ops.nn.conv import Convolution

RELATIVE, ABSOLUTE = 1e-3, 1e-4
SMALLEST = 20
SIZE = 96
RESULTS = Path(__file__).parent / "results" / "coverage_keras.json"
console = Console(highlight=False)
if not console.is_terminal:
    console = Console(highlight=False, width=150)


def constructors() -> dict[str, Any]:
    """Every function of keras.applications that builds a model, by name."""
    import keras

    return {
        name: value
        for name, value in sorted(vars(keras.applications).items())
        if inspect.isfunction(value) and "weights" in inspect.signature(value).parameters
    }


def build(name: str) -> Any:
    """A model with random weights, logits as results, and a small image where the constructor takes one."""
    import keras

    keras.utils.set_random_seed(0)
    make = constructors()[name]
    options = {"weights": None, "classifier_activation": None}
    try:
        return make(input_shape=(SIZE, SIZE, 3), **options)
    except ValueError:
        return make(**options)


def settle(model: Any, seed: int) -> None:
    """Give batch normalisation the statistics of a seeded batch, then perturb its parameters and all biases.

    Without that, deep random networks shrink or blow up, and identity statistics test nothing.
    """
    import keras

    generator = np.random.default_rng(seed)
    norms = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 0.0
    model(images(model, 8, seed), training=True)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
    for variable in model.variables:
        array = np.asarray(variable)
        noise = generator.standard_normal(array.shape).astype(array.dtype)
        kind = variable.path.rpartition("/")[2]
        if kind in ("gamma", "moving_variance"):
            variable.assign(array * np.exp(0.1 * noise))
        elif kind in ("beta", "bias"):
            variable.assign(array + 0.1 * noise)
        elif kind == "moving_mean":
            variable.assign(array + 0.1 * np.std(array) * noise)


def images(model: Any, batch: int, seed: int) -> np.ndarray:
    """Seeded pixels in 0..255, as the models with a rescaling layer expect them; others take them as well."""
    shape = [SIZE if dim is None else dim for dim in model.inputs[0].shape[1:]]
    return np.random.default_rng(seed).uniform(0, 255, (batch, *shape)).astype(np.float32)


def transposes_between_convolutions(graph: Graph) -> list[str]:
    """The transposes on a path from one convolution to another one."""

    def reached(start: Any, following: Any) -> set[Op]:
        found: set[Op] = set()
        pending = list(start)
        while pending:
            for op in following(pending.pop()):
                if op not in found:
                    found.add(op)
                    pending.append(op)
        return found

    def readers(op: Op) -> list[Op]:
        return [user for value in op.results for user in value.users if isinstance(user, Op)]

    def producers(op: Op) -> list[Op]:
        return [value.producer for value in op.operands if value.producer is not None]

    convolutions = [op for op in graph.walk() if isinstance(op, Convolution)]
    behind, before = reached(convolutions, readers), reached(convolutions, producers)
    return [
        str(op.results[0]) for op in graph.walk() if isinstance(op, core.Transpose) and op in behind & before
    ]


def timed(run: Any) -> tuple[Any, float]:
    """A result and its wall time in seconds."""
    start = time.perf_counter()
    result = run()
    return result, time.perf_counter() - start


def measure(name: str, compare: bool) -> dict[str, Any]:
    """One model: lowered, and compared with Keras."""
    from plait.frontends.tensorflow import lower_tensorflow

    model = build(name)
    if compare:
        settle(model, 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    graph, lower_s = timed(lambda: lower_tensorflow(model, name=name))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    best = plait.optimize(graph)
    row: dict[str, Any] = {
        "model": name,
        "parameters": int(model.count_params()),
        "input": str(graph.inputs[0].type),
        "ops": len(graph),
        "ops_optimised": len(best),
        "convolutions": sum(isinstance(op, Convolution) for op in best.walk()),
        "batch_norms": sum(isinstance(op, nn.BatchNorm) for op in graph.walk()),
        "transposes": sum(isinstance(op, core.Transpose) for op in best.walk()),
        "transposes_between_convolutions": transposes_between_convolutions(best),
        "lower_s": round(lower_s, 2),
        "weights_mb": round(model.count_params() * 4 / 2**20, 1),
        "lowering_peak_growth_mb": round((after - before) / 2**10, 1),
    }
    if compare:
        executable, row["compile_s"] = timed(lambda: plait.compile(graph, target="cpu"))
        row["compile_s"] = round(row["compile_s"], 1)
        row["error"] = 0.0
        for batch in (2, 3):
            x = images(model, batch, 10 + batch)
            expected = np.asarray(model(x, training=False))
            scale = float(np.max(np.abs(expected)))
            difference = np.abs(np.asarray(executable(x)) - expected)
            error = np.max(difference / (ABSOLUTE * scale + RELATIVE * np.abs(expected)))
            row["error"] = max(row["error"], float(error))
            row["logit_scale"] = scale
    return row


def in_process(name: str, compare: bool) -> dict[str, Any]:
    """`measure` in a process of its own, which gives all memory back."""
    command = [sys.executable, __file__, name, "--one"] + ([] if compare else ["--lower-only"])
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"model": name, "failure": "\n".join(lines[-12:]) or f"exit status {done.returncode}"}
    row: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return row


def show(rows: list[dict[str, Any]]) -> None:
    """The rows as a table."""
    table = Table(title="keras.applications in the IR (errors in units of the tolerance)")
    for column in (
        "model",
        "parameters",
        "ops",
        "optimised",
        "convs",
        "transposes",
        "between",
        "lower s",
        "error",
    ):
        table.add_column(column, justify="left" if column == "model" else "right")
    for row in rows:
        if "failure" in row:
            table.add_row(row["model"], row["failure"].splitlines()[-1])
            continue
        error = f"{row['error']:.4f}" if "error" in row else ""
        table.add_row(
            row["model"],
            f"{row['parameters']:,}",
            *(str(row[key]) for key in ("ops", "ops_optimised", "convolutions", "transposes")),
            str(len(row["transposes_between_convolutions"])),
            f"{row['lower_s']:.1f}",
            error,
        )
    console.print(table)


def main() -> None:
    """Run the models and print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("models", nargs="*", help="names of constructors; by default all")
    options.add_argument("--json", type=Path, default=RESULTS)
    options.add_argument("--lower-only", action="store_true", help="compare none with Keras")
    options.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.one:
        print(json.dumps(measure(chosen.models[0], not chosen.lower_only)))
        return
    known: dict[str, dict[str, Any]] = {}
    if chosen.json.is_file() and chosen.models:
        known = {row["model"]: row for row in json.loads(chosen.json.read_text())["rows"]}

    def run(name: str, compare: bool) -> None:
        known[name] = in_process(name, compare)
        row = known[name]
        console.print(f"{name}: {row.get('failure') or {k: v for k, v in row.items() if k != 'model'}}")
        rows = sorted(known.values(), key=lambda row: row.get("parameters", 0))
        write_results(chosen.json, "coverage_keras", {"tolerance": [RELATIVE, ABSOLUTE], "rows": rows})

    for name in chosen.models or constructors():
        run(name, bool(chosen.models) and not chosen.lower_only)
    if not chosen.models and not chosen.lower_only:
        lowered = [row for row in known.values() if "failure" not in row]
        for row in sorted(lowered, key=lambda row: row["parameters"])[:SMALLEST]:
            run(row["model"], True)
    rows = sorted(known.values(), key=lambda row: row.get("parameters", 0))
    show(rows)
    failed = [row["model"] for row in rows if "failure" in row or row.get("error", 0.0) > 1.0]
    failed += [row["model"] for row in rows if row.get("transposes_between_convolutions")]
    if failed:
        raise SystemExit(f"failed: {', '.join(dict.fromkeys(failed))}")
    compared = sum("error" in row for row in rows)
    console.print(
        f"{len(rows)} models lowered, {compared} of them match Keras on cpu; details in {chosen.json}"
    )


if __name__ == "__main__":
    main()
