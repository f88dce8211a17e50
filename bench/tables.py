"""Write the README's tables from bench/results/*.json.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; what is between
is replaced.  Run: python bench/tables.py [--check]
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from plait.ir.files import write_atomically

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def markdown(headings: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def provenance(record: dict[str, Any]) -> str:
    """When, on what and with which versions a benchmark ran."""
    wanted = ("torch", "apache-tvm", "onnx")
    versions = ", ".join(f"{k} {v}" for k, v in record["versions"].items() if k in wanted)
    where = record["machine"]
    return f"\nRun {record['date']} on {where['cores']} cores of {where['processor']}; {versions}.\n"


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


RENDERERS: dict[str, Callable[[dict[str, Any]], str]] = {
    "main_job": main_job,
    "ir_scaling": ir_scaling,
    "roofline_vs_measured": roofline_vs_measured,
    "a100_tensor_cores": a100_tensor_cores,
    "coverage": coverage,
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
    )
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
