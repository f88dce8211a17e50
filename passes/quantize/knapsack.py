"""The multiple-choice knapsack problem: one option for each item, least loss within a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Partial choices that are kept at most.
FRONTIER = 200_000


@dataclass(frozen=True)
class Choice:
    """A solution.

    Attributes:
        options: number of the option of each item.
        cost: their total cost, at most the budget.
        loss: their total loss.
        exact: whether no other choice within the budget has less loss; False where partial
            choices had to be left out for their number.
    """

    options: tuple[int, ...]
    cost: float
    loss: float
    exact: bool


def choose(
    costs: Sequence[Sequence[float]],
    losses: Sequence[Sequence[float]],
    budget: float,
    frontier: int = FRONTIER,
) -> Choice | None:
    """The choice with the least total loss whose total cost is within the budget.

    Dynamic programming over items on the Pareto frontier of (cost, loss): a partial choice
    that costs no less and loses no less than another is dropped (Nemhauser & Ullmann 1969,
    Management Science 15, for the knapsack; the same recurrence with one option an item).

    Args:
        costs: of each option of each item, not negative.
        losses: likewise; may be negative.
        frontier: partial choices to keep at most.

    Returns:
        None where even the cheapest choice exceeds the budget.
    """
    # The cheapest that the items still to come can cost: what cannot be finished is dropped early.
    cheapest = [min(row) for row in costs]
    reserve = np.append(np.cumsum(cheapest[::-1])[::-1], 0.0)
    slack = 1e-12 * abs(budget)  # sums of floating-point numbers depend on their order
    if reserve[0] > budget + slack:
        return None
    exact = True
    cost, loss = np.zeros(1), np.zeros(1)
    history: list[tuple[np.ndarray, np.ndarray]] = []
    for item, (row, lost) in enumerate(zip(costs, losses, strict=True)):
        total = (cost[:, None] + np.asarray(row, np.float64)).reshape(-1)
        value = (loss[:, None] + np.asarray(lost, np.float64)).reshape(-1)
        order = np.lexsort((value, total))
        order = order[total[order] + reserve[item + 1] <= budget + slack]
        least = np.minimum.accumulate(value[order])
        kept = order[np.append(True, value[order][1:] < least[:-1])]
        if len(kept) > frontier:
            kept, exact = kept[_thinned(total[kept], frontier)], False
        history.append((kept // len(row), kept % len(row)))
        cost, loss = total[kept], value[kept]
    last = int(np.argmin(loss))
    found = []
    for parent, option in reversed(history):
        found.append(int(option[last]))
        last = int(parent[last])
    picked = tuple(reversed(found))
    return Choice(
        picked,
        float(sum(row[k] for row, k in zip(costs, picked, strict=True))),
        float(sum(row[k] for row, k in zip(losses, picked, strict=True))),
        exact,
    )


def _thinned(cost: np.ndarray, count: int) -> np.ndarray:
    """Of partial choices in ascending order of cost, hence descending of loss, one each step."""
    step = (cost[-1] - cost[0]) / max(count - 1, 1)
    buckets = np.floor((cost - cost[0]) / step)
    back = np.flatnonzero(np.append(buckets[1:] != buckets[:-1], True))
    back[0] = 0  # the cheapest stays, so that some choice can be finished
    return back
