"""Measured densities in types and attributes, and what reads them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import plait
from plait.frontends.families.spiking import Kheradpisheh
from plait.frontends.families.spiking.events import FirstSpikes
from plait.ir import parse
from plait.ir.errors import InputError
from plait.ir.ops import core, spike
from plait.ir.types import SpikeType
from plait.passes.spike.density import annotate_density

LOOP = """
plait.ir 1.0
const @w : f32[3,4] = blob("w")
func @main(%s: spike[5,2,4], %v: f32[2,3]) -> spike[5,2,3], f32[2,3] {
  %z, %last = core.scan(%s, %v) : spike[5,2,3], f32[2,3] do (%e: spike[2,4], %u: f32[2,3]) {
    %i = spike.linear(%e, @w) : f32[2,3]
    %f, %n = spike.lif(%i, %u) {tau=0.02, dt=0.01, v_th=0.5, reset="zero"} : spike[2,3], f32[2,3]
    yield %f, %n
  }
  return %z, %last
}
"""


def test_densities_inside_a_loop_are_means_over_steps() -> None:
    weights = np.asarray([[1, 0, 0, 0], [0, 1, 0, 0], [-1, -1, -1, -1]], np.float32)
    graph = parse(LOOP, constants={"w": weights})
    spikes = torch.zeros(5, 2, 4, dtype=torch.bool)
    spikes[:, 0, 0] = True
    after, report = annotate_density(graph, [(spikes, torch.zeros(2, 3))])
    assert report.rows["s"].density == pytest.approx(5 / 40)
    assert report.rows["s"].silent == pytest.approx(0.5)
    fired = report.rows["f"].density
    assert 0 < fired < 1
    scan = next(op for op in after.walk() if isinstance(op, core.Scan))
    kinds = [value.type for value in (after.value("s"), scan.body.params[0], after.value("f"))]
    assert [kind.density for kind in kinds if isinstance(kind, SpikeType)] == [0.125, 0.125, fired]
    kinds_before, kinds_after = ([value.type for value in g.values()] for g in (graph, after))
    assert kinds_before == kinds_after, "a density is an annotation"
    assert "spike<0.125>[5,2,4]" in str(after)
    assert "%s" in str(report)


@pytest.fixture(scope="module")
def network() -> tuple[plait.Graph, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.zeros(2, 1, 28, 28)
    image[:, :, 8:20, 10:15] = 0.8
    image = image * torch.rand(image.shape, generator=generator)
    return plait.lower(FirstSpikes(Kheradpisheh(seed=0).eval()), (image,)), image


def test_layers_hold_the_share_of_inputs_that_fire(network: tuple[plait.Graph, torch.Tensor]) -> None:
    graph, image = network
    after, report = annotate_density(graph, [image])
    layers = [op for op in after.walk() if isinstance(op, spike.FirstSpikeConv2d)]
    seen: dict[str, torch.Tensor] = {}
    from plait.ir.interpret import interpret

    interpret(graph, [image], observe=lambda value, tensor: seen.__setitem__(value.name, tensor))
    for layer in layers:
        share = float((seen[layer.x.name] < layer.steps).double().mean())
        assert layer.density == pytest.approx(share, abs=1e-6)
        assert report.rows[layer.x.name].density == pytest.approx(share)
    assert torch.equal(*(interpret(g, [image])[0] for g in (graph, after)))


def test_costs_and_predictions_follow_the_density(network: tuple[plait.Graph, torch.Tensor]) -> None:
    graph, image = network
    dim, bright = (annotate_density(graph, [factor]) for factor in (image * (image > 0.7), image))
    assert dim[1].rows != bright[1].rows
    few, many = (plait.predict(found[0]).energy_j for found in (dim, bright))
    assert few < many


def test_bad_data(network: tuple[plait.Graph, torch.Tensor]) -> None:
    graph, _ = network
    with pytest.raises(InputError, match="calibration data is empty"):
        annotate_density(graph, [])
    with pytest.raises(InputError, match="NaN"):
        annotate_density(graph, [torch.full((2, 1, 28, 28), torch.nan)])
