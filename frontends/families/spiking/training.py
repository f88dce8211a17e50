"""Classifiers of leaky neurons, learned by gradients through time with surrogate derivatives.

Spikes go through layers of weights and LIF neurons; the last layer of weights drives neurons that leak
but never spike, tau dv/dt = x - v, and the mean of their potential over time is the score of a class
(Neftci, Mostafa and Zenke, IEEE Signal Processing Magazine 36(6), 2019).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plait.frontends.families.spiking.coding import latency_times
from plait.frontends.families.spiking.neurons import LIF, check_time


def latency_spikes(images: Tensor, steps: int) -> Tensor:
    """One spike a pixel above the image's minimum, the brighter the earlier: [B, ...] -> [steps, B, ...]."""
    times = latency_times(images, steps)
    clock = torch.arange(steps).reshape(-1, *([1] * images.dim()))
    return (times == clock).to(images.dtype)


def rate_spikes(images: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    """Spikes of probability x in each step for pixels x in 0..1: [B, ...] -> [steps, B, ...]."""
    draws = torch.rand(steps, *images.shape, generator=generator, dtype=images.dtype)
    return (draws < images).to(images.dtype)


class SpikingClassifier(nn.Module):
    """Blocks of weights, each driving LIF neurons, and a layer of weights to the classes.

    The state of `step` is the potentials of each block and of the classes, explicit as in `neurons`;
    `forward` starts from rest.  Raises ValueError unless 0 < dt <= tau.
    """

    def __init__(
        self, blocks: Sequence[nn.Module], readout: nn.Module, neuron: LIF, *, tau: float, dt: float
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.readout, self.neuron = readout, neuron
        self.tau, self.dt = tau, dt
        check_time(self, "tau", tau, dt)

    def step(self, spikes: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Spikes [B, ...] and the state: the potentials of the classes [B, classes] and the next state."""
        after = []
        for block, v in zip(self.blocks, state[:-1], strict=True):
            spikes, v = self.neuron.step(block(spikes), v)
            after.append(v)
        scores = state[-1] + (self.dt / self.tau) * (self.readout(spikes) - state[-1])
        return scores, (*after, scores)

    def rest(self, spikes: Tensor) -> tuple[Tensor, ...]:
        """The state at rest for spikes [B, ...] like these: zeros."""
        state = []
        for block in self.blocks:
            spikes = torch.zeros_like(block(spikes))
            state.append(spikes)
        return (*state, torch.zeros_like(self.readout(spikes)))

    def forward(self, spikes: Tensor) -> Tensor:
        """Spikes [T, B, ...], T at least 1: the scores of the classes [B, classes]."""
        state = self.rest(spikes[0])
        total = torch.zeros_like(state[-1])
        for now in spikes:
            scores, state = self.step(now, state)
            total = total + scores
        return total / spikes.shape[0]


class ClassifierOverTime(nn.Module):
    """A classifier over time as one scan, for export: a graph of one step, whatever T.

    Gives the scores of the classifier's `forward`, without gradients.  Run by torch it compiles the step
    first.  Spikes given as bool are turned into numbers within the step, so that plait's pass
    `raise-spike-products` can drive the first weights by events too.
    """

    def __init__(self, classifier: SpikingClassifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, spikes: Tensor) -> Tensor:
        """Spikes bool or float [T, B, ...], T at least 1: the scores of the classes [B, classes]."""
        from torch._higher_order_ops.scan import scan

        dtype = next(self.classifier.parameters()).dtype
        state = self.classifier.rest(spikes[0].to(dtype))

        def step(before: tuple[Tensor, ...], now: Tensor) -> tuple[tuple[Tensor, ...], tuple[()]]:
            scores, after = self.classifier.step(now.to(dtype), before[:-1])
            return (*after, before[-1] + scores), ()

        after: Any
        after, _ = scan(step, (*state, torch.zeros_like(state[-1])), spikes)
        total: Tensor = after[-1]
        return total / spikes.shape[0]


def draw_weights(model: nn.Module, gain: float, seed: int) -> None:
    """Weights of standard deviation gain / sqrt(fan-in) and biases 0, from the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            else:
                deviation = gain / math.sqrt(parameter[0].numel())
                parameter.normal_(0.0, deviation, generator=generator)


def spiking_mlp(
    inputs: int, hidden: Sequence[int], classes: int, neuron: LIF, *, gain: float, seed: int
) -> SpikingClassifier:
    """A classifier of spikes [T, B, ...] of `inputs` pixels; the readout leaks as the neurons do."""
    sizes = [inputs, *hidden]
    blocks: list[nn.Module] = [
        nn.Sequential(nn.Flatten(), nn.Linear(a, b)) for a, b in itertools.pairwise(sizes)
    ]
    readout = nn.Linear(sizes[-1], classes)
    model = SpikingClassifier(blocks, readout, neuron, tau=neuron.tau, dt=neuron.dt)
    draw_weights(model, gain, seed)
    return model


def spiking_convnet(
    size: int, channels: Sequence[int], classes: int, neuron: LIF, *, gain: float, seed: int
) -> SpikingClassifier:
    """A classifier of spikes [T, B, 1, size, size]: 3x3 convolutions, all but the first with stride 2."""
    blocks: list[nn.Module] = []
    before = 1
    for index, count in enumerate(channels):
        stride = 2 if index else 1
        blocks.append(nn.Conv2d(before, count, 3, stride, 1))
        before, size = count, (size - 1) // stride + 1
    readout = nn.Sequential(nn.Flatten(), nn.Linear(before * size * size, classes))
    model = SpikingClassifier(blocks, readout, neuron, tau=neuron.tau, dt=neuron.dt)
    draw_weights(model, gain, seed)
    return model


@dataclass(frozen=True)
class GradientTraining:
    """How long, how fast and in which batches; `seed` alone determines the order of the images."""

    epochs: int
    batch: int
    learning_rate: float
    seed: int


def train(
    model: nn.Module,
    encode: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    training: GradientTraining,
) -> list[float]:
    """Minimise the cross-entropy by Adam, its rate falling as a cosine; the mean loss of each epoch.

    `encode` turns images [B, ...] into what the model takes, for each batch anew.
    Raises ValueError for images and labels of different number.
    """
    if len(images) != len(labels):
        raise ValueError(f"train: {len(images)} images, but {len(labels)} labels; give one label an image")
    generator = torch.Generator().manual_seed(training.seed)
    optimizer = torch.optim.Adam(model.parameters(), training.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, training.epochs)
    losses = []
    model.train()
    for _ in range(training.epochs):
        total = 0.0
        for part in torch.randperm(len(images), generator=generator).split(training.batch):
            loss = nn.functional.cross_entropy(model(encode(images[part])), labels[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(part)
        schedule.step()
        losses.append(total / len(images))
    return losses


@torch.no_grad()
def accuracy(
    model: nn.Module, encode: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, *, batch: int = 256
) -> float:
    """The share of images whose largest score is that of their label."""
    model.eval()
    right = 0
    for part, wanted in zip(images.split(batch), labels.split(batch), strict=True):
        right += int((model(encode(part)).argmax(dim=1) == wanted).sum())
    return right / len(images)


__all__ = [
    "ClassifierOverTime",
    "GradientTraining",
    "SpikingClassifier",
    "accuracy",
    "draw_weights",
    "latency_spikes",
    "rate_spikes",
    "spiking_convnet",
    "spiking_mlp",
    "train",
]
