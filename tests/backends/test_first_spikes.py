"""Convolutions and pooling of first-spike times against the interpreter, on both targets.

Weights are multiples of 1/8, so that sums are exact in any order and spikes come at the same step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from plait.backends import compile_graph
from plait.ir import Graph, TensorType
from plait.ir import types as t
from plait.ir.interpret import interpret
from plait.ir.ops import spike

from .emission import B

STEPS = 6


def times(shape: tuple[int, ...], *, silent: float = 0.6, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    found = random.integers(0, STEPS, shape)
    return np.where(random.random(shape) < silent, STEPS + random.integers(0, 3, shape), found).astype(
        np.uint8
    )


def layer(channels: int, outputs: int, kernel: int, *, constant: bool = True, **options: Any) -> Graph:
    """Weights of both signs; thresholds that some neurons pass early, some late and some never."""
    random = np.random.default_rng(outputs)
    g = Graph("first_spikes")
    g.declare_dim("B", 1, 8)
    x = g.add_input("x", TensorType(t.u8, (B, channels, 9, 7)))
    weights = (random.integers(-3, 6, (outputs, channels, kernel, kernel)) / 8).astype(np.float32)
    w = g.add_constant("w", weights) if constant else g.add_input("w", TensorType(t.f32, weights.shape))
    op = spike.FirstSpikeConv2d(x, w, steps=STEPS, v_th=0.125 * kernel * channels, **options)
    g.add(op)
    g.set_outputs(list(op.results))
    g.verify()
    return g


def check(g: Graph, target: str, given: dict[str, np.ndarray]) -> list[np.ndarray]:
    exe = compile_graph(g, target)
    found = exe(**given) if target == "cpu" else exe.emulate(**given, check=True)
    results = list(found) if isinstance(found, tuple) else [found]
    for got, want in zip(results, interpret(g, given), strict=True):
        np.testing.assert_array_equal(got, want.numpy())
    return results


CASES: list[dict[str, Any]] = [
    {"channels": 1, "outputs": 3, "kernel": 1},
    {"channels": 2, "outputs": 8, "kernel": 3, "pad": (1, 1), "potential": True},
    {"channels": 6, "outputs": 30, "kernel": 5, "pad": (2, 2), "inhibit": True},
    {"channels": 5, "outputs": 130, "kernel": 2, "pad": (1, 0, 0, 1), "stride": (2, 1)},
    {"channels": 3, "outputs": 512, "kernel": 2, "inhibit": True, "potential": True},
    {"channels": 2, "outputs": 4, "kernel": 3, "constant": False, "inhibit": True, "potential": True},
    {"channels": 2, "outputs": 40, "kernel": 3, "pool": (2, 2), "pool_pad": (1, 1), "potential": True},
    {"channels": 3, "outputs": 20, "kernel": 2, "pool": (3, 2), "inhibit": True, "potential": True},
    {"channels": 2, "outputs": 24, "kernel": 3, "constant": False, "pool": (2, 2)},
    {"channels": 2, "outputs": 24, "kernel": 3, "earliest": True, "potential": True, "pad": (1, 1)},
    {"channels": 2, "outputs": 40, "kernel": 3, "earliest": True, "inhibit": True, "potential": True},
    {"channels": 1, "outputs": 7, "kernel": 2, "earliest": True, "pool": (2, 2), "potential": True},
]


@pytest.mark.parametrize("target", ["cpu", "a100"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.values())))
def test_convolution(case: dict[str, Any], target: str) -> None:
    g = layer(**case)
    # Few events, so that the earliest spikes of the samples come at different steps.
    silent = 0.95 if case.get("earliest") else 0.6
    given = {"x": times((7, case["channels"], 9, 7), silent=silent)}
    if not case.get("constant", True):
        given["w"] = (
            np.random.default_rng(1).integers(-3, 6, (case["outputs"], 2, 3, 3)).astype(np.float32) / 8
        )
    first, *_ = check(g, target, given)
    assert 0 < (first < STEPS).mean() < 1, "some neurons fire, and some do not"
    assert len(np.unique(first)) > 2


@pytest.mark.parametrize("target", ["cpu", "a100"])
@pytest.mark.parametrize("silent", [0.0, 1.0])
def test_all_or_no_input_fires(silent: float, target: str) -> None:
    first, _ = check(layer(2, 8, 3, potential=True), target, {"x": times((1, 2, 9, 7), silent=silent)})
    assert (first == STEPS).all() == (silent == 1.0)


@pytest.mark.parametrize("target", ["cpu", "a100"])
def test_inhibition_of_equal_neurons_leaves_the_first(target: str) -> None:
    g = Graph("equal")
    x = g.add_input("x", TensorType(t.u8, (1, 1, 2, 2)))
    w = g.add_constant("w", np.asarray([1, 2, 2, 1], np.float32).reshape(4, 1, 1, 1))
    op = spike.FirstSpikeConv2d(x, w, steps=STEPS, v_th=0.5, inhibit=True, potential=True)
    g.add(op)
    g.set_outputs(list(op.results))
    first, potential = check(g, target, {"x": np.asarray([[[[0, 1], [5, 6]]]], np.uint8)})
    assert first[0, 1].tolist() == [[0, 1], [5, 6]]
    assert (np.delete(first[0], 1, axis=0) == STEPS).all()
    assert potential[0, 1].tolist() == [[2.0, 2.0], [2.0, 0.0]]


@pytest.mark.parametrize("target", ["cpu", "a100"])
@pytest.mark.parametrize(("kernel", "stride", "pad"), [((2, 2), (2, 2), (0, 0)), ((3, 2), (1, 3), (1, 1))])
def test_pooling(kernel: tuple[int, int], stride: tuple[int, int], pad: tuple[int, int], target: str) -> None:
    g = Graph("pool")
    g.declare_dim("B", 1, 8)
    x = g.add_input("x", TensorType(t.u8, (B, 3, 8, 9)))
    g.set_outputs([g.emit(spike.FirstSpikePool2d(x, kernel=kernel, stride=stride, pad=pad, steps=STEPS))])
    (found,) = check(g, target, {"x": times((2, 3, 8, 9), silent=0.9)})
    assert found.max() == STEPS
