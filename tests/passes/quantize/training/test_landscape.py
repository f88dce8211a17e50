"""Sharpness and the Hessian's spectrum against exact ones of tiny nets, and the pictures."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from plait.ir import Graph, InputError
from plait.passes.quantize.scheme import OpScheme, Scheme
from plait.passes.quantize.training import GraphModule, Landscape, plot_lines, plot_planes, prepare
from plait.passes.quantize.training.landscape import scaled_to

X = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1] * 6)


def loss(module: GraphModule, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(module(x), labels)


def exact_loss(flat: torch.Tensor, b1: torch.Tensor, x: torch.Tensor = X) -> torch.Tensor:
    """The net in plain torch, as a function of both weights in one vector of 12 + 8."""
    hidden = torch.tanh(x @ flat[:12].reshape(4, 3).T + b1)
    return F.cross_entropy(hidden @ flat[12:].reshape(2, 4).T, LABELS)


def flat(direction: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in direction])


@pytest.fixture(params=["float", "quantised"])
def pair(request: pytest.FixtureRequest, mlp: Graph) -> tuple[Landscape, torch.Tensor]:
    """A landscape and the exact Hessian at its centre."""
    module = GraphModule(mlp)
    if request.param == "quantised":
        scheme = OpScheme(None, Scheme(3))
        module = prepare(mlp, {"hidden": scheme, "y": scheme}, first_last_bits=None)
    landscape = Landscape(module, loss, [(X, LABELS)])
    if request.param == "quantised":
        assert [len(t.unique()) <= 8 for t in landscape.centre] == [True, True]
    b1 = module.store["b1"].detach()
    hessian = torch.autograd.functional.hessian(lambda w: exact_loss(w, b1), flat(landscape.centre))
    return landscape, hessian


def test_hessian_times_vector(pair: tuple[Landscape, torch.Tensor]) -> None:
    landscape, hessian = pair
    vector = landscape.random_direction(3, filter_normalised=False)
    assert torch.allclose(flat(landscape.hessian_vector(vector)), hessian @ flat(vector), atol=1e-5)


def test_top_eigenvalue(pair: tuple[Landscape, torch.Tensor]) -> None:
    landscape, hessian = pair
    found = landscape.top_eigenvalue(iterations=200, tolerance=1e-6)
    assert found.value == pytest.approx(float(torch.linalg.eigvalsh(hessian)[-1]), rel=1e-2)


def test_trace(pair: tuple[Landscape, torch.Tensor]) -> None:
    landscape, hessian = pair
    found = landscape.trace(samples=200)
    assert abs(found.value - float(hessian.trace())) < 4 * found.error
    # The variance of v.H.v over signs v is twice the sum of the squares off the diagonal.
    variance = 2 * float(hessian.square().sum() - hessian.diag().square().sum())
    assert found.error == pytest.approx((variance / 200) ** 0.5, rel=0.2)


def test_the_largest_eigenvalue_is_found_beside_a_larger_negative_one(mlp: Graph) -> None:
    """On minus the loss the eigenvalue of largest magnitude is negative."""
    module = GraphModule(mlp)
    landscape = Landscape(module, lambda module, x, y: -loss(module, x, y), [(X, LABELS)])
    b1 = module.store["b1"].detach()
    hessian = torch.autograd.functional.hessian(lambda w: -exact_loss(w, b1), flat(landscape.centre))
    values = torch.linalg.eigvalsh(hessian)
    assert -values[0] > values[-1]
    found = landscape.top_eigenvalue(iterations=300, tolerance=1e-6)
    assert found.value == pytest.approx(float(values[-1]), abs=0.02 * float(-values[0]))


def test_values_and_gradients(pair: tuple[Landscape, torch.Tensor]) -> None:
    landscape, _ = pair
    b1 = landscape.module.store["b1"].detach()
    offset = scaled_to(landscape.random_direction(1), 0.5)
    point = (flat(landscape.centre) + flat(offset)).requires_grad_()
    exact = exact_loss(point, b1)
    exact.backward()
    assert landscape.value(offset) == pytest.approx(exact.item(), rel=1e-5)
    assert torch.allclose(flat(landscape.gradient(offset)), point.grad, atol=1e-6)


def test_batches_are_averaged(mlp: Graph) -> None:
    module = GraphModule(mlp)
    whole = Landscape(module, loss, [(X, LABELS)])
    parts = Landscape(module, loss, [(X[:6], LABELS[:6]), (X[6:], LABELS[6:])])
    assert parts.value() == pytest.approx(whole.value(), rel=1e-5)
    vector = whole.random_direction(0)
    for a, b in (
        (parts.gradient(), whole.gradient()),
        (parts.hessian_vector(vector), whole.hessian_vector(vector)),
    ):
        assert torch.allclose(flat(a), flat(b), atol=1e-5)


def test_sharpness(pair: tuple[Landscape, torch.Tensor]) -> None:
    """For a small radius the rise is rho * |g| + rho^2 / 2 * g.H.g / |g|^2, and more steps find no less."""
    landscape, hessian = pair
    gradient = flat(landscape.gradient())
    norm = float(gradient.norm())
    rho = 0.05
    unit = gradient / norm
    wanted = rho * norm + 0.5 * rho**2 * float(unit @ hessian @ unit)
    assert landscape.adversarial_sharpness(rho) == pytest.approx(wanted, rel=2e-2)
    assert landscape.adversarial_sharpness(0.5, steps=5) >= landscape.adversarial_sharpness(0.5)
    random = landscape.random_sharpness(0.5, samples=5)
    assert random.value < landscape.adversarial_sharpness(0.5)


def test_random_directions_are_as_long_as_the_filters(pair: tuple[Landscape, torch.Tensor]) -> None:
    landscape, _ = pair
    direction = landscape.random_direction(0)
    for d, w in zip(direction, landscape.centre, strict=True):
        assert torch.allclose(d.norm(dim=1), w.norm(dim=1), rtol=1e-5)
    assert float(flat(landscape.random_direction(0, filter_normalised=False)).norm()) == pytest.approx(1.0)
    again = landscape.random_direction(0)
    assert all(torch.equal(a, b) for a, b in zip(direction, again, strict=True))


def test_the_module_stays_as_it_is(convnet: Graph, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    scheme = OpScheme(Scheme(4, signed=False), Scheme(4))
    module = prepare(convnet, dict.fromkeys(("conv1", "conv2", "head"), scheme)).train()
    module(batch[0])
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    landscape = Landscape(module, loss, [batch])
    landscape.top_eigenvalue(iterations=3)
    landscape.adversarial_sharpness(0.3)
    assert module.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert all(q.substitute is None and q.output is None for q in module.quantizers())
    assert all(parameter.grad is None for parameter in module.parameters())
    wanted = loss(module.eval(), *batch).item()
    assert landscape.value() == pytest.approx(wanted, rel=1e-6)


def test_pictures(mlp: Graph, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    landscape = Landscape(GraphModule(mlp), loss, [(X, LABELS)])
    first, second = landscape.random_direction(0), landscape.random_direction(1)
    distances = [-1.0, 0.0, 1.0]
    line = landscape.line(first, distances)
    plane = landscape.plane(first, second, distances)
    assert plane.shape == (3, 3)
    assert np.allclose(plane[1], line)
    assert line[1] == pytest.approx(landscape.value())
    plot_lines(tmp_path / "line.png", distances, {"float": line})
    plot_planes(tmp_path / "plane.png", distances, {"float": plane, "flat": np.ones((3, 3))})
    plot_planes(tmp_path / "flat.png", distances, {"flat": np.ones((3, 3))})
    for path in tmp_path.iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")


def test_pictures_without_matplotlib(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InputError, match="matplotlib"):
        plot_lines(tmp_path / "line.png", [0.0], {"a": np.ones(1)})


def test_no_batch_is_an_error(mlp: Graph) -> None:
    with pytest.raises(InputError, match="no batch"):
        Landscape(GraphModule(mlp), loss, [])
