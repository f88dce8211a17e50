"""The pass that chooses how sums of spikes are computed, and the model it asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from plait.ir import Dim, Graph, SpikeType, TensorType, parse
from plait.ir import spike_crossover as model
from plait.ir import types as t
from plait.ir.ops import spike
from plait.passes import optimize, why
from plait.passes.examples import body_lines, examples_of
from plait.passes.spike.choose_kernels import ChooseSpikeKernels

LAYERS = [
    model.SpikeLayer(16, 32, 64, (28, 28), (28, 28), (5, 5), pad=2),
    model.SpikeLayer(16, 256, 256, (7, 7), (7, 7), (3, 3), pad=1),
    model.SpikeLayer(64, 784, 800),
]


def graph(density: float | None, *, constant: bool = True, levels: bool = False, **options: Any) -> Graph:
    g = Graph("layer")
    g.declare_dim("B", 1, 64)
    x = g.add_input("x", SpikeType((Dim.symbol("B"), 32, 28, 28), density))
    array = np.random.default_rng(0).standard_normal((64, 32, 5, 5)).astype(np.float32)
    if levels:
        array = np.sign(array)
    w = g.add_constant("w", array) if constant else g.add_input("w", TensorType(t.f32, array.shape))
    g.set_outputs([g.emit(spike.SpikeConv2d(x, w, pad=(2, 2), **options))])
    g.verify()
    return g


def chosen(g: Graph, **options: Any) -> tuple[str, str]:
    """The kernel after the pass, and its remark."""
    after, report = optimize(g, [ChooseSpikeKernels(**options)])
    (op,) = after.walk()
    assert isinstance(op, spike.SpikeConv2d)
    (row,) = report.rows
    (remark,) = row.remarks
    return op.kernel, remark


def test_few_spikes_go_by_events_and_many_dense() -> None:
    few, remark = chosen(graph(0.01))
    many, _ = chosen(graph(0.95))
    assert (few, many) == ("gather_rows", "dense")
    assert "gather_rows" in remark
    assert "dense" in remark
    assert "us" in remark
    assert "equal at a density of" in remark
    assert "batch 16" in remark


def test_popcount_needs_two_levels_and_a_cpu() -> None:
    assert chosen(graph(0.3, levels=True))[0] == "popcount"
    assert chosen(graph(0.3))[0] != "popcount"
    kernel, remark = chosen(graph(0.3, levels=True), target="a100")
    assert kernel != "popcount"
    assert "modelled" in remark


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"density": None}, "has no density"),
        ({"density": 0.1, "constant": False}, "not constant"),
        ({"density": 0.1, "kernel": "dense"}, "is set already"),
    ],
    ids=str,
)
def test_what_is_left_alone(options: dict[str, Any], reason: str) -> None:
    kernel, remark = chosen(graph(**options))
    assert kernel == options.get("kernel", "auto")
    assert reason in remark


def test_why_tells_the_times() -> None:
    g = graph(0.01)
    assert "takes gather_rows" in why(g, ChooseSpikeKernels(), next(iter(g.walk())).name)


@pytest.mark.parametrize("target", ["cpu", "a100"])
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_times_at_the_crossover_are_equal(layer: model.SpikeLayer, target: Any) -> None:
    density = model.crossover(target, layer)
    assert 0 < density <= 1
    if density < 1:
        below = model.seconds(target, "gather_rows", layer, 0.98 * density)
        above = model.seconds(target, "gather_rows", layer, 1.02 * density)
        assert below < model.seconds(target, "dense", layer, density) < above


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_work_by_events_grows_with_density_and_other_work_does_not(layer: model.SpikeLayer) -> None:
    for target in ("cpu", "a100"):
        times = [model.seconds(target, "gather_rows", layer, d) for d in (0.0, 0.01, 0.1, 0.5, 1.0)]  # type: ignore[arg-type]
        assert times == sorted(times)
        assert times[0] < times[-1]
    assert model.work("dense", layer, 0.01) == model.work("dense", layer, 0.9)
    assert model.work("popcount", layer, 0.01) == model.work("popcount", layer, 0.9)


def test_one_image_leaves_threads_without_work() -> None:
    one, many = (model.SpikeLayer(n, 784, 800) for n in (1, 64))
    ratio = (
        model.work("gather_rows", one, 0.1, 2)["row_event"]
        / model.work("gather_rows", many, 0.1, 2)["row_event"]
    )
    assert ratio == pytest.approx(2 / 64)  # one thread has one image of 1, or 32 of 64


def test_the_model_takes_its_sizes_from_an_op() -> None:
    (op,) = graph(0.1).walk()
    assert isinstance(op, spike.SpikeConv2d)
    assert model.layer_of(op) == model.SpikeLayer(model.IMAGES, 32, 64, (28, 28), (28, 28), (5, 5), pad=2)


def test_the_example_of_the_pass(assert_same: Callable[[Graph, Graph], None]) -> None:
    (example,) = examples_of(ChooseSpikeKernels)
    before = example.graph()
    after, report = optimize(before, [ChooseSpikeKernels()])
    assert body_lines(after) == example.result
    assert report.changed
    assert parse(str(after)) == after
    assert_same(before, after)
