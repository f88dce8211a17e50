"""Calls at the edge of what operators take: no elements, scalars, large numbers, all or nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import plait
from plait.frontends.pytorch import lower_torch
from plait.ir import Graph
from plait.ir.interpret import interpret
from plait.ir.ops import core

aten = torch.ops.aten
Same = Callable[..., Graph]


class Function(torch.nn.Module):
    """A module around a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: torch.Tensor) -> Any:
        return self.function(*tensors)


def test_no_elements(same: Same) -> None:
    def run(rows: torch.Tensor, none: torch.Tensor, planes: torch.Tensor) -> list[torch.Tensor]:
        return [
            rows.t() @ none,
            rows.t().long() @ none.long(),
            torch.cdist(none.t(), rows.t(), p=0.0),
            torch.cdist(rows, rows.new_ones(3, 4), p=0.0),
            rows.sum(0),
            rows.prod(0) + 2,
            torch.rand_like(rows),
            torch.sigmoid(rows).reshape(2, 0),
            aten.native_group_norm(planes, None, None, 0, 4, 6, 2, 1e-5)[0],
            torch.nonzero(rows),
        ]

    graph = same(Function(run), (torch.zeros(0, 4), torch.zeros(0, 3), torch.zeros(0, 4, 2, 3)))
    assert not any(isinstance(op, core.Nonzero) for op in graph.walk())


def test_scalars_along_an_axis(same: Same) -> None:
    def run(x: torch.Tensor) -> list[torch.Tensor]:
        return [torch.softmax(x, 0), torch.log_softmax(x, -1), *torch.sort(x), *torch.topk(x, 1)]

    same(Function(run), (torch.tensor(3.0),))


def test_hyperbolic_sine_of_large_numbers(same: Same) -> None:
    x = torch.tensor([-100.0, -89.2, -20.0, -9.0, -0.3, -1e-4, 0.0, 1e-4, 0.3, 9.0, 11.0, 89.2, 100.0])
    same(Function(torch.sinh), (x,))


def test_mean_of_integers_by_a_given_divisor(same: Same) -> None:
    def run(x: torch.Tensor) -> list[torch.Tensor]:
        return [aten.avg_pool2d(x, 3, 2, 1, ceil, True, divisor) for ceil in (0, 1) for divisor in (2, -5)]

    same(Function(run), (torch.arange(2 * 9 * 10).reshape(1, 2, 9, 10) * 7 % 31 - 15,))


def test_gradient_of_a_convolution_whose_output_padding_exceeds_its_stride(same: Same) -> None:
    options = ([3, 2], [1, 2], [4, 4], True, [2, 3], 2)

    def run(x: torch.Tensor, w: torch.Tensor) -> list[torch.Tensor]:
        y = aten.convolution(x, w, None, *options)
        return list(aten.convolution_backward(torch.sin(y), x, w, [4], *options, [True, True, True]))

    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(shape, generator=generator) for shape in ((2, 2, 4, 4), (2, 2, 4, 5)))
    same(Function(run), (x, w), tolerance=1e-3)


def test_normalisation_in_training_returns_the_new_statistics(same: Same) -> None:
    def run(x: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor) -> list[torch.Tensor]:
        mean, variance = mean.clone(), variance.clone()
        return [
            *aten._native_batch_norm_legit(x, None, None, mean, variance, True, 0.3, 1e-5),
            mean,
            variance,
        ]

    x = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
    same(Function(run), (x, torch.zeros(3), torch.ones(3)))


def test_dropout_of_all_or_nothing(same: Same) -> None:
    def run(x: torch.Tensor) -> list[torch.Tensor]:
        cases = ((0.5, False), (0.0, True), (1.0, True))
        return [r for p, train in cases for r in aten.native_dropout(x, p, train)]

    same(Function(run), (torch.arange(1.0, 13.0).reshape(3, 4),))


@pytest.mark.parametrize("target", ["interpreter", "cpu"])
def test_dropout_and_permutations_on_all_targets(target: str) -> None:
    def run(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (*aten.native_dropout(x, 0.25, True), torch.randperm(50))

    x = torch.full((50, 40), 3.0)
    with pytest.warns(UserWarning, match="draws random numbers in 2 places"):
        graph = lower_torch(Function(run), (x,))
    found = (
        interpret(graph, (x,))
        if target == "interpreter"
        else plait.compile(graph, threads=1, isolate=False, cache=False)(x)
    )
    y, kept, order = (torch.as_tensor(result) for result in found)
    torch.testing.assert_close(y, torch.where(kept, 4.0, 0.0))
    assert 0.7 < float(kept.float().mean()) < 0.8
    assert sorted(order.tolist()) == list(range(50))
    assert order.tolist() != list(range(50))


def test_sums_of_overlapping_blocks(same: Same) -> None:
    def run(x: torch.Tensor) -> list[torch.Tensor]:
        return [
            aten.col2im(x, [5, 6], [2, 3], [1, 1], [0, 1], [1, 1]),
            aten.col2im(x[0], [10, 13], [2, 3], [2, 1], [0, 0], [2, 2]),
        ]

    same(Function(run), (torch.randn(2, 12, 24, generator=torch.Generator().manual_seed(0)),))
