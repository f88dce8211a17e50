"""Fake quantisers against the formulas of their papers, and the grids they state."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from plait.ir import InputError
from plait.passes.quantize.scheme import Scheme
from plait.passes.quantize.training import LearnedClipping, LearnedInterval, LearnedStep, Quantizer


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_learned_step_starts_and_scales_as_in_the_paper(bits: int) -> None:
    weight = drawn(8, 5, 3, 3)
    quantizer = LearnedStep(Scheme(bits))
    quantizer(weight)
    top = 2 ** (bits - 1) - 1
    assert quantizer.step.item() == pytest.approx(2 * float(weight.abs().mean()) / math.sqrt(top))
    assert quantizer.gradient_scale(weight) == pytest.approx(1 / math.sqrt(weight.numel() * top))
    features = LearnedStep(Scheme(bits, signed=False), activation=True)
    top = 2**bits - 1
    assert features.gradient_scale(drawn(16, 6, 4, 4)) == pytest.approx(1 / math.sqrt(6 * 4 * 4 * top))


@pytest.mark.parametrize("signed", [True, False])
def test_learned_step_has_the_gradients_of_the_paper(signed: bool) -> None:
    """Esser et al. 2020, eq. 3: -v + round(v) inside, -Qn or Qp outside; eq. 5 for the data."""
    quantizer = LearnedStep(Scheme(3, signed=signed))
    low, high = (-4, 3) if signed else (0, 7)
    x = (drawn(40) * 3).requires_grad_()
    quantizer(x)
    quantizer.step.data *= 0.4  # so that some are clipped
    weights = drawn(40, seed=1)
    (quantizer(x) * weights).sum().backward()
    step = quantizer.step.item()
    by_step, by_x = 0.0, []
    for value, weight in zip(x.detach().tolist(), weights.tolist(), strict=True):
        v = np.float32(value) / np.float32(step)
        if v <= low or v >= high:
            by_step += weight * (low if v <= low else high)
            by_x.append(0.0)
        else:
            by_step += weight * (-v + np.rint(v))
            by_x.append(weight)
    assert 0 < sum(g == 0 for g in by_x) < 40
    assert float(quantizer.step.grad) == pytest.approx(by_step / math.sqrt(40 * high), rel=1e-4)
    assert torch.equal(x.grad, torch.tensor(by_x))


def test_learned_step_by_channel_is_one_quantiser_for_each() -> None:
    weight = drawn(3, 4, 2, 2) * torch.tensor([0.1, 1.0, 7.0]).reshape(3, 1, 1, 1)
    whole = LearnedStep(Scheme(4, axis=0, narrow=True), (3,))
    found = whole(weight)
    found.square().sum().backward()
    for i in range(3):
        alone = LearnedStep(Scheme(4, narrow=True))
        row = alone(weight[i])
        row.square().sum().backward()
        assert torch.equal(found[i], row)
        assert float(whole.step.grad[i]) == pytest.approx(float(alone.step.grad), rel=1e-5)


def test_learned_step_in_groups() -> None:
    weight = drawn(3, 8) * torch.tensor([1.0] * 4 + [5.0] * 4)
    grouped = LearnedStep(Scheme(4, group=4), (3, 2))
    alone = LearnedStep(Scheme(4))
    assert torch.equal(grouped(weight)[1, 4:], alone(weight[1, 4:]))


def test_affine_step_learns_where_zero_is() -> None:
    """The zero point's gradient is -step for each clipped element: moving it moves the range."""
    quantizer = LearnedStep(Scheme(4, symmetric=False), activation=True)
    x = (drawn(200) + 0.4).requires_grad_()
    quantizer(x)
    assert (quantizer(x) - x).abs().max().item() <= quantizer.step.item() * 0.5001
    quantizer.step.data *= 0.4  # so that some are clipped
    quantizer(x).sum().backward()
    grid = quantizer.grid()
    low, high = quantizer.scheme.range
    stored = x.detach().numpy() / grid.scale + grid.zero_point
    clipped = int(np.sum((stored < low) | (stored > high)))
    assert clipped > 10
    assert float(quantizer.zero.grad) == pytest.approx(-clipped * float(grid.scale), rel=1e-4)


def test_affine_step_keeps_zero_lowest_for_what_is_not_negative() -> None:
    quantizer = LearnedStep(Scheme(4, symmetric=False), activation=True)
    quantizer(drawn(50).relu())
    assert quantizer.grid().zero_point == -8
    assert not quantizer.zero.requires_grad


def test_learned_clipping_has_the_gradients_of_the_paper() -> None:
    """Choi et al. 2018, eq. 3: d y / d alpha is 1 for x >= alpha and 0 below."""
    quantizer = LearnedClipping(Scheme(2, signed=False), start=1.0)
    x = torch.tensor([-0.5, 0.0, 0.2, 0.5, 0.9, 1.0, 1.7, 3.0], requires_grad=True)
    out = quantizer(x)
    assert out.tolist() == pytest.approx([0, 0, 1 / 3, 2 / 3, 1, 1, 1, 1])  # 0.5 is at 1.5 steps: to even
    out.sum().backward()
    assert float(quantizer.alpha.grad) == pytest.approx(3.0)
    assert x.grad.tolist() == [0, 0, 1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize("bits", [2, 3, 4, 7])
@pytest.mark.parametrize("normalise", [True, False])
def test_learned_interval_is_that_of_the_paper(bits: int, normalise: bool) -> None:
    """alpha * (2 * round((clamp(w / alpha, -1, 1) + 1) / 2 * n) / n - 1), gradients through the round."""
    weight = (drawn(6, 3, 3, 3) * 0.3 + 0.1).requires_grad_()
    quantizer = LearnedInterval(Scheme(bits), normalise=normalise)
    found = quantizer(weight)
    weights = drawn(*weight.shape, seed=2)
    (found * weights).sum().backward()

    other = weight.detach().clone().requires_grad_()
    alpha = quantizer.alpha.detach().clone().requires_grad_()
    steps = 2**bits - 1
    w = (other - other.detach().mean()) / other.detach().std() if normalise else other
    assert float(alpha) == pytest.approx(0.8 * float(w.detach().abs().max()), rel=1e-6)
    unit = ((w / alpha).clamp(-1, 1) + 1) / 2
    rounded = unit + ((unit * steps).round() / steps - unit).detach()
    wanted = alpha * (2 * rounded - 1)
    (wanted * weights).sum().backward()
    assert torch.allclose(found, wanted, atol=1e-6)
    assert torch.allclose(weight.grad, other.grad, atol=1e-6)
    assert float(quantizer.alpha.grad) == pytest.approx(float(alpha.grad), rel=1e-4, abs=1e-5)


def test_learned_interval_has_no_zero_level_and_odd_integers() -> None:
    quantizer = LearnedInterval(Scheme(2))
    weight = drawn(64)
    found = quantizer(weight)
    stored = quantizer.stored(weight)
    assert set(stored.tolist()) == {-3, -1, 1, 3}
    assert quantizer.grid().scheme.bits == 3
    assert len(found.unique()) == 4


def test_learned_interval_of_activations() -> None:
    quantizer = LearnedInterval(Scheme(3, signed=False), activation=True)
    x = torch.linspace(0, 2, 41, requires_grad=True)
    found = quantizer(x)
    alpha = float(quantizer.alpha)
    assert alpha == pytest.approx(1.6)
    wanted = ((x.detach() / alpha).clamp(0, 1) * 7).round() / 7 * alpha
    assert torch.allclose(found, wanted, atol=1e-6)


QUANTIZERS = [
    LearnedStep(Scheme(4)),
    LearnedStep(Scheme(3, axis=0, narrow=True), (6,)),
    LearnedStep(Scheme(4, axis=1), (8,)),
    LearnedStep(Scheme(8, symmetric=False, axis=0), (6,)),
    LearnedStep(Scheme(4, group=4), (6, 2)),
    LearnedStep(Scheme(4, symmetric=False), activation=True),
    LearnedClipping(Scheme(4, symmetric=False)),
    LearnedClipping(Scheme(4, signed=False)),
    LearnedInterval(Scheme(4)),
    LearnedInterval(Scheme(3, axis=0), (6,)),
    LearnedInterval(Scheme(4, signed=False), activation=True),
]


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=lambda q: f"{type(q).__name__} {q.scheme}")
def test_the_stated_grid_holds_the_results(quantizer: Quantizer) -> None:
    x = drawn(6, 8)
    found = quantizer(x).detach().numpy()
    grid = quantizer.grid()
    assert np.array_equal(grid.dequantise(quantizer.stored(x)), found)


def test_gradients_can_be_differentiated_again() -> None:
    """Straight through: the second derivative of square(Q(x)) by x is 2 inside the range."""
    quantizer = LearnedStep(Scheme(8))
    x = drawn(5).requires_grad_()
    quantizer(x)
    (first,) = torch.autograd.grad(quantizer(x).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    assert torch.allclose(second, torch.full((5,), 2.0))


def test_all_zeros_give_a_usable_grid() -> None:
    for quantizer in (
        LearnedStep(Scheme(4)),
        LearnedInterval(Scheme(4)),
        LearnedClipping(Scheme(4, signed=False)),
        LearnedStep(Scheme(4, symmetric=False)),
    ):
        assert torch.isfinite(quantizer(torch.zeros(4))).all()
        assert quantizer.grid().scale > 0


def test_perturbation_and_substitute() -> None:
    quantizer = LearnedStep(Scheme(4))
    x = drawn(10)
    plain = quantizer(x)
    quantizer.perturbation = torch.full((10,), 0.25)
    assert torch.equal(quantizer(x), plain + 0.25)
    quantizer.substitute = torch.zeros(10)
    assert torch.equal(quantizer(x), torch.full((10,), 0.25))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: LearnedInterval(Scheme(8)), "9"),
        (lambda: LearnedInterval(Scheme(4), activation=True), "zero"),
        (lambda: LearnedClipping(Scheme(4)), "zero"),
        (lambda: LearnedStep(Scheme(4)).grid(), "first batch"),
    ],
)
def test_what_cannot_be_is_said(make: object, says: str) -> None:
    with pytest.raises(InputError, match=says):
        make()  # type: ignore[operator]
