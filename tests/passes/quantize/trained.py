"""Small networks that are really trained, on synthetic pictures and sequences with structure, within seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import nn

from plait.api import lower, optimize
from plait.ir import Graph
from plait.ir.interpret import interpret
from plait.passes.quantize.calibrate import calibrate
from plait.passes.quantize.insert import CONTRACTIONS, insert_qdq, place
from plait.passes.quantize.scheme import Grid, OpScheme, Scheme


class Pictures(nn.Module):
    """Ordinary, depthwise and pointwise convolutions with batch norm, and a dense head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 12, 3, padding=1)
        self.stem_norm = nn.BatchNorm2d(12)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.depthwise_norm = nn.BatchNorm2d(12)
        self.pointwise = nn.Conv2d(12, 24, 1)
        self.pointwise_norm = nn.BatchNorm2d(24)
        self.last = nn.Conv2d(24, 24, 3, padding=1, stride=2)
        self.last_norm = nn.BatchNorm2d(24)
        self.head = nn.Linear(24 * 4, 8)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem_norm(self.stem(image)))
        x = torch.relu(self.depthwise_norm(self.depthwise(x)))
        x = torch.relu(self.pointwise_norm(self.pointwise(x)))
        x = torch.relu(self.last_norm(self.last(nn.functional.max_pool2d(x, 2))))
        found: torch.Tensor = self.head(x.flatten(1))
        return found


class Sequences(nn.Module):
    """Normalised dense layers on [B, T, 8], and a dense layer on their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 16)
        self.norm = nn.LayerNorm(16)
        self.wide = nn.Linear(16, 32)
        self.narrow = nn.Linear(32, 16)
        self.plain = nn.Linear(16, 16)
        self.head = nn.Linear(16, 6)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        x = x + self.narrow(nn.functional.gelu(self.wide(self.norm(x))))
        found: torch.Tensor = self.head(self.plain(x).mean(1))
        return found


@dataclass(frozen=True)
class Task:
    """A trained network as an optimised graph, with data that it was and was not trained on.

    Attributes:
        calibration: batches from the training set.
        held_out: inputs of the test set, and labels.
    """

    graph: Graph
    calibration: tuple[torch.Tensor, ...]
    held_out: torch.Tensor
    labels: torch.Tensor

    def outputs(self, graph: Graph) -> torch.Tensor:
        """What a graph gives on the test set."""
        found: torch.Tensor = interpret(graph, [self.held_out])[0]
        return found

    def accuracy(self, graph: Graph) -> float:
        return float((self.outputs(graph).argmax(1) == self.labels).float().mean())

    def error(self, graph: Graph) -> float:
        """Squared error of a graph's outputs on the test set, over their squared size."""
        expected = self.outputs(self.graph)
        return float((self.outputs(graph) - expected).square().sum() / expected.square().sum())


def _examples(
    shape: tuple[int, ...], classes: int, count: int, noise: float, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth prototypes, one a class, shifted along the last axis at random, under smooth noise."""
    generator = torch.Generator().manual_seed(7)

    def smooth(count: int) -> torch.Tensor:
        x = torch.randn(count, *shape, generator=generator)
        for axis in range(1, len(shape) + 1):
            x = (x + x.roll(1, axis)) / 2**0.5
        return x

    prototypes = smooth(classes)
    generator.manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    shifts = torch.randint(0, 3, (count,), generator=generator)
    clean = torch.stack([prototypes[k].roll(int(s), -1) for k, s in zip(labels, shifts, strict=True)])
    return clean + noise * smooth(count), labels


def _train(net: nn.Module, x: torch.Tensor, labels: torch.Tensor, epochs: int, seed: int) -> None:
    optimiser = torch.optim.Adam(net.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for pick in torch.randperm(len(x), generator=generator).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x[pick]), labels[pick]).backward()
            optimiser.step()
    net.eval()


def _task(
    net: nn.Module, shape: tuple[int, ...], classes: int, noise: float, epochs: int, spoil: object
) -> Task:
    x, labels = _examples(shape, classes, 1500, noise, seed=1)
    _train(net, x, labels, epochs, seed=2)
    if callable(spoil):
        spoil(net)
    name = "image" if isinstance(net, Pictures) else "tokens"
    graph = optimize(lower(net, (x[:2],), dynamic={name: {0: ("B", 1, 4096)}}))
    held_out, truth = _examples(shape, classes, 600, noise, seed=3)
    return Task(graph, tuple(x[:256].split(64)), held_out, truth)


def _unbalance(net: Pictures) -> None:
    """Channels of very different ranges that cancel out, as convnets with batch norm have them."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for norm, after in ((net.stem_norm, net.depthwise), (net.depthwise_norm, net.pointwise)):
            factor = torch.exp(1.5 * torch.randn(12, generator=generator))
            norm.weight.mul_(factor)
            norm.bias.mul_(factor)
            after.weight.div_(
                factor.reshape(-1, 1, 1, 1) if after.groups > 1 else factor.reshape(1, -1, 1, 1)
            )


def _outliers(net: Sequences) -> None:
    """Two channels of large magnitude behind the normalisation, as large language models have them."""
    with torch.no_grad():
        factor = torch.ones(16)
        factor[[3, 11]] = 40.0
        net.norm.weight.mul_(factor)
        net.norm.bias.mul_(factor)
        net.wide.weight.div_(factor)


@cache
def pictures() -> Task:
    torch.manual_seed(0)
    return _task(Pictures(), (1, 8, 8), 8, 1.1, 6, None)


@cache
def unbalanced_pictures() -> Task:
    """The same function as `pictures`, with uneven channels."""
    torch.manual_seed(0)
    return _task(Pictures(), (1, 8, 8), 8, 1.1, 6, _unbalance)


@cache
def sequences() -> Task:
    """Sequences with outlier channels."""
    torch.manual_seed(0)
    return _task(Sequences(), (10, 8), 6, 0.8, 8, _outliers)


def weights_only(graph: Graph, scheme: Scheme) -> dict[str, OpScheme]:
    """Every layer's weights under a scheme."""
    return {op.name: OpScheme(None, scheme) for op in graph.ops if isinstance(op, CONTRACTIONS)}


def everything(graph: Graph, scheme: OpScheme) -> dict[str, OpScheme]:
    """Every layer under a scheme."""
    return {op.name: scheme for op in graph.ops if isinstance(op, CONTRACTIONS)}


def rounded(
    task: Task,
    schemes: Mapping[str, OpScheme],
    grids: Mapping[str, Grid] | None = None,
    stored: Mapping[str, np.ndarray] | None = None,
    *,
    graph: Graph | None = None,
    observer: str = "min-max",
) -> Graph:
    """A task's graph, or another, in QDQ form, activations calibrated where they are quantised."""
    source = task.graph if graph is None else graph
    wanted = place(source, schemes).measured
    activations = calibrate(source, task.calibration, wanted, observer) if wanted else {}
    return insert_qdq(source, schemes, activations, grids, stored)
