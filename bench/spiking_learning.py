"""Learning by STDP with compiled steps: Kheradpisheh and Mozafari on digits, Rezghi on MNIST's t10k images.

Layers are learned one after the other, each on the first-spike times of the layer below, computed once; a
step (competition and update of the weights) is one call of an executable, see
`plait.frontends.families.spiking.learning_steps`.  Hyper-parameters are the published ones of each network
but for the number of epochs, the batch, the maps of mozafari (30, 80, 200 instead of 30, 250, 200) and the
schedule of rezghi, which is stretched over the fewer images.  What was learned is rounded to multiples of
1/1024, so that sums are exact and spike times equal on every target.  Read-outs:

- kheradpisheh: a linear SVM (C=2.4) on the first-spike times of layer 2, and the one of the paper on whether
  each neuron fired at all;
- rezghi: PCA to 200 numbers and an SVM (C=2.4) on the times of layer 2, as published;
- mozafari: none; the layer that learns from reward decides.  Its accuracy is that after the last epoch.

Digits: scikit-learn's, enlarged to 20x20 in 28x28, 1,347 to learn from and 450 to test.  MNIST: the t10k
file, 8,000 and 2,000; the published figures are for training on 60,000 images and do not compare.

Run: python bench/spiking_learning.py --net kheradpisheh [--mnist FOLDER] [--seed 0]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import write_results
from saq_data import IMAGES, LABELS, SPLIT_SEED, read_idx
from spiking_peers import digits, labels_of

import plait
from plait.frontends.families.spiking import Kheradpisheh, Mozafari, RankOrderNetwork, Rezghi, stdp
from plait.frontends.families.spiking.events import Stage
from plait.frontends.families.spiking.learning_steps import LearningStep, RewardStep
from plait.frontends.families.spiking.reward import drop_maps
from plait.ir.files import write_atomically

FOLDER = Path(__file__).parent
BATCH = 16
Rows = list[dict[str, Any]]


class Data:
    """Images [N, 1, 28, 28] in 0..1 and labels, in an order that the seed of the split determines."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, train: int, split_seed: int) -> None:
        order = torch.from_numpy(np.random.default_rng(split_seed).permutation(len(labels)))
        self.images, self.labels, self.train = images[order], labels[order], train

    @classmethod
    def digits(cls) -> Data:
        return cls(digits(1797), labels_of(1797), 1347, 0)

    @classmethod
    def mnist(cls, folder: Path) -> Data:
        images = torch.from_numpy(read_idx(folder / IMAGES).astype(np.float32) / 255.0).unsqueeze(1)
        return cls(images, torch.from_numpy(read_idx(folder / LABELS).astype(np.int64)), 8_000, SPLIT_SEED)


def through(network: RankOrderNetwork, stage: int, given: torch.Tensor, batch: int = 64) -> torch.Tensor:
    """Times after a stage of all samples, by one executable."""
    exe = plait.compile(Stage(network, stage), (given[:batch],), dims={}, threads=1)
    found = []
    for part in given.split(batch):
        filled = torch.cat([part, part[:1].expand(batch - len(part), *part.shape[1:])])
        found.append(np.asarray(exe(filled))[: len(part)].copy())
    return torch.from_numpy(np.concatenate(found))


def array(result: Any) -> torch.Tensor:
    """A result that outlives the next call."""
    return torch.from_numpy(np.asarray(result).copy())


def learn_layer(
    network: RankOrderNetwork,
    layer: int,
    times: torch.Tensor,
    epochs: int,
    schedule: tuple[int, float, float],
    generator: torch.Generator,
) -> Rows:
    """STDP of one layer on the times of its inputs; `schedule` of the rates: (images, maximum, factor)."""
    step = LearningStep(network, layer, from_times=True)
    weight = network.weights[layer].detach().clone()
    exe = plait.compile(step, (times[:BATCH], weight, step.rates()), threads=1)
    rows: Rows = []
    seen, start = 0, time.monotonic()
    every, maximum, factor = schedule
    for epoch in range(epochs):
        for part in torch.randperm(len(times), generator=generator).split(BATCH):
            if len(part) < BATCH:  # the step is compiled for whole batches
                continue
            weight = array(exe(times[part], weight, step.rates())[0])
            seen += len(part)
            if seen >= every:
                seen -= every
                network.raise_rates(layer, maximum, factor)
        convergence = stdp.convergence(weight)
        rows.append({"layer": layer + 1, "epoch": epoch + 1, "convergence": round(convergence, 4)})
        rows[-1]["seconds"] = round(time.monotonic() - start, 1)
        print(rows[-1], flush=True)
    with torch.no_grad():
        network.weights[layer].copy_(stdp.on_grid(weight))
    return rows


def features(times: torch.Tensor, data: Data, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """How early each neuron fires, 0 for silence to 1, [N, neurons]; and the labels."""
    return (1 - times.float() / steps).flatten(1).numpy(), data.labels.numpy()


def linear_readouts(times: torch.Tensor, data: Data, steps: int) -> dict[str, float]:
    """Test accuracies of linear SVMs on times, and on whether each neuron fired."""
    from sklearn.svm import LinearSVC

    early, labels = features(times, data, steps)
    found = {}
    for name, seen in (("times", early), ("fired", (early > 0).astype(np.float32))):
        classifier = LinearSVC(C=2.4, max_iter=5000, random_state=0)
        classifier.fit(seen[: data.train], labels[: data.train])
        score = float(classifier.score(seen[data.train :], labels[data.train :]))
        found[f"linear SVM, {name}"] = round(score, 4)
    return found


def component_readout(times: torch.Tensor, data: Data, steps: int, components: int = 200) -> dict[str, float]:
    """Test accuracy of an SVM on the principal components of times."""
    from sklearn.decomposition import PCA
    from sklearn.svm import SVC

    early, labels = features(times, data, steps)
    few = PCA(components, random_state=0).fit(early[: data.train]).transform(early)
    svm = SVC(C=2.4).fit(few[: data.train], labels[: data.train])
    score = float(svm.score(few[data.train :], labels[data.train :]))
    return {f"PCA {components} and SVM, times": round(score, 4)}


def layerwise(
    network: RankOrderNetwork,
    data: Data,
    epochs: tuple[int, ...],
    schedule: tuple[int, float, float],
    seed: int,
) -> tuple[torch.Tensor, Rows]:
    """Learn the first layers; the times of the inputs of the next, and the rows."""
    generator = torch.Generator().manual_seed(seed)
    times = through(network, 0, data.images)
    rows: Rows = []
    for layer, count in enumerate(epochs):
        rows += learn_layer(network, layer, times[: data.train], count, schedule, generator)
        times = through(network, layer + 1, times)
        fired = (times < network.steps).float().mean(dim=(1, 2, 3))
        rows[-1]["fired"] = round(float(fired.mean()), 4)
    return times, rows


def kheradpisheh(data: Data, seed: int, epochs: int | None) -> tuple[RankOrderNetwork, dict[str, Any]]:
    network = Kheradpisheh(seed=seed)
    times, rows = layerwise(network, data, (6, epochs or 30), (500, 0.15, 2.0), seed)
    accuracy = {
        **linear_readouts(times, data, network.steps),
        **component_readout(times, data, network.steps),
    }
    return network, {"test_accuracy": accuracy, "rows": rows}


def rezghi(data: Data, seed: int, epochs: int | None) -> tuple[RankOrderNetwork, dict[str, Any]]:
    network = Rezghi(seed=seed)
    each = epochs or 1
    # Published: every 2,000 of 60,000 images.  Fewer images, and the rates still reach their maximum.
    every = 2000 * data.train // 60_000
    times, rows = layerwise(network, data, (each, each), (every, 1.5, 1.5), seed)
    return network, {"test_accuracy": component_readout(times, data, network.steps), "rows": rows}


def mozafari(data: Data, seed: int, epochs: int | None) -> tuple[RankOrderNetwork, dict[str, Any]]:
    network = Mozafari(maps=(30, 80, 200), seed=seed)
    times, rows = layerwise(network, data, (4, 8), (500, 0.15, 2.0), seed)
    generator = torch.Generator().manual_seed(seed + 1)
    step = RewardStep(network, from_times=True)
    weight = network.weights[2].detach().clone()
    labels, maps = data.labels, network.configs[2].maps
    everyone = torch.ones(BATCH, maps, dtype=torch.bool)
    exe = plait.compile(step, (times[:BATCH], weight, step.rates(), labels[:BATCH], everyone), threads=1)
    start = time.monotonic()
    for epoch in range(epochs or 150):
        hits = 0
        for part in torch.randperm(data.train, generator=generator).split(BATCH):
            if len(part) < BATCH:
                continue
            kept = drop_maps(BATCH, maps, network.drop, generator)
            new, decisions = exe(times[part], weight, step.rates(), labels[part], kept)
            weight = array(new)
            hits += int((array(decisions) == labels[part]).sum())
            network.success.add(array(decisions), labels[part])
            if network.success.seen >= 1024:
                network.adapt()
        if epoch % 5 == 4:
            with torch.no_grad():
                network.weights[2].copy_(weight)
            right = decide_all(network, times) == labels
            rows.append(
                {
                    "layer": 3,
                    "epoch": epoch + 1,
                    "while_learning": round(hits / data.train, 4),
                    "train_accuracy": round(float(right[: data.train].double().mean()), 4),
                    "test_accuracy": round(float(right[data.train :].double().mean()), 4),
                    "seconds": round(time.monotonic() - start, 1),
                }
            )
            print(rows[-1], flush=True)
    with torch.no_grad():
        network.weights[2].copy_(stdp.on_grid(weight))
    right = decide_all(network, times)[data.train :] == labels[data.train :]
    accuracy = {"by the first layer of reward, last epoch": round(float(right.double().mean()), 4)}
    return network, {"test_accuracy": accuracy, "rows": rows}


def decide_all(network: Mozafari, times: torch.Tensor) -> torch.Tensor:
    """Decisions from the times of the inputs of the last layer; -1 where nobody fires."""
    with torch.no_grad():
        fired = (times < network.steps).to(torch.float32)
        last = network.configs[-1]
        potential = torch.nn.functional.conv2d(fired, network.weights[2], padding=last.padding)
        best, place = potential.flatten(1).max(dim=1)
    maps = place // (potential.shape[2] * potential.shape[3])
    return torch.where(best > 0, maps // (last.maps // network.classes), -1)


NETWORKS: dict[str, tuple[Callable[..., tuple[RankOrderNetwork, dict[str, Any]]], str]] = {
    "kheradpisheh": (kheradpisheh, "digits"),
    "mozafari": (mozafari, "digits"),
    "rezghi": (rezghi, "mnist"),
}


def draw(path: Path, name: str, results: dict[str, Any]) -> None:
    """Convergence of each layer by epoch, and the accuracy of the layer that decides."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    for layer in (1, 2):
        chosen = [row for row in results["rows"] if row["layer"] == layer]
        epochs = [row["epoch"] for row in chosen]
        axes.plot(
            epochs, [row["convergence"] for row in chosen], marker=".", label=f"layer {layer}: mean w(1-w)"
        )
    decided = [row for row in results["rows"] if row["layer"] == 3]
    for key in ("train_accuracy", "test_accuracy"):
        if decided:
            axes.plot([r["epoch"] for r in decided], [r[key] for r in decided], label=f"layer 3: {key}")
    told = ", ".join(f"{key}: {value:.3f}" for key, value in results["test_accuracy"].items())
    axes.set(xlabel="epoch", ylim=(0, 1 if decided else None), title=f"{name}, seed {results['seed']}")
    axes.text(0.5, -0.2, f"test accuracy: {told}", transform=axes.transAxes, ha="center", fontsize=7)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def save_weights(path: Path, name: str, network: RankOrderNetwork, results: dict[str, Any]) -> None:
    """Weights with what made them."""
    from safetensors.torch import save

    told = {
        "network": name,
        "script": "bench/spiking_learning.py",
        "seed": str(results["seed"]),
        "data": results["data"],
        "test_accuracy": json.dumps(results["test_accuracy"]),
    }
    held = {f"layer{k + 1}": weight.detach().contiguous() for k, weight in enumerate(network.weights)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as stream:
        stream.write(save(held, told))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--net", choices=sorted(NETWORKS), required=True)
    parser.add_argument("--mnist", type=Path, help="folder of MNIST's t10k files, for rezghi")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, help="of the last layer, by default the whole run")
    parser.add_argument(
        "--json", type=Path, help="where results go, by default bench/results after a whole run"
    )
    options = parser.parse_args()
    train, kind = NETWORKS[options.net]
    if kind == "mnist" and options.mnist is None:
        parser.error("--net rezghi needs --mnist FOLDER")
    data = Data.digits() if kind == "digits" else Data.mnist(options.mnist)
    torch.set_num_threads(1)
    network, results = train(data, options.seed, options.epochs)
    results = {"seed": options.seed, "data": kind, "train_images": data.train, **results}
    results["test_images"] = len(data.labels) - data.train
    print(results["test_accuracy"], flush=True)
    whole = options.epochs is None and options.seed == 0
    path = options.json or (FOLDER / "results" / f"spiking_learning_{options.net}.json" if whole else None)
    if path is not None:
        write_results(path, f"spiking_learning_{options.net}", results)
    if whole:
        draw(FOLDER / "figures" / f"spiking_learning_{options.net}.png", options.net, results)
        save_weights(FOLDER / "trained" / f"{options.net}_{kind}.safetensors", options.net, network, results)


if __name__ == "__main__":
    main()
