"""Spike-timing-dependent plasticity with traces, computed event by event.

Pair rule with one trace on each side (Morrison, Diesmann and Gerstner, Biol. Cybern. 98, 2008, section 4).
With pre-synaptic spikes s_i and post-synaptic spikes s_j of 0 or 1, a step of dt is

    x_i = 1 where s_i, else exp(-dt / tau) x_i          (pre-synaptic trace)
    y_j = 1 where s_j, else exp(-dt / tau) y_j          (post-synaptic trace)
    w_ij = max(w_ij - depression * s_i * y_j, lower)
    w_ij = min(w_ij + potentiation * s_j * x_i, upper)

so that an input that fires after the neuron loses weight and one that fired before it gains.  Only
rows of inputs that fire and columns of neurons that fire are touched.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PairRule:
    """Rates and bounds of the rule; times in milliseconds.

    Raises ValueError for a rate below 0, a time not above 0 or bounds out of order.
    """

    depression: float
    potentiation: float
    tau_ms: float
    dt_ms: float
    lower: float
    upper: float

    def __post_init__(self) -> None:
        if self.depression < 0 or self.potentiation < 0:
            raise ValueError(
                f"PairRule: rates are at least 0, got depression={self.depression} "
                f"potentiation={self.potentiation}; the rule itself subtracts the depression"
            )
        if self.tau_ms <= 0 or self.dt_ms <= 0:
            raise ValueError(f"PairRule: times are above 0, got tau_ms={self.tau_ms} dt_ms={self.dt_ms}")
        if not self.lower < self.upper:
            raise ValueError(f"PairRule: need lower < upper, got lower={self.lower} upper={self.upper}")

    @property
    def decay(self) -> float:
        """What is left of a trace after a step."""
        return math.exp(-self.dt_ms / self.tau_ms)


class PairTraces:
    """The traces of one full connection, float32 [inputs] and [neurons], all 0 at the start."""

    def __init__(self, rule: PairRule, inputs: int, neurons: int) -> None:
        self.rule = rule
        self.pre: Floats = np.zeros(inputs, np.float32)
        self.post: Floats = np.zeros(neurons, np.float32)
        self._decay = np.float32(rule.decay)
        self._depression = np.float32(rule.depression)
        self._potentiation = np.float32(rule.potentiation)
        self._fired = False

    def step(self, weights: Floats, pre: Indices, post: Indices) -> None:
        """Advance one step and change `weights` [inputs, neurons], all within the bounds, in place.

        `pre` and `post` are the indices of the inputs and neurons that fire at this step.
        """
        self.pre *= self._decay
        self.pre[pre] = 1
        if len(post):
            self._fired = True
        if not self._fired:  # no neuron has fired yet: every post-synaptic trace is 0
            return
        self.post *= self._decay
        self.post[post] = 1
        if len(pre):
            rows = weights[pre]
            rows -= self._depression * self.post
            weights[pre] = np.maximum(rows, np.float32(self.rule.lower), out=rows)
        for neuron in post:
            column = weights[:, neuron]
            column += self._potentiation * self.pre
            np.minimum(column, np.float32(self.rule.upper), out=column)


__all__ = ["PairRule", "PairTraces"]
