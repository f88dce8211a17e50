"""Executables against golden data of Spyker 0.1.0: codes, spike times, winners and weights after learning.

The file (golden_spyker.npz) holds what the package gave on seeded images for the networks of Kheradpisheh and
Rezghi.  Here the network is compiled for the CPU, from codes to times, and so is one step of learning of the
first layer.  Codes are compared from Spyker's own filtered images.  Spyker does not define the order of equal
values, so that a code may differ there by one bin; and of two neurons whose potentials are equal, whichever
has the larger rounding error wins: an executable adds weights event by event, Spyker by frames.  Both kinds
of ties are counted apart.

Run: python bench/spiking_golden.py --golden golden_spyker.npz [--json PATH]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import write_results

import plait
from plait.frontends.families.spiking import Kheradpisheh, RankOrderNetwork, Rezghi
from plait.frontends.families.spiking.events import Stage, rank_order_times
from plait.frontends.families.spiking.learning_steps import LearningStep


class Code(torch.nn.Module):
    """The rank-order code alone."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """float32 [B, C, H, W] -> uint8."""
        return rank_order_times(image, 15)


def compare(name: str, network: RankOrderNetwork, golden: Any) -> dict[str, Any]:
    """Differences of each kind."""

    def given(key: str) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(golden[f"{name}_{key}"]))

    with torch.no_grad():
        network.weights[0].copy_(given("k1"))
        network.weights[1].copy_(given("k2"))
        seen = given("filtered") > network.filter_threshold
        filtered = network.filters(torch.from_numpy(golden["x"]))
    strong = torch.where(given("filtered") > network.filter_threshold, given("filtered"), 0.0)
    codes = np.asarray(plait.compile(Code(), (strong,))(strong))
    wrong = codes != golden[f"{name}_codes"]
    tied = np.zeros_like(wrong)
    for sample in range(len(codes)):  # a value that another place of the image has, too
        _, inverse, counts = np.unique(strong[sample].numpy(), return_inverse=True, return_counts=True)
        tied[sample] = (counts > 1)[inverse].reshape(wrong[sample].shape)
    times = given("codes")
    told: dict[str, Any] = {
        "network": name,
        "filter_difference": float((filtered - given("filtered")).abs()[seen].max()),
        "codes_differ": int((wrong & ~tied).sum()),
        "codes_of_equal_values_differ": int((wrong & tied).sum()),
        "codes": int(wrong.size),
    }
    for layer in (1, 2):
        exe = plait.compile(Stage(network, layer), (times,))
        times = torch.from_numpy(np.asarray(exe(times)).copy())
        told[f"times_differ_layer{layer}"] = int((times != given(f"l{layer}")).sum())
        told[f"times_layer{layer}"] = times.numel()
    step = LearningStep(network, 0, from_times=True)
    inputs = (given("codes"), network.weights[0].detach().clone(), step.rates())
    new, table = plait.compile(step, inputs)(*inputs)
    winners = np.asarray(table)
    rows = [[k, *slot[1:]] for k, slots in enumerate(winners.tolist()) for slot in slots if slot[0] >= 0]
    different = ties = 0
    for (sample, time, *mine), (_, *theirs) in zip(rows, golden[f"{name}_win1"].tolist(), strict=True):
        if mine != theirs:
            fired = (given("codes")[sample : sample + 1] <= time).double()
            padding = network.configs[0].padding
            potential = torch.nn.functional.conv2d(fired, given("k1").double(), padding=padding)[0]
            tie = abs(float(potential[tuple(mine)] - potential[tuple(theirs)])) < 1e-6
            ties, different = ties + tie, different + (not tie)
    told["winners_differ"], told["winners_of_equal_potential_differ"] = different, ties
    told["winners"] = len(rows)
    told["weight_difference"] = float(np.abs(np.asarray(new) - golden[f"{name}_k1_after"]).max())
    return told


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--golden", type=Path, required=True, help="golden_spyker.npz")
    parser.add_argument("--json", type=Path, help="results, by default bench/results/spiking_golden.json")
    options = parser.parse_args()
    golden = np.load(options.golden)
    networks: dict[str, RankOrderNetwork] = {"kheradpisheh": Kheradpisheh(), "rezghi": Rezghi()}
    rows = [compare(name, network, golden) for name, network in networks.items()]
    for row in rows:
        print(row, flush=True)
    path = options.json or Path(__file__).parent / "results" / "spiking_golden.json"
    write_results(path, "spiking_golden", {"rows": rows})


if __name__ == "__main__":
    main()
