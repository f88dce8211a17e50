"""Keras coverage: all of keras.applications into the IR, the smallest ones through the CPU target.

Each model is built with random weights in a process of its own.  All must lower, with no
transpose between two convolutions after the standard passes.  The smallest ones (by
parameters) must match Keras on `target="cpu"`: logits at batch 2 and 3 from one
executable with a symbolic batch.  Batch normalisation gets perturbed statistics of a
seeded batch and varied scales and offsets, so that every parameter counts.  Errors are
multiples of the tolerance; beside them stands how far Keras in f32 is from Keras in f64.

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
    """Vary all scales, offsets and biases, then give batch normalisation statistics of a seeded batch.

    Without that, deep random networks shrink or blow up, and identity statistics test
    nothing.  One layer after the other gets its statistics, shifted by a tenth of a standard
    deviation and scaled at random, from what the settled layers before it give in inference:
    as in a trained network, each is close to that of its input, so that no layer amplifies.
    """
    generator = np.random.default_rng(seed)
    for variable in model.variables:
        noise = 0.1 * generator.standard_normal(variable.shape).astype(np.float32)
        kind = variable.path.rpartition("/")[2]
        if kind == "gamma":
            variable.assign(np.exp(noise))  # layer scales as well, which start at 1e-6
        elif kind in ("beta", "bias"):
            variable.assign(np.asarray(variable) + noise)
    norms = batch_norms(model)
    for layer in norms:
        layer.call = settling(layer, generator)
    model(images(model, 8, seed), training=False)
    for layer in norms:
        del layer.call


def batch_norms(model: Any) -> list[Any]:
    """All layers of batch normalisation of a model."""
    import keras

    return [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]


def settling(layer: Any, generator: np.random.Generator) -> Any:
    """What batch normalisation calls instead of its `call`: it takes the statistics of its input first."""
    infer = layer.call

    def call(x: Any, training: bool | None = None, mask: Any = None) -> Any:
        array = np.asarray(x, np.float64)
        others = tuple(axis for axis in range(array.ndim) if axis != layer.axis % array.ndim)
        mean, variance = array.mean(others), array.var(others)
        shift, factor = 0.1 * generator.standard_normal((2, *mean.shape))
        layer.moving_mean.assign((mean + shift * np.sqrt(variance)).astype(np.float32))
        layer.moving_variance.assign((variance * np.exp(factor)).astype(np.float32))
        return infer(x, training=training, mask=mask)

    return call


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
        executable, row["compile_s"] = timed(
            lambda: plait.compile(graph, target="cpu", isolate=False, cache=False)
        )
        row["compile_s"] = round(row["compile_s"], 1)
        row["error"] = 0.0
        for batch in (2, 3):
            x = images(model, batch, 10 + batch)
            expected = np.asarray(model(x, training=False))
            row["error"] = max(row["error"], distance(np.asarray(executable(x)), expected))
            row["logit_scale"] = float(np.max(np.abs(expected)))
        row["keras_rounding"] = distance(expected, in_float64(model, name, x))
    return row


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference as a multiple of the tolerance."""
    scale = float(np.max(np.abs(expected)))
    return float(np.max(np.abs(found - expected) / (ABSOLUTE * scale + RELATIVE * np.abs(expected))))


def in_float64(model: Any, name: str, x: np.ndarray) -> np.ndarray:
    """What Keras computes in double precision: how far its own f32 is from that bounds what can be asked."""
    import keras

    keras.config.set_dtype_policy("float64")
    exact = build(name)
    keras.config.set_dtype_policy("float32")
    for wide, variable in zip(exact.variables, model.variables, strict=True):
        wide.assign(np.asarray(variable).astype(wide.dtype))
    return np.asarray(exact(x.astype(np.float64), training=False))


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
        "keras f32-f64",
    ):
        table.add_column(column, justify="left" if column == "model" else "right")
    for row in rows:
        if "failure" in row:
            table.add_row(row["model"], row["failure"].splitlines()[-1])
            continue
        errors = [f"{row[key]:.4f}" if key in row else "" for key in ("error", "keras_rounding")]
        table.add_row(
            row["model"],
            f"{row['parameters']:,}",
            *(str(row[key]) for key in ("ops", "ops_optimised", "convolutions", "transposes")),
            str(len(row["transposes_between_convolutions"])),
            f"{row['lower_s']:.1f}",
            *errors,
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
