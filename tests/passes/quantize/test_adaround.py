"""AdaRound: learned rounding lowers the error of outputs, and stays next to each weight."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from plait.ir import InputError
from plait.passes.quantize.adaround import Learning, adaround, learn_rounding, stretched
from plait.passes.quantize.insert import weight_grids_of
from plait.passes.quantize.layers import elementwise
from plait.passes.quantize.scheme import Scheme, grid_of_weight

from .trained import Task, pictures, rounded, sequences, weights_only


@pytest.mark.parametrize(
    "scheme", [Scheme(3, axis=0), Scheme(3, axis=0, symmetric=False), Scheme(4, group=8)]
)
@pytest.mark.parametrize("act", ["none", "relu"])
def test_the_output_error_is_below_that_of_the_nearest(scheme: Scheme, act: str) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(12, 24, generator=generator)
    mixing = torch.randn(24, 8, generator=generator)
    columns = mixing @ torch.randn(8, 600, generator=generator)
    bias = torch.randn(1, 12, 1, generator=generator)
    target = weight @ columns + bias
    target = (torch.relu(target) if act == "relu" else target).reshape(1, 12, 600)
    grid = grid_of_weight(scheme, weight.numpy())
    scale, zero = (p.float().unsqueeze(0) for p in elementwise(grid, (12, 24)))
    whole = learn_rounding(
        weight.unsqueeze(0),
        columns.unsqueeze(0),
        target,
        scale,
        zero,
        scheme,
        bias=bias,
        act=act,
        learning=Learning(iterations=400),
    )

    def error(stored: torch.Tensor) -> float:
        real = (stored - zero) * scale
        found = real @ columns + bias
        return float(((torch.relu(found) if act == "relu" else found) - target).square().sum())

    nearest = torch.from_numpy(grid.quantise(weight.numpy()).astype(np.float32)).unsqueeze(0)
    assert error(whole) < 0.5 * error(nearest)
    floor = torch.floor(weight / scale) + zero
    low, high = scheme.range
    assert bool(((whole == floor.clamp(low, high)) | (whole == (floor + 1).clamp(low, high))).all())


def test_the_stretched_sigmoid_reaches_its_ends() -> None:
    v = torch.linspace(-8, 8, 101)
    h = stretched(v)
    assert (float(h.min()), float(h.max())) == (0.0, 1.0)
    assert float(stretched(torch.zeros(()))) == pytest.approx(0.5)


def test_the_exponent_falls_after_the_warm_up() -> None:
    learning = Learning(iterations=100, warm_up=0.2, beta=(20.0, 2.0))
    values = [learning.beta_at(k) for k in range(100)]
    assert values[:20] == [None] * 20
    falling = [b for b in values if b is not None]
    assert falling[0] == 20.0
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] == pytest.approx(2.0, abs=0.05)
    with pytest.raises(InputError, match="warm_up=1"):
        Learning(warm_up=1.0)


def test_what_the_grid_can_hold_stays() -> None:
    weight = torch.arange(-7.0, 8.0).reshape(1, 3, 5)
    columns = torch.randn(1, 5, 50, generator=torch.Generator().manual_seed(0))
    ones, zeros = torch.ones_like(weight), torch.zeros_like(weight)
    found = learn_rounding(weight, columns, weight @ columns, ones, zeros, Scheme(4))
    torch.testing.assert_close(found, weight)


@pytest.mark.parametrize("make", [pictures, sequences], ids=["pictures", "sequences"])
def test_a_trained_network_loses_less(make: object) -> None:
    task: Task = make()  # type: ignore[operator]
    schemes = weights_only(task.graph, Scheme(3, axis=0))
    grids, stored = adaround(task.graph, schemes, task.calibration, learning=Learning(iterations=300))
    assert set(grids) == set(stored) == set(schemes)
    nearest = task.error(rounded(task, schemes))
    assert task.error(rounded(task, schemes, grids, stored)) < 0.6 * nearest
    plain = weight_grids_of(task.graph, schemes)
    for name, ints in stored.items():
        weight = next(op for op in task.graph.ops if op.name == name).w.data  # type: ignore[attr-defined]
        steps = np.abs(plain[name].dequantise(ints) - weight).reshape(len(weight), -1)
        assert np.all(steps < plain[name].scale[:, None] * 1.001)


def test_the_same_data_give_the_same_integers() -> None:
    task = sequences()
    schemes = weights_only(task.graph, Scheme(3, axis=0))
    runs = [
        adaround(task.graph, schemes, task.calibration, learning=Learning(iterations=30))[1] for _ in range(2)
    ]
    for name in schemes:
        np.testing.assert_array_equal(runs[0][name], runs[1][name])
