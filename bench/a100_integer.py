"""Which share of an int8 model's multiply-adds an A100 computes by integer instructions, and spills.

Each model, with seeded random weights, is calibrated on random inputs, quantised, and compiled for
`a100`.  An op counts as integer when the machine code (SASS) of a kernel that computes it has IMMA (tensor
cores) or IDP (dot products of four) instructions; its multiply-adds are those of the IR's cost
rules.  With --emulate the CUDA text is executed on the host, and its results are compared with the
reference interpreter: integer arithmetic is the same to the bit, and what stays in floating point
(softmax, normalisation) may move a value to the next point of a grid.

Run: python bench/a100_integer.py [MODEL ...] [--batch N ...] [--emulate] [--check] [--json PATH]
All models by default.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import write_results
from rich.console import Console
from rich.table import Table

import plait
from plait.backends.cuda.sass import disassemble_images
from plait.backends.executable import Executable
from plait.frontends.families import example
from plait.ir import Graph, Op, QuantType
from plait.ir.cost import op_cost
from plait.ir.ops import linalg
from plait.ir.ops import nn as layers
from plait.passes.quantize.pipeline import quantize

MODELS = ("resnet18", "vit_tiny")
INTEGER_CLASSES = ("IMMA", "IDP")
#: Batches of calibration.
CALIBRATION = 2
PRODUCTS = (layers.Conv1d, layers.Conv2d, layers.Conv3d, layers.Linear, linalg.Matmul, layers.Attention)
console = Console(highlight=False, width=150)


def quantised(name: str, batch: int) -> tuple[Graph, dict[str, Any]]:
    """A model in integer arithmetic for a batch size, and inputs."""
    chosen = example(name)
    graph = plait.lower(chosen.build(0).eval(), chosen.inputs(batch, 0), name=name)
    data = [chosen.inputs(batch, 1000 + seed) for seed in range(CALIBRATION)]
    return quantize(graph, data, observer="min-max").graph, chosen.inputs(batch, 0)


def integer_kernels(executable: Executable) -> set[str]:
    """Names of the kernels whose machine code multiplies integers by tensor cores or dot products."""
    return {
        name
        for name, code in disassemble_images(executable.images).items()
        if any(code.histogram()[kind] for kind in INTEGER_CLASSES)
    }


def shares(executable: Executable) -> dict[str, Any]:
    """Multiply-adds of all products, of those in integer kernels, and the ops that are not."""
    integers = integer_kernels(executable)
    mapped = {op for kernel in executable.kernels if kernel.name in integers for op in kernel.ops}
    total = found = 0
    missing = []
    for op in executable.graph.walk():
        if not isinstance(op, PRODUCTS):
            continue
        count = int(op_cost(op, {}).macs or 0)
        total += count
        if op.name in mapped:
            found += count
        else:
            missing.append(f"%{op.name}: {op.opname} of {', '.join(str(v.type) for v in op.operands[:2])}")
    return {
        "macs": total,
        "integer_macs": found,
        "products": sum(isinstance(op, PRODUCTS) for op in executable.graph.walk()),
        "products_of_activations": sum(map(multiplies_activations, executable.graph.walk())),
        "kernels": len(executable.kernels),
        "integer_kernels": len(integers),
        "missing": missing,
    }


def multiplies_activations(op: Op) -> bool:
    """Whether an op is a matrix product of two quantised values that are both computed."""
    return isinstance(op, linalg.Matmul) and all(
        isinstance(value.type, QuantType) and value.producer is not None for value in op.operands
    )


def measure(name: str, batch: int, *, emulate: bool, check: bool) -> dict[str, Any]:
    """One row; `worst_difference` is that from the interpreter, relative to the range of the result."""
    graph, inputs = quantised(name, batch)
    started = time.perf_counter()
    executable = plait.compile(graph, target="a100", pipeline="", cache=False)
    seconds = time.perf_counter() - started
    row = {
        "model": name,
        "batch": batch,
        **shares(executable),
        "spills": sum(kernel.spills or 0 for kernel in executable.kernels),
        "registers": max(kernel.registers or 0 for kernel in executable.kernels),
        "notes": sorted({note for kernel in executable.kernels for note in kernel.notes}),
        "compile_s": round(seconds, 1),
        "elements_off": None,
        "worst_difference": None,
    }
    if emulate:
        found = executable.emulate(**inputs, check=check)
        wanted = plait.interpret(executable.graph, inputs)
        results = found if isinstance(found, tuple) else (found,)
        pairs = [(np.asarray(a), np.asarray(b)) for a, b in zip(results, wanted, strict=True)]
        row["elements_off"] = sum(int(np.count_nonzero(a != b)) for a, b in pairs)
        row["worst_difference"] = max(float(np.abs(a - b).max() / np.ptp(b)) for a, b in pairs)
        row["detectors"] = check
    return row


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    table = Table(title="int8 on an A100: multiply-adds in kernels with IMMA or IDP; sm_80 assembler")
    for heading in (
        "model",
        "batch",
        "GMAC",
        "integer",
        "products (of activations)",
        "kernels (integer)",
        "spills",
        "registers",
        "elements off",
        "worst difference",
        "compile s",
    ):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for row in rows:
        table.add_row(
            row["model"],
            str(row["batch"]),
            f"{row['macs'] / 1e9:.3f}",
            f"{100 * row['integer_macs'] / row['macs']:.2f} %",
            f"{row['products']} ({row['products_of_activations']})",
            f"{row['kernels']} ({row['integer_kernels']})",
            str(row["spills"]),
            str(row["registers"]),
            "not run" if row["elements_off"] is None else str(row["elements_off"]),
            "" if row["worst_difference"] is None else f"{row['worst_difference']:.1e}",
            str(row["compile_s"]),
        )
    console.print(table)


def main() -> None:
    """Measure the models named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(MODELS), metavar="MODEL")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument(
        "--emulate", action="store_true", help="execute the kernels on the host, for the first batch size"
    )
    parser.add_argument("--check", action="store_true", help="with --emulate: run the detectors too")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results/a100_integer.json")
    options = parser.parse_args()
    rows = []
    for name in options.models:
        for batch in options.batch:
            emulate = options.emulate and batch == options.batch[0]
            rows.append(measure(name, batch, emulate=emulate, check=options.check))
            write_results(options.json, "a100_integer", {"rows": rows})
            for line in rows[-1]["missing"]:
                console.print(f"{name}: not in integers: {line}", markup=False)
    show(rows)


if __name__ == "__main__":
    main()
