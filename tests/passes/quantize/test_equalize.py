"""Cross-layer equalisation: the same function, ranges alike, less lost to one scale per tensor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from plait.api import lower, optimize
from plait.ir import Graph
from plait.ir import ops as plait_ops
from plait.ir.interpret import interpret
from plait.passes.quantize.equalize import Pair, equalize, pairs_of
from plait.passes.quantize.scheme import OpScheme, Scheme

from .trained import everything, pictures, rounded, unbalanced_pictures, weights_only


def spread(graph: Graph) -> float:
    """Mean over layers of the standard deviation of the logarithm of output channel ranges."""
    found = []
    for op in graph.ops:
        if isinstance(op, (plait_ops.nn.Conv2d, plait_ops.nn.Linear)):
            ranges = np.abs(op.w.data).reshape(op.w.shaped.shape[0], -1).max(1)  # type: ignore[attr-defined]
            found.append(np.log(ranges).std())
    return float(np.mean(found))


def lowered(net: nn.Module, x: torch.Tensor, seed: int = 0) -> Graph:
    """An optimised graph of a net with random parameters, biases included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
            parameter.mul_(
                torch.exp(torch.randn(len(parameter), *[1] * (parameter.dim() - 1), generator=generator))
            )
    return optimize(lower(net.eval(), (x,)))


def test_channels_become_alike() -> None:
    task = unbalanced_pictures()
    graph = task.graph.clone()
    count = equalize(graph)
    graph.verify()
    assert count == len(pairs_of(task.graph)) == 4
    assert spread(graph) < 0.5 * spread(task.graph)
    torch.testing.assert_close(task.outputs(graph), task.outputs(task.graph), rtol=1e-4, atol=1e-4)
    assert [op.name for op in graph.ops] == [op.name for op in task.graph.ops]
    assert len(graph.constants) == len(task.graph.constants)
    changed = [op for op in graph.ops if "equalize" in op.loc.passes]
    assert len(changed) == 5
    assert all(op.loc.origins for op in changed)


def test_both_sides_of_each_pair_have_one_range() -> None:
    graph = unbalanced_pictures().graph.clone()
    equalize(graph, tolerance=1e-8, sweeps=1000)
    for pair in pairs_of(graph):
        first, second = (graph.value(name).producer for name in (pair.first, pair.second))
        weight = second.w.data  # type: ignore[union-attr]
        groups = getattr(second, "groups", 1)
        outgoing = np.abs(first.w.data).reshape(len(first.w.data), -1).max(1)  # type: ignore[union-attr]
        grouped = weight.reshape(groups, len(weight) // groups, weight.shape[1] // pair.repeat, -1)
        incoming = np.abs(grouped).max((1, 3)).reshape(-1)
        np.testing.assert_allclose(outgoing, incoming, rtol=1e-4)


@pytest.mark.parametrize("bits", [4, 8])
def test_one_scale_per_tensor_loses_less(bits: int) -> None:
    task = unbalanced_pictures()
    graph = task.graph.clone()
    equalize(graph)
    scheme = Scheme(bits)
    before = task.error(rounded(task, weights_only(task.graph, scheme)))
    after = task.error(rounded(task, weights_only(graph, scheme), graph=graph))
    assert after < 0.3 * before
    natural = pictures()
    assert after < 2.0 * natural.error(rounded(natural, weights_only(natural.graph, scheme)))


def test_activations_of_eight_bits_lose_less_too() -> None:
    task = unbalanced_pictures()
    graph = task.graph.clone()
    equalize(graph)
    scheme = OpScheme(Scheme(8, symmetric=False), Scheme(8))
    before = rounded(task, everything(task.graph, scheme))
    after = rounded(task, everything(graph, scheme), graph=graph)
    assert task.error(after) < 0.3 * task.error(before)
    assert task.accuracy(after) >= task.accuracy(before)


class Chain(nn.Module):
    """Two layers with something between them."""

    def __init__(self, first: nn.Module, between: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.between, self.second = first, between, second

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.second(self.between(self.first(x)))
        return found


IMAGE = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
ROWS = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
LINE = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(0))
MEAN = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize(
    ("net", "x"),
    [
        (Chain(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), ROWS),
        (Chain(nn.Linear(4, 6, bias=False), nn.Identity(), nn.Linear(6, 3)), ROWS),
        (Chain(nn.Conv1d(4, 6, 3), nn.LeakyReLU(0.2), nn.Conv1d(6, 2, 3)), LINE),
        (Chain(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6, padding=1)), IMAGE),
        (Chain(nn.Conv2d(4, 6, 3, groups=2), nn.ReLU(), nn.Conv2d(6, 9, 3, groups=3)), IMAGE),
        (Chain(nn.Conv2d(4, 6, 3), nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)), nn.Conv2d(6, 2, 1)), IMAGE),
        (Chain(nn.Conv2d(4, 6, 3), nn.AvgPool2d(3, padding=1), nn.Conv2d(6, 2, 1)), IMAGE),
        (Chain(nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(216, 3)), IMAGE),
        (Chain(nn.Conv2d(4, 6, 3), nn.Sequential(nn.ReLU(), MEAN), nn.Linear(6, 3)), IMAGE),
        (Chain(nn.Conv3d(2, 4, 1), nn.ReLU(), nn.Conv3d(4, 3, 2)), IMAGE.reshape(2, 2, 2, 8, 8)),
    ],
    ids=lambda given: type(given.between).__name__ if isinstance(given, Chain) else "",
)
def test_the_function_stays(net: Chain, x: torch.Tensor) -> None:
    graph = lowered(net, x)
    after = graph.clone()
    assert equalize(after) == 1
    (expected,), (found,) = interpret(graph, [x]), interpret(after, [x])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert str(graph) != str(after)
    assert equalize(after) == 0, "what is equal stays"


class Twice(nn.Module):
    """Something that a sum, or a second layer, reads too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        found: torch.Tensor = self.second(y) + y
        return found


class Shared(nn.Module):
    """One layer applied twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layer(torch.relu(self.layer(x)))
        return found


@pytest.mark.parametrize(
    ("net", "x"),
    [
        (Chain(nn.Linear(4, 6), nn.ReLU6(), nn.Linear(6, 3)), ROWS),
        (Chain(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 3)), ROWS),
        (Chain(nn.Linear(4, 6), nn.Sequential(nn.ReLU(), nn.Softmax(-1)), nn.Linear(6, 3)), ROWS),
        (Chain(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3)), ROWS),
        (Chain(nn.Conv1d(4, 6, 3), nn.ReLU(), nn.Linear(7, 3)), LINE),  # reads positions, not channels
        (Chain(nn.Linear(9, 6), nn.ReLU(), nn.Conv1d(4, 3, 3)), LINE),
        (Twice(), ROWS),
        (Shared(), ROWS),
    ],
)
def test_others_are_left_alone(net: nn.Module, x: torch.Tensor) -> None:
    graph = lowered(net, x)
    assert pairs_of(graph) == []
    text = str(graph)
    assert equalize(graph) == 0
    assert str(graph) == text


def test_dead_channels_are_left_alone() -> None:
    net = Chain(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    graph = lowered(net, ROWS)
    with torch.no_grad():
        net.first.weight[1] = 0.0
        net.second.weight[:, 3] = 0.0
        net.first.weight[4] = 1e-9  # a bias that is divided by its factor would rule the range
    graph = optimize(lower(net, (ROWS,)))
    (pair,) = pairs_of(graph)
    assert isinstance(pair, Pair)
    (before,) = interpret(graph, [ROWS])
    old = graph.value(pair.first).producer.b.data  # type: ignore[union-attr]
    assert equalize(graph, limit=100.0) == 1
    new = graph.value(pair.first).producer.b.data  # type: ignore[union-attr]
    assert new[1] == old[1]
    assert new[3] == old[3]
    assert new[4] == pytest.approx(old[4] * 100.0)
    torch.testing.assert_close(interpret(graph, [ROWS])[0], before, rtol=1e-4, atol=1e-4)
