"""Derivatives inside forward: torch.func and torch.autograd.grad."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from plait.ir import Graph

Same = Callable[..., Graph]


class Energy(nn.Module):
    """A small network whose scalar output is differentiated."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    def energy(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x).sum()


class Hamiltonian(Energy):
    """Time derivative of (q, p): J grad H."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, p = grad(self.energy)(x).chunk(2, -1)
        return torch.cat([p, -q], -1)


def test_gradient_of_an_energy(same: Same) -> None:
    graph = same(Hamiltonian(), (torch.randn(3, 4),), dynamic={"x": {0: "B"}}, others=[(torch.randn(5, 4),)])
    assert set(graph.constants) >= {"net.0.weight", "net.0.bias", "net.2.weight"}
    assert any(origin.path.startswith("net") for op in graph.ops for origin in op.loc.origins)


class Hessian(Energy):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return hessian(self.energy)(x)


class Jacobians(Energy):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return vmap(jacrev(self.net))(x)


class Forward(Energy):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return vmap(jacfwd(self.net))(x)


class Directional(Energy):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return jvp(self.net, (x,), (x.cos(),))


class Pullback(Energy):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y, pull = vjp(self.net, x)
        return y, pull(torch.ones_like(y))[0]


class Autograd(Energy):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(self.energy(x), x)[0]


class Twice(Energy):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(self.energy(x), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), x)[0]


@pytest.mark.parametrize("kind", [Hessian, Jacobians, Forward, Directional, Pullback, Autograd, Twice])
def test_derivatives(kind: type[Energy], same: Same) -> None:
    module = kind()
    x = torch.randn(4) if kind is Hessian else torch.randn(3, 4)
    same(module, (x,), cpu=kind in (Hessian, Autograd))


@pytest.mark.parametrize("kind", [Jacobians, Pullback, Autograd])
def test_derivatives_at_a_dynamic_batch(kind: type[Energy], same: Same) -> None:
    same(
        kind(),
        (torch.randn(3, 4),),
        dynamic={"x": {0: "B"}},
        others=[(torch.randn(1, 4),), (torch.randn(6, 4),)],
        cpu=False,
    )


def test_derivatives_by_the_parameters(same: Same) -> None:
    class Tangent(Energy):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            def loss(parameters: dict[str, torch.Tensor]) -> torch.Tensor:
                return functional_call(self.net, parameters, (x,)).square().mean()

            slopes = grad(loss)({name: p.detach() for name, p in self.net.named_parameters()})
            return torch.cat([slope.flatten() for slope in slopes.values()])

    same(Tangent(), (torch.randn(3, 4),), cpu=False)


class Springs(nn.Module):
    """Rollout of a ring of springs by symplectic Euler; the force is minus the gradient of an energy."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.steps = steps
        self.potential = nn.Sequential(nn.Linear(1, 8), nn.Softplus(), nn.Linear(8, 1))

    def energy(self, q: torch.Tensor) -> torch.Tensor:
        lengths = (q - q.roll(1, 0)).square().sum(-1, keepdim=True)
        return self.potential(lengths).sum() + (lengths - 1).square().sum()

    def forward(self, q: torch.Tensor, p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        for _ in range(self.steps):
            p = p - 0.01 * grad(self.energy)(q)
            q = q + 0.01 * p
        return q, p


@pytest.mark.slow
def test_a_spring_rollout(same: Same) -> None:
    q, p = torch.randn(5, 2), torch.randn(5, 2)
    dynamic = {"q": {0: ("N", 3, 64)}, "p": {0: ("N", 3, 64)}}
    same(Springs(4), (q, p), dynamic=dynamic, others=[(torch.randn(8, 2), torch.randn(8, 2))])
