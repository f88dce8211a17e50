"""Observers: ranges from data, histograms that grow, and what clipping gains."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.ir import InputError
from plait.passes.quantize.histogram import Histogram
from plait.passes.quantize.observers import (
    OBSERVERS,
    Entropy,
    MeanSquaredError,
    MinMax,
    MovingAverage,
    Observer,
    Percentile,
    make_observer,
)
from plait.passes.quantize.scheme import Grid, Scheme, grid_from_range

SIGNED = Scheme(8)
AFFINE = Scheme(8, symmetric=False)
UNSIGNED = Scheme(8, signed=False)


def seen(observer: Observer, *arrays: np.ndarray) -> Observer:
    for array in arrays:
        observer.update(torch.from_numpy(np.asarray(array, np.float32)))
    return observer


def error(grid: Grid, x: np.ndarray) -> float:
    return float(np.mean((grid.dequantise(grid.quantise(x)) - x) ** 2))


def bell(count: int = 50_000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=count).astype(np.float32)


def ends(grid: Grid) -> tuple[float, float]:
    low, high = grid.scheme.range
    return tuple(float(grid.dequantise(np.array(end))) for end in (low, high))  # type: ignore[return-value]


# -- histogram -------------------------------------------------------------------
def test_a_growing_histogram_counts_as_one_that_knew_the_range() -> None:
    parts = [bell(1000, k + 3) * 10.0**k for k in range(-3, 4)]
    held = Histogram(256)
    for part in parts:
        held.add(torch.from_numpy(part))
    everything = np.concatenate(parts).astype(np.float64)
    edges = (held._first + np.arange(257)) * held.width
    assert edges[0] <= everything.min()
    assert edges[-1] >= everything.max()
    counts, _ = np.histogram(everything, edges)
    np.testing.assert_array_equal(held._counts, counts)
    values, weights = held.points()
    assert np.all(np.diff(values) > 0)
    assert values @ weights == pytest.approx(everything.sum(), rel=1e-9)
    assert held._counts.size == 256


def test_zeros_are_counted_apart() -> None:
    held = Histogram(64)
    held.add(torch.zeros(10))
    assert held.width == 0.0
    held.add(torch.tensor([0.0, -2.0, 2.0]))
    assert (held.zeros, held.total) == (11, 13)
    np.testing.assert_array_equal(held.points()[0], [-2.0, 2.0])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20), min_size=1, max_size=6),
    st.integers(16, 300),
)
def test_no_element_is_lost(batches: list[list[float]], bins: int) -> None:
    held = Histogram(bins)
    for batch in batches:
        held.add(torch.tensor(batch))
    flat = np.concatenate(batches)
    assert held.total == flat.size
    values, counts = held.points()
    assert (held.low, held.high) == (flat.min(), flat.max())
    assert values @ counts == pytest.approx(flat.sum(), rel=1e-6, abs=1e-6)
    assert held.quantile(0.0) == flat.min()
    assert held.quantile(1.0) == flat.max()
    assert held.quantile(1.0, magnitude=True) == np.abs(flat).max()


# -- each observer -----------------------------------------------------------------
def test_min_max_covers_all_it_saw() -> None:
    grid = seen(MinMax(), [-1.0, 2.0], [3.0]).grid(AFFINE)
    low, high = ends(grid)
    assert low == pytest.approx(-1.0, abs=float(grid.scale))
    assert high == pytest.approx(3.0, abs=float(grid.scale))
    assert seen(MinMax(), [-4.0, 2.0]).grid(SIGNED).scale == pytest.approx(4 / 127)


def test_moving_average_is_the_formula() -> None:
    found = seen(MovingAverage(0.75), [-1.0, 4.0], [-3.0, 8.0], [0.0, 0.0])
    assert isinstance(found, MovingAverage)
    assert found.low == pytest.approx(((-1.0 * 0.75) + (-3.0 * 0.25)) * 0.75)
    assert found.high == pytest.approx(((4.0 * 0.75) + (8.0 * 0.25)) * 0.75)


@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.9])
def test_percentile_is_that_of_numpy(percentile: float) -> None:
    x = np.concatenate([bell(), np.zeros(20_000, np.float32)])
    observer = seen(Percentile(percentile), *np.split(x, 7))
    assert isinstance(observer, Percentile)
    width = observer.histogram.width
    bound = np.percentile(np.abs(x), percentile)
    assert observer.grid(SIGNED).scale * 127 == pytest.approx(bound, abs=2 * width)
    low, high = observer._range(AFFINE)
    rest = (100.0 - percentile) / 2
    assert low == pytest.approx(np.percentile(x, rest), abs=2 * width)
    assert high == pytest.approx(np.percentile(x, 100 - rest), abs=2 * width)


def test_percentile_100_is_min_max() -> None:
    x = bell()
    for scheme in (SIGNED, AFFINE):
        left, right = seen(Percentile(100.0), x).grid(scheme), seen(MinMax(), x).grid(scheme)
        assert left.scale == right.scale
        assert left.zero_point == right.zero_point


@pytest.mark.parametrize("scheme", [SIGNED, AFFINE, UNSIGNED, Scheme(4), Scheme(3, symmetric=False)])
def test_mse_is_near_the_best_of_many_ranges(scheme: Scheme) -> None:
    x = bell(20_000)
    x = np.abs(x) if not scheme.signed else x
    x[:3] *= 30.0
    found = error(seen(MeanSquaredError(), x).grid(scheme), x)
    low, high = min(float(x.min()), 0.0), float(x.max())
    shares = np.geomspace(1.0, 0.005, 60)
    others = [
        error(grid_from_range(scheme, low * a, high * b), x)
        for a in shares
        for b in ([a] if scheme.symmetric or low == 0 else shares)
    ]
    assert found <= 1.02 * min(others)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.integers(0, 1000),
    st.sampled_from([2, 3, 4, 8]),
    st.booleans(),
    st.sampled_from(["normal", "laplace", "uniform", "exponential"]),
)
def test_mse_is_never_worse_than_min_max(seed: int, bits: int, symmetric: bool, law: str) -> None:
    x = getattr(np.random.default_rng(seed), law)(size=4000).astype(np.float32)
    scheme = Scheme(bits, symmetric=symmetric)
    clipped, whole = seen(MeanSquaredError(), x).grid(scheme), seen(MinMax(), x).grid(scheme)
    assert error(clipped, x) <= error(whole, x) * 1.001


@pytest.mark.parametrize("name", ["percentile", "mse", "entropy"])
@pytest.mark.parametrize("scheme", [Scheme(4), Scheme(4, symmetric=False)])
def test_outliers_are_clipped(name: str, scheme: Scheme) -> None:
    x = bell()
    x[0], x[1] = 60.0, -60.0
    clipped, whole = seen(make_observer(name), x).grid(scheme), seen(MinMax(), x).grid(scheme)
    assert clipped.scale < whole.scale / 5
    rest = x[2:]
    assert error(clipped, rest) < error(whole, rest) / 5


def test_entropy_keeps_a_uniform_range_and_clips_a_long_tail() -> None:
    uniform = np.random.default_rng(0).uniform(-1, 1, 100_000)
    assert seen(Entropy(), uniform).grid(SIGNED).scale * 127 == pytest.approx(1.0, rel=0.03)
    tail = np.random.default_rng(0).exponential(size=100_000) ** 2
    for scheme in (UNSIGNED, AFFINE):
        grid = seen(Entropy(), tail).grid(scheme)
        assert ends(grid)[1] < 0.7 * tail.max()
        assert ends(grid)[1] > np.percentile(tail, 95)


def test_entropy_does_not_mind_zeros() -> None:
    positive = np.abs(bell())
    rectified = np.concatenate([positive, np.zeros(positive.size * 3, np.float32)])
    left, right = (seen(Entropy(), x).grid(AFFINE) for x in (positive, rectified))
    assert left.scale == right.scale


@pytest.mark.parametrize("name", OBSERVERS)
def test_batches_of_any_size_and_shape(name: str) -> None:
    x = bell(4096)
    whole = seen(make_observer(name), x.reshape(4, 8, 128)).grid(AFFINE)
    parts = make_observer(name)
    for part in (x[:1], x[:0], x[1:].reshape(-1, 3, 5), np.float32(0)):
        parts.update(torch.from_numpy(np.asarray(part, np.float32)))
    if name != "moving-average":
        # Bins of another width hold other random counts, which is what the entropy is taken of.
        near = 0.15 if name == "entropy" else 0.02
        assert parts.grid(AFFINE).scale == pytest.approx(whole.scale, rel=near)
    parts.update(torch.ones(4, dtype=torch.bfloat16))
    assert ends(parts.grid(AFFINE))[0] <= 0.0


@pytest.mark.parametrize("name", OBSERVERS)
def test_nothing_but_zeros(name: str) -> None:
    grid = seen(make_observer(name), np.zeros(5)).grid(SIGNED)
    assert (grid.scale, grid.zero_point) == (1.0, 0)


# -- bad input -----------------------------------------------------------------------
@pytest.mark.parametrize("name", OBSERVERS)
def test_what_is_not_finite_is_refused(name: str) -> None:
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(InputError, match="a NaN or an infinity"):
            seen(make_observer(name), [1.0, bad])


@pytest.mark.parametrize("name", OBSERVERS)
def test_a_grid_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="no element was observed"):
        seen(make_observer(name), np.zeros((0, 3))).grid(SIGNED)


def test_a_grid_by_axis_is_refused() -> None:
    with pytest.raises(InputError, match="one scale"):
        seen(MinMax(), [1.0]).grid(Scheme(8, axis=0))


def test_making_observers() -> None:
    assert isinstance(make_observer(lambda: Percentile(99.0)), Percentile)
    assert isinstance(make_observer(Entropy), Entropy)
    with pytest.raises(InputError, match="did you mean 'percentile'"):
        make_observer("percentil")
    with pytest.raises(InputError, match="makes no observer"):
        make_observer(MinMax())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="makes no observer"):
        make_observer(dict)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "make",
    [
        lambda: MovingAverage(1.0),
        lambda: MovingAverage(-0.1),
        lambda: Percentile(50.0),
        lambda: Percentile(100.1),
        lambda: MeanSquaredError(bins=3),
    ],
)
def test_options_out_of_range(make: object) -> None:
    with pytest.raises(InputError, match="momentum|percentile|bins"):
        make()  # type: ignore[operator]
