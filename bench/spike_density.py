"""Weighted sums of spikes by events against dense ones, by density, and how well their choice is predicted.

Each layer is a graph of one op, compiled once for each form; random spikes of each density run through both
in turns on one thread, whose time on the processor is taken, so that other load on the machine cancels.

    python bench/spike_density.py --fit      fits the constants of plait.ir.spike_crossover on 48 layers
    python bench/spike_density.py            measures 60 other layers: the ratio of times by density, and how
                                             often the pass choose-spike-kernels names the faster form

Options: [--rounds 9] [--layers N] [--json PATH] [--rows PATH]
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import machine, write_results
from scipy.optimize import least_squares, nnls  # type: ignore[import-untyped]

import plait
from plait.ir import Graph, SpikeType
from plait.ir import spike_crossover as model
from plait.ir.files import write_atomically
from plait.ir.ops import spike
from plait.passes import optimize
from plait.passes.spike.choose_kernels import ChooseSpikeKernels

DENSITIES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
#: The clock is the processor's time of the one thread that computes: on a shared machine, threads that wait
#: for one another, or for their turn, tell of the load of others.  All forms share images out alike.
THREADS = 1
FORMS: tuple[model.Form, ...] = ("dense", "gather_rows", "popcount")
SEED = 0
#: Short layers run more often: for so long, but at most so many times the rounds.
SECONDS, MOST = 2.0, 8


@dataclass(frozen=True)
class Layer:
    """A convolution of `size` x `size` images with pads that keep the size, or a dense layer (size 0)."""

    images: int
    channels: int
    outputs: int
    kernel: int = 0
    size: int = 0
    stride: int = 1

    def __str__(self) -> str:
        if not self.size:
            return f"linear {self.channels}-{self.outputs} x{self.images}"
        stride = f"/{self.stride}" if self.stride > 1 else ""
        window = f"{self.kernel}x{self.kernel}{stride} {self.size}"
        return f"conv {self.channels}-{self.outputs} {window} x{self.images}"

    @property
    def input_shape(self) -> tuple[int, ...]:
        if not self.size:
            return (self.images, self.channels)
        return (self.images, self.channels, self.size, self.size)

    def graph(self, form: str, density: float | None = None) -> Graph:
        """A graph of one op."""
        random = np.random.default_rng(SEED)
        g = Graph("layer")
        x = g.add_input("x", SpikeType(self.input_shape, density))
        window = (self.kernel, self.kernel) if self.size else ()
        weights = random.standard_normal((self.outputs, self.channels, *window)).astype(np.float32)
        if form == "popcount":
            weights = np.where(weights > 0, np.float32(0.1), np.float32(-0.1))
        w = g.add_constant("w", weights)
        b = g.add_constant("b", random.standard_normal(self.outputs).astype(np.float32))
        options: dict[str, Any] = {"kernel": form if form in FORMS else "auto"}
        if self.size:
            pad = (self.kernel // 2, self.kernel // 2)
            made: Any = spike.SpikeConv2d(x, w, b, stride=(self.stride, self.stride), pad=pad, **options)
        else:
            made = spike.SpikeLinear(x, w, b, **options)
        g.set_outputs([g.emit(made)])
        g.verify()
        return g

    def sizes(self) -> model.SpikeLayer:
        """As the model sees it."""
        (op,) = self.graph("dense").walk()
        assert isinstance(op, (spike.SpikeConv2d, spike.SpikeLinear))
        found = model.layer_of(op)
        assert found is not None
        return found


def conv(*layers: tuple[int, ...]) -> list[Layer]:
    """Layers from (channels, outputs, kernel, size[, stride])."""
    return [Layer(16, *layer) for layer in layers]


def linear(images: int, *layers: tuple[int, int]) -> list[Layer]:
    """Layers from (inputs, outputs)."""
    return [Layer(images, *layer) for layer in layers]


#: Layers that the constants are fitted to.
FIT = [
    *conv((1, 16, 5, 28), (2, 24, 3, 32), (2, 48, 5, 28), (4, 8, 3, 28), (4, 40, 1, 32), (6, 16, 5, 14)),
    *conv(
        (8, 24, 5, 28), (12, 32, 3, 28), (16, 16, 1, 28), (16, 48, 3, 32), (20, 20, 5, 14), (24, 64, 5, 14)
    ),
    *conv(
        (32, 16, 3, 28), (32, 48, 5, 28), (48, 48, 3, 14), (48, 96, 1, 14), (64, 32, 3, 28), (64, 96, 5, 7)
    ),
    *conv(
        (80, 80, 3, 14),
        (96, 96, 1, 7),
        (96, 128, 3, 7),
        (112, 256, 3, 7),
        (128, 48, 5, 14),
        (160, 160, 1, 14),
    ),
    *conv(
        (192, 256, 3, 7),
        (256, 96, 3, 14),
        (224, 224, 1, 7),
        (128, 10, 1, 7),
        (2, 64, 3, 32, 2),
        (32, 96, 3, 28, 2),
    ),
    *conv((96, 192, 5, 14, 2), (64, 80, 1, 28, 2)),
    *linear(16, (784, 100), (784, 500), (900, 300), (1024, 800), (1152, 10), (1500, 200), (2000, 1000)),
    *linear(16, (2048, 64), (3000, 500), (3136, 1000), (4096, 256), (4096, 4096)),
    *linear(64, (784, 256), (1100, 600), (2048, 1500), (4000, 10)),
]

#: Layers that the choice is judged on, none of which is among FIT.
EVALUATION = [
    *conv((1, 32, 5, 28), (1, 12, 3, 28), (2, 16, 3, 32), (2, 32, 5, 32), (2, 64, 3, 28), (2, 128, 3, 32)),
    *conv((3, 64, 3, 32), (4, 32, 5, 28), (6, 30, 5, 28), (8, 16, 3, 28), (8, 64, 1, 28), (10, 20, 5, 14)),
    *conv(
        (12, 64, 5, 14), (15, 40, 5, 14), (16, 32, 3, 28), (16, 32, 5, 14), (16, 64, 1, 32), (24, 24, 3, 14)
    ),
    *conv(
        (30, 100, 5, 14), (32, 32, 3, 32), (32, 64, 5, 28), (32, 64, 3, 14), (32, 128, 1, 14), (40, 40, 5, 7)
    ),
    *conv(
        (64, 64, 3, 28), (64, 64, 3, 32), (64, 128, 3, 14), (64, 64, 5, 14), (64, 256, 1, 14), (64, 16, 1, 28)
    ),
    *conv((100, 200, 3, 7), (128, 128, 3, 14), (128, 128, 3, 7), (128, 256, 5, 7), (128, 128, 1, 14)),
    *conv((256, 256, 3, 7), (256, 128, 3, 14), (256, 256, 1, 7), (256, 64, 1, 14), (200, 100, 5, 7)),
    *conv(
        (2, 32, 3, 32, 2), (16, 48, 5, 28, 2), (64, 128, 3, 28, 2), (128, 256, 3, 14, 2), (32, 64, 1, 28, 2)
    ),
    *linear(16, (784, 10), (784, 400), (784, 800), (1024, 1024), (1600, 500), (2048, 512), (3136, 128)),
    *linear(16, (4096, 1000), (4096, 2048)),
    *linear(64, (784, 128), (784, 1000), (1024, 10), (1568, 800), (2304, 256), (4096, 512)),
]


def spikes(layer: Layer, density: float) -> np.ndarray:
    """Random spikes of exactly that density, up to rounding."""
    random = np.random.default_rng(SEED + 1)
    size = int(np.prod(layer.input_shape))
    found = np.zeros(size, bool)
    found[random.permutation(size)[: round(density * size)]] = True
    return found.reshape(layer.input_shape)


def measured(layer: Layer, rounds: int) -> list[dict[str, Any]]:
    """The lower quartile of the times of each form at each density, in microseconds; forms take turns."""
    compiled: dict[str, Callable[..., Any]] = {
        form: plait.compile(layer.graph(form), target="cpu", threads=THREADS) for form in FORMS
    }
    data = {density: spikes(layer, density) for density in DENSITIES}
    times: dict[tuple[str, float], list[float]] = {}
    started = time.perf_counter()
    turn = 0
    while turn <= rounds or (time.perf_counter() - started < SECONDS and turn <= MOST * rounds):
        for density in DENSITIES:
            for form, run in compiled.items():
                before = time.thread_time()
                run(data[density])
                if turn:  # the first run warms caches up
                    times.setdefault((form, density), []).append(time.thread_time() - before)
        turn += 1
    # Others share caches and memory; a quiet moment that only one form has met makes the least time unfair.
    typical = {key: round(float(np.quantile(found, 0.25)) * 1e6, 1) for key, found in times.items()}
    return [
        {"layer": str(layer), "density": density, **{f"{form}_us": typical[form, density] for form in FORMS}}
        for density in DENSITIES
    ]


# -- the fit ------------------------------------------------------------------------------------
def fit(layers: Sequence[Layer], rows: Sequence[dict[str, Any]]) -> dict[model.Form, dict[str, float]]:
    """Seconds for each unit of work of each form, by the least errors of logarithms.

    Ratios of two forms, which other load moves least, weigh most where they are near 1.
    """
    sizes = {str(layer): layer.sizes() for layer in layers}
    names: dict[model.Form, list[str]] = {}
    work: dict[model.Form, np.ndarray] = {}
    start = []
    measured = {form: np.array([row[f"{form}_us"] * 1e-6 for row in rows]) for form in FORMS}
    for form in FORMS:
        found = [model.work(form, sizes[row["layer"]], row["density"], THREADS) for row in rows]
        names[form] = list(dict.fromkeys(name for one in found for name in one))
        work[form] = np.array([[one.get(name, 0.0) for name in names[form]] for one in found])
        relative = work[form] / measured[form][:, None]
        scale = relative.max(axis=0)
        # Least squares of relative errors with no constant below zero.
        first, _ = nnls(relative / scale, np.ones(len(rows)))
        start.append(np.log(np.maximum(first, 1e-3) / scale))
    cuts = np.cumsum([len(part) for part in start])[:-1]
    others: tuple[model.Form, ...] = ("gather_rows", "popcount")
    weights = {form: 0.5 / (0.2 + np.abs(np.log(measured[form] / measured["dense"]))) for form in others}

    def constants(logarithms: np.ndarray) -> dict[model.Form, np.ndarray]:
        found = dict(zip(FORMS, map(np.exp, np.split(logarithms, cuts)), strict=True))
        for form in others:  # a call of an executable takes equally long, whatever it computes
            found[form][names[form].index("call")] = found["dense"][names["dense"].index("call")]
        return found

    def errors(logarithms: np.ndarray) -> dict[model.Form, np.ndarray]:
        each = constants(logarithms)
        return {form: np.log(work[form] @ each[form] / measured[form]) for form in FORMS}

    def residuals(logarithms: np.ndarray) -> np.ndarray:
        found = errors(logarithms)
        ratios = [weights[form] * (found[form] - found["dense"]) for form in others]
        return np.concatenate([*(0.3 * one for one in found.values()), *ratios])

    solution = least_squares(residuals, np.concatenate(start), loss="soft_l1", f_scale=0.1).x
    for form, one in errors(solution).items():
        size = np.abs(np.expm1(one))
        print(f"{form}: median error {np.median(size):.1%}, 90 % below {np.quantile(size, 0.9):.1%}")
    found_seconds: dict[model.Form, dict[str, float]] = {}
    for form, part in constants(solution).items():
        # What no layer spends a nanosecond on is left out.
        spent = work[form].max(axis=0) * part
        found_seconds[form] = {
            name: float(f"{value:.4g}")
            for name, value, most in zip(names[form], part, spent, strict=True)
            if most > 1e-9
        }
    return found_seconds


def write_constants(seconds: dict[model.Form, dict[str, float]]) -> None:
    """Put the constants where the model reads them."""
    path = Path(model.__file__)
    lines = ["FITTED = Fitted(", f"    machine={machine()['processor']!r},".replace("'", '"')]
    lines += [f'    date="{time.strftime("%Y-%m-%d")}",', "    seconds={"]
    for form, each in seconds.items():
        lines.append(f'        "{form}": {{')
        lines += [f'            "{name}": {value!r},' for name, value in each.items()]
        lines.append("        },")
    lines += ["    },", ")"]
    marks = (
        "# begin of what bench/spike_density.py --fit writes",
        "# end of what bench/spike_density.py --fit writes",
    )
    pattern = re.compile(f"({re.escape(marks[0])}\n).*?({re.escape(marks[1])})", re.DOTALL)
    text = pattern.sub(lambda match: match[1] + "\n".join(lines) + "\n" + match[2], path.read_text())
    with write_atomically(path) as stream:
        stream.write(text.encode())


# -- the evaluation -----------------------------------------------------------------------------
def chosen(layer: Layer, density: float, form: str = "auto") -> str:
    """What the pass makes of a layer; `form` "popcount" gives it weights of two levels."""
    graph = layer.graph(form, density)
    (op,) = graph.walk()
    if form == "popcount":
        graph.replace(op, op.evolve(kernel="auto"))
    after, _ = optimize(graph, [ChooseSpikeKernels()])
    (op,) = after.walk()
    return str(op.kernel)  # type: ignore[attr-defined]  # it is one of spikes


def judged(rows: Sequence[dict[str, Any]], choice: str, forms: Sequence[str]) -> dict[str, float]:
    """The share of rows in which the choice measured fastest, and fastest or within 5 % of it."""
    strict = near = 0
    for row in rows:
        best = min(row[f"{form}_us"] for form in forms)
        taken = row[f"{row[choice]}_us"]
        strict += taken == best
        near += taken <= 1.05 * best
    return {"strict": round(strict / len(rows), 4), "within_5_percent": round(near / len(rows), 4)}


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    """Time by events over that of the dense form, by density."""
    found = []
    for density in DENSITIES:
        ratios = [row["gather_rows_us"] / row["dense_us"] for row in rows if row["density"] == density]
        found.append(
            {
                "density": density,
                "median": round(statistics.median(ratios), 3),
                "min": round(min(ratios), 3),
                "max": round(max(ratios), 3),
                "faster_by_events": sum(ratio < 1 for ratio in ratios),
            }
        )
    return found


def _of(layer: Layer, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a layer among those of an earlier run."""
    return [row for row in rows if row["layer"] == str(layer)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fit", action="store_true", help="fit the constants of the model instead")
    parser.add_argument("--rounds", type=int, default=9, help="least number of turns")
    parser.add_argument("--rows", type=Path, help="JSON of an earlier run, whose times are taken instead")
    parser.add_argument("--layers", type=int, help="only so many of the layers")
    parser.add_argument(
        "--json", type=Path, help="where results go, by default bench/results after a whole run"
    )
    options = parser.parse_args()
    layers = (FIT if options.fit else EVALUATION)[: options.layers]
    started = time.monotonic()
    rows = []
    kept = json.loads(options.rows.read_text())["rows"] if options.rows else None
    for number, layer in enumerate(layers):
        found = measured(layer, options.rounds) if kept is None else _of(layer, kept)
        rows += found
        ratios = " ".join(f"{row['gather_rows_us'] / row['dense_us']:.2f}" for row in found)
        print(
            f"{number + 1:3d} {layer!s:32} dense {found[0]['dense_us']:8.0f} us, by events {ratios}",
            flush=True,
        )
    if options.fit:
        seconds = fit(layers, rows)
        if options.layers is None:
            write_constants(seconds)
        if options.json:
            write_results(options.json, "spike_density_fit", {"rounds": options.rounds, "rows": rows})
        return
    by_name = {str(layer): layer for layer in layers}
    for row in rows:
        row["chosen"] = chosen(by_name[row["layer"]], row["density"])
        row["chosen_of_two_levels"] = chosen(by_name[row["layer"]], row["density"], "popcount")
    results = {
        "layers": len(layers),
        "threads": THREADS,
        "rounds": options.rounds,
        "seed": SEED,
        "seconds": round(time.monotonic() - started, 1),
        "constants": {"machine": model.FITTED.machine, "date": model.FITTED.date, "layers": len(FIT)},
        "events_over_dense": summary(rows),
        "right_choices": judged(rows, "chosen", FORMS[:2]),
        "right_choices_of_two_levels": judged(rows, "chosen_of_two_levels", FORMS),
        "rows": rows,
    }
    for line in results["events_over_dense"]:  # type: ignore[attr-defined]  # a list of dicts
        print(line)
    print("right choices:", results["right_choices"], "two levels:", results["right_choices_of_two_levels"])
    if options.json or options.layers is None:
        path = options.json or Path(__file__).parent / "results" / "spike_density.json"
        write_results(path, "spike_density", results)


if __name__ == "__main__":
    main()
