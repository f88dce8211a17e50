"""Reductions and scans against torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

REDUCTIONS = {
    "sum": lambda x: (x.sum(), x.sum(1), x.sum((0, 2), keepdim=True), x.sum(0, dtype=torch.float64)),
    "mean": lambda x: (x.mean(), x.mean(-1), x.mean((0, 1), keepdim=True)),
    "prod": lambda x: (x.prod(), x.prod(1), x.prod(2, keepdim=True)),
    "amax": lambda x: (x.amax(), x.amax(1), x.amax((0, 2)), x.amin(1, keepdim=True), x.max(), x.min()),
    "max": lambda x: (*x.max(1), *x.min(-1, keepdim=True)),
    "arg": lambda x: (x.argmax(), x.argmax(1), x.argmin(2, keepdim=True)),
    "aminmax": lambda x: tuple(torch.aminmax(x, dim=1)),
    "var": lambda x: (x.var(1), x.var((1, 2), unbiased=False), x.var(1, correction=0, keepdim=True)),
    "std": lambda x: (x.std(1), x.std(1, unbiased=False), x.std(dim=(1, 2), correction=2)),
    "var_of_all": lambda x: (x.var(unbiased=False), x.std(unbiased=False)),
    "var_mean": lambda x: tuple(torch.var_mean(x, 1)),
    "logsumexp": lambda x: (x.logsumexp(1), x.logsumexp((1, 2), keepdim=True)),
    "norm": lambda x: (x.norm(), x.norm(dim=1), x.norm(p=1, dim=1), torch.linalg.vector_norm(x, 3.0, dim=1)),
    "infinity_norm": lambda x: torch.linalg.vector_norm(x, float("inf"), dim=1),
    "cumsum": lambda x: (x.cumsum(0), x.cumsum(-1)),
    "any": lambda x: ((x > 0).any(), (x > 0).any(1), (x > 0).all(1, keepdim=True), x.any(2)),
    "count": lambda x: ((x > 0).sum(1), (x > 0).float().mean(1), torch.count_nonzero(x > 0, 1)),
    "normalize": lambda x: torch.nn.functional.normalize(x, dim=1),
    "cosine": lambda x: torch.nn.functional.cosine_similarity(x[:, 0], x[:, 1], dim=1),
}


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reduction(check: Any, name: str) -> None:
    check(REDUCTIONS[name], ["B", 4, 3])


def test_integer_reductions(check: Any) -> None:
    check(lambda x: (x.sum(1), x.sum(), x.cumsum(1), x.amax(1), x.prod(1)), ["B", 4, torch.int32])


def test_variance_over_the_batch(check: Any) -> None:
    check(lambda x: x.var(0, unbiased=False), ["B", 4])
