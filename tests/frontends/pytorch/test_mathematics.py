"""Matrix factorisations, Fourier transforms, distances and scattered writes lower to what torch computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import plait
from plait.ir.interpret import interpret


class Function(torch.nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.function(*inputs)


def lowered(function: Callable[..., Any], *inputs: torch.Tensor) -> plait.Graph:
    return plait.lower(Function(function), inputs)


def check(function: Callable[..., Any], *inputs: torch.Tensor) -> None:
    expected = function(*inputs)
    expected = expected if isinstance(expected, tuple) else (expected,)
    found = interpret(lowered(function, *inputs), list(inputs))
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(3)


@pytest.mark.parametrize(
    "function",
    [
        torch.linalg.inv,
        torch.linalg.det,
        lambda a: tuple(torch.linalg.slogdet(a)),
        lambda a: tuple(torch.linalg.lu(a)),
        lambda a: tuple(torch.linalg.qr(a)),
        torch.linalg.svdvals,
        lambda a: torch.linalg.solve(a, a[..., :2]),
        lambda a: torch.linalg.solve(a, a[..., :2, :], left=False),
        lambda a: torch.linalg.solve(a, a[..., 0]),
    ],
)
def test_matrices(function: Callable[..., Any]) -> None:
    check(function, torch.randn(2, 4, 4))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.view_as_real(torch.fft.fft(x, norm="ortho")),
        lambda x: torch.fft.irfft(torch.fft.rfft(x) * torch.exp(1j * torch.arange(7)), n=12),
        lambda x: torch.fft.irfft(torch.fft.rfft(x, n=9), n=9),
        lambda x: torch.fft.fft2(x).abs(),
        lambda x: torch.angle(torch.fft.ifft(x).conj()),
    ],
)
def test_transforms(function: Callable[..., Any]) -> None:
    check(function, torch.randn(3, 12))


def test_distances_and_bags() -> None:
    x, y = torch.randn(2, 4, 3), torch.randn(2, 5, 3)
    for p in (0.0, 1.0, 2.0, 3.0, float("inf")):
        check(lambda a, b, p=p: torch.cdist(a, b, p), x, y)
    check(torch.nn.functional.pdist, x[0])
    table, picks = torch.randn(6, 3), torch.tensor([1, 4, 4, 0, 2])
    for mode in ("sum", "mean", "max"):
        check(
            lambda i, w, m=mode: torch.nn.functional.embedding_bag(i, w, torch.tensor([0, 2, 2]), mode=m),
            picks,
            table,
        )


def test_scattered_writes() -> None:
    x, source = torch.randn(5, 4), torch.randn(3, 4)
    picks = torch.tensor([[0, 1, 1, 4], [2, 1, 0, 4], [2, 2, 2, 0]])
    for reduce in ("sum", "prod", "mean", "amax", "amin"):
        for include_self in (True, False):
            check(
                lambda a, i, s, r=reduce, c=include_self: a.scatter_reduce(0, i, s, r, include_self=c),
                x,
                picks,
                source,
            )
    mask = torch.tensor([True, False, True, False, True])
    check(lambda a, m, s: a.masked_scatter(m[:, None], s), x, mask, torch.randn(12))
    check(lambda a: torch.as_strided(a, (3, 3), (4, 2), 1), x)


def test_a_view_is_not_read_by_its_place_in_memory() -> None:
    with pytest.raises(plait.PlaitError, match="by their place in memory"):
        lowered(lambda a: torch.as_strided(a.t(), (2, 2), (1, 1)), torch.randn(3, 4))


def test_random_numbers_differ_between_draws() -> None:
    def draws(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.rand_like(x), torch.rand_like(x), torch.randperm(50)

    first, second, order = interpret(lowered(draws, torch.zeros(400)), [torch.zeros(400)])
    assert 0.4 < float(first.mean()) < 0.6
    assert not torch.equal(first, second)
    assert sorted(order.tolist()) == list(range(50))
