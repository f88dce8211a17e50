"""Write the README's tables from bench/results/*.json.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; what is between
is replaced.  Run: python bench/tables.py [--check]
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import quantized_tables
import spiking_tables
from markdown_tables import markdown, provenance

from plait.ir.files import write_atomically

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main_job(record: dict[str, Any]) -> str:
    """Per model: ops, error against torch, kernels and their resources, prediction."""
    headings = [
        "model", "IR ops", "after passes", "worst error / tolerance", "cpu / torch eager, ms at batch 1",
        "sm_80 kernels", "unmapped", "spilling", "most registers", "predicted ms / J / MB, batch 8", "MIG",
    ]  # fmt: skip
    rows = []
    for r in record["rows"]:
        worst = max(r["interpreter_error"], r["cpu_error"], r.get("onnx_error", 0.0))
        p, cpu, torch = r["predict_b8"], r["cpu_ms_batch1"], r["torch_ms_batch1"]
        figures = f"{p['latency_ms']:.2f} / {p['energy_j']:.2f} / {p['memory_mb']:.0f}"
        rows.append(
            [
                r["model"],
                str(r["ops"]),
                str(r["ops_optimised"]),
                f"{worst:.3f}",
                f"{cpu:.0f} / {torch:.0f} ({torch / cpu:.2f}x)",
                str(r["a100_kernels"]),
                str(r["a100_unmapped_kernels"]),
                str(r["a100_spilling_kernels"]),
                str(r["a100_max_registers"]),
                figures,
                str(p["mig"]["profile"]),
            ]
        )
    note = (
        "\nErrors are the largest of interpreter, CPU code and ONNX route against torch at batch 1 and 3, "
        "in units of the tolerance (rtol 1e-3, atol 1e-4). CPU times are medians of 7 taken in turns with "
        "torch eager on as many threads; the ratio in brackets is above 1 where plait is faster. Registers "
        "and spills come from the sm_80 assembler. The last two columns are simulated by the roofline for "
        "an A100-SXM4-40GB, not measured.\n"
    )
    return markdown(headings, rows) + note + provenance(record)


def ir_scaling(record: dict[str, Any]) -> str:
    """Print, parse and verify time by number of ops."""
    rows = [
        [f"{r['ops']:,.0f}", f"{r['print_s']:.3f}", f"{r['parse_s']:.3f}", f"{r['verify_s']:.3f}",
         f"{(r['parse_s'] + r['verify_s']) / r['ops'] * 1e6:.0f}"]
        for r in record["rows"]
    ]  # fmt: skip
    headings = ["ops", "print s", "parse s", "verify s", "parse + verify, us per op"]
    return markdown(headings, rows) + provenance(record)


def roofline_vs_measured(record: dict[str, Any]) -> str:
    """Predicted against measured latency of real rows."""
    rows = [[str(cell) for cell in row] for row in record["table"]["rows"]]
    return markdown(record["table"]["headings"], rows) + provenance(record)


def a100_tensor_cores(record: dict[str, Any]) -> str:
    """Shares of multiply-adds on tensor cores, and spills."""

    def share(row: dict[str, Any], kind: str) -> str:
        total = row[f"{kind}_macs"]
        return f"{100 * row[f'{kind}_on_tensor_cores'] / total:.0f} %" if total else "-"

    rows = [
        [
            r["model"],
            f"{r['divisible_macs'] / 1e9:.2f}",
            share(r, "divisible"),
            f"{r['other_macs'] / 1e9:.2f}",
            share(r, "other"),
            f"{r['depthwise_macs'] / 1e9:.2f}",
            f"{r['tensor_core_kernels']} / {r['kernels']}",
            f"{r['f16_registers']} / {r['f32_registers']}",
            f"{r['f16_spills']} / {r['f32_spills']}",
            f"{r['modelled_ms']:.3f} / {r['roofline_ms']:.3f} ({r['modelled_ms'] / r['roofline_ms']:.2f}x)",
        ]
        for r in record["rows"]
    ]
    headings = [
        "model, batch 8",
        "GMAC, dims divide by 8",
        "on tensor cores",
        "GMAC, other products",
        "on tensor cores",
        "depthwise GMAC",
        "HMMA kernels / all",
        "most registers f16 / f32",
        "spilled bytes f16 / f32",
        "modelled / roofline ms, f16",
    ]
    return markdown(headings, rows) + provenance(record)


def coverage(records: dict[str, dict[str, Any]]) -> str:
    """What each suite holds, and how much of it is covered on the interpreter and the CPU target."""
    rows = []
    onnx = records["coverage_onnx"]
    for kind in onnx["totals"]["cpu"]:
        counts = {target: onnx["totals"][target][kind] for target in ("interpreter", "cpu")}
        left = "; ".join(
            f"{target}: {c['failed']} failed, {c['refused']} refused" for target, c in counts.items()
        )
        cells = [f"{c['passed']} of {c['tests'] - c['excluded']} ({c['percent']} %)" for c in counts.values()]
        excluded = f", {counts['cpu']['excluded']} excluded" if counts["cpu"]["excluded"] else ""
        rows.append(
            [f"onnx backend tests, {kind}", f"{counts['cpu']['tests']} tests{excluded}", *cells, left]
        )
    aten = records["coverage_aten"]
    tried = aten["operators"] - len(aten["without_samples"])
    cells = [f"{aten[t]['covered']} of {tried} ({aten[t]['share']:.1%})" for t in ("interpreter", "cpu")]
    missing = f"{len(aten['without_samples'])} operators that no OpInfo reaches"
    rows.append(["core ATen, torch's OpInfo samples", f"{aten['samples']:,} samples", *cells, missing])
    keras = records["coverage_keras"]["rows"]
    lowered = [row for row in keras if "failure" not in row]
    compared = [row for row in lowered if "error" in row]
    agree = sum(row["error"] <= 1.0 for row in compared)
    between = sum(len(row["transposes_between_convolutions"]) for row in lowered)
    rows.append(
        ["keras.applications", f"{len(keras)} constructors", f"{len(lowered)} lower",
         f"{agree} of the {len(compared)} smallest agree", f"{between} transposes between convolutions"]
    )  # fmt: skip
    transformers = records["coverage_transformers"]
    total = len(transformers["rows"])
    rows.append(
        ["Hugging Face transformers " + transformers["transformers"], f"{total} architectures",
         f"{transformers['passed']} agree", f"{transformers['passed']} of {total} agree", ""]
    )  # fmt: skip
    dgl = records["coverage_dgl"]
    rows.append(
        ["dgl.nn.pytorch conv layers", f"{dgl['layers']} layers", f"{dgl['covered']} agree",
         f"{dgl['covered']} of {dgl['layers']} agree on two graphs", ""]
    )  # fmt: skip
    headings = ["suite", "size", "reference interpreter", "cpu", "rest"]
    fuzz = records["fuzz"]
    damaged = (
        f"\nDamaged ONNX files and IR texts (`bench/fuzz.py`): {fuzz['inputs']:,} inputs, "
        f"{len(fuzz['findings'])} that end in neither a graph nor a `PlaitError` "
        f"within {fuzz['limit_s']:.0f} s.\n"
    )
    return markdown(headings, rows) + damaged + provenance(aten)


PEERS = {
    "onnxruntime": "ONNX Runtime",
    "torch": "torch eager",
    "torch_compile": "torch.compile",
    "tvm_default": "TVM default",
}


def speedup(row: dict[str, Any], peer: str) -> float | None:
    """How many times faster plait is than a peer; None where either has no time."""
    own, other = row["contenders"]["plait"], row["contenders"].get(peer, {})
    return other["ms"] / own["ms"] if "ms" in own and "ms" in other else None


def milliseconds(time_ms: float) -> str:
    """A time with three significant digits."""
    return f"{time_ms:.{max(0, 2 - math.floor(math.log10(time_ms)))}f}"


def peer_cell(row: dict[str, Any], peer: str) -> str:
    """A peer's time and, in brackets, how many times faster plait is."""
    other = row["contenders"].get(peer)
    if other is None:
        return ""
    if "over_s" in other:
        return f"cut after {other['over_s']:.0f} s"
    if "failure" in other:
        return "failed"
    ratio = speedup(row, peer)
    return milliseconds(other["ms"]) + (f" ({ratio:.2f}x)" if ratio is not None else "")


def cpu_inference_rows(record: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells: one row a model and batch, then the geometric means."""
    headings = [
        "model",
        "batch",
        "plait ms",
        *(f"{label} ms" for label in PEERS.values()),
        "error / tolerance",
    ]
    rows = []
    for row in record["rows"]:
        own = row["contenders"]["plait"]
        time = milliseconds(own["ms"]) if "ms" in own else "failed"
        error = f"{own['error']:.3f}" if "error" in own else ""
        cells = [peer_cell(row, peer) for peer in PEERS]
        rows.append([row["model"], str(row["batch"]), time, *cells, error])
    for batch in [*sorted({row["batch"] for row in record["rows"]}), "all"]:
        means = [record["summary"].get(peer, {}).get(str(batch)) for peer in PEERS]
        cells = [f"{mean['geometric_mean']:.2f}x of {mean['rows']}" if mean else "" for mean in means]
        rows.append(["geometric mean", str(batch), "", *cells, ""])
    return headings, rows


def cpu_inference_lowest(record: dict[str, Any]) -> str:
    """The row in which plait does worst against ONNX Runtime, as a sentence."""
    found = record["summary"].get("onnxruntime", {}).get("all")
    if found is None:
        return "ONNX Runtime was not measured."
    return f"The lowest ratio against ONNX Runtime is {found['lowest']:.2f}x, {found['lowest_at']}."


def cpu_inference(record: dict[str, Any]) -> str:
    """Time of a call by model and batch, of plait and its peers."""
    rows = record["rows"]
    threads = " or ".join(sorted({str(row["threads"]) for row in rows}))
    rounds = " or ".join(str(count) for count in sorted({row["rounds"] for row in rows}))
    load = max(row["load_before"] for row in rows)
    busy = ""
    if load > 0.5:
        busy = f" Other jobs ran beside it (load average {load:.1f} at the start), so the figures are rough."
    note = (
        f"\nf32, {threads} threads for each contender, medians of {rounds} rounds in turns; in brackets how "
        "many times faster plait is, and below the geometric means with the number of rows in them. "
        f"{cpu_inference_lowest(record)} TVM's default pipeline runs alone, by few calls; `cut` means that "
        f"compilation and first call took longer.{busy} Errors are of plait against torch eager, in units "
        "of the tolerance (rtol 1e-3, atol 1e-4).\n"
    )
    failures = [
        f"{row['model']} at batch {row['batch']}, {PEERS.get(name, name)}: {found['failure']}"
        for row in rows
        for name, found in row["contenders"].items()
        if "failure" in found
    ]
    failed = f"\nFailed: {'; '.join(failures)}.\n" if failures else ""
    measured = {row["model"] for row in rows}
    missing = [name for name in record["models"] if name not in measured]
    left = f"\nNot measured yet: {', '.join(missing)}.\n" if missing else ""
    return markdown(*cpu_inference_rows(record)) + note + failed + left + provenance(record, "onnxruntime")


def cpu_levers_rows(record: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells: ms with all features on, the same again, and how many times slower without each.

    The divisor is the geometric mean of both runs with all features on.
    """
    labels = list(record["levers"])
    rows = []
    for row in record["rows"]:
        both = [row["variants"].get(label, {}).get("ms") for label in ("all on", "again")]
        full = (both[0] * both[1]) ** 0.5 if all(both) else None
        cells = [milliseconds(time) if time else "failed" for time in both]
        for label in labels:
            time = row["variants"].get(label, {}).get("ms")
            cells.append(f"{time / full:.2f}x" if time and full else "failed")
        rows.append([row["model"], str(row["batch"]), *cells])
    return ["model", "batch", "all on, ms", "again, ms", *(f"without {label}" for label in labels)], rows


def cpu_levers(record: dict[str, Any]) -> str:
    """What each feature of the CPU code generation is worth."""
    return markdown(*cpu_levers_rows(record)) + provenance(record)


RENDERERS: dict[str, Callable[[dict[str, Any]], str]] = {
    "main_job": main_job,
    "ir_scaling": ir_scaling,
    "roofline_vs_measured": roofline_vs_measured,
    "a100_tensor_cores": a100_tensor_cores,
    "coverage": coverage,
    "cpu_inference": cpu_inference,
    "cpu_levers": cpu_levers,
    "quantized_accuracy": quantized_tables.quantized_accuracy,
    "saq": quantized_tables.saq,
    "a100_integer": quantized_tables.a100_integer,
    "cpu_int8": quantized_tables.cpu_int8,
    "spiking_throughput": spiking_tables.spiking_throughput,
    "nir_examples": spiking_tables.nir_examples,
    "spiking_golden": spiking_tables.spiking_golden,
    "spiking_trained": spiking_tables.spiking_trained,
    "spike_density": spiking_tables.spike_density,
    "spiking_learning": spiking_tables.spiking_learning,
    "rsa_macaque": spiking_tables.rsa_macaque,
}
#: Tables made of the results of several benchmarks; every other table is named after its one.
SOURCES = {
    "coverage": (
        "coverage_onnx",
        "coverage_aten",
        "coverage_keras",
        "coverage_transformers",
        "coverage_dgl",
        "fuzz",
    ),
    "spiking_learning": (
        "spiking_learning_kheradpisheh",
        "spiking_learning_mozafari",
        "spiking_learning_rezghi",
        "diehl_cook",
    ),
}


def render(text: str, results: Path) -> str:
    """The README text with every table made anew.  Raises KeyError for a table that nobody renders."""

    def replace(match: re.Match[str]) -> str:
        names = SOURCES.get(match[2], (match[2],))
        records = {name: json.loads((results / f"{name}.json").read_text()) for name in names}
        given = records if match[2] in SOURCES else records[match[2]]
        return f"{match[1]}{RENDERERS[match[2]](given)}{match[3]}"

    return BLOCK.sub(replace, text)


def main() -> None:
    """Rewrite the README, or with --check fail when that would change it."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--check", action="store_true")
    chosen = options.parse_args()
    readme = ROOT / "README.md"
    old = readme.read_text()
    new = render(old, ROOT / "bench" / "results")
    if chosen.check and new != old:
        raise SystemExit("README.md tables are not those of bench/results: run `make tables`")
    if new != old:
        with write_atomically(readme) as stream:
            stream.write(new.encode())


if __name__ == "__main__":
    main()
