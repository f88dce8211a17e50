"""A histogram of bounded memory whose range grows with what it sees, and the search for a clipping range."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

BINS = 4096
#: Ratios of the observed range that the search tries first: 48 from 1 down, 15 % apart at most.
_COARSE = 48
#: Ratios around the best of them.
_FINE = np.linspace(0.85, 1.15, 31)


class Histogram:
    """Counts and sums of numbers in bins of equal width; exact zeros are counted apart.

    Bin edges are multiples of the width, so that when the range outgrows the bins the width
    doubles and neighbours merge without any loss but resolution.

    Args:
        bins: number of bins; at least half of them cover the observed range, with zero.

    Attributes:
        low, high: smallest and largest number seen (inf and -inf before the first).
        zeros: how many numbers were exactly zero.
        width: width of a bin; 0 until a number other than zero was seen.
    """

    def __init__(self, bins: int = BINS) -> None:
        self.bins = bins
        self.low, self.high = math.inf, -math.inf
        self.zeros = 0
        self.width = 0.0
        self._first = 0  # number k of the first bin; bin k covers [k*width, (k+1)*width)
        self._counts = np.zeros(bins)
        self._sums = np.zeros(bins)

    def add(self, tensor: torch.Tensor) -> None:
        """Count the elements of a tensor of finite numbers."""
        flat = tensor.detach().reshape(-1).to(torch.float64)
        if not flat.numel():
            return
        low, high = (float(end) for end in torch.aminmax(flat))
        self.low, self.high = min(self.low, low), max(self.high, high)
        nonzero = flat[flat != 0]
        self.zeros += flat.numel() - nonzero.numel()
        if not nonzero.numel():
            return
        self._fit(min(self.low, 0.0), max(self.high, 0.0))
        index = torch.floor(nonzero / self.width).to(torch.int64) - self._first
        index = index.clamp_(0, self.bins - 1)
        self._counts += torch.bincount(index, minlength=self.bins).cpu().numpy()
        self._sums += torch.bincount(index, weights=nonzero, minlength=self.bins).cpu().numpy()

    def _fit(self, low: float, high: float) -> None:
        """Widen the bins until they cover low..high."""
        if self.width == 0.0:
            self.width = max((high - low) / (self.bins - 2), float(np.finfo(np.float32).tiny))
        doublings = 0
        while math.floor(high / self.width) - math.floor(low / self.width) >= self.bins:
            self.width *= 2.0
            doublings += 1
        held = np.flatnonzero(self._counts)
        numbers = (held + self._first) >> min(doublings, 62)
        self._first = math.floor(low / self.width)
        place = numbers - self._first
        counts, sums = np.zeros(self.bins), np.zeros(self.bins)
        np.add.at(counts, place, self._counts[held])
        np.add.at(sums, place, self._sums[held])
        self._counts, self._sums = counts, sums

    @property
    def total(self) -> int:
        """How many numbers were seen."""
        return self.zeros + round(self._counts.sum())

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """The mean of each bin that holds a number other than zero, ascending, and their counts."""
        held = self._counts > 0
        return self._sums[held] / self._counts[held], self._counts[held]

    def quantile(self, share: float, *, magnitude: bool = False) -> float:
        """The number, of bin means and zero, that `share` (0..1) of the elements do not exceed.

        Args:
            magnitude: of absolute values.
        """
        if share >= 1.0:
            return max(abs(self.low), abs(self.high)) if magnitude else self.high
        if share <= 0.0:
            return 0.0 if magnitude else self.low
        values, counts = self.points()
        values, counts = np.append(values, 0.0), np.append(counts, float(self.zeros))
        values = np.abs(values) if magnitude else values
        order = np.argsort(values, kind="stable")
        reached = np.cumsum(counts[order])
        return float(values[order][np.searchsorted(reached, share * reached[-1])])


#: The loss of each clipping range low[k]..high[k].
RangeLoss = Callable[[np.ndarray, np.ndarray], np.ndarray]


def search_range(
    low: float, high: float, loss: RangeLoss, *, together: bool, least: float = 1e-3
) -> tuple[float, float]:
    """The clipping range inside low..high with the least loss, by coarse and fine coordinate search.

    Args:
        low: at most 0.
        high: at least 0.
        together: scale both ends alike, as symmetric grids do; otherwise each end for itself too.
        least: smallest share of an end that is tried.

    The whole range is among those tried, so that the loss never exceeds its loss.
    """
    coarse = np.geomspace(1.0, min(max(least, 1e-6), 1.0), _COARSE)
    a, b = np.ones(1), np.ones(1)

    def best(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        first, second = np.broadcast_arrays(first, second)
        chosen = int(np.argmin(loss(low * first, high * second)))
        return first[chosen : chosen + 1], second[chosen : chosen + 1]

    a, b = best(coarse, coarse)
    apart = not together and low < 0.0 < high
    if apart:
        for _ in range(2):
            a, b = best(a, coarse)
            a, b = best(coarse, b)
    a, b = best(np.minimum(a * _FINE, 1.0), np.minimum(b * _FINE, 1.0))
    if apart:
        a, b = best(a, np.minimum(b * _FINE, 1.0))
        a, b = best(np.minimum(a * _FINE, 1.0), b)
    return float(low * a[0]), float(high * b[0])
