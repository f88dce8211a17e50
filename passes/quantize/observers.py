"""Observers: from the values that a tensor takes on calibration data to its quantisation grid."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
import torch

from plait.ir import InputError
from plait.ir.errors import did_you_mean
from plait.passes.quantize.histogram import BINS, Histogram, search_range
from plait.passes.quantize.scheme import Grid, Scheme, grid_from_range


class Observer(ABC):
    """Sees the tensors that a value takes, and gives the grid to quantise it with."""

    _seen = 0

    def update(self, tensor: torch.Tensor) -> None:
        """Take in one floating-point tensor of any shape.  Raises InputError where it is not finite."""
        x = tensor.detach()
        if not x.numel():
            return
        low, high = (float(end) for end in torch.aminmax(x))
        if not (math.isfinite(low) and math.isfinite(high)):
            raise InputError(
                "a NaN or an infinity was observed",
                why=f"the values run from {low} to {high}",
                remedy="give calibration data on which the graph is finite",
            )
        self._seen += x.numel()
        self._take(x, low, high)

    def grid(self, scheme: Scheme) -> Grid:
        """The grid under a scheme with one scale for the tensor.

        Raises InputError where nothing was seen, or the scheme has an axis or groups.
        """
        if not self._seen:
            raise InputError(
                "no element was observed",
                why="no batch gave the value any",
                remedy="give calibration data that reaches it",
            )
        if scheme.axis is not None or scheme.group is not None:
            raise InputError(
                f"an observer gives one scale, and the scheme is {scheme}", remedy="leave out axis and group"
            )
        return grid_from_range(scheme, *self._range(scheme))

    @abstractmethod
    def _take(self, x: torch.Tensor, low: float, high: float) -> None:
        """Take in a tensor that runs from low to high."""

    @abstractmethod
    def _range(self, scheme: Scheme) -> tuple[float, float]:
        """The range that the grid is to cover."""


class MinMax(Observer):
    """From the smallest to the largest element ever seen."""

    def __init__(self) -> None:
        self.low, self.high = math.inf, -math.inf

    def _take(self, x: torch.Tensor, low: float, high: float) -> None:
        self.low, self.high = min(self.low, low), max(self.high, high)

    def _range(self, scheme: Scheme) -> tuple[float, float]:
        return self.low, self.high


class MovingAverage(Observer):
    """Exponential moving average of the smallest and largest element of each batch.

    low <- momentum * low + (1 - momentum) * min(batch), and `high` likewise (Jacob et al. 2018,
    arXiv 1712.05877, section 3.1); the first batch gives the first values.

    Raises InputError for a momentum outside 0..1 (1 excluded).
    """

    def __init__(self, momentum: float = 0.9) -> None:
        if not 0.0 <= momentum < 1.0:
            raise InputError(f"momentum is {momentum}", where="MovingAverage", why="it lies in 0..1, below 1")
        self.momentum = momentum
        self.low, self.high = math.nan, math.nan

    def _take(self, x: torch.Tensor, low: float, high: float) -> None:
        if math.isnan(self.low):
            self.low, self.high = low, high
        self.low += (1.0 - self.momentum) * (low - self.low)
        self.high += (1.0 - self.momentum) * (high - self.high)

    def _range(self, scheme: Scheme) -> tuple[float, float]:
        return self.low, self.high


class _Counting(Observer):
    """Base of observers that keep a histogram; memory is 16 bytes for each bin."""

    def __init__(self, bins: int = BINS) -> None:
        if bins < 16:
            raise InputError(f"bins is {bins}", where=type(self).__name__, why="16 are the fewest")
        self.histogram = Histogram(bins)

    def _take(self, x: torch.Tensor, low: float, high: float) -> None:
        self.histogram.add(x)


class Percentile(_Counting):
    """The range that holds `percentile` % of the elements.

    Symmetric schemes take the percentile of absolute values; affine ones clip half of the
    rest at each end.  At 100 it is min-max.

    Raises InputError for a percentile that is not above 50 and up to 100.
    """

    def __init__(self, percentile: float = 99.99, bins: int = BINS) -> None:
        if not 50.0 < percentile <= 100.0:
            raise InputError(
                f"percentile is {percentile}",
                where="Percentile",
                why="it lies above 50 and up to 100",
                remedy="give the share of elements to keep, for instance 99.99",
            )
        super().__init__(bins)
        self.percentile = percentile

    def _range(self, scheme: Scheme) -> tuple[float, float]:
        held = self.histogram
        if scheme.symmetric and scheme.signed:
            bound = held.quantile(self.percentile / 100.0, magnitude=True)
            return -bound, bound
        tail = (1.0 - self.percentile / 100.0) / 2.0
        return held.quantile(tail), held.quantile(1.0 - tail)


class MeanSquaredError(_Counting):
    """The clipping range with the least mean squared error E[(x - Q(x))^2] on the histogram."""

    def _range(self, scheme: Scheme) -> tuple[float, float]:
        values, counts = self.histogram.points()
        weights = counts / max(self.histogram.total, 1)

        def loss(low: np.ndarray, high: np.ndarray) -> np.ndarray:
            whole, scale, zero = _levels(scheme, values, low, high)
            error = (np.clip(whole, *scheme.range) - zero) * scale - values
            return np.asarray((error * error) @ weights)

        return _searched(self.histogram, scheme, loss)


class Entropy(_Counting):
    """The clipping range with the least loss of information KL(P || Q).

    P is the histogram clipped to the range, with what lies outside added to its outermost
    bins; Q is the histogram inside the range, its mass evened out among the bins that fall on
    the same level of the grid (Migacz, 8-bit Inference with TensorRT, GTC 2017).  Levels are
    those of the scheme, so that affine and narrow grids are judged as they are.  Exact zeros
    take no part: every grid has zero, so they lose nothing.
    """

    def _range(self, scheme: Scheme) -> tuple[float, float]:
        held = self.histogram
        values, counts = held.points()
        first, last = scheme.range

        def divergence(whole: np.ndarray) -> float:
            inside = np.flatnonzero((whole >= first) & (whole <= last))
            if not inside.size:
                return math.inf
            kept = counts[inside]
            reference = kept.copy()
            reference[0] += counts[: inside[0]].sum()
            reference[-1] += counts[inside[-1] + 1 :].sum()
            level = whole[inside].astype(np.int64) - first
            evened = np.bincount(level, weights=kept) / np.maximum(np.bincount(level), 1)
            p, q = reference / reference.sum(), evened[level] / kept.sum()
            return float(np.sum(p * np.log(p / q)))

        def loss(low: np.ndarray, high: np.ndarray) -> np.ndarray:
            return np.array([divergence(row) for row in _levels(scheme, values, low, high)[0]])

        # A range with fewer bins than levels would look free of loss for want of resolution.
        low, high = min(held.low, 0.0), max(held.high, 0.0)
        span = 2 * max(-low, high) if scheme.symmetric and scheme.signed else high - low
        least = scheme.levels * held.width / span if span > 0 else 1.0
        return _searched(held, scheme, loss, least)


def _levels(
    scheme: Scheme, values: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By range: the unclipped level of each value [ranges, values], scale, zero point [ranges, 1]."""
    grid = grid_from_range(scheme, low, high)
    scale, zero = grid.scale.astype(np.float64)[:, None], grid.zero_point[:, None]
    return np.rint(values / scale) + zero, scale, zero


def _searched(
    held: Histogram,
    scheme: Scheme,
    loss: Callable[[np.ndarray, np.ndarray], np.ndarray],
    least: float = 1e-3,
) -> tuple[float, float]:
    low, high = min(held.low, 0.0), max(held.high, 0.0)
    if held.width == 0.0:  # nothing but zeros
        return low, high
    return search_range(low, high, loss, together=scheme.symmetric, least=least)


#: Observers by name.
OBSERVERS: dict[str, Callable[[], Observer]] = {
    "min-max": MinMax,
    "moving-average": MovingAverage,
    "percentile": Percentile,
    "mse": MeanSquaredError,
    "entropy": Entropy,
}


def make_observer(which: str | Callable[[], Observer]) -> Observer:
    """A new observer, by name or from a factory such as `lambda: Percentile(99.9)`.

    Raises InputError for an unknown name, with the nearest, or what makes no observer.
    """
    if isinstance(which, str):
        if which not in OBSERVERS:
            raise InputError(
                f"no observer is called '{which}'{did_you_mean(which, OBSERVERS)}",
                why=f"observers are {', '.join(OBSERVERS)}",
                remedy="use one of these, or a function that makes an observer",
            )
        return OBSERVERS[which]()
    made = which() if callable(which) else None
    if not isinstance(made, Observer):
        raise InputError(
            f"{which!r} makes no observer",
            why="each value needs one of its own",
            remedy="give a name, an observer class, or a function such as lambda: Percentile(99.9)",
        )
    return made
