"""Sharpness-aware quantisation (SAQ) against plain quantisation-aware training, at 2, 3 and 4 bits.

A small residual net on MNIST's t10k images, trained in floating point for each seed, then with
LSQ quantisers by every method from that start, all on the IR.  rho is chosen for each method and
width by validation accuracy on other seeds.  Accuracy is that of 2,000 test images; the Hessian and
the sharpness are of the quantised weights on training images.  Time is CPU time of training.

Run: python bench/saq.py --mnist FOLDER [--work FOLDER] [--resume] [--json PATH] [--figure PATH]
Records go to WORK/records.jsonl as they come; --resume goes on from there.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import torch
from common import write_results
from saq_data import Split, load_mnist
from saq_train import Method, Run, Setting, loss_of, train_float, train_quantised, trained_module

import plait
from plait.passes.quantize.training import Landscape, plot_planes

#: Methods with a rho to choose, those without, and one that takes that of another.
SHARP: tuple[Method, ...] = ("sam", "case1", "case2", "case3")
PLAIN: tuple[Method, ...] = ("sgd", "adamw")
BORROWED: dict[Method, Method] = {"reuse": "case3"}
LABELS: dict[str, str] = {
    "sgd": "LSQ, SGD",
    "adamw": "LSQ, AdamW",
    "sam": "SAM on all parameters, SGD",
    "case1": "SAQ case 1, SGD",
    "case2": "SAQ case 2, SGD",
    "case3": "SAQ case 3, SGD",
    "reuse": "SAQ case 3, SGD, perturbation reused",
    "case3-adamw": "SAQ case 3, AdamW",
}
RHOS = (0.02, 0.1, 0.3)
#: Two-sided 95 % quantiles of Student's t by number of pairs.
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}

_DATA: Split
_SETTING: Setting
_WORK: Path


def _start_worker(mnist: Path, setting: Setting, work: Path) -> None:
    global _DATA, _SETTING, _WORK
    torch.set_num_threads(1)
    _DATA, _SETTING, _WORK = load_mnist(mnist), setting, work


def float_path(work: Path, seed: int) -> Path:
    """Where the net trained in floating point is kept."""
    return work / f"float_{seed}.plait"


def _train_float(seed: int) -> dict[str, Any]:
    graph, record = train_float(_DATA, _SETTING, seed)
    graph.save(float_path(_WORK, seed))
    return {"key": f"float/{seed}", **record}


def _train_quantised(run: Run) -> dict[str, Any]:
    graph = plait.load(float_path(_WORK, run.seed))
    assert isinstance(graph, plait.Graph)
    return {"key": run.key(), **train_quantised(graph, _DATA, _SETTING, run)}


class Records:
    """What is done, by key, and the file it is kept in."""

    def __init__(self, path: Path, resume: bool) -> None:
        self.path = path
        self.held: dict[str, dict[str, Any]] = {}
        if resume and path.exists():
            for line in path.read_text().splitlines():
                record = json.loads(line)
                self.held[record["key"]] = record
        elif path.exists():
            path.unlink()

    def add(self, record: dict[str, Any]) -> None:
        """Keep a record, on disk at once."""
        self.held[record["key"]] = record
        with self.path.open("a") as stream:
            stream.write(json.dumps(record) + "\n")


def finish(
    pool: ProcessPoolExecutor, records: Records, work: Callable[[Any], dict[str, Any]], keys: dict[str, Any]
) -> None:
    """Do what is not done yet; `keys` maps keys to arguments."""
    todo = {key: argument for key, argument in keys.items() if key not in records.held}
    start = time.monotonic()
    futures: list[Future[dict[str, Any]]] = [pool.submit(work, argument) for argument in todo.values()]
    for count, future in enumerate(as_completed(futures), 1):
        record = future.result()
        records.add(record)
        left = (time.monotonic() - start) / count * (len(futures) - count)
        shown = {k: round(v, 4) for k, v in record.items() if isinstance(v, float)}
        print(f"{record['key']}: {shown}; {len(futures) - count} to go, about {left:.0f} s", flush=True)


def sweep_runs(bits: Iterable[int], rhos: Sequence[float], seeds: Sequence[int]) -> dict[str, Run]:
    """The runs that choose rho."""
    runs = [Run(m, b, rho, seed, "sweep") for b in bits for m in SHARP for rho in rhos for seed in seeds]
    return {run.key(): run for run in runs}


def chosen_rho(records: Records, method: Method, bits: int, rhos: Sequence[float]) -> float:
    """The rho of the best mean validation accuracy; of equal ones the smallest."""
    wanted = BORROWED.get(method, method)
    scores: dict[float, list[float]] = {rho: [] for rho in rhos}
    swept = (record for record in records.held.values() if record.get("purpose") == "sweep")
    for record in swept:
        if (record["method"], record["bits"]) == (wanted, bits) and record["rho"] in scores:
            scores[record["rho"]].append(record["validation"])
    return max(rhos, key=lambda rho: (statistics.mean(scores[rho]), -rho))


def final_runs(
    records: Records,
    methods: Sequence[Method],
    bits: Iterable[int],
    rhos: Sequence[float],
    seeds: Sequence[int],
) -> dict[str, Run]:
    """The runs of the table, seed by seed."""
    runs = []
    for seed in seeds:
        for width in bits:
            for method in methods:
                rho = 0.0 if method in PLAIN else chosen_rho(records, method, width, rhos)
                runs.append(Run(method, width, rho, seed))
    return {run.key(): run for run in runs}


def summary(records: Records, runs: Iterable[Run]) -> list[dict[str, Any]]:
    """A row for each method and width: means, standard deviations, and differences of pairs to LSQ by SGD."""
    grouped: dict[tuple[int, Method], list[dict[str, Any]]] = {}
    for run in runs:
        grouped.setdefault((run.bits, run.method), []).append(records.held[run.key()])
    rows = []
    for (bits, method), found in sorted(
        grouped.items(), key=lambda item: (item[0][0], list(LABELS).index(item[0][1]))
    ):
        base = {record["seed"]: record for record in grouped[bits, "sgd"]}
        own = {record["seed"]: record for record in grouped[bits, "adamw" if "adamw" in method else "sgd"]}
        gains = [record["test"] - base[record["seed"]]["test"] for record in found]
        times = [record["cpu_s"] / own[record["seed"]]["cpu_s"] for record in found]
        row: dict[str, Any] = {
            "bits": bits,
            "method": method,
            "label": LABELS[method],
            "rho": found[0]["rho"],
        }
        row["seeds"] = len(found)
        for name in (
            "test",
            "train",
            "loss",
            "top_eigenvalue",
            "trace",
            "adversarial_sharpness",
            "random_sharpness",
        ):
            values = [record[name] for record in found]
            row[name] = statistics.mean(values)
            row[f"{name}_std"] = statistics.stdev(values) if len(values) > 1 else 0.0
        row["test_by_seed"] = [record["test"] for record in found]
        row["gain_over_sgd"] = statistics.mean(gains)
        row["gain_standard_error"] = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else 0.0
        row["time_ratio"] = statistics.mean(times)
        rows.append(row)
    return rows


def show(rows: Sequence[dict[str, Any]]) -> str:
    """The table as text."""
    heading = (
        f"{'bits':>4} {'method':<37} {'rho':>5} {'test %':>14} {'gain, points':>14} "
        f"{'top eigenvalue':>17} {'sharpness':>15} {'time':>5}"
    )

    def both(row: dict[str, Any], name: str, spread: str, factor: float, digits: int) -> str:
        return f"{factor * row[name]:.{digits}f} +-{factor * row[spread]:.{digits}f}"

    def line(r: dict[str, Any]) -> str:
        test = both(r, "test", "test_std", 100, 2)
        gain = both(r, "gain_over_sgd", "gain_standard_error", 100, 2)
        top = both(r, "top_eigenvalue", "top_eigenvalue_std", 1, 2)
        sharpness = both(r, "adversarial_sharpness", "adversarial_sharpness_std", 1, 3)
        start = f"{r['bits']:>4} {r['label']:<37} {r['rho']:>5g}"
        return f"{start} {test:>14} {gain:>14} {top:>17} {sharpness:>15} {r['time_ratio']:>5.2f}"

    return "\n".join([heading, *map(line, rows)])


def stands_out(row: dict[str, Any]) -> bool:
    """Whether a row's gain differs from 0 by Student's t for its pairs of seeds, at 5 %."""
    quantile = STUDENT.get(row["seeds"], 2.0 if row["seeds"] > 10 else float("inf"))
    return bool(abs(row["gain_over_sgd"]) > quantile * row["gain_standard_error"])


def findings(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What the figures say: which gains stand out from the seeds' spread, and what is flattest."""
    said = []
    for bits in sorted({row["bits"] for row in rows}):
        here = [row for row in rows if row["bits"] == bits]
        notable = [row for row in here if row["method"] != "sgd" and stands_out(row)]
        better = [row["label"] for row in notable if row["gain_over_sgd"] > 0]
        worse = [row["label"] for row in notable if row["gain_over_sgd"] < 0]
        flattest = min(here, key=lambda row: row["top_eigenvalue"])
        least = min(here, key=lambda row: row["adversarial_sharpness"])
        said.append(
            f"{bits} bits, against LSQ by SGD, by a paired t-test at 5 %: "
            f"better {', '.join(better) or 'none'}; worse {', '.join(worse) or 'none'}; "
            f"smallest top eigenvalue: {flattest['label']}; "
            f"least sharp: {least['label']}"
        )
    tested = sum(row["method"] != "sgd" for row in rows)
    said.append(f"of {tested} such tests, chance alone would have about {tested / 20:.1f} stand out")
    flatter = [
        r["label"] for r in rows if r["method"] in (*SHARP, "reuse") and r["top_eigenvalue"] < _base(rows, r)
    ]
    sharp = sum(row["method"] in (*SHARP, "reuse") for row in rows)
    said.append(
        f"{len(flatter)} of {sharp} sharpness-aware rows have a smaller top eigenvalue than LSQ by SGD"
    )
    return said


def _base(rows: Sequence[dict[str, Any]], row: dict[str, Any]) -> float:
    """The top eigenvalue of LSQ by SGD at the width of a row."""
    return next(float(r["top_eigenvalue"]) for r in rows if (r["bits"], r["method"]) == (row["bits"], "sgd"))


NOTES = (
    "Data: MNIST's t10k file at 14x14, 7,000 to train, 1,000 to choose rho, 2,000 to test; not the usual "
    "split. All seeds share the test images: spreads are those of training, not of the choice of images.",
    "Learning rates of SGD and AdamW come from a short search at 2 bits, by validation, on the seed that "
    "chooses rho; all widths and methods share them.",
    "Every method starts from the same floating-point net of its seed, so gains are paired by seed.",
    "SAM on all parameters knows nothing of quantisers: it perturbs the latent weights, biases, norms and "
    "the quantisers' steps. Case 2 is the same but for the steps, which it leaves alone.",
    "SAQ's efficient strategy is here: case 3 with a new perturbation every few steps, reused in between.",
    "rho is swept for SAM and the cases on seeds outside of the table; reuse takes that of case 3.",
    "The paper (arXiv:2111.12273) reports by SAQ CIFAR-100, ResNet-20 at 4 / 3 bits: 68.7 / 67.7 % top-1, "
    "with the LIQ quantiser and rho 0.4; ImageNet, ResNet-18 at 4 / 2 bits: 71.3 / 67.1 %. Other data, other "
    "nets.",
    "Sharpness is L(Q + eps) - L(Q) after one step of ascent of norm `sharpness_rho`, on training images, "
    "as is the Hessian, with straight-through gradients of rounded activations.",
    "Time is CPU time of training over that of the same optimiser without perturbation.",
)


def draw(path: Path, work: Path, data: Split, setting: Setting, runs: Iterable[Run]) -> None:
    """Loss on the plane of two random filter-normalised directions, for one seed at the smallest width."""
    wanted = [run for run in runs if run.method in ("sgd", "case2", "case3")]
    bits, seed = min(run.bits for run in wanted), min(run.seed for run in wanted)
    distances = [i / 6 for i in range(-6, 7)]
    few = data.train.first(setting.measured)
    surfaces = {}
    for run in wanted:
        if (run.bits, run.seed) == (bits, seed):
            graph = plait.load(float_path(work, seed))
            assert isinstance(graph, plait.Graph)
            module, _ = trained_module(graph, data, setting, run)
            landscape = Landscape(module, loss_of, [(few.images, few.labels)])
            first, second = landscape.random_direction(0), landscape.random_direction(1)
            surfaces[LABELS[run.method]] = landscape.plane(first, second, distances)
    plot_planes(path, distances, surfaces)


def main() -> None:
    """Sweep, train, print the table, write JSON and the figure."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--mnist", type=Path, required=True, help="folder of the t10k files")
    options.add_argument("--work", type=Path, default=Path("build/saq"))
    options.add_argument("--resume", action="store_true")
    options.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "saq.json")
    options.add_argument("--figure", type=Path)
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--bits", type=int, nargs="+", default=[2, 3, 4])
    options.add_argument("--methods", nargs="+", choices=get_args(Method), default=list(LABELS)[:-1])
    options.add_argument("--seeds", type=int, default=5, help="number of seeds in the table")
    options.add_argument("--sweep-seeds", type=int, default=1, help="number of seeds that choose rho")
    options.add_argument("--rhos", type=float, nargs="+", default=list(RHOS))
    for name, default in asdict(Setting()).items():
        options.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    given = options.parse_args()
    setting = replace(Setting(), **{name: getattr(given, name) for name in asdict(Setting())})
    given.work.mkdir(parents=True, exist_ok=True)
    records = Records(given.work / "records.jsonl", given.resume)
    seeds = list(range(given.seeds))
    sweep_seeds = [100 + i for i in range(given.sweep_seeds)]
    context = multiprocessing.get_context("spawn")
    arguments = (given.mnist, setting, given.work)
    with ProcessPoolExecutor(given.workers, context, _start_worker, arguments) as pool:
        finish(pool, records, _train_float, {f"float/{seed}": seed for seed in [*sweep_seeds, *seeds]})
        finish(pool, records, _train_quantised, sweep_runs(given.bits, given.rhos, sweep_seeds))
        runs = final_runs(records, given.methods, given.bits, given.rhos, seeds)
        finish(pool, records, _train_quantised, runs)
    rows = summary(records, runs.values())
    floats = [records.held[f"float/{seed}"]["test"] for seed in seeds]
    print(f"floating point: {100 * statistics.mean(floats):.2f} % of test images")
    print(show(rows), *findings(rows), sep="\n")
    sweep: dict[str, dict[str, list[float]]] = {}
    for run in sweep_runs(given.bits, given.rhos, sweep_seeds).values():
        of_method = sweep.setdefault(f"{run.method}, {run.bits} bits", {})
        of_method.setdefault(f"{run.rho:g}", []).append(records.held[run.key()]["validation"])
    result = {
        "seeds": seeds,
        "sweep_seeds": sweep_seeds,
        "setting": asdict(setting),
        "cpu_minutes": sum(record["cpu_s"] for record in records.held.values()) / 60,
        "float_test": statistics.mean(floats),
        "float_test_std": statistics.stdev(floats) if len(floats) > 1 else 0.0,
        "findings": findings(rows),
        "notes": NOTES,
        "validation_by_rho": sweep,
        "rows": rows,
    }
    write_results(given.json, "saq", result)
    if given.figure is not None:
        draw(given.figure, given.work, load_mnist(given.mnist), setting, runs.values())


if __name__ == "__main__":
    main()
