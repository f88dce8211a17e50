"""Surrogate gradients against their stated formulas, worked out number by number."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from plait.frontends.families.spiking.surrogate import (
    ArcTangent,
    FastSigmoid,
    StraightThrough,
    Surrogate,
    Triangle,
)

FORMULAS: list[tuple[Surrogate, Callable[[float], float]]] = [
    (FastSigmoid(slope=10.0), lambda x: (1 + 10 * abs(x)) ** -2),
    (ArcTangent(slope=2.0), lambda x: 1 / (1 + (math.pi * x) ** 2)),
    (Triangle(height=0.3, width=0.5), lambda x: 0.3 * max(0.0, 1 - abs(x) / 0.5)),
    (StraightThrough(window=0.5), lambda x: 1.0 if abs(x) <= 0.5 else 0.0),
]
KINDS = [type(surrogate).__name__ for surrogate, _ in FORMULAS]


@pytest.mark.parametrize(("surrogate", "formula"), FORMULAS, ids=KINDS)
def test_step_forwards_formula_backwards(surrogate: Surrogate, formula: Callable[[float], float]) -> None:
    points = [-3.0, -0.5, -0.25, -1e-9, 0.0, 1e-9, 0.125, 0.5, 0.75, 4.0]
    weights = torch.arange(1.0, 11.0, dtype=torch.float64)
    x = torch.tensor(points, dtype=torch.float64, requires_grad=True)
    spikes = surrogate(x)
    assert spikes.dtype == torch.float64
    assert spikes.tolist() == [float(p >= 0) for p in points]
    (spikes * weights).sum().backward()
    expected = torch.tensor([formula(p) for p in points], dtype=torch.float64) * weights
    torch.testing.assert_close(x.grad, expected, rtol=1e-12, atol=0)


def test_derivatives_are_those_of_the_smooth_steps_they_stand_for() -> None:
    x = torch.linspace(-2, 2, 41, dtype=torch.float64, requires_grad=True)
    smooth = {
        FastSigmoid(slope=3.0): x / (1 + 3 * x.abs()),
        ArcTangent(slope=3.0): torch.arctan(math.pi / 2 * 3 * x) / math.pi,
    }
    for surrogate, curve in smooth.items():
        (slope,) = torch.autograd.grad(curve.sum(), x)
        torch.testing.assert_close(surrogate.derivative(x.detach()), slope)


def test_gradients_equal_those_of_snntorch() -> None:
    peer = pytest.importorskip("snntorch.surrogate")
    x = torch.linspace(-1, 1, 21)
    pairs = [
        (FastSigmoid(slope=25.0), peer.fast_sigmoid(slope=25)),
        (ArcTangent(slope=2.0), peer.atan(alpha=2.0)),
    ]
    for ours, theirs in pairs:
        found = []
        for step in (ours, theirs):
            at = x.clone().requires_grad_()
            step(at).sum().backward()
            found.append(at.grad)
        torch.testing.assert_close(*found)


def test_no_gradient_is_kept_where_none_is_asked_for() -> None:
    x = torch.tensor([-1.0, 0.0], requires_grad=True)
    with torch.no_grad():
        assert not FastSigmoid(slope=1.0)(x).requires_grad
    assert FastSigmoid(slope=1.0)(x.detach()).tolist() == [0.0, 1.0]


def test_parameters_are_above_zero() -> None:
    with pytest.raises(ValueError, match="Triangle: width is above 0, got 0"):
        Triangle(height=1.0, width=0.0)
    with pytest.raises(ValueError, match="FastSigmoid: slope is above 0"):
        FastSigmoid(slope=-1.0)
