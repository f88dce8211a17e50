"""The main job, end to end: lower, inspect, rewrite, compile for CPU and A100, predict.

For each model: torch and ONNX (through torch.onnx.export) into the IR; results of the
interpreter and of both CPU executables against torch at batch 1 and 3; sm_80 kernels
with registers, shared memory and spills from the assembler; latency, energy, memory
and the MIG profile from the roofline.  Weights are random and seeded.

Run: python bench/main_job.py [MODEL ...] [--show] [--json PATH]; all families by default.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from common import write_results
from rich.console import Console
from rich.table import Table

import plait
from plait.frontends.families import Example, example, examples

RELATIVE, ABSOLUTE = 1e-3, 1e-4
SMALL = ("small_cnn", "small_transformer")
console = Console(highlight=False)
if not console.is_terminal:
    console = Console(highlight=False, width=170)


def worst_error(results: Any, expected: Any) -> float:
    """Largest |a - b| / (ABSOLUTE + RELATIVE * |b|): at most 1 when the results agree."""
    pairs = zip(_tuple(results), _tuple(expected), strict=True)
    return max(float(np.max(np.abs(a - b) / (ABSOLUTE + RELATIVE * np.abs(b)))) for a, b in pairs)


def _tuple(results: Any) -> tuple[np.ndarray, ...]:
    found = results if isinstance(results, (tuple, list)) else (results,)
    return tuple(r.detach().numpy() if hasattr(r, "detach") else np.asarray(r) for r in found)


def export_onnx(chosen: Example, model: Any, seed: int, folder: Path, *, batch: int | None = None) -> Path:
    """The model as an ONNX file of that batch, or of a dynamic one, written by torch.onnx.export."""
    import torch

    inputs = chosen.inputs(batch or 2, seed)
    path = folder / f"{chosen.name}.onnx"
    shapes = None if batch else tuple(dict(chosen.dynamic[k]) for k in inputs)
    # The exporter reports packages that it could use and that are not installed.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            tuple(inputs.values()),
            path,
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=list(inputs),
            verbose=False,
        )
    return path


def race(executable: Any, model: Any, inputs: dict[str, Any], repeats: int = 7) -> tuple[float, float]:
    """Median ms of the executable and of eager torch on as many threads, taken in turns after a warm-up."""
    import torch

    torch.set_num_threads(executable.threads)
    times: tuple[list[float], list[float]] = ([], [])
    with torch.no_grad():
        for _ in range(repeats + 1):
            times[0].append(timed(lambda: executable(**inputs))[1])
            times[1].append(timed(lambda: model(**inputs))[1])
    return tuple(1e3 * statistics.median(t[1:]) for t in times)  # type: ignore[return-value]  # two lists


def timed(run: Any) -> tuple[Any, float]:
    """A result and its wall time in seconds."""
    start = time.perf_counter()
    result = run()
    return result, time.perf_counter() - start


def measure(name: str, seed: int, show: bool, onnx: bool) -> dict[str, Any]:
    """Everything about one model."""
    import torch

    chosen = example(name)
    model = chosen.build(seed).eval()
    batches = {batch: chosen.inputs(batch, seed + batch) for batch in (1, 3)}
    with torch.no_grad():
        expected = {batch: model(**inputs) for batch, inputs in batches.items()}

    graph, lower_s = timed(
        lambda: plait.lower(model, chosen.inputs(2, seed), dynamic=chosen.dynamic, name=name)
    )
    row: dict[str, Any] = {
        "model": name,
        "ops": len(graph),
        "lower_s": lower_s,
        "round_trip": plait.parse(str(graph)) == graph,
        "located": all(op.loc.origins and op.loc.origins[0].file for op in graph.walk()),
        "dims": {k: str(v) for k, v in graph.dims.items()},
    }
    if show:
        lines = str(graph).splitlines()
        body = next(i for i, line in enumerate(lines) if line.startswith("func"))
        console.print(f"\n[bold]{name} in the IR[/] ({len(graph)} ops)")
        console.print("\n".join([*lines[:3], "...", *lines[body : body + 12], "..."]), markup=False)

    row["interpreter_error"] = max(
        worst_error(plait.interpret(graph, i), expected[b]) for b, i in batches.items()
    )
    best = plait.optimize(graph)
    row["ops_optimised"] = len(best)
    if show:
        console.print("\n[bold]what the passes changed[/]")
        console.print("\n".join([*str(plait.diff(graph, best)).splitlines()[:8], "..."]), markup=False)

    cpu, row["cpu_compile_s"] = timed(lambda: plait.compile(graph, target="cpu", isolate=False, cache=False))
    row["cpu_error"] = max(worst_error(cpu(**inputs), expected[b]) for b, inputs in batches.items())
    row["threads"] = cpu.threads
    row["cpu_ms_batch1"], row["torch_ms_batch1"] = race(cpu, model, batches[1])

    if onnx:
        with tempfile.TemporaryDirectory() as folder:
            path = export_onnx(chosen, model, seed, Path(folder))
            lowered = plait.lower(path)
        row["onnx_ops"] = len(lowered)
        from_onnx = plait.compile(lowered, target="cpu", isolate=False, cache=False)
        keys = [value.name for value in lowered.inputs]
        row["onnx_error"] = max(
            worst_error(from_onnx(**dict(zip(keys, inputs.values(), strict=True))), expected[b])
            for b, inputs in batches.items()
        )

    gpu, row["a100_compile_s"] = timed(
        lambda: plait.compile(graph, target="a100", dims={"B": 8}, isolate=False, cache=False)
    )
    kernels = gpu.kernels
    row["a100_kernels"] = len(kernels)
    row["a100_max_registers"] = max(k.registers for k in kernels)
    row["a100_max_shared_bytes"] = max(k.shared_bytes for k in kernels)
    row["a100_spilling_kernels"] = sum(k.spills > 0 for k in kernels)
    row["a100_unmapped_kernels"] = sum(not k.ops for k in kernels)
    row["kernels"] = [{key: v for key, v in k.to_dict().items() if key != "source"} for k in kernels]
    if show:
        show_kernels(kernels)

    for batch in (1, 8, 32):
        prediction = plait.predict(graph, device="a100-sxm4-40gb", dims={"B": batch})
        row[f"predict_b{batch}"] = {
            k: prediction.to_dict()[k] for k in ("latency_ms", "energy_j", "memory_mb", "mig", "basis")
        }
        row[f"predict_b{batch}"]["top_ops"] = prediction.to_dict()["top_ops"][:3]
        if show and batch == 8:
            console.print(
                f"\n[bold]predicted on one A100-SXM4-40GB at batch {batch}[/] (basis {prediction.basis})"
            )
            console.print(str(prediction), markup=False)
    return row


def show_kernels(kernels: Any) -> None:
    """The kernels with the most registers, as a table."""
    table = Table(title=f"{len(kernels)} sm_80 kernels (from the assembler), those with most registers first")
    for column in ("kernel", "calls", "registers", "shared bytes", "spills", "grid", "block", "IR ops"):
        table.add_column(column, overflow="fold")
    for k in sorted(kernels, key=lambda k: -k.registers)[:8]:
        ops = ", ".join(f"%{op}" for op in k.ops)
        cells = (k.name, k.calls, k.registers, k.shared_bytes, k.spills, k.grid, k.block)
        table.add_row(*map(str, cells), ops if len(ops) < 60 else ops[:57] + "...")
    console.print(table)


def one_line(row: dict[str, Any]) -> str:
    """The figures of one model for the terminal; errors are in units of the tolerance."""
    return "; ".join(
        (
            f"{row['model']}: {row['ops']} ops, {row['ops_optimised']} after passes",
            f"error/tolerance interpreter {row['interpreter_error']:.3f} cpu {row['cpu_error']:.3f} "
            f"onnx {row.get('onnx_error', float('nan')):.3f}",
            f"cpu {row['cpu_ms_batch1']:.0f} ms at batch 1 (torch eager {row['torch_ms_batch1']:.0f} ms)",
            f"a100 {row['a100_kernels']} kernels, {row['a100_unmapped_kernels']} unmapped, "
            f"{row['a100_spilling_kernels']} spilling",
            f"predicted {row['predict_b8']['latency_ms']:.3g} ms at batch 8",
        )
    )


def main() -> None:
    """Run the job and print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("models", nargs="*", help="names of examples; by default all families")
    options.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "main_job.json")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--show", action="store_true", help="print dump, passes, kernels and prediction")
    options.add_argument("--no-onnx", action="store_true", help="leave out the ONNX route")
    chosen = options.parse_args()
    names = chosen.models or [n for n in examples() if n not in SMALL]
    rows = []
    for name in names:
        row = measure(name, chosen.seed, chosen.show, not chosen.no_onnx)
        rows.append(row)
        console.print(one_line(row))
    write_results(chosen.json, "main_job", {"seed": chosen.seed, "rows": rows})
    worst = max(max(r["interpreter_error"], r["cpu_error"], r.get("onnx_error", 0.0)) for r in rows)
    if worst > 1.0:
        raise SystemExit(f"a result differs from torch by {worst:.2f} times the tolerance")
    console.print(f"all results within rtol {RELATIVE} / atol {ABSOLUTE} of torch; details in {chosen.json}")


if __name__ == "__main__":
    main()
