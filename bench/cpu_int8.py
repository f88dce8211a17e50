"""Inference with 8-bit integers on the CPU at hand: plait against itself in f32, and against ONNX Runtime.

Each model, with seeded random weights, is calibrated on random inputs and quantised by
plait.  The quantised model goes to ONNX Runtime as the QDQ file that `plait.to_onnx` writes
of it, so that both runtimes compute the same numbers; the f32 file is that of
torch.onnx.export.  All four take turns in one process for a model and batch, with the same number of threads
(`cpu_contenders.py`).

Run: python bench/cpu_int8.py [--models MODEL ...] [--batches 1 8] [--json PATH]
Models that are named replace their rows in the results and leave the others.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import warnings
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from common import write_results
from cpu_contenders import Case, Run, onnx_session, prepare_onnxruntime, prepare_plait, take_turns
from cpu_inference import known_rows, show, turns
from isolated import run_isolated
from main_job import console, timed

import plait
from plait.backends.targets import host_cpu
from plait.frontends.families import example
from plait.ir.bind import bind_dims
from plait.ir.ops import linalg, nn
from plait.passes.quantize.pipeline import quantize
from plait.passes.quantize.quantized import Quantized
from plait.passes.quantize.scheme import INT8, OpScheme, Scheme
from plait.passes.quantize.select import Rule

MODELS = ("resnet18", "mobilenet_v2", "vit_tiny", "mlp")
#: Who runs, and the pairs whose ratios of times are reported: how many times faster the first is.
CONTENDERS = ("plait", "plait int8", "onnxruntime", "onnxruntime int8")
PAIRS = (
    ("plait int8", "plait"),
    ("plait int8", "onnxruntime int8"),
    ("plait int8", "onnxruntime"),
    ("onnxruntime int8", "onnxruntime"),
)
#: Bytes of activations are unsigned, as dot-product instructions take them, and as ONNX Runtime's
#: guide to quantisation asks for.
SCHEME = OpScheme(activation=Scheme(8, symmetric=False, signed=False))
#: Both operands of a product of two activations have signs.
SIGNED = Rule("op:linalg.matmul", INT8)
#: Calibration: batches, and samples of each.
CALIBRATION = (4, 2)
RESULTS = Path(__file__).parent / "results" / "cpu_int8.json"


class QuantizedCase(Case):
    """A model, its batch, and what quantisation makes of it."""

    @cached_property
    def quantized(self) -> Quantized:
        """The model after calibration on random inputs, for this batch."""
        count, size = CALIBRATION
        chosen = example(self.name)
        data = [chosen.inputs(size, 1000 + self.seed + i) for i in range(count)]
        products = any(isinstance(op, (nn.Attention, linalg.Matmul)) for op in self.graph.ops)
        rules = (SIGNED,) if products else ()
        return quantize(self.graph, data, scheme=SCHEME, rules=rules, observer="min-max")


def prepare_plait_int8(case: QuantizedCase) -> Run:
    """Integer arithmetic, compiled for this processor."""
    executable = plait.compile(
        case.quantized.graph, target=host_cpu(), dims={"B": case.batch}, threads=case.threads
    )
    return lambda: executable(**case.inputs)


def prepare_onnxruntime_int8(case: QuantizedCase) -> Run:
    """ONNX Runtime on the same model, with quantise-dequantise pairs, and all its graph optimisations."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{case.name}.onnx"
        plait.save_onnx(bind_dims(case.quantized.qdq, {"B": case.batch}), path)
        session = onnx_session(path, case.threads)
    feeds = {name: tensor.numpy() for name, tensor in case.inputs.items()}
    return lambda: session.run(None, feeds)


def prepare(case: QuantizedCase, name: str) -> Run:
    """A contender of `CONTENDERS`."""
    if name == "plait":
        return prepare_plait(case)
    if name == "onnxruntime":
        return prepare_onnxruntime(case)
    return prepare_plait_int8(case) if name == "plait int8" else prepare_onnxruntime_int8(case)


def race(case: QuantizedCase, **options: Any) -> dict[str, Any]:
    """All contenders on one model and batch.

    Returns:
        By contender the figures of `take_turns`, `prepare_s` and `snr_db`, the signal-to-noise ratio of
        its result against eager torch; or `failure`.  `disagreement`: the largest
        difference of the two int8 results, in 255ths of the range of the f32 result.
    """
    import torch

    case.use_threads()
    found: dict[str, dict[str, Any]] = {}
    ready: dict[str, Run] = {}
    results: dict[str, np.ndarray] = {}
    with torch.no_grad():
        expected = _first(case.model(**case.inputs))
        for name in CONTENDERS:
            try:
                (run, result), seconds = timed(lambda name=name: _prepared(case, name))
                ready[name], results[name] = run, result
                found[name] = {"prepare_s": round(seconds, 1), "snr_db": snr_db(expected, result)}
            except Exception as error:  # one contender that cannot run leaves the others
                lines = str(error).strip().splitlines() or [""]
                found[name] = {"failure": f"{type(error).__name__}: {lines[0][:200]}"}
        for name, figures in take_turns(ready, **options).items():
            found[name] = figures | found[name]
    row: dict[str, Any] = {"contenders": found}
    if {"plait int8", "onnxruntime int8"} <= results.keys():
        gap = np.max(np.abs(results["plait int8"] - results["onnxruntime int8"]))
        row["disagreement"] = round(float(gap / (expected.max() - expected.min()) * 255), 3)
    return row


def _prepared(case: QuantizedCase, name: str) -> tuple[Run, np.ndarray]:
    run = prepare(case, name)
    return run, _first(run())


def _first(result: Any) -> np.ndarray:
    """The first output as an array."""
    one = result[0] if isinstance(result, (tuple, list)) else result
    return one.detach().numpy() if hasattr(one, "detach") else np.asarray(one)


def snr_db(signal: np.ndarray, found: np.ndarray) -> float | None:
    """10 log10 of the power of the signal over that of the difference; None where they agree."""
    noise = float(np.square(found.astype(np.float64) - signal).sum())
    power = float(np.square(signal.astype(np.float64)).sum())
    return None if noise == 0.0 else round(10.0 * float(np.log10(power / noise)), 2)


def ratio(row: dict[str, Any], pair: tuple[str, str]) -> float | None:
    """How many times faster the first of a pair is; None where either has no time."""
    times = [row["contenders"].get(name, {}).get("ms") for name in pair]
    return None if None in times else times[1] / times[0]


def summary(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By pair `A / B`: the geometric mean of how many times faster A is, and the rows where it is slower."""
    found: dict[str, dict[str, Any]] = {}
    for pair in PAIRS:
        ratios = {
            f"{row['model']} at batch {row['batch']}": value
            for row in rows
            if (value := ratio(row, pair)) is not None
        }
        if ratios:
            found[" / ".join(pair)] = {
                "geometric_mean": round(statistics.geometric_mean(ratios.values()), 4),
                "losses": {place: round(value, 3) for place, value in ratios.items() if value < 1.0},
                "rows": len(ratios),
            }
    return found


def cells(row: dict[str, Any]) -> list[str]:
    """A line of the table."""
    line = [row["model"], str(row["batch"])]
    for name in CONTENDERS:
        figures = row["contenders"][name]
        line.append(f"{figures['ms']:.3g}" if "ms" in figures else "failed")
    for pair in PAIRS:
        value = ratio(row, pair)
        line.append("" if value is None else f"{value:.2f}x")
    line += [str(row["contenders"][name].get("snr_db", "")) for name in ("plait int8", "onnxruntime int8")]
    return [*line, str(row.get("disagreement", ""))]


def headings() -> list[str]:
    """Of the table."""
    short = {"plait": "plait", "plait int8": "plait8", "onnxruntime": "ORT", "onnxruntime int8": "ORT8"}
    times = [f"{short[name]} ms" for name in CONTENDERS]
    ratios = [" / ".join(short[name] for name in pair) for pair in PAIRS]
    return ["model", "batch", *times, *ratios, "plait8 dB", "ORT8 dB", "gap, 1/255"]


def main() -> None:
    """Run the benchmark and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, metavar="MODEL", help=", ".join(MODELS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--threads", type=int, default=2, help="of each contender")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each contender")
    parser.add_argument("--turn", type=float, default=0.5, help="seconds of one turn")
    parser.add_argument("--pause", type=float, default=0.25, help="idle seconds before a turn")
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds for a model and batch")
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)  # torch.export's own
    load_before = round(os.getloadavg()[0], 2)
    known = known_rows(options.json, options)
    order = {name: index for index, name in enumerate(MODELS)}
    cases = [
        QuantizedCase(name, batch, options.threads)
        for name in options.models or MODELS
        for batch in options.batches
    ]
    failed = []
    for case, found in run_isolated(
        cases, lambda case: race(case, **turns(options)), workers=1, seconds=options.limit
    ):
        if isinstance(found, Exception):
            failed.append(f"{case.name} at batch {case.batch}: {found}")
            continue
        row: dict[str, Any] = {"model": case.name, "batch": case.batch, "threads": case.threads}
        known[case.name, case.batch] = row | {"rounds": options.rounds, "load_before": load_before} | found
        console.print(f"{case.name} at batch {case.batch}: {found}")
        rows = [known[key] for key in sorted(known, key=lambda key: (key[1], order[key[0]]))]
        write_results(options.json, "cpu_int8", {"models": MODELS, "summary": summary(rows), "rows": rows})
    rows = [known[key] for key in sorted(known, key=lambda key: (key[1], order[key[0]]))]
    show("int8 on the CPU", headings(), [cells(row) for row in rows])
    for pair, figures in summary(rows).items():
        losses = ", ".join(f"{place} {value:.2f}x" for place, value in figures["losses"].items()) or "none"
        console.print(f"{pair}: {figures['geometric_mean']:.2f}x; slower: {losses}")
    failed += [
        f"{row['model']} at batch {row['batch']}, {name}: {figures['failure']}"
        for row in rows
        for name, figures in row["contenders"].items()
        if "failure" in figures
    ]
    if failed:
        raise SystemExit("\n".join(failed))
    console.print(f"details in {options.json}")


if __name__ == "__main__":
    main()
