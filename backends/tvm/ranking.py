"""A cost model of gradient-boosted trees that ranks choices before they are measured.

It learns the logarithm of the time in cycles of multiply-adds from what has been measured so
far, of all kernels together (Chen et al., "Learning to Optimize Tensor Programs", 2018, use
the same kind of model for the same end).  Without measurements, estimates rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import xgboost

from plait.backends.targets import CpuTarget
from plait.backends.tuning import Choice, Problem, Record
from plait.backends.tvm.emit.cpu.tiles import Tile, tile_cost

#: Measurements that a model needs to rank better than estimates.
_ENOUGH = 24
_TREES = 120


def features(target: CpuTarget, problem: Problem, choice: Choice) -> list[float]:
    """What the time depends on: extents, the tile, what it computes in vain, and what it reads."""
    rows, depth, macs = problem.rows, problem.depth, 1.0
    if choice.transforms:
        side = choice.transforms + 2
        rows = max(1, problem.rows // choice.transforms**2)
        depth = problem.depth // problem.window
        macs = side**2 / (choice.transforms**2 * problem.window)
    lanes = choice.vectors * target.lanes
    strips, blocks = -(-rows // choice.rows), -(-problem.columns // lanes)
    sums = choice.rows * choice.vectors
    return [
        math.log(problem.batch),
        math.log(rows),
        math.log(problem.columns),
        math.log(depth),
        problem.window,
        choice.transforms,
        choice.rows,
        choice.vectors,
        float(choice.rows_first),
        sums,
        (choice.rows + choice.vectors) / sums,
        strips * choice.rows / rows,
        blocks * lanes / problem.columns,
        math.log(strips * blocks * problem.batch),
        macs,
        math.log(4.0 * depth * lanes),  # bytes of one block of weights
        math.log(4.0 * depth * choice.rows),  # bytes of one strip
        math.log(4.0 * depth * (rows + problem.columns)),  # bytes of both operands
    ]


def work(problem: Problem) -> float:
    """Multiply-adds of the direct sum."""
    return float(problem.batch) * problem.rows * problem.columns * problem.depth


class Ranking:
    """Expects the time of choices.

    Args:
        records: what has been measured before.
        seed: of the trees.
    """

    def __init__(self, target: CpuTarget, records: Iterable[Record], seed: int = 0) -> None:
        self._target, self._seed = target, seed
        self._rows: list[list[float]] = []
        self._times: list[float] = []
        self._model: Any = None
        self._fitted = 0
        for record in records:
            for text, us in record.measured.items():
                self.add(record.problem, Choice.parse(text), us)

    @property
    def measurements(self) -> int:
        """How many measurements it knows."""
        return len(self._times)

    def add(self, problem: Problem, choice: Choice, us: float) -> None:
        """Learn a measurement."""
        self._rows.append(features(self._target, problem, choice))
        self._times.append(math.log(us / work(problem)))

    def expected_us(self, problem: Problem, choices: Sequence[Choice]) -> np.ndarray | None:
        """Microseconds of each choice; None before there are enough measurements."""
        if self.measurements < _ENOUGH:
            return None
        if self._model is None or self.measurements >= 1.1 * self._fitted:
            self._fit()
        rows = np.array([features(self._target, problem, choice) for choice in choices])
        found = self._model.predict(xgboost.DMatrix(rows))
        return np.exp(found) * work(problem)

    def _fit(self) -> None:
        options = {"max_depth": 6, "eta": 0.15, "subsample": 0.9, "nthread": 1, "seed": self._seed}
        data = xgboost.DMatrix(np.array(self._rows), np.array(self._times))
        self._model = xgboost.train(options, data, num_boost_round=_TREES)
        self._fitted = self.measurements


def estimated_order(target: CpuTarget, problem: Problem, choices: Sequence[Choice]) -> list[Choice]:
    """Choices by the estimate of their tiles, the best first."""
    width = target.lanes

    def cost(choice: Choice) -> float:
        tile = Tile(choice.rows, choice.vectors, width)
        found = tile_cost(tile, problem.rows, problem.columns)
        return found * (1.02 if choice.rows_first else 1.0) * (1.01 if choice.transforms else 1.0)

    return sorted(choices, key=cost)


__all__ = ["Ranking", "estimated_order", "features", "work"]
