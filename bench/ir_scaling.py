"""Parse, verify and print time of the IR against graph size.

Claim: 5,000 ops parse and verify in under 1 s, print in under 0.5 s, and growth is
linear to 50,000 ops.  Run: python bench/ir_scaling.py [--json PATH] [--figure PATH]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import write_results

from plait.ir import Graph, Loc, TensorType, parse
from plait.ir.ops import core, nn
from plait.ir.types import f32


def residual_network(ops: int) -> Graph:
    """A residual chain of `ops` ops: convolution, batch norm, relu, convolution, add; symbolic batch."""
    graph = Graph("chain")
    batch = graph.declare_dim("B", 1, 64)
    x = graph.add_input("image", TensorType(f32, (batch, 8, 16, 16)))
    weight = np.zeros((8, 8, 3, 3), np.float32)
    statistics_ = [graph.add_constant(f"bn.{name}", np.ones(8, np.float32)) for name in ("mean", "variance")]
    weights = [graph.add_constant(f"conv{i}.weight", weight + i) for i in range(16)]
    block = 0
    while len(graph) < ops:
        place = Loc.at(f"layer{block // 100}.{block % 100}", "net.py", block + 1)
        h = graph.emit(nn.Conv2d(x, weights[block % 16], pad=(1, 1)), name=f"block{block}.conv1", loc=place)
        h = graph.emit(nn.BatchNorm(h, statistics_[0], statistics_[1]), name=f"block{block}.bn1", loc=place)
        h = graph.emit(nn.Relu(h), name=f"block{block}.relu", loc=place)
        h = graph.emit(nn.Conv2d(h, weights[-block % 16], pad=(1, 1)), name=f"block{block}.conv2", loc=place)
        x = graph.emit(core.Add(h, x), name=f"block{block}.add", loc=place)
        block += 1
    graph.set_outputs([x])
    return graph


def median_seconds(run: Callable[[], object], repeats: int) -> float:
    """Median wall time of `repeats` runs after one warm-up, in seconds."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(ops: int, repeats: int) -> dict[str, float]:
    """Seconds to print, parse and verify a graph of `ops` ops."""
    graph = residual_network(ops)
    text = str(graph)
    return {
        "ops": len(graph),
        "text_mb": len(text) / 1e6,
        "print_s": median_seconds(lambda: str(graph), repeats),
        "parse_s": median_seconds(lambda: parse(text, verify=False), repeats),
        "verify_s": median_seconds(graph.verify, repeats),
    }


def draw(rows: list[dict[str, float]], path: Path) -> None:
    """Time against size on logarithmic axes, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for key, label in (("parse_s", "parse"), ("verify_s", "verify"), ("print_s", "print")):
        axes.loglog([r["ops"] for r in rows], [r[key] for r in rows], marker="o", label=label)
    axes.loglog(
        [rows[0]["ops"], rows[-1]["ops"]],
        [rows[0]["parse_s"], rows[0]["parse_s"] * rows[-1]["ops"] / rows[0]["ops"]],
        linestyle=":",
        color="grey",
        label="linear",
    )
    axes.set(xlabel="ops", ylabel="seconds", title="IR text: time against graph size")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure, print the table, write JSON and the figure."""
    here = Path(__file__).parent / "results"
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--json", type=Path, default=here / "ir_scaling.json")
    options.add_argument("--figure", type=Path, default=here / "ir_scaling.png")
    options.add_argument("--repeats", type=int, default=5)
    chosen = options.parse_args()
    rows = []
    print(f"{'ops':>7} {'text MB':>8} {'print s':>8} {'parse s':>8} {'verify s':>9} {'us/op':>7}")
    for ops in (500, 1000, 2500, 5000, 10000, 25000, 50000):
        row = measure(ops, chosen.repeats)
        rows.append(row)
        per_op = (row["parse_s"] + row["verify_s"]) / row["ops"] * 1e6
        print(
            f"{row['ops']:>7.0f} {row['text_mb']:>8.2f} {row['print_s']:>8.3f} {row['parse_s']:>8.3f} "
            f"{row['verify_s']:>9.3f} {per_op:>7.1f}"
        )
    write_results(chosen.json, "ir_scaling", {"repeats": chosen.repeats, "rows": rows})
    draw(rows, chosen.figure)


if __name__ == "__main__":
    main()
