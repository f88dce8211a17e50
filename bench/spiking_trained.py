"""Trained rank-order networks through the compiler: lowered, dumped, compiled for both targets, quantised.

For each file of bench/trained: the graph is printed and parsed back; spike times of the CPU executable are
compared with the interpreter's on 64 test images, and with torch's; the CUDA kernels for the A100 are
assembled, and executed by emulation on some images, under detectors; weights of the layers that learned by
STDP become two-level (0 below .5, else 1), with the accuracy of the read-out before and after; and densities
measured on images of less and more contrast change what is predicted for the A100.

Run: python bench/spiking_trained.py [--mnist FOLDER] [--nets kheradpisheh mozafari rezghi] [--emulate 1]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import write_results
from safetensors.torch import load_file
from spiking_learning import Data, component_readout, decide_all, linear_readouts

import plait
from plait.frontends.families.spiking import Kheradpisheh, Mozafari, RankOrderNetwork, Rezghi, stdp
from plait.frontends.families.spiking.events import FirstSpikes, Stage
from plait.ir.interpret import interpret
from plait.passes.spike.density import annotate_density

FOLDER = Path(__file__).parent
NETWORKS: dict[str, tuple[Callable[[], RankOrderNetwork], str]] = {
    "kheradpisheh": (lambda: Kheradpisheh(seed=0), "digits"),
    "mozafari": (lambda: Mozafari(maps=(30, 80, 200), seed=0), "digits"),
    "rezghi": (lambda: Rezghi(seed=0), "mnist"),
}
BATCH = 64
REWARD = "by the layer of reward"


def trained(name: str, kind: str, build: Callable[[], RankOrderNetwork]) -> RankOrderNetwork:
    """The network with its weights from bench/trained."""
    network = build()
    held = load_file(FOLDER / "trained" / f"{name}_{kind}.safetensors")
    with torch.no_grad():
        for index, weight in enumerate(network.weights):
            weight.copy_(held[f"layer{index + 1}"])
    return network.eval()


def times_before_the_last(network: RankOrderNetwork, images: torch.Tensor) -> torch.Tensor:
    """Inputs of the layer that decides, or the result of the last layer, as its read-out wants it."""
    stages = len(network.configs) + (0 if isinstance(network, Mozafari) else 1)
    given = images
    for stage in range(stages):
        exe = plait.compile(Stage(network, stage), (given[:BATCH],))
        found = []
        for part in given.split(BATCH):
            filled = torch.cat([part, part[:1].expand(BATCH - len(part), *part.shape[1:])])
            found.append(torch.from_numpy(np.asarray(exe(filled))[: len(part)].copy()))
        given = torch.cat(found)
    return given


def accuracy(network: RankOrderNetwork, data: Data) -> dict[str, float]:
    """What the read-out of the network gets right."""
    times = times_before_the_last(network, data.images)
    if isinstance(network, Mozafari):
        right = decide_all(network, times)[data.train :] == data.labels[data.train :]
        return {REWARD: round(float(right.double().mean()), 4)}
    if isinstance(network, Kheradpisheh):
        return linear_readouts(times, data, network.steps)
    return component_readout(times, data, network.steps)


def compiled(network: RankOrderNetwork, images: torch.Tensor, emulated: int) -> dict[str, Any]:
    """Spike times of each target against the interpreter and torch."""
    module = FirstSpikes(network)
    graph = plait.lower(module, (images,), dynamic={"image": {0: "B"}})
    text = str(graph)
    constants = {constant.name: constant for constant in graph.constants.values()}
    again = plait.parse(text)
    (wanted,) = interpret(graph, (images,))
    found = np.asarray(plait.compile(graph)(images))
    with torch.no_grad():
        theirs = module(images)
    start = time.monotonic()
    a100 = plait.compile(graph, target="a100")
    report = a100.to_dict()
    few = images[:emulated]
    on_gpu = np.asarray(a100.emulate(few.numpy(), check=True)) if emulated else None
    told = {
        "ops": len(graph),
        "lines_of_dump": text.count("\n"),
        "dump_parses_back": str(again) == text,
        "constants": len(constants),
        "spike_times": int(wanted.numel()),
        "cpu_differs_from_interpreter": int((torch.from_numpy(found) != wanted).sum()),
        "cpu_differs_from_torch": int((torch.from_numpy(found) != theirs).sum()),
        "a100_kernels": len(report.get("kernels", [])),
        "a100_seconds": round(time.monotonic() - start, 1),
    }
    if on_gpu is not None:
        told["a100_spike_times"] = int(on_gpu.size)
        told["a100_differs_from_interpreter"] = int((on_gpu != wanted[:emulated].numpy()).sum())
    return told


def predictions(network: RankOrderNetwork, images: torch.Tensor) -> list[dict[str, Any]]:
    """Densities of the layers' inputs, and what they cost, on images of which less and less is left."""
    graph = plait.lower(FirstSpikes(network), (images,), name="network")
    rows = []
    for least in (0.0, 0.5, 0.9):
        seen = images * (images > least)
        annotated, measured = annotate_density(graph, [seen])
        prediction = plait.predict(annotated)
        rows.append(
            {
                "pixels_above": least,
                "densities": [round(row.density, 4) for row in measured.rows.values()],
                "latency_us": round(prediction.latency_ms * 1e3, 3),
                "energy_uj": round(prediction.energy_j * 1e6, 2),
            }
        )
    return rows


def two_levels(network: RankOrderNetwork, layers: Iterable[int]) -> None:
    """Weights of some layers become 0 below .5 and else 1."""
    with torch.no_grad():
        for layer in layers:
            weight = network.weights[layer]
            weight.copy_(stdp.quantize(weight, 0.0, 0.5, 1.0))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--mnist", type=Path, help="folder of MNIST's t10k files; without it rezghi is left out"
    )
    parser.add_argument("--nets", nargs="*", choices=sorted(NETWORKS), default=sorted(NETWORKS))
    parser.add_argument("--emulate", type=int, default=1, help="images that the CUDA kernels are executed on")
    parser.add_argument("--json", type=Path, help="results; by default bench/results, after a whole run")
    options = parser.parse_args()
    torch.set_num_threads(2)
    rows = []
    for name in options.nets:
        build, kind = NETWORKS[name]
        if kind == "mnist" and options.mnist is None:
            continue
        data = Data.digits() if kind == "digits" else Data.mnist(options.mnist)
        network = trained(name, kind, build)
        images = data.images[data.train : data.train + BATCH]
        row: dict[str, Any] = {"network": name, **compiled(network, images, options.emulate)}
        row["predictions"] = predictions(network, images)
        row["accuracy"] = accuracy(network, data)
        two_levels(network, range(network.last if isinstance(network, Mozafari) else len(network.weights)))
        row["two_level_accuracy"] = accuracy(network, data)
        row["two_level_cpu_differs"] = compiled(network, images, 0)["cpu_differs_from_interpreter"]
        if isinstance(network, Mozafari):
            two_levels(network, [network.last])
            row["two_level_accuracy"]["with the layer of reward too"] = accuracy(network, data)[REWARD]
        print(row, flush=True)
        rows.append(row)
    path = options.json
    if path is None and len(rows) == len(NETWORKS):
        path = FOLDER / "results" / "spiking_trained.json"
    if path is not None:
        write_results(path, "spiking_trained", {"images": BATCH, "rows": rows})


if __name__ == "__main__":
    main()
