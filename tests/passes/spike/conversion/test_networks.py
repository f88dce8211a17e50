"""Networks trained on digits keep their accuracy as spiking networks, from each frontend, and compiled."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import plait
from plait.ir import Graph, Value
from plait.ir.interpret import interpret
from plait.ir.ops import core, spike
from plait.passes.spike.conversion.pipeline import to_spiking

from .nets import Digits


def lowered(net: nn.Module, frontend: str) -> Graph:
    """A network on images [B,1,8,8], through one of the frontends."""
    example = (torch.zeros(2, 1, 8, 8),)
    if frontend == "torch":
        return plait.lower(net, example, dynamic={"image": {0: "B"}})
    import onnx

    written = io.BytesIO()
    torch.onnx.export(
        net, example, written, input_names=["image"], dynamic_axes={"image": {0: "B"}}, dynamo=False
    )
    return plait.lower(onnx.load_from_string(written.getvalue()))


def logits(graph: Graph, images: np.ndarray) -> np.ndarray:
    return interpret(graph, [images])[0].numpy()


def spiking_logits(graph: Graph, digits: Digits, steps: int, **options: Any) -> np.ndarray:
    """Logits on the test set after conversion."""
    batches = [digits.calibration[:32], digits.calibration[32:64]]
    return logits(to_spiking(graph, batches, steps=steps, **options).graph, digits.held_out[0])


@pytest.mark.parametrize("name", [pytest.param("plain", marks=pytest.mark.slow), "residual"])
def test_accuracy_stays_and_the_error_falls_with_the_steps(
    name: str, digits: Digits, request: pytest.FixtureRequest
) -> None:
    graph = lowered(request.getfixturevalue(name), "torch")
    images, labels = digits.held_out
    exact = logits(graph, images)
    accuracy = (exact.argmax(1) == labels).mean()
    assert accuracy > 0.9
    found = {steps: spiking_logits(graph, digits, steps) for steps in (8, 32, 64, 128)}
    errors = [np.abs(spiking - exact).mean() for spiking in found.values()]
    assert (found[64].argmax(1) == labels).mean() >= accuracy - 0.01
    assert errors[0] > 2 * errors[1]
    assert errors[1] > errors[2] > errors[3]


@pytest.mark.parametrize("name", ["plain", "residual"])
def test_onnx_gives_the_same_spiking_network(
    name: str, digits: Digits, request: pytest.FixtureRequest
) -> None:
    pytest.importorskip("onnx")
    graph = lowered(request.getfixturevalue(name), "onnx")
    images, labels = digits.held_out
    exact = logits(graph, images)
    found = {steps: spiking_logits(graph, digits, steps) for steps in (8, 64)}
    errors = [np.abs(spiking - exact).mean() for spiking in found.values()]
    assert (found[64].argmax(1) == labels).mean() >= (exact.argmax(1) == labels).mean() - 0.01
    assert errors[0] > 2 * errors[1]


@pytest.mark.slow
def test_averages_that_spike_keep_the_accuracy_too(plain: nn.Module, digits: Digits) -> None:
    graph = lowered(plain, "torch")
    images, labels = digits.held_out
    spiking = spiking_logits(graph, digits, 64, pooling="spikes")
    accuracy = (logits(graph, images).argmax(1) == labels).mean()
    assert (spiking.argmax(1) == labels).mean() >= accuracy - 0.01


@pytest.mark.slow
def test_an_initial_potential_of_one_half_needs_fewer_steps(residual: nn.Module, digits: Digits) -> None:
    graph = lowered(residual, "torch")
    exact = logits(graph, digits.held_out[0])
    floor, nearest = (spiking_logits(graph, digits, 16, initial=initial) for initial in (0.0, 0.5))
    assert np.abs(floor - exact).mean() > 2 * np.abs(nearest - exact).mean()


@pytest.mark.slow
def test_bernoulli_input_needs_more_steps(plain: nn.Module, digits: Digits) -> None:
    graph = lowered(plain, "torch")
    images, labels = digits.held_out
    exact = logits(graph, images)
    drawn = {steps: spiking_logits(graph, digits, steps, coding="bernoulli") for steps in (4, 32)}
    errors = [np.abs(spiking - exact).mean() for spiking in drawn.values()]
    assert errors[0] > 2 * errors[1]
    assert errors[1] > np.abs(spiking_logits(graph, digits, 32) - exact).mean()
    assert (drawn[32].argmax(1) == labels).mean() >= (exact.argmax(1) == labels).mean() - 0.03


def with_spikes(graph: Graph) -> tuple[Graph, int]:
    """A copy that returns the spikes of all neurons and steps too; and how many layers of neurons it has."""
    copy = graph.clone()
    (loop,) = (op for op in copy.ops if isinstance(op, core.Scan))
    fired = [op.results[0] for op in loop.body if isinstance(op, (spike.IntegrateAndFire, spike.Threshold))]
    loop.body.set_results([*fired, *loop.body.results])
    kinds = loop.infer()
    shown = [
        Value(copy.fresh_name(f"{value.name}.all"), kind, loop)
        for value, kind in zip(fired, kinds, strict=False)
    ]
    loop.results = (*shown, *loop.results)
    copy.set_outputs([*copy.outputs, *shown])
    copy.verify()
    return copy, len(fired)


@pytest.mark.parametrize("name", [pytest.param("plain", marks=pytest.mark.slow), "residual"])
def test_compiled_for_cpu_all_spikes_are_those_of_the_interpreter(
    name: str, digits: Digits, request: pytest.FixtureRequest
) -> None:
    graph = lowered(request.getfixturevalue(name), "torch")
    found = to_spiking(graph, [digits.calibration[:50]], steps=16)
    shown, layers = with_spikes(found.graph)
    images = digits.held_out[0][:40]
    expected = [tensor.numpy() for tensor in interpret(shown, [images])]
    actual = plait.compile(shown, target="cpu", threads=1, isolate=False, cache=False)(images)
    assert len(actual) == 1 + layers
    for found_spikes, spikes in zip(actual[1:], expected[1:], strict=True):
        # A potential that lies within rounding of the threshold may fire a step earlier or later.
        assert (np.asarray(found_spikes).astype(bool) != spikes).mean() <= 1e-3
        assert spikes.any()
    np.testing.assert_allclose(actual[0], expected[0], rtol=1e-2, atol=0.05)


@pytest.mark.slow
def test_a_keras_model(digits: Digits) -> None:
    from plait.frontends.tensorflow.quiet import quiet

    with quiet():
        pytest.importorskip("tensorflow")
        keras = pytest.importorskip("keras")
    layers = keras.layers
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            layers.Conv2D(12, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(24, 3, padding="same"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.AveragePooling2D(2),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    images = digits.images.transpose(0, 2, 3, 1)
    model.fit(images[:-400], digits.labels[:-400], batch_size=32, epochs=15, verbose=0)
    graph = plait.lower(model)
    exact = logits(graph, images[-400:])
    accuracy = (exact.argmax(1) == digits.labels[-400:]).mean()
    assert accuracy > 0.9
    found = to_spiking(graph, [images[:300]], steps=64)
    spiking = logits(found.graph, images[-400:])
    assert (spiking.argmax(1) == digits.labels[-400:]).mean() >= accuracy - 0.01
    np.testing.assert_allclose(spiking.sum(1), 1.0, rtol=1e-5)
