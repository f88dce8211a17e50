"""The README's tables of spiking networks: throughput, densities, learning, and macaque IT."""

from __future__ import annotations

from typing import Any

from markdown_tables import markdown, provenance


def spiking_throughput(record: dict[str, Any]) -> str:
    """Milliseconds a batch of each contender, and plait's ratio to the better form of Spyker."""
    peers = ["plait", "spyker dense", "spyker sparse", "snntorch"]
    rows = []
    for r in record["rows"]:
        cells = [f"{r['ms'][peer]:.1f}" if peer in r["ms"] else "" for peer in peers]
        speed = str(r["images_per_second"]["plait"])
        if "weight_difference" in r:
            check = (
                f"weights within {r['weight_difference']:.0e}" if r["weight_difference"] else "equal weights"
            )
        else:
            differing = sum(r["differing_times"].values())
            check = f"{differing} of {r['of']:,} spike times differ"
        rows.append([r["network"], r["stage"], *cells, speed, f"{r['times_best_spyker']:.1f}x", check])
    columns = [f"{peer}, ms" for peer in peers]
    headings = ["network", "stage", *columns, "plait, images/s", "faster than Spyker", "check"]
    note = (
        f"\nBatches of {record['batch']} digits, {record['threads']} threads, medians of {record['rounds']} "
        "calls taken in turns; `infer` is from the image to the times of the last layer, `stdp k` and "
        "`reward` are whole learning steps. Ratios are to the faster form of Spyker 0.1.0; the check is "
        "against all peers, of learning against Spyker's dense form. Spyker has no sparse layer of infinite "
        "threshold, snnTorch no STDP.\n"
    )
    return markdown(headings, rows) + note + provenance(record)


def spike_density(record: dict[str, Any]) -> str:
    """Time of the event-driven kernel over the dense one, by density."""
    rows = [
        [
            f"{100 * r['density']:g} %",
            f"{r['median']:.2f}",
            f"{r['min']:.2f} to {r['max']:.2f}",
            f"{r['faster_by_events']} of {record['layers']}",
        ]
        for r in record["events_over_dense"]
    ]
    right = record["right_choices"]
    strict, loose = 100 * right["strict"], 100 * right["within_5_percent"]
    note = (
        f"\n{record['layers']} shapes of `spike.conv2d` and `spike.linear` that the cost model was not "
        f"fitted on; {record['threads']} thread(s). `choose-spike-kernels` picks the faster side in "
        f"{strict:.1f} % of the {len(record['rows'])} cases ({loose:.1f} % when a loss of up to 5 % "
        "counts as right).\n"
    )
    headings = ["inputs that spike", "events / dense, median", "range", "faster by events"]
    return markdown(headings, rows) + note + provenance(record)


def spiking_learning(records: dict[str, dict[str, Any]]) -> str:
    """Accuracies after learning, with seed and data."""
    rows = []
    for name, r in records.items():
        if name == "diehl_cook":
            told = f"vote of labelled neurons {r['test_accuracy']:.4f}"
            sizes = f"{r['train_images']:,} / {r['test_images']:,}"
            rows.append(["Diehl and Cook, 400 neurons", "MNIST t10k", sizes, str(r["seed"]), "", told])
            continue
        last: dict[int, float] = {
            row["layer"]: row["convergence"] for row in r["rows"] if "convergence" in row
        }
        data = "digits" if r["data"] == "digits" else "MNIST t10k"
        told = "; ".join(f"{key} {value:.4f}" for key, value in r["test_accuracy"].items())
        indices = ", ".join(f"{value:.4f}" for value in last.values())
        sizes = f"{r['train_images']:,} / {r['test_images']:,}"
        rows.append([name.removeprefix("spiking_learning_"), data, sizes, str(r["seed"]), indices, told])
    headings = ["network", "data", "train / test", "seed", "mean w(1-w), by layer", "test accuracy"]
    some = next(iter(records.values()))
    return markdown(headings, rows) + provenance(some)


def rsa_macaque(record: dict[str, Any]) -> str:
    """Correlations of dissimilarities with those of macaque IT."""

    def cell(figures: dict[str, float]) -> str:
        return f"{figures['estimate']:.3f} [{figures['lower']:.3f}, {figures['upper']:.3f}]"

    rows = [[r["model"], cell(r["spearman"]), cell(r["tau-a"])] for r in record["rows"]]
    differences = [
        f"{d['second'].removeprefix('Kheradpisheh ')} {cell(d)}"
        for d in record["differences"]
        if d["method"] == "spearman" and d["first"] == "Kheradpisheh layer 2 trained"
    ]
    note = (
        f"\nIntervals of 95 % over stimuli ({record['draws']:,} draws); a network's figure is the mean over "
        f"{record['seeds']} seeds. Kheradpisheh's trained layer 2 minus another (Spearman): "
        f"{'; '.join(differences)}. Most of the score comes from architecture and code; silhouettes and "
        "HMAX score higher.\n"
    )
    return markdown(["representation", "Spearman", "tau-a"], rows) + note + provenance(record)


def spiking_golden(record: dict[str, Any]) -> str:
    """Differences from the golden data of Spyker."""
    rows = [
        [
            r["network"],
            f"{r['filter_difference']:.0e}",
            f"{r['codes_differ']} of {r['codes']:,} "
            f"(and {r['codes_of_equal_values_differ']} of equal values)",
            f"{r['times_differ_layer1']} of {r['times_layer1']:,}, "
            f"{r['times_differ_layer2']} of {r['times_layer2']:,}",
            f"{r['winners_differ']} of {r['winners']} (and {r['winners_of_equal_potential_differ']} of equal "
            "potential)",
            f"{r['weight_difference']:.0e}",
        ]
        for r in record["rows"]
    ]
    headings = [
        "network",
        "filters, largest",
        "codes",
        "spike times, layers 1 and 2",
        "winners",
        "weights, largest",
    ]
    return markdown(headings, rows) + provenance(record)


def nir_examples(record: dict[str, Any]) -> str:
    """Example graphs of NIR: read, run, written back."""
    rows = []
    for r in record["rows"]:
        if "refused_by_nir" in r:
            rows.append([r["file"], f"refused by nir {record['nir']}", "", "", ""])
            continue
        of = f"of {r['outputs']:,}"
        rows.append(
            [
                r["file"],
                f"{r['nodes']} nodes",
                f"{r['cpu_differs_from_interpreter']} {of}",
                f"{r['differs_from_snntorch']} {of}",
                "equal" if r["written_back_equal"] else "differs",
            ]
        )
    headings = ["file", "read", "cpu differs from interpreter", "differs from snnTorch", "written back"]
    return markdown(headings, rows) + provenance(record)


def spiking_trained(record: dict[str, Any]) -> str:
    """Trained networks through the compiler."""

    def accuracies(found: dict[str, float]) -> str:
        return "; ".join(f"{key} {value:.4f}" for key, value in found.items())

    def energy(found: dict[str, Any]) -> str:
        shares = ", ".join(f"{100 * density:.0f} %" for density in found["densities"])
        return f"{found['energy_uj'] / 1e3:.2f} mJ at {shares}"

    rows = []
    for r in record["rows"]:
        first, last = r["predictions"][0], r["predictions"][-1]
        rows.append(
            [
                r["network"],
                f"cpu {r['cpu_differs_from_interpreter']} of {r['spike_times']:,}, "
                f"a100 {r['a100_differs_from_interpreter']} of {r['a100_spike_times']:,}",
                accuracies(r["accuracy"]),
                accuracies(r["two_level_accuracy"]),
                f"{energy(first)}; {energy(last)}",
            ]
        )
    headings = [
        "network",
        "spike times that differ",
        "test accuracy",
        "with two-level weights",
        "predicted energy",
    ]
    note = (
        f"\nSpike times of {record['images']} test images (the CUDA kernels: one image, executed by "
        "emulation under detectors) against the interpreter. Energies of a batch on an A100-SXM4-40GB are "
        "simulated by the roofline, at the measured shares of the layers' inputs that fire.\n"
    )
    return markdown(headings, rows) + note + provenance(record)


__all__ = [
    "nir_examples",
    "rsa_macaque",
    "spike_density",
    "spiking_golden",
    "spiking_learning",
    "spiking_throughput",
    "spiking_trained",
]
