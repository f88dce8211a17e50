"""The network of Diehl and Cook on MNIST's t10k images: 8,000 to learn from and label with, 2,000 to test.

The published network saw the 60,000 images of MNIST's training file three times; here it sees 8,000 once,
so figures do not compare with the published ones.  With so few images the thresholds have to adapt faster:
theta_plus is 1 mV instead of 0.05 mV.  It was chosen with the first 5,000 images that train for learning
and the last 1,000 for judging, on seed 0: accuracy .35 with 0.05, .79 with 0.5, .83 with 1, .79 with 2.
The labels of the neurons come from a pass over the 8,000 images after learning.  The curve of learning
costs nothing: each block of images is predicted, as it is learned from, with the labels from the counts of
the block before.

Run: python bench/diehl_cook.py --mnist FOLDER [--neurons 400] [--seed 0] [--json PATH] [--figure PNG]
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import write_results
from saq_data import IMAGES, LABELS, SPLIT_SEED, read_idx

from plait.frontends.families.spiking.diehl_cook import DiehlCook, DiehlCookConfig, NeuronLabels

TRAIN, TEST, NEURONS, CLASSES, BLOCK = 8_000, 2_000, 400, 10, 500
THETA_PLUS = 1.0


def load(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Images [10000,28,28] in 0..1 and labels, in one fixed order; the first 8,000 train."""
    images = torch.from_numpy(read_idx(folder / IMAGES).astype(np.float32) / 255.0)
    labels = torch.from_numpy(read_idx(folder / LABELS).astype(np.int64))
    order = torch.from_numpy(np.random.default_rng(SPLIT_SEED).permutation(len(labels)))
    return images[order], labels[order]


def learn(
    network: DiehlCook, images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator
) -> list[dict[str, Any]]:
    """Learn from each image once; a row for each block of images."""
    rows: list[dict[str, Any]] = []
    known: NeuronLabels | None = None
    start = time.monotonic()
    for first in range(0, len(images), BLOCK):
        block = images[first : first + BLOCK]
        counts = torch.stack([network.learn(image, generator) for image in block])
        truth = labels[first : first + BLOCK]
        row: dict[str, Any] = {
            "images": first + len(block),
            "accuracy": None if known is None else share(known.vote(counts), truth),
            "spikes_per_image": round(float(counts.sum(dim=1).double().mean()), 2),
            "theta_mean_mv": round(float(network.theta.mean()), 2),
            "seconds": round(time.monotonic() - start, 1),
        }
        known = NeuronLabels.of(counts, truth, CLASSES)
        rows.append(row)
        print(row, flush=True)
    return rows


def share(found: torch.Tensor, truth: torch.Tensor) -> float:
    """Accuracy."""
    return round(float((found == truth).double().mean()), 4)


def draw(path: Path, rows: list[dict[str, Any]], test: float) -> None:
    """The curve of learning, and the accuracy of the test as a line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    seen = [row for row in rows if row["accuracy"] is not None]
    axes.plot([r["images"] for r in seen], [r["accuracy"] for r in seen], marker="o", label="next block")
    axes.axhline(test, color="black", linestyle="--", label=f"test after learning: {test:.3f}")
    axes.set(xlabel="images learned from", ylabel="accuracy", ylim=(0, 1), title="Diehl and Cook, MNIST t10k")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mnist", type=Path, required=True, help="folder of MNIST's t10k files")
    parser.add_argument("--neurons", type=int, default=NEURONS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=TRAIN, help="images to learn from")
    parser.add_argument("--test", type=int, default=TEST, help="images to test on")
    parser.add_argument(
        "--json", type=Path, help="where results go, by default bench/results after a whole run"
    )
    parser.add_argument("--figure", type=Path, help="a PNG of the curve of learning")
    options = parser.parse_args()
    if not (1 <= options.train <= TRAIN and 1 <= options.test <= TEST):
        parser.error(f"--train is in 1..{TRAIN} and --test in 1..{TEST}")

    torch.set_num_threads(1)
    images, labels = load(options.mnist)
    train, train_labels = images[: options.train], labels[: options.train]
    test, test_labels = (x[TRAIN : TRAIN + options.test] for x in (images, labels))
    config = DiehlCookConfig(neurons=options.neurons, theta_plus=THETA_PLUS)
    network = DiehlCook(config, seed=options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    rows = learn(network, train, train_labels, generator)

    start = time.monotonic()
    known = NeuronLabels.of(network.respond(train, generator), train_labels, CLASSES)
    counts = network.respond(test, generator)
    results: dict[str, Any] = {
        "train_images": len(train),
        "test_images": len(test),
        "seed": options.seed,
        "test_accuracy": share(known.vote(counts), test_labels),
        "test_accuracy_by_proportion": share(known.vote_by_proportion(counts), test_labels),
        "silent_test_images": int((counts.sum(dim=1) == 0).sum()),
        "neurons_that_fire": int((known.classes >= 0).sum()),
        "learning_seconds": rows[-1]["seconds"],
        "responding_seconds": round(time.monotonic() - start, 1),
        "config": asdict(config),
    }
    print({key: value for key, value in results.items() if key != "config"}, flush=True)
    whole = (options.train, options.test, options.neurons) == (TRAIN, TEST, NEURONS)
    path = options.json
    if path is None and whole:
        path = Path(__file__).parent / "results" / "diehl_cook.json"
    if path is not None:
        write_results(path, "diehl_cook", {**results, "rows": rows})
    if options.figure is not None:
        draw(options.figure, rows, results["test_accuracy"])


if __name__ == "__main__":
    main()
