"""Loops whose rounds differ by constant steps of registers, so that most rounds need not be executed.

After enough rounds the registers that a loop carries are compared at its head.
Where each has changed by the same amount twice, the state k rounds later is known;
whether the loop is still running there is found by trying one round of it.  No
register is taken across 0 or 2**31, where comparisons turn round.  An exit that
depends on single bits of a counter would be missed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from plait.backends.cuda.report.lanes import WORD, Lanes, Value, is_predicate, signed

#: Rounds of a loop that are executed before the rest is looked for; twice as many before the next attempt.
ROUNDS = 24


@dataclass
class Visits:
    """Arrivals at the head of a loop since it was entered.

    Attributes:
        states: what the loop carries, at the last three.
        totals: what has been counted so far, at each arrival.
        next_attempt: how many arrivals there must be to look for the rest.
    """

    states: list[dict[str, Any]] = field(default_factory=list)
    totals: list[np.ndarray] = field(default_factory=list)
    next_attempt: int = ROUNDS

    def arrive(self, lanes: Lanes, names: frozenset[str], totals: np.ndarray) -> bool:
        """Take in an arrival; whether it is time to look for the rest of the rounds."""
        state = {
            name: (lanes.predicates if is_predicate(name) else lanes.registers).get(name) for name in names
        }
        self.states = [*self.states[-2:], state]
        self.totals.append(totals)
        if len(self.totals) < self.next_attempt:
            return False
        self.next_attempt *= 2
        return True

    def steps(self) -> dict[str, Value] | None:
        """What each register changes by in a round, 0 left out; None where one does not change evenly."""
        found: dict[str, Value] = {}
        first, second, third = self.states
        for name, c in third.items():
            a, b = first[name], second[name]
            if a is None and b is None and c is None:
                continue
            if a is None or b is None or c is None:
                return None
            if is_predicate(name):
                if not (np.array_equal(a, b) and np.array_equal(b, c)):
                    return None
                continue
            step = (c - b) & WORD
            if np.any(((b - a) & WORD) != step):
                return None
            if np.any(step):
                found[name] = step
        return found

    def wraps(self, steps: dict[str, Value], rounds: int) -> bool:
        """Whether a register would leave its half of the range of a word, where numbers change their sign."""
        starts = ((self.states[-1][name], signed(step) * rounds) for name, step in steps.items())
        return any(np.any((start + change) >> 31 != start >> 31) for start, change in starts)

    def skip(self, lanes: Lanes, steps: dict[str, Value], rounds: int) -> None:
        """Set the registers to what they are some rounds after the last arrival."""
        for name, step in steps.items():
            lanes.registers[name] = (self.states[-1][name] + step * rounds) & WORD

    def per_round(self) -> tuple[np.ndarray, bool]:
        """Average increase of the totals in a round, and whether it was the same in every round."""
        rounds = np.diff(np.array(self.totals[-ROUNDS:]), axis=0)
        return rounds.mean(axis=0), bool((rounds == rounds[0]).all())


def last_round(goes_on: Callable[[int], bool]) -> int:
    """The largest number of rounds after which a loop still goes round once more.

    Args:
        goes_on: whether it does, false from some number of rounds on.
    """
    if not goes_on(1):
        return 0
    low, high = 1, 2
    while goes_on(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if goes_on(middle) else (low, middle)
    return low
