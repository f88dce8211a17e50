"""Rates of single layers against their closed form, and a network against a simulation written in numpy."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from plait.ir import Graph, SpikeType, TensorType, Value, parse
from plait.ir import types as t
from plait.ir.interpret import interpret
from plait.ir.ops import core, nn, spike
from plait.passes.spike.conversion.pipeline import to_spiking

STEPS = 32


class Net:
    """A graph on images f32 [B,C,4,4] whose layers pass each channel on, times a factor."""

    def __init__(self, channels: int = 2) -> None:
        self.graph, self.channels = Graph(), channels
        batch = self.graph.declare_dim("B")
        self.x = self.graph.add_input("x", TensorType(t.f32, (batch, channels, 4, 4)))

    def layer(self, x: Value, factor: float = 1.0) -> Value:
        channels = x.shaped.shape[1]
        assert isinstance(channels, int)
        weight = (factor * np.eye(channels, dtype=np.float32)).reshape(channels, channels, 1, 1)
        name = self.graph.free_name("w")
        return self.graph.emit(nn.Conv2d(x, self.graph.add_constant(name, weight)))

    def neurons(self, x: Value, factor: float = 1.0) -> Value:
        return self.graph.emit(nn.Relu(self.layer(x, factor)))

    def done(self, *outputs: Value) -> Graph:
        self.graph.set_outputs(outputs)
        return self.graph


def grid(generator: np.random.Generator, low: int, high: int, *shape: int) -> np.ndarray:
    """Multiples of 1 / 1024, whose sums over some steps are exact in 32 bits."""
    return (generator.integers(low, high + 1, shape) / 1024).astype(np.float32)


def rates(x: np.ndarray, initial: float) -> np.ndarray:
    """The rate of an integrate-and-fire neuron after STEPS steps of a constant current x."""
    return np.clip(np.floor(STEPS * np.minimum(x, 1.0).astype(np.float64) + initial), 0, STEPS) / STEPS


@pytest.fixture
def images() -> tuple[np.ndarray, np.ndarray]:
    """Calibration data whose largest number is 1, and test data in -2..2."""
    generator = np.random.default_rng(0)
    calibration = grid(generator, -1024, 1024, 5, 2, 4, 4)
    calibration[0, 0, 0, 0] = 1.0
    return calibration, grid(generator, -2048, 2048, 3, 2, 4, 4)


def run(graph: Graph, x: np.ndarray) -> np.ndarray:
    return interpret(graph, [x])[0].numpy()


@pytest.mark.parametrize("initial", [0.0, 0.5])
def test_a_rate_is_the_clipped_activation_rounded_to_the_steps(
    images: tuple[np.ndarray, np.ndarray], initial: float
) -> None:
    calibration, x = images
    net = Net()
    graph = net.done(net.layer(net.neurons(net.x)))
    found = to_spiking(graph, [calibration], steps=STEPS, percentile=100, initial=initial)
    assert found.report.rows[0].scale == 1.0
    np.testing.assert_array_equal(run(found.graph, x), rates(x, initial))
    assert np.abs(run(found.graph, x) - np.clip(x, 0, 1)).max() <= (1 - initial) / STEPS


def test_weights_and_not_thresholds_hold_the_scales(images: tuple[np.ndarray, np.ndarray]) -> None:
    calibration, x = images
    net = Net()
    graph = net.done(net.layer(net.neurons(net.neurons(net.x, 4.0), 0.125)))
    found = to_spiking(graph, [calibration], steps=STEPS, percentile=100, initial=0.0)
    assert [row.scale for row in found.report.rows] == [4.0, 0.5]
    fires = [op for op in found.graph.walk() if isinstance(op, spike.IntegrateAndFire)]
    assert {op.v_th for op in fires} == {1.0}
    # Scales are powers of two, and the second layer repeats the spikes of the first one.
    np.testing.assert_array_equal(run(found.graph, x), 0.5 * rates(x, 0.0))


def test_max_pooling_gives_the_highest_rate_of_a_window_as_spikes(
    images: tuple[np.ndarray, np.ndarray],
) -> None:
    calibration, x = images
    net = Net()
    pooled = net.graph.emit(nn.MaxPool2d(net.neurons(net.x), kernel=(3, 3), stride=(2, 2), pad=(1, 1)))
    graph = net.done(net.layer(pooled))
    found = to_spiking(graph, [calibration], steps=STEPS, percentile=100, initial=0.0)
    expected = torch.nn.functional.max_pool2d(torch.as_tensor(rates(x, 0.0)), 3, 2, 1).numpy()
    np.testing.assert_array_equal(run(found.graph, x), expected)
    (last,) = [op for op in found.graph.walk() if isinstance(op, spike.SpikeConv2d)]
    assert isinstance(last.x.producer, spike.Threshold)


def test_maxima_over_axes_and_of_currents(images: tuple[np.ndarray, np.ndarray]) -> None:
    calibration, x = images
    net = Net()
    mean = net.graph.emit(nn.AvgPool2d(net.neurons(net.x), kernel=(2, 2), stride=(2, 2)))
    largest = net.graph.emit(core.Max(mean, axes=(2,), keepdims=True))
    graph = net.done(net.layer(largest))
    found = to_spiking(graph, [calibration], steps=STEPS, percentile=100, initial=0.0)
    means = rates(x, 0.0).reshape(3, 2, 2, 2, 2, 2).mean((3, 5))
    np.testing.assert_allclose(run(found.graph, x), means.max(2, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("pooling", ["current", "spikes"])
def test_averages_are_currents_or_spikes_again(images: tuple[np.ndarray, np.ndarray], pooling: Any) -> None:
    calibration, x = images
    net = Net()
    average = net.graph.emit(nn.AvgPool2d(net.neurons(net.x), kernel=(2, 2), stride=(2, 2)))
    graph = net.done(net.layer(average), average)
    options: dict[str, Any] = {"steps": STEPS, "percentile": 100, "initial": 0.0, "pooling": pooling}
    found = to_spiking(graph, [calibration], **options)
    means = rates(x, 0.0).reshape(3, 2, 2, 2, 2, 2).mean((3, 5))
    sums = [op for op in found.graph.walk() if isinstance(op, spike.SpikeConv2d)]
    if pooling == "current":
        assert not sums
        np.testing.assert_allclose(run(found.graph, x), means, atol=1e-6)
        assert found.report.remarks == (
            "sums currents and not spikes, which spike ops cannot: %conv2d_1 (nn.conv2d)",
        )
    else:
        (last,) = sums
        assert isinstance(last.x.producer, spike.IntegrateAndFire)
        scale = found.report.rows[1].scale
        assert scale == np.maximum(calibration, 0).reshape(5, 2, 2, 2, 2, 2).mean((3, 5)).max()
        assert np.abs(run(found.graph, x) - np.minimum(means, scale)).max() <= 2 * scale / STEPS
        assert not found.report.remarks


def test_rectifiers_behind_max_pooling_go_in_front_of_it(images: tuple[np.ndarray, np.ndarray]) -> None:
    calibration, x = images
    net = Net()
    pool = net.graph.emit(nn.MaxPool2d(net.layer(net.neurons(net.x)), kernel=(2, 2), stride=(2, 2)))
    graph = net.done(net.layer(net.graph.emit(nn.Relu(pool))))
    found = to_spiking(graph, [calibration], steps=STEPS, percentile=100, initial=0.0)
    expected = rates(x, 0.0).reshape(3, 2, 2, 2, 2, 2).max((3, 5))
    np.testing.assert_array_equal(run(found.graph, x), expected)


def test_branches_meet_at_one_scale(images: tuple[np.ndarray, np.ndarray]) -> None:
    calibration, x = images
    net = Net()
    short = net.neurons(net.x, 2.0)
    branch = net.layer(net.neurons(net.x, 8.0), 0.25)
    total = net.graph.emit(nn.Relu(net.graph.emit(core.Sub(short, branch))))
    both = net.graph.emit(nn.Relu(net.graph.emit(core.Add(short, branch))))
    graph = net.done(net.layer(both), net.layer(total))
    found = to_spiking(graph, [calibration], steps=STEPS, percentile=100, initial=0.0)
    assert [row.scale for row in found.report.rows] == [2.0, 8.0, 1.0, 4.0]  # a silent layer has scale 1
    sums, differences = interpret(found.graph, [x])
    np.testing.assert_array_equal(sums.numpy(), 4.0 * rates(x, 0.0))
    assert not differences.any()


def test_joined_spikes_share_a_scale_and_stay_spikes(images: tuple[np.ndarray, np.ndarray]) -> None:
    calibration, x = images
    net = Net()
    joined = net.graph.emit(core.Concat((net.neurons(net.x), net.neurons(net.x, 0.25)), axis=1))
    graph = net.done(net.layer(joined))
    found = to_spiking(graph, [calibration], steps=STEPS, percentile=100, initial=0.0)
    assert [row.scale for row in found.report.rows] == [1.0, 1.0]
    np.testing.assert_array_equal(
        run(found.graph, x), np.concatenate([rates(x, 0.0), rates(0.25 * x, 0.0)], 1)
    )
    assert any(isinstance(op, spike.SpikeConv2d) for op in found.graph.walk())


@pytest.mark.parametrize("kind", ["relu6", "clamp"])
def test_a_bounded_rectifier_fires_at_most_at_its_bound(
    images: tuple[np.ndarray, np.ndarray], kind: str
) -> None:
    calibration, x = images
    net = Net()
    current = net.layer(net.x, 8.0)
    bounded = nn.Relu6(current) if kind == "relu6" else core.Clamp(current, low=0.0, high=4.0)
    graph = net.done(net.layer(net.graph.emit(bounded)))
    found = to_spiking(graph, [calibration], steps=STEPS, percentile=100)
    bound = 6.0 if kind == "relu6" else 4.0
    (row,) = found.report.rows
    assert row.scale == bound
    assert row.clipped == 0.0
    assert np.abs(run(found.graph, x) - np.clip(8 * x, 0, bound)).max() <= 0.5 * bound / STEPS + 1e-5


def test_a_bound_holds_beside_larger_activations(images: tuple[np.ndarray, np.ndarray]) -> None:
    calibration, x = images
    net = Net()
    bounded = net.graph.emit(core.Clamp(net.layer(net.x, 8.0), low=0.0, high=4.0))
    joined = net.graph.emit(core.Concat((net.neurons(net.x, 8.0), bounded), axis=1))
    found = to_spiking(net.done(net.layer(joined)), [calibration], steps=STEPS, percentile=100, initial=0.0)
    assert [row.scale for row in found.report.rows] == [4.0, 8.0]
    expected = np.concatenate([8.0 * rates(x, 0.0), 4.0 * rates(2.0 * x, 0.0)], 1)
    np.testing.assert_array_equal(run(found.graph, x), expected)


def test_a_layer_that_is_nearly_silent_keeps_its_largest_activation() -> None:
    net = Net()
    x = -np.ones((40, 2, 4, 4), np.float32)
    x[3, 1, 2, 2] = 0.25
    found = to_spiking(net.done(net.layer(net.neurons(net.x))), [x], steps=STEPS, percentile=99)
    assert found.report.rows[0].scale == 0.25
    np.testing.assert_array_equal(run(found.graph, x), np.maximum(x, 0))


def test_what_lies_behind_the_last_layer_is_computed_on_means(images: tuple[np.ndarray, np.ndarray]) -> None:
    calibration, x = images
    net = Net()
    neurons = net.neurons(net.graph.emit(core.Neg(net.x)))
    last = net.layer(neurons, 3.0)
    shares = net.graph.emit(nn.Softmax(net.graph.emit(nn.Relu(last)), axis=1))
    found = to_spiking(net.done(shares, neurons), [calibration], steps=STEPS, percentile=100, initial=0.0)
    shown, hidden = interpret(found.graph, [x])
    scale = found.report.rows[0].scale
    expected = scale * rates(-x / np.float32(scale), 0.0)
    assert scale == -calibration.min()
    np.testing.assert_allclose(hidden.numpy(), expected, atol=scale / STEPS + 1e-6)
    np.testing.assert_allclose(shown.numpy(), torch.softmax(3 * hidden, 1).numpy(), atol=1e-5)
    assert found.report.remarks == (
        "computed once and as it is: %neg (core.neg)",
        "computed on means over time: %relu_1 (nn.relu), %softmax (nn.softmax)",
    )


def test_bernoulli_spikes_have_the_rate_of_the_input() -> None:
    net = Net()
    graph = net.done(net.layer(net.neurons(net.x)))
    x = np.random.default_rng(1).uniform(0, 2, (4, 2, 4, 4)).astype(np.float32)
    steps = 400
    found = to_spiking(graph, [x], steps=steps, percentile=100, coding="bernoulli", seed=3)
    seen = {}

    def observe(value: Value, tensor: torch.Tensor) -> None:
        if value.name == "x.spikes":
            seen.setdefault("spikes", []).append(tensor.numpy())

    interpret(found.graph, [x], observe=observe)
    drawn, chance = np.stack(seen["spikes"]), x / x.max()
    deviation = np.sqrt(np.maximum(chance * (1 - chance), 1e-9) / steps)
    assert (np.abs(drawn.mean(0) - chance) <= 5 * deviation).all()
    assert not (drawn[0] == drawn[1]).all()
    row = found.report.rows[0]
    assert (row.name, row.op, row.neurons) == ("x", "input", 32)
    assert row.rate == pytest.approx(drawn.mean())
    other = to_spiking(graph, [x], steps=steps, percentile=100, coding="bernoulli", seed=4)
    assert not np.array_equal(run(other.graph, x), run(found.graph, x))
    assert np.abs(run(found.graph, x) - x).max() <= 5 * x.max() * 0.5 / np.sqrt(steps)


def test_a_network_against_a_simulation_with_balanced_thresholds() -> None:
    """The other form of the method: weights stay, and the threshold of a layer is its scale."""
    generator = np.random.default_rng(2)
    sizes = (12, 40, 30, 5)
    weights = [generator.normal(0, 1 / np.sqrt(n), (m, n)).astype(np.float32) for n, m in pairwise(sizes)]
    biases = [generator.normal(0, 0.1, m).astype(np.float32) for m in sizes[1:]]
    graph = Graph()
    batch = graph.declare_dim("B")
    value = graph.add_input("x", TensorType(t.f32, (batch, sizes[0])))
    for index, (w, b) in enumerate(zip(weights, biases)):
        last = index == len(weights) - 1
        operands = graph.add_constant(f"w{index}", w), graph.add_constant(f"b{index}", b)
        value = graph.emit(nn.Linear(value, *operands, act="none" if last else "relu"), name=f"layer{index}")
    graph.set_outputs([value])
    x = generator.normal(size=(50, sizes[0])).astype(np.float32)
    found = to_spiking(graph, [x[:20], x[20:]], steps=STEPS, percentile=99.0, initial=0.25)

    activations, signal = [], x.astype(np.float64)
    for w, b in zip(weights[:-1], biases[:-1]):
        signal = np.maximum(signal @ w.T + b, 0)
        activations.append(signal)
    scales = [row.scale for row in found.report.rows]
    for row, a in zip(found.report.rows, activations, strict=True):
        assert row.scale == pytest.approx(np.quantile(a, 0.99), rel=0.01)
        assert row.clipped == pytest.approx((a > row.scale).mean(), abs=1e-3)
        assert row.neurons == a.shape[1]

    potentials = [np.full((50, n), 0.25 * s) for n, s in zip(sizes[1:], scales)]
    counts, total = [np.zeros(v.shape) for v in potentials], np.zeros((50, sizes[-1]))
    for _ in range(STEPS):
        signal = x.astype(np.float64)
        for index, scale in enumerate(scales):
            potentials[index] += signal @ weights[index].T + biases[index]
            fired = potentials[index] >= scale
            potentials[index] -= scale * fired
            counts[index] += fired
            signal = scale * fired
        total += signal @ weights[-1].T + biases[-1]
    # In 32 and 64 bits a potential may fall on either side of the threshold, which moves a spike by a step.
    np.testing.assert_allclose(run(found.graph, x), total / STEPS, atol=0.03)
    for row, count in zip(found.report.rows, counts):
        assert row.rate == pytest.approx(count.mean() / STEPS, abs=2e-4)
    spikes = sum(count.sum(1).mean() for count in counts)
    assert found.report.spikes_per_sample == pytest.approx(spikes, rel=2e-3)
    densities = [op.results[0].type for op in found.graph.walk() if isinstance(op, spike.IntegrateAndFire)]
    assert [kind.density for kind in densities if isinstance(kind, SpikeType)] == [
        row.rate for row in found.report.rows
    ]


def test_the_source_stays_and_the_result_has_locations_and_a_text_form(
    images: tuple[np.ndarray, np.ndarray],
) -> None:
    calibration, _ = images
    net = Net()
    graph = net.done(net.layer(net.neurons(net.x)))
    before = str(graph)
    found = to_spiking(graph, [calibration], steps=4)
    assert str(graph) == before
    assert parse(str(found.graph)) == found.graph
    assert all("to-spiking" in op.loc.passes for op in found.graph.walk())
    assert [value.type for value in found.graph.outputs] == [value.type for value in graph.outputs]
    told = str(found.report)
    assert "relu" in told
    assert "4 steps, constant input" in told
    assert found.report.to_dict()["rows"][0]["name"] == "relu"
