"""Images a second of rank-order networks: plait's executables against Spyker, dense and sparse, and snnTorch.

The same network, weights, images (scikit-learn's digits, enlarged to 20x20 in 28x28) and threads; contenders
take turns, one call each, and medians are compared.  `infer` is from image to first-spike times of the last
layer, filters and code included; `stdp k` is a whole learning step of layer k: the layers below it,
competition and the update of its weights; `reward` is that of Mozafari's last layer.  snnTorch has no STDP.
Spyker has no sparse layer of infinite threshold, which Mozafari's last one is, so that its inference and its
reward are compared with the dense form alone.

Each figure comes with a check: spike times that differ from each peer's, and the largest difference of a
weight from Spyker's dense step.  (Spyker's sparse step takes the first of tied events in the order of its
lists, so that its winners differ.)  Where two potentials are equal but for rounding, another neuron may win;
such samples are counted, and it is checked in float64 that they are ties.

Run: python bench/spiking_throughput.py [--batch 64] [--rounds 9] [--nets kheradpisheh rezghi mozafari]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import write_results
from spiking_peers import SnnTorchNetwork, SpykerNetwork, digits, labels_of

import plait
from plait.frontends.families.spiking import Kheradpisheh, Mozafari, RankOrderNetwork, Rezghi, events
from plait.frontends.families.spiking.events import FirstSpikes
from plait.frontends.families.spiking.learning_steps import LearningStep, RewardStep

THREADS = 2
NETWORKS: dict[str, Callable[[], RankOrderNetwork]] = {
    "kheradpisheh": lambda: Kheradpisheh(seed=0),
    "rezghi": lambda: Rezghi(seed=0),
    "mozafari": lambda: Mozafari(seed=0),
}
Contenders = dict[str, Callable[[], Any]]


def milliseconds(contenders: Contenders, rounds: int) -> dict[str, list[float]]:
    """Times of each contender, warmed up, in turns."""
    for call in contenders.values():
        call()
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            start = time.perf_counter()
            call()
            found[name].append((time.perf_counter() - start) * 1e3)
    return found


def row(network: str, stage: str, contenders: Contenders, options: Any, **checks: Any) -> dict[str, Any]:
    """One line of the table: median milliseconds, images a second, and ratios to plait."""
    times = milliseconds(contenders, options.rounds)
    medians = {name: statistics.median(found) for name, found in times.items()}
    spyker = {name: medians[name] for name in medians if name.startswith("spyker")}
    told = {
        "network": network,
        "stage": stage,
        "ms": {name: round(value, 2) for name, value in medians.items()},
        "images_per_second": {name: round(options.batch / value * 1e3) for name, value in medians.items()},
        "times_best_spyker": round(min(spyker.values()) / medians["plait"], 2),
        **(
            {"times_snntorch": round(medians["snntorch"] / medians["plait"], 2)}
            if "snntorch" in medians
            else {}
        ),
        **checks,
    }
    print(told, flush=True)
    return told


def inference(name: str, network: RankOrderNetwork, image: torch.Tensor, options: Any) -> dict[str, Any]:
    """Image to first-spike times."""
    exe = plait.compile(FirstSpikes(network), (image,), pipeline=options.pipeline, threads=THREADS)
    dense = SpykerNetwork(network, sparse=False, threads=THREADS)
    sparse = SpykerNetwork(network, sparse=True, threads=THREADS)
    peer = SnnTorchNetwork(network)
    contenders: Contenders = {"plait": lambda: exe(image), "spyker dense": lambda: dense.infer(image)}
    if all(config.threshold is not None for config in network.configs):
        contenders["spyker sparse"] = lambda: sparse.infer(image)
    contenders["snntorch"] = lambda: peer(image).numpy()
    mine = np.asarray(exe(image)).copy()
    differing = {key: int((mine != call()).sum()) for key, call in contenders.items() if key != "plait"}
    share = float((mine < network.steps).mean())
    return row(
        name, "infer", contenders, options, differing_times=differing, of=mine.size, fired=round(share, 4)
    )


def learning(
    name: str, network: RankOrderNetwork, layer: int, image: torch.Tensor, options: Any
) -> dict[str, Any]:
    """A step of STDP."""
    step = LearningStep(network, layer)
    weight, rates = network.weights[layer].detach().clone(), step.rates()
    exe = plait.compile(step, (image, weight, rates), pipeline=options.pipeline, threads=THREADS)
    dense = SpykerNetwork(network, sparse=False, threads=THREADS)
    sparse = SpykerNetwork(network, sparse=True, threads=THREADS)
    mine, table = (np.asarray(result).copy() for result in exe(image, weight, rates))
    checks = first_differences(network, layer, image, table, dense.winners(image, layer))
    checks["weight_difference"] = float(np.abs(mine - dense.step(image, layer)).max())
    contenders: Contenders = {
        "plait": lambda: exe(image, weight, rates),
        "spyker dense": lambda: dense.step(image, layer),
        "spyker sparse": lambda: sparse.step(image, layer),
    }
    return row(name, f"stdp {layer + 1}", contenders, options, **checks)


def first_differences(
    network: RankOrderNetwork,
    layer: int,
    image: torch.Tensor,
    table: np.ndarray,
    theirs: list[list[tuple[int, int, int]]],
) -> dict[str, Any]:
    """Samples whose winners differ from Spyker's, and in how many the first two that do tie in float64."""
    with torch.no_grad():
        times = events.run(network, events.encode(network, image), layer)
    weight, padding = network.weights[layer].detach().double(), network.configs[layer].padding
    differing = ties = 0
    for sample, slots in enumerate(table.tolist()):
        mine = [(slot[1], tuple(slot[2:])) for slot in slots if slot[0] >= 0]
        for (step, place), other in zip(mine, theirs[sample]):
            if place != tuple(other):
                fired = (times[sample : sample + 1] <= step).double()
                potential = torch.nn.functional.conv2d(fired, weight, padding=padding)[0]
                differing += 1
                ties += abs(float(potential[place] - potential[tuple(other)])) < 1e-6
                break
    return {"samples_with_other_winners": differing, "of_them_ties": ties}


def reward(network: Mozafari, image: torch.Tensor, options: Any) -> dict[str, Any]:
    """A step of R-STDP, all maps taking part."""
    step = RewardStep(network)
    labels = labels_of(len(image))
    kept = torch.ones(len(image), network.configs[-1].maps, dtype=torch.bool)
    given = (image, network.weights[-1].detach().clone(), step.rates(), labels, kept)
    exe = plait.compile(step, given, pipeline=options.pipeline, threads=THREADS)
    dense = SpykerNetwork(network, sparse=False, threads=THREADS)
    mine = np.asarray(exe(*given)[0])
    difference = float(np.abs(mine - dense.reward_step(image, labels)).max())
    contenders: Contenders = {
        "plait": lambda: exe(*given),
        "spyker dense": lambda: dense.reward_step(image, labels),
    }
    return row("mozafari", "reward 3", contenders, options, weight_difference=difference)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--nets", nargs="*", choices=sorted(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--pipeline", help="passes, by default the standard pipeline")
    parser.add_argument("--json", type=Path, help="results; by default bench/results, after a whole run")
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    image = digits(options.batch)
    rows = []
    for name in options.nets:
        network = NETWORKS[name]()
        rows.append(inference(name, network, image, options))
        layers = network.last if isinstance(network, Mozafari) else len(network.configs)
        rows += [learning(name, network, layer, image, options) for layer in range(layers)]
        if isinstance(network, Mozafari):
            rows.append(reward(network, image, options))
    path = options.json
    if path is None and list(options.nets) == list(NETWORKS):
        path = Path(__file__).parent / "results" / "spiking_throughput.json"
    if path is not None:
        told = {"threads": THREADS, "batch": options.batch, "rounds": options.rounds, "seed": 0}
        write_results(path, "spiking_throughput", {**told, "rows": rows})


if __name__ == "__main__":
    main()
