"""First-spike layers against the dense wave: times, potentials, inhibition, pooling, threads, processors."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from plait.backends.llvm import FirstSpikeConv2d, Pool, Processor, first_spike_conv2d

from .reference import dense_first_spikes, inhibited, ordered_first_spikes, pooled

#: input channels, output channels, kernel, stride, padding, steps
SHAPES = [
    (1, 1, (1, 1), (1, 1), (0, 0), 15),
    (2, 3, (2, 2), (1, 1), (1, 1), 15),
    (6, 16, (3, 3), (1, 1), (1, 1), 15),
    (6, 30, (5, 5), (1, 1), (2, 2), 1),
    (32, 100, (2, 2), (1, 1), (1, 1), 15),
    (6, 150, (5, 3), (1, 1), (0, 1), 15),
    (2, 30, (3, 3), (2, 2), (1, 1), 8),
    (1, 16, (2, 5), (2, 3), (3, 4), 254),
    (3, 400, (1, 1), (1, 1), (0, 0), 70),
]


def sample_times(rng: np.random.Generator, shape: tuple[int, ...], steps: int, density: float) -> np.ndarray:
    """Random steps where a draw is below `density`, silence (also values beyond `steps`) elsewhere."""
    times = np.where(rng.random(shape) < density, rng.integers(0, steps, shape), steps)
    return np.where((times == steps) & (rng.random(shape) < 0.1), 255, times).astype(np.uint8)


def layer(shape: tuple, height: int = 7, width: int = 9, **options: object) -> FirstSpikeConv2d:
    ci, co, kernel, stride, padding, steps = shape
    return FirstSpikeConv2d(
        height=height, width=width, in_channels=ci, out_channels=co, kernel=kernel, stride=stride,
        padding=padding, steps=steps, **options,
    )  # fmt: skip


def inputs(spec: FirstSpikeConv2d, density: float, *, low: int = -2) -> tuple[np.ndarray, np.ndarray]:
    """Times of three samples and integer weights, whose sums are exact."""
    rng = np.random.default_rng(spec.out_channels + spec.steps)
    times = sample_times(rng, (3, spec.height, spec.width, spec.in_channels), spec.steps, density)
    return times, rng.integers(low, 5, spec.weight_shape).astype(np.float32)


def some_slow(cases: list, slow: set[int]) -> list:
    """The cases as parameters; those of the places `slow` are marked."""
    return [pytest.param(c, marks=pytest.mark.slow) if i in slow else c for i, c in enumerate(cases)]


@pytest.mark.parametrize("shape", some_slow(SHAPES, {0, 2, 5}), ids=str)
def test_times_and_potentials_are_those_of_the_dense_wave(shape: tuple) -> None:
    spec = layer(shape, potentials=True)
    fired = 0
    for density, threshold in itertools.product((0.05, 0.7), (0.0, 3.0, 11.0, -1.0)):
        times, weights = inputs(spec, density)
        first, potential = first_spike_conv2d(spec, times, weights, threshold)
        expected = dense_first_spikes(times, weights, threshold, spec.steps, spec.stride, spec.padding)
        np.testing.assert_array_equal(first, expected[0])
        np.testing.assert_array_equal(potential, expected[1])
        fired += int((first < spec.steps).sum())
    assert fired > 0


@pytest.mark.parametrize("density", [0.0, 1.0])
def test_all_silent_and_all_at_step_0(density: float) -> None:
    spec = layer(SHAPES[2], potentials=True)
    times, weights = inputs(spec, density)
    times = np.where(times < spec.steps, 0, spec.steps).astype(np.uint8)
    first, potential = first_spike_conv2d(spec, times, weights, 2.0)
    expected = dense_first_spikes(times, weights, 2.0, spec.steps, spec.stride, spec.padding)
    np.testing.assert_array_equal(first, expected[0])
    np.testing.assert_array_equal(potential, expected[1])
    assert set(np.unique(first)) <= {0, spec.steps}
    if density == 0.0:
        assert (first == spec.steps).all()
        assert (potential == 0).all()


def test_threshold_is_strict() -> None:
    spec = FirstSpikeConv2d(height=1, width=1, in_channels=2, out_channels=1, kernel=(1, 1), steps=4)
    times, weights = np.array([[[[1, 3]]]], np.uint8), np.ones(spec.weight_shape, np.float32)
    assert first_spike_conv2d(spec, times, weights, 0.999)[0].item() == 1
    assert first_spike_conv2d(spec, times, weights, 1.0)[0].item() == 3
    assert first_spike_conv2d(spec, times, weights, 2.0)[0].item() == 4


@pytest.mark.parametrize("shape", [SHAPES[4]], ids=str)
def test_float_sums_run_in_the_documented_order(shape: tuple) -> None:
    spec = layer(shape, potentials=True)
    rng = np.random.default_rng(5)
    times = sample_times(rng, (2, spec.height, spec.width, spec.in_channels), spec.steps, 0.4)
    weights = rng.normal(0.1, 0.3, spec.weight_shape).astype(np.float32)
    first, potential = first_spike_conv2d(spec, times, weights, 1.3)
    expected = ordered_first_spikes(times, weights, 1.3, spec.steps, spec.padding[0])
    np.testing.assert_array_equal(first, expected[0])
    np.testing.assert_array_equal(potential, expected[1])


POOLS = [Pool((2, 2), (2, 2)), Pool((3, 2), (2, 1), (1, 1)), Pool((2, 2), (3, 3), (1, 0))]
FUSED = [
    (SHAPES[1], True, None),
    (SHAPES[4], True, None),
    (SHAPES[8], True, None),
    (SHAPES[2], False, POOLS[0]),
    (SHAPES[6], False, POOLS[1]),
    (SHAPES[3], False, POOLS[2]),
    (SHAPES[4], True, POOLS[0]),
    (SHAPES[5], True, POOLS[1]),
]


@pytest.mark.parametrize("case", some_slow(FUSED, {1, 3, 5}), ids=str)
def test_inhibition_and_pooling_are_the_composition(case: tuple[tuple, bool, Pool | None]) -> None:
    shape, inhibit, pool = case
    spec = layer(shape, inhibit=inhibit, pool=pool, potentials=True)
    for density, threshold in ((0.1, 2.0), (0.8, 6.0), (0.3, -1.0)):
        # Few distinct weights: many ties of time and of potential.
        times, weights = inputs(spec, density, low=1)
        expected = dense_first_spikes(times, weights, threshold, spec.steps, spec.stride, spec.padding)
        if inhibit:
            expected = inhibited(*expected, spec.steps)
        if pool is not None:
            expected = pooled(*expected, spec.steps, pool)
        first, potential = first_spike_conv2d(spec, times, weights, threshold)
        np.testing.assert_array_equal(first, expected[0])
        np.testing.assert_array_equal(potential, expected[1])


def test_without_potentials_the_times_are_the_same() -> None:
    for options in ({}, {"inhibit": True, "pool": POOLS[0]}):
        with_, without = layer(SHAPES[1], potentials=True, **options), layer(SHAPES[1], **options)
        times, weights = inputs(without, 0.4)
        first, potential = first_spike_conv2d(without, times, weights, 3.0)
        assert potential is None
        np.testing.assert_array_equal(first, first_spike_conv2d(with_, times, weights, 3.0)[0])


def test_ties_go_to_the_larger_potential_then_to_the_lower_channel() -> None:
    spec = FirstSpikeConv2d(
        height=1,
        width=1,
        in_channels=1,
        out_channels=40,
        kernel=(1, 1),
        steps=3,
        inhibit=True,
        potentials=True,
    )
    times, weights = np.ones((1, 1, 1, 1), np.uint8), np.ones(spec.weight_shape, np.float32)
    first, _ = first_spike_conv2d(spec, times, weights, 0.5)
    assert np.flatnonzero(first < 3).tolist() == [0]
    weights[..., [17, 33]] = 2.0
    first, potential = first_spike_conv2d(spec, times, weights, 0.5)
    assert potential is not None
    assert np.flatnonzero(first < 3).tolist() == [17]
    assert potential.reshape(-1)[17] == 2.0


@pytest.mark.parametrize("cpu", ["haswell", "x86-64"])
def test_narrower_vectors_give_the_same_bits(cpu: str) -> None:
    for shape, options in ((SHAPES[4], {}), (SHAPES[1], {"inhibit": True, "pool": POOLS[1]})):
        spec = layer(shape, potentials=True, **options)
        times, weights = inputs(spec, 0.3)
        weights += np.float32(0.1)
        here = first_spike_conv2d(spec, times, weights, 3.0)
        there = first_spike_conv2d(spec, times, weights, 3.0, processor=Processor(cpu))
        assert here[0].tobytes() == there[0].tobytes()
        assert here[1] is not None
        assert there[1] is not None
        assert here[1].tobytes() == there[1].tobytes()


def test_threads_give_the_same_bits() -> None:
    spec = layer(SHAPES[4], potentials=True)
    times, weights = inputs(spec, 0.3)
    times = np.concatenate([times, times[::-1], times])[:7]
    weights += np.float32(0.1)
    alone = first_spike_conv2d(spec, times, weights, 3.0)
    for threads in (2, 3, 16):
        together = first_spike_conv2d(spec, times, weights, 3.0, threads=threads)
        assert alone[0].tobytes() == together[0].tobytes()
        assert alone[1].tobytes() == together[1].tobytes()  # type: ignore[union-attr]


def test_no_sample_and_strided_input() -> None:
    spec = layer(SHAPES[1], potentials=True)
    times, weights = inputs(spec, 0.5)
    assert first_spike_conv2d(spec, times[:0], weights, 1.0)[0].shape[0] == 0
    reversed_first, _ = first_spike_conv2d(spec, times[::-1], weights, 1.0)
    np.testing.assert_array_equal(reversed_first, first_spike_conv2d(spec, times, weights, 1.0)[0][::-1])
