"""The roofline against published A100 measurements of whole models, losses included.

Regime: eager PyTorch on A100-80GB MIG slices, FP32 tensors, TF32 convolutions.
Measured: ParvaGPU (SC 2024, single process, batch / throughput) and MIGProfiler
(CUDA-event latency, DCGM framebuffer use).  Two latency constants and the
context's memory line are fitted on ResNet-50 (`plait.predictors.calibration`);
rows of other models are not fitted.

Run: python bench/roofline_vs_measured.py DATA
where DATA holds parvagpu_mig/all_models.csv and migprofiler/all.csv.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import write_results

from plait.frontends.families import example
from plait.frontends.pytorch import lower_torch
from plait.predictors import predict
from plait.predictors.prediction import Prediction

if TYPE_CHECKING:
    import torch

    from plait.ir import Graph

DEVICE = "a100-sxm4-80gb"
SLICES = {"1": "1g.10gb", "2": "2g.20gb", "3": "3g.40gb", "4": "4g.40gb", "7": "7g.80gb"}
CALIBRATED_ON = "resnet50"


def _resnet(depths: tuple[int, ...]) -> Callable[[], torch.nn.Module]:
    def build() -> torch.nn.Module:
        from plait.frontends.families.resnet import Bottleneck, ResNet

        return ResNet(Bottleneck, depths).eval()

    return build


MODELS: dict[str, Callable[[], torch.nn.Module]] = {
    "resnet50": lambda: example("resnet50").build(0),
    "resnet101": _resnet((3, 4, 23, 3)),
    "resnet152": _resnet((3, 8, 36, 3)),
    "densenet121": lambda: example("densenet121").build(0),
    "vgg16": lambda: example("vgg16").build(0),
    "mobilenet_v2": lambda: example("mobilenet_v2").build(0),
    "efficientnet_b0": lambda: example("efficientnet_b0").build(0),
}


@dataclass(frozen=True)
class Row:
    """One measurement and its prediction."""

    source: str
    model: str
    profile: str
    batch: int
    measured_ms: float
    measured_mb: float | None
    predicted_ms: float = 0.0
    predicted_mb: float = 0.0

    @property
    def latency_ratio(self) -> float:
        return self.predicted_ms / self.measured_ms

    @property
    def memory_ratio(self) -> float | None:
        return None if self.measured_mb is None else self.predicted_mb / self.measured_mb


def read(data: Path) -> Iterator[Row]:
    """The measured rows of the models that this benchmark can build."""
    with (data / "parvagpu_mig" / "all_models.csv").open() as stream:
        for line in csv.DictReader(stream):
            rate = float(line["throughput"])  # zero where it did not run
            if line["model"] in MODELS and line["num_processes"] == "1" and rate:
                batch = int(line["batch"])
                yield Row(
                    "ParvaGPU", line["model"], SLICES[line["mig_gpcs"]], batch, batch / rate * 1e3, None
                )
    with (data / "migprofiler" / "all.csv").open() as stream:
        for line in csv.DictReader(stream):
            if line["task"] == "infer_cv" and line["model"] in MODELS:
                yield Row(
                    "MIGProfiler",
                    line["model"],
                    line["mig"],
                    int(line["batch"]),
                    float(line["latency_ms"]),
                    float(line["fb_used_mean_mib"]),
                )


def lowered(model: str) -> Graph:
    """The model as a graph with a symbolic batch."""
    inputs = example("resnet50").inputs(2, 0)
    return lower_torch(MODELS[model](), inputs, dynamic={"image": {0: ("B", 1, 512)}}, name=model)


def compare(rows: list[Row]) -> list[Row]:
    """The rows with predictions on their slices."""
    graphs = {model: lowered(model) for model in dict.fromkeys(row.model for row in rows)}
    predictions: dict[tuple[str, int], Prediction] = {}
    found = []
    for row in rows:
        key = row.model, row.batch
        if key not in predictions:
            predictions[key] = predict(
                graphs[row.model], DEVICE, {"B": row.batch}, precision="pytorch", fused=False
            )
        on_slice = {c.profile.name: c for c in predictions[key].mig.alternatives}[row.profile]
        found.append(replace(row, predicted_ms=on_slice.latency_ms or 0.0, predicted_mb=on_slice.needed_mb))
    return found


def error(ratios: list[float]) -> str:
    """Mean absolute percentage error and the range of predicted over measured."""
    if not ratios:
        return "no rows"
    mean = statistics.fmean(abs(r - 1) for r in ratios)
    return f"{mean:.1%} ({min(ratios):.2f} .. {max(ratios):.2f})"


def quantiles(ratios: list[float]) -> dict[str, float]:
    """5 %, 50 % and 95 % points of measured over predicted, which the intervals are taken from."""
    ordered = sorted(1 / r for r in ratios)
    points = {f"p{q}": ordered[round((len(ordered) - 1) * q / 100)] for q in (5, 50, 95)}
    return {"count": len(ordered), **points}


def summary(rows: list[Row]) -> dict[str, Any]:
    """The table, and the quantiles behind the intervals."""
    headings = [
        "source",
        "model",
        "fitted",
        "rows",
        "whole 7g: error (predicted / measured)",
        "smaller slices",
    ]
    body = []
    for source, model in dict.fromkeys((row.source, row.model) for row in rows):
        own = [row for row in rows if (row.source, row.model) == (source, model)]
        large = [row.latency_ratio for row in own if row.profile.startswith("7g")]
        small = [row.latency_ratio for row in own if not row.profile.startswith("7g")]
        fitted = "at 7g" if model == CALIBRATED_ON else "no"
        body.append([source, model, fitted, str(len(own)), error(large), error(small)])
    memory = [row.memory_ratio for row in rows if row.memory_ratio is not None]
    body.append(["MIGProfiler", "resnet50 memory", "context at batch 1", str(len(memory)), error(memory), ""])
    unfitted = [r for r in rows if r.model != CALIBRATED_ON or not r.profile.startswith("7g")]
    return {
        "table": {"headings": headings, "rows": body},
        "measured_over_predicted": {
            "latency_of_unfitted_rows": quantiles([row.latency_ratio for row in unfitted]),
            "latency_of_other_models": quantiles(
                [r.latency_ratio for r in unfitted if r.model != CALIBRATED_ON]
            ),
            "memory": quantiles(memory),
        },
    }


def main() -> None:
    """Compare, print the table, write JSON."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("data", type=Path, nargs="?", help="folder with parvagpu_mig/ and migprofiler/")
    options.add_argument(
        "--json", type=Path, default=Path(__file__).parent / "results" / "roofline_vs_measured.json"
    )
    options.add_argument("--rows", action="store_true", help="print every row too")
    chosen = options.parse_args()
    if chosen.data is None:
        options.exit(
            2,
            "needs DATA, a folder with parvagpu_mig/all_models.csv (github.com/MunQ-Lee/ParvaGPU_SC24,\n"
            "prof_data/*.csv joined, with a column for the model) and migprofiler/all.csv\n"
            "(github.com/MLSysOps/MIGProfiler at 5462a7c, its csv files joined)\n",
        )
    rows = compare(list(read(chosen.data)))
    if chosen.rows:
        for row in rows:
            print(
                f"{row.source:12} {row.model:16} {row.profile:8} {row.batch:>4} {row.measured_ms:>8.2f} ms "
                f"{row.predicted_ms:>8.2f} ms  {row.latency_ratio:.2f}"
            )
    results = summary(rows)
    for line in (results["table"]["headings"], *results["table"]["rows"]):
        print(" | ".join(line))
    print(results["measured_over_predicted"])
    write_results(chosen.json, "roofline_vs_measured", results)


if __name__ == "__main__":
    main()
