"""Layers of spiking networks against macaque inferior temporal cortex: representational similarity.

92 stimuli with the dissimilarities of 674 neurons of macaque IT and of human IT (Kriegeskorte et al.,
Neuron 60, 2008), from the files of rsatoolbox's demos/92imageData.  Images become grey (ITU-R 601) and
56x56 by the means of areas.  A layer is represented by its first-spike times after pooling.

The protocol was fixed before any correlation with IT was seen.  Layers learn by STDP one after the other
from the 92 images themselves, without labels or recordings, one image at a time in a new order each
epoch, with the published rates, until w (1 - w) is below 0.1 in the mean or for 40 epochs.  The published
schedules are for 60,000 images: Kheradpisheh's (rates doubled each 500 images, up to .15) is kept;
Rezghi's factor of 1.5 up to 1.5 is kept, but applied each 100 images instead of each 2,000.
In 40 epochs Kheradpisheh's layers come to about 0.1, Rezghi's to about 0.2 only.  Networks run, and
learn, as plait compiles them.  A seed determines the weights and the order of images; a correlation of a
network is the mean over seeds, its interval is over stimuli drawn anew.

Run: python bench/rsa_macaque.py --data FOLDER [--seeds 5] [--draws 1000] [--json PATH] [--figure PNG]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from common import write_results

import plait
from plait.frontends.families import spiking
from plait.frontends.families.spiking import representation as rsa
from plait.frontends.families.spiking.learning_steps import LearningStep
from plait.ir import InputError

if TYPE_CHECKING:
    from rsatoolbox.rdm import RDMs

SUPPLEMENT = "Kriegeskorte_Neuron2008_supplementalData.mat"
MODELS, BRAINS = "92_modelRDMs.mat", "92_brainRDMs.mat"
SIZE, EPOCHS, CONVERGED = 56, 40, 0.1
SEEDS, DRAWS = 5, 1000
METHODS = ("spearman", "tau-a")
REFERENCES = ("human IT", "animacy", "HMAX", "Silhouette", "V1", "pixels")


@dataclass(frozen=True)
class Schedule:
    """How a network's learning rates rise: by a factor each so many images, up to a maximum."""

    images: int
    factor: float
    maximum: float


NETWORKS = {
    "Kheradpisheh": (spiking.Kheradpisheh, Schedule(500, 2.0, 0.15)),
    "Rezghi": (spiking.Rezghi, Schedule(100, 1.5, 1.5)),
}


@dataclass(frozen=True)
class Recordings:
    """The stimuli [92, 1, 56, 56] in 0..1 and dissimilarities of brains and models of the same ones."""

    images: torch.Tensor
    macaque: RDMs
    human: RDMs  # the mean of subjects, as published
    sessions: RDMs  # of each human subject and session
    models: RDMs
    order_check: float  # Spearman of silhouettes taken from the images with those of the file


def read_mat(path: Path) -> dict[str, Any]:
    """A MATLAB file.  Raises InputError if it cannot be read."""
    from scipy.io import loadmat  # type: ignore[import-untyped,unused-ignore]

    try:
        return loadmat(path, squeeze_me=True, struct_as_record=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path.name} cannot be read",
            where=str(path.parent),
            why=str(error),
            remedy="give the folder of rsatoolbox's demos/92imageData with --data",
        ) from error


def load(folder: Path) -> Recordings:
    """Stimuli and dissimilarities, and a check that both are in one order."""
    supplement = read_mat(folder / SUPPLEMENT)
    pixels = np.stack([stimulus.image for stimulus in supplement["stimuli_92objs"]]).astype(np.float64)
    grey = torch.from_numpy(pixels @ np.array([0.299, 0.587, 0.114]) / 255.0).unsqueeze(1)
    images = torch.nn.functional.interpolate(grey, size=(SIZE, SIZE), mode="area").to(torch.float32)
    brains = {entry.name: entry.RDM for entry in supplement["RDMs_mIT_hIT_fig1"]}
    known = {entry.name: entry.RDM for entry in read_mat(folder / MODELS)["Models"]}
    sessions = read_mat(folder / BRAINS)["RDMs"].ravel()
    subjects = [entry.name.split("|")[1].strip() for entry in sessions]
    names = [name for name in REFERENCES if name in known]
    models = rsa.named_rdms(names, np.stack([known[name] for name in names]))
    figure = (np.abs(pixels - pixels[:, :1, :1]).sum(axis=3) > 10).reshape(len(pixels), -1)
    silhouette = rsa.dissimilarities({"Silhouette": figure})
    return Recordings(
        images,
        rsa.named_rdms(["macaque IT"], brains["mIT_674neurons"][None]),
        rsa.named_rdms(["human IT"], brains["hITvisStim_316vx"][None]),
        rsa.named_rdms(subjects, np.stack([entry.RDM for entry in sessions]), {"subject": subjects}),
        models,
        rsa.correlations(silhouette, models.subset("name", "Silhouette"))["Silhouette"],
    )


def learn(
    network: spiking.RankOrderNetwork, images: torch.Tensor, schedule: Schedule, seed: int, first: Any
) -> list[dict[str, Any]]:
    """Train each layer in place; `first` is the compiled step of layer 1.  What happened, by layer."""
    generator = torch.Generator().manual_seed(seed)
    told = []
    for layer, weight in enumerate(network.weights):
        learning = LearningStep(network, layer)
        step = first if layer == 0 else compiled(learning, images)
        now, seen, epoch = weight.detach().clone(), 0, 0
        while epoch < EPOCHS and spiking.convergence(now) >= CONVERGED:
            epoch += 1
            for index in torch.randperm(len(images), generator=generator).tolist():
                now, _ = step(images[index : index + 1], now, learning.rates())
                seen += 1
                if seen % schedule.images == 0:
                    network.raise_rates(layer, schedule.maximum, schedule.factor)
        weight.copy_(now)
        told.append({"epochs": epoch, "convergence": round(spiking.convergence(now), 4)})
    return told


def compiled(learning: LearningStep, images: torch.Tensor) -> Any:
    """A step of learning compiled for this processor."""
    weight = learning.network.weights[learning.layer].detach().clone()
    return plait.compile(learning, (images[:1], weight, learning.rates()), target="cpu")


def layer_names(network: str) -> list[str]:
    """Names of a network's stages, in order."""
    stages = [f"layer {layer} {state}" for layer in (1, 2) for state in ("random", "trained")]
    return [f"{network} {stage}" for stage in ("code", *stages)]


def represent(
    networks: list[str], images: torch.Tensor, seeds: int
) -> tuple[list[RDMs], list[dict[str, Any]]]:
    """Dissimilarities of every stage, for every seed, and how the learning went."""
    sets, training = [rsa.dissimilarities({"pixels": images.flatten(1)})], []
    for name in networks:
        kind, schedule = NETWORKS[name]
        first = compiled(LearningStep(kind(seed=0), 0), images)
        for seed in range(seeds):
            start = time.monotonic()
            network = kind(seed=seed)
            for state in ("random", "trained"):
                if state == "trained":
                    told = learn(network, images, schedule, seed, first)
                run = plait.compile(rsa.Stages(network), (images[:1],), target="cpu")
                stages = rsa.representations(network, images, run=run)
                kept = {f"{name} {stage} {state}": stages[stage] for stage in ("layer 1", "layer 2")}
                if seed == 0 and state == "random":  # no seed changes the code
                    kept = {f"{name} code": stages["code"], **kept}
                sets.append(rsa.dissimilarities(kept))
            row = {"network": name, "seed": seed, "layers": told}
            training.append({**row, "seconds": round(time.monotonic() - start, 1)})
            print(training[-1], flush=True)
    return sets, training


def interval(found: rsa.Interval) -> dict[str, float]:
    """Rounded for the file."""
    return {key: round(value, 4) for key, value in asdict(found).items()}


def score(models: RDMs, data: Recordings, draws: int) -> dict[str, Any]:
    """Correlations with macaque IT, paired differences, and correlations with the human subjects."""
    names = list(dict.fromkeys(models.rdm_descriptors["name"]))
    rows: list[dict[str, Any]] = [{"model": name} for name in names]
    differences: list[dict[str, Any]] = []
    human: dict[str, Any] = {}
    for method in METHODS:
        drawn = rsa.bootstrap(models, data.macaque, method, draws=draws)
        ceiling = rsa.noise_ceiling(data.sessions, method)
        human[method] = {key: round(value, 4) for key, value in asdict(ceiling).items()}
        subjects = rsa.correlations(models, data.sessions, method)
        for row in rows:
            name = row["model"]
            row[method] = interval(drawn.interval(name))
            row[f"{method} by seed"] = deviation(models, data.macaque, name, method)
            row[f"{method} with human subjects"] = round(subjects[name], 4)
        for network in NETWORKS:
            if f"{network} code" not in names:
                continue
            trained = f"{network} layer 2 trained"
            others = ["pixels", "V1", f"{network} code", f"{network} layer 1 trained"]
            others += [f"{network} layer 2 random", "HMAX"]
            pairs = [(trained, other) for other in others]
            pairs.append((f"{network} layer 1 trained", f"{network} layer 1 random"))
            for one, two in pairs:
                found = drawn.difference(one, two)
                differences.append({"method": method, "first": one, "second": two, **interval(found)})
    return {"human_noise_ceiling": human, "differences": differences, "rows": rows}


def deviation(models: RDMs, data: RDMs, name: str, method: str) -> dict[str, float] | None:
    """Mean, standard deviation and extremes over seeds; None for a model without seeds."""
    same = models.subset("name", name)
    if same.n_rdm < 2:
        return None
    each = [
        rsa.correlations(same.subset("index", index), data, method)[name]
        for index in same.rdm_descriptors["index"]
    ]
    told = [float(np.mean(each)), float(np.std(each, ddof=1)), min(each), max(each)]
    keys = ("mean", "deviation", "low", "high")
    return {key: round(value, 4) for key, value in zip(keys, told, strict=True)}


def verdict(results: dict[str, Any]) -> list[dict[str, Any]]:
    """The claim for each network: layer 2 at least .19, and above pixels, V1 and layer 1."""
    told = []
    of = {row["model"]: row["spearman"] for row in results["rows"]}
    for network in NETWORKS:
        trained = f"{network} layer 2 trained"
        if trained not in of:
            continue
        above = {
            entry["second"]: {"above": entry["estimate"] > 0, "interval excludes 0": entry["lower"] > 0}
            for entry in results["differences"]
            if entry["method"] == "spearman" and entry["first"] == trained
        }
        estimate = of[trained]["estimate"]
        told.append(
            {"network": network, "spearman": estimate, "at least 0.19": estimate >= 0.19, "above": above}
        )
    return told


def draw(path: Path, results: dict[str, Any], models: RDMs, data: Recordings) -> None:
    """Bars with intervals, and the dissimilarities of macaque IT and some models as ranks."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(12, 8.5), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=[1.5, 1])
    axes = upper.subplots()
    rows = [row for row in results["rows"] if row["model"] != "human IT"]
    reference = next(row["spearman"] for row in results["rows"] if row["model"] == "human IT")
    axes.axhspan(reference["lower"], reference["upper"], color="0.9", label="human IT, 95 % interval")
    axes.axhline(reference["estimate"], color="0.4", linestyle="--", label="human IT")
    axes.axhline(0.19, color="tab:red", linewidth=0.8, linestyle=":", label="0.19")
    colors = {"random": "tab:orange", "trained": "tab:blue"}
    for place, row in enumerate(rows):
        found = row["spearman"]
        color = colors.get(row["model"].split()[-1], "0.6")
        axes.bar(place, found["estimate"], color=color, width=0.7)
        axes.vlines(place, found["lower"], found["upper"], color="black")
        seeds = row["spearman by seed"]
        if seeds:
            axes.vlines(place + 0.2, seeds["low"], seeds["high"], color="tab:red", linewidth=3)
    axes.vlines([], 0, 0, color="black", label="95 % interval over stimuli")
    axes.vlines([], 0, 0, color="tab:red", linewidth=3, label="lowest to highest seed")
    axes.axhline(0, color="black", linewidth=0.8)
    labels = [row["model"].replace(" layer", "\nlayer").replace(" code", "\ncode") for row in rows]
    axes.set_xticks(range(len(rows)), labels, rotation=60, fontsize=8)
    axes.set(ylabel="Spearman with macaque IT", title="Representational similarity, 92 stimuli")
    axes.legend(loc="upper right", fontsize=8, ncols=2)
    shown = ["human IT", "V1", *(f"{network} layer 2 trained" for network in NETWORKS)]
    shown = [name for name in shown if name in models.rdm_descriptors["name"]]
    pictures = [("macaque IT", data.macaque)]
    pictures += [(name, models.subset("name", name)) for name in shown]
    for panel, (name, rdms) in zip(lower.subplots(1, len(pictures)), pictures, strict=True):
        ranks = np.argsort(np.argsort(rdms.dissimilarities.mean(axis=0)))
        matrix = np.zeros((rdms.n_cond, rdms.n_cond))
        matrix[np.triu_indices(rdms.n_cond, 1)] = ranks / ranks.max()
        panel.imshow(matrix + matrix.T, cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
        panel.set_title(name.replace(" layer", "\nlayer"), fontsize=9)
        panel.set_xticks([])
        panel.set_yticks([])
    lower.supxlabel("1 - Pearson as ranks, stimuli in the order of the recordings", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the three .mat files")
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--seeds", type=int, default=SEEDS, help="seeds of each network, from 0 on")
    parser.add_argument("--draws", type=int, default=DRAWS, help="bootstrap draws of stimuli")
    parser.add_argument(
        "--json", type=Path, help="where results go, by default bench/results after a whole run"
    )
    parser.add_argument("--figure", type=Path, help="a PNG of correlations and dissimilarities")
    options = parser.parse_args()
    if options.seeds < 1 or options.draws < 1:
        parser.error("--seeds and --draws are at least 1")

    torch.set_num_threads(1)
    start = time.monotonic()
    data = load(options.data)
    sets, training = represent(options.networks, data.images, options.seeds)
    # In the order of the figure: references, then the stages of each network.
    stages = [name for network in options.networks for name in layer_names(network)]
    everything = rsa.concatenate([data.human, data.models, *sets])
    order = [name for name in (*REFERENCES, *stages) if name in everything.rdm_descriptors["name"]]
    models = rsa.concatenate([everything.subset("name", name) for name in order])
    results = score(models, data, options.draws)
    results = {
        "rsatoolbox": importlib.metadata.version("rsatoolbox"),
        "stimuli": int(models.n_cond),
        "seeds": options.seeds,
        "draws": options.draws,
        "protocol": {"size": SIZE, "epochs": EPOCHS, "converged": CONVERGED}
        | {name: asdict(NETWORKS[name][1]) for name in options.networks},
        "order_check": round(data.order_check, 4),
        "verdict": verdict(results),
        "training": training,
        **results,
        "seconds": round(time.monotonic() - start, 1),
        "processor_seconds": round(time.process_time(), 1),
    }
    for row in results["rows"]:
        found, tau = row["spearman"], row["tau-a"]["estimate"]
        bounds = f"[{found['lower']:6.3f}, {found['upper']:6.3f}]"
        print(
            f"{row['model']:32} {found['estimate']:6.3f} {bounds} tau-a {tau:6.3f} {row['spearman by seed']}"
        )
    for entry in results["differences"]:
        bounds = f"[{entry['lower']:6.3f}, {entry['upper']:6.3f}] p {entry['p']:.3f}"
        print(f"{entry['method']:8} {entry['first']} - {entry['second']}: {entry['estimate']:6.3f} {bounds}")
    print(results["human_noise_ceiling"], results["verdict"], results["seconds"], sep="\n")
    path = options.json
    if path is None and (options.networks, options.seeds, options.draws) == (list(NETWORKS), SEEDS, DRAWS):
        path = Path(__file__).parent / "results" / "rsa_macaque.json"
    if path is not None:
        write_results(path, "rsa_macaque", results)
    if options.figure is not None:
        draw(options.figure, results, models, data)


if __name__ == "__main__":
    main()
