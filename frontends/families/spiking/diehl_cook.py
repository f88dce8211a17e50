"""Unsupervised digit recognition by STDP: the network of Diehl and Cook.

P. U. Diehl and M. Cook, Frontiers in Computational Neuroscience 9:99, 2015
(doi 10.3389/fncom.2015.00099), with current-based synapses and the constants of its current-based
re-implementation in BindsNET (Hazan et al., Frontiers in Neuroinformatics 12:89, 2018).

Pixels fire as Poisson processes and drive excitatory neurons, all to all.  A step of dt of an
excitatory neuron j with potential v, in mV and ms, is

    v = rest + exp(-dt / tau) (v - rest)
    v = v + sum_i w_ij s_i - inhibition * (number of other neurons that fired two steps ago),
        unless j is refractory
    where v >= threshold + theta_j:  v = reset, theta_j = theta_j + theta_plus, j is refractory

and of all that reach their threshold at a step the one that exceeds it most fires, among equals the first.
The inhibitory layer has one neuron for each excitatory one.  A single spike lifts it over its threshold
even from rest, it is never below rest, and its refractory time of 2 ms is no longer than the excitatory one;
so it repeats each spike one step later, and is folded into the delay of two steps.

The weights of the pixels learn by the pair rule of `traces`, and after each image the weights into each
neuron are scaled to one sum.  Learning is sequential, image by image, as published.  Labels enter only
after it: a neuron gets the class that it fires most for, and neurons vote.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from plait.frontends.families.spiking.traces import Floats, PairRule, PairTraces

#: Refractory time of an inhibitory neuron; with a shorter excitatory one the layer could not be folded.
INHIBITORY_REFRACTORY_MS = 2.0
#: Steps from a spike of an excitatory neuron to the inhibition of the others: one for each connection.
INHIBITION_DELAY = 2


@dataclass(frozen=True)
class DiehlCookConfig:
    """Constants of the network: potentials in mV, times in ms, rates in Hz.

    `intensity_hz` is the rate of a white pixel; `norm` is the sum of the weights into a neuron.
    Raises ValueError where a constant has no meaning.
    """

    inputs: int = 784
    neurons: int = 400
    duration_ms: float = 250.0
    dt_ms: float = 1.0
    intensity_hz: float = 128.0
    rest: float = -65.0
    reset: float = -60.0
    threshold: float = -52.0
    tau_ms: float = 100.0
    refractory_ms: float = 5.0
    theta_plus: float = 0.05
    tau_theta_ms: float = 1e7
    inhibition: float = 120.0
    depression: float = 1e-4
    potentiation: float = 1e-2
    tau_trace_ms: float = 20.0
    norm: float = 78.4

    def __post_init__(self) -> None:
        positive = (
            "inputs", "neurons", "duration_ms", "dt_ms", "intensity_hz", "tau_ms", "tau_theta_ms", "norm",
        )  # fmt: skip
        for name in positive:
            if getattr(self, name) <= 0:
                raise ValueError(f"DiehlCookConfig: {name} is above 0, got {getattr(self, name)}")
        if not max(self.rest, self.reset) < self.threshold:
            raise ValueError(
                f"DiehlCookConfig: rest={self.rest} and reset={self.reset} are below the threshold, "
                f"got threshold={self.threshold}"
            )
        if self.refractory_ms < INHIBITORY_REFRACTORY_MS:
            raise ValueError(
                f"DiehlCookConfig: refractory_ms={self.refractory_ms} is below the "
                f"{INHIBITORY_REFRACTORY_MS} ms of the inhibitory neurons, which would then miss spikes"
            )
        if self.intensity_hz * self.dt_ms > 1000:
            raise ValueError(
                f"DiehlCookConfig: {self.intensity_hz} Hz is more than one spike a step of {self.dt_ms} ms; "
                "lower intensity_hz or dt_ms"
            )
        if self.norm > self.inputs:
            raise ValueError(f"DiehlCookConfig: norm={self.norm} needs a mean weight above 1; lower it")

    @property
    def steps(self) -> int:
        """Steps of one image."""
        return round(self.duration_ms / self.dt_ms)

    @property
    def rule(self) -> PairRule:
        """How the weights of the pixels learn."""
        return PairRule(self.depression, self.potentiation, self.tau_trace_ms, self.dt_ms, 0.0, 1.0)


class ExcitatoryLayer:
    """The state of excitatory neurons for a batch of images shown side by side; at rest at the start.

    `theta` float32 [neurons] is read, and raised in place by `step` if `adapt`.
    """

    def __init__(self, config: DiehlCookConfig, theta: Floats, batch: int, *, adapt: bool) -> None:
        self.theta, self.adapt = theta, adapt
        #: Potentials above rest [batch, neurons], and steps left of the refractory time.
        self.above: Floats = np.zeros((batch, len(theta)), np.float32)
        self.waiting: npt.NDArray[np.int32] = np.zeros((batch, len(theta)), np.int32)
        self._fired: list[npt.NDArray[np.bool_] | None] = [None] * INHIBITION_DELAY
        self._refractory = round(config.refractory_ms / config.dt_ms)
        self._decay = np.float32(math.exp(-config.dt_ms / config.tau_ms))
        self._threshold = np.float32(config.threshold - config.rest)
        self._reset = np.float32(config.reset - config.rest)
        self._inhibition = np.float32(config.inhibition)
        self._theta_plus = np.float32(config.theta_plus)

    def step(self, current: Floats) -> npt.NDArray[np.bool_] | None:
        """Advance one step with the inputs' current [batch, neurons]; spikes, None if there are none."""
        earlier = self._fired.pop(0)
        if earlier is not None:
            others = earlier.sum(axis=1, keepdims=True, dtype=np.float32) - earlier
            current = current - self._inhibition * others
        self.above *= self._decay
        self.above += current * (self.waiting == 0)
        np.maximum(self.waiting - 1, 0, out=self.waiting)
        excess = self.above - (self._threshold + self.theta)
        best = excess.argmax(axis=1)
        sample = np.arange(len(best))
        winning = excess[sample, best] >= 0
        if not winning.any():
            self._fired.append(None)
            return None
        reached = excess >= 0
        self.above[reached] = self._reset
        self.waiting[reached] = self._refractory
        if self.adapt:
            self.theta += self._theta_plus * reached.sum(axis=0, dtype=np.float32)
        fired = np.zeros_like(reached)
        fired[sample[winning], best[winning]] = True
        self._fired.append(fired)
        return fired


class DiehlCook:
    """The network: weights float32 [inputs, neurons] in 0..1 and thresholds' growth theta [neurons] in mV.

    `seed` alone determines the initial weights; the spikes of the pixels come from the generators given
    to `learn` and `respond`.  The same seeds give the same bits.
    """

    def __init__(self, config: DiehlCookConfig, *, seed: int) -> None:
        self.config = config
        generator = torch.Generator().manual_seed(seed)
        self.weights = 0.3 * torch.rand(config.inputs, config.neurons, generator=generator)
        self.theta = torch.zeros(config.neurons)
        self.normalize()

    def encode(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Poisson spikes bool [steps, B, inputs] of images [B, ...] in 0..1: rate intensity_hz * pixel.

        Raises ValueError for images of another size or range.
        """
        config = self.config
        pixels = images.flatten(1)
        if pixels.shape[1] != config.inputs:
            raise ValueError(
                f"DiehlCook: images of {pixels.shape[1]} pixels, but the network has {config.inputs} inputs"
            )
        if pixels.numel() and not (float(pixels.min()) >= 0 and float(pixels.max()) <= 1):
            raise ValueError("DiehlCook: pixels lie outside of 0..1; divide bytes by 255")
        chance = pixels * (config.intensity_hz * config.dt_ms / 1000)
        return torch.rand(config.steps, *pixels.shape, generator=generator) < chance

    def normalize(self) -> None:
        """Scale the weights into each neuron to the sum `norm`, none above 1."""
        sums = self.weights.sum(dim=0).clamp(min=1e-12)
        self.weights.mul_(self.config.norm / sums).clamp_(max=1.0)

    def learn(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Learn from one image [inputs] or [H, W]; how often each neuron fired, int64 [neurons]."""
        config = self.config
        spikes = self.encode(image.unsqueeze(0), generator)[:, 0].numpy()
        step, pixel = spikes.nonzero()
        active = np.split(pixel, np.searchsorted(step, np.arange(1, config.steps)))
        weights, theta = self.weights.numpy(), self.theta.numpy()
        layer = ExcitatoryLayer(config, theta, 1, adapt=True)
        traces = PairTraces(config.rule, config.inputs, config.neurons)
        counts = np.zeros(config.neurons, np.int64)
        silent = np.zeros(0, np.int64)
        for pre in active:
            fired = layer.step(weights[pre].sum(axis=0, keepdims=True))
            post = silent if fired is None else fired[0].nonzero()[0]
            counts[post] += 1
            traces.step(weights, pre, post)
        theta *= np.float32(math.exp(-config.steps * config.dt_ms / config.tau_theta_ms))
        self.normalize()
        return torch.from_numpy(counts)

    def respond(self, images: Tensor, generator: torch.Generator, *, batch: int = 50) -> Tensor:
        """How often each neuron fires for each image, int64 [B, neurons]; nothing is learned."""
        config = self.config
        theta = self.theta.numpy()
        found = []
        for part in images.split(batch):
            currents = (self.encode(part, generator).float() @ self.weights).numpy()
            layer = ExcitatoryLayer(config, theta, len(part), adapt=False)
            counts = np.zeros((len(part), config.neurons), np.int64)
            for current in currents:
                fired = layer.step(current)
                if fired is not None:
                    counts += fired
            found.append(torch.from_numpy(counts))
        return torch.cat(found) if found else torch.zeros(0, config.neurons, dtype=torch.int64)


@dataclass(frozen=True)
class NeuronLabels:
    """What neurons stand for: `rates`, mean spikes for an image of each class, float64 [neurons, classes]."""

    rates: Tensor

    @classmethod
    def of(cls, counts: Tensor, labels: Tensor, classes: int) -> NeuronLabels:
        """The mean of the counts [B, neurons] of each class; labels int64 [B]."""
        member = torch.nn.functional.one_hot(labels, classes).double()
        return cls((counts.double().T @ member) / member.sum(dim=0).clamp(min=1))

    @property
    def classes(self) -> Tensor:
        """The class that each neuron fires most for, the first among equals; -1 if it never fires; int64."""
        return torch.where(self.rates.sum(dim=1) > 0, self.rates.argmax(dim=1), -1)

    def vote(self, counts: Tensor) -> Tensor:
        """Classes int64 [B] for counts [B, neurons]: the largest mean count over the neurons of a class."""
        member = torch.stack([self.classes == k for k in range(self.rates.shape[1])], dim=1).double()
        return (counts.double() @ (member / member.sum(dim=0).clamp(min=1))).argmax(dim=1)

    def vote_by_proportion(self, counts: Tensor) -> Tensor:
        """As `vote`, each count weighted by the share of its class in the neuron's rates."""
        share = self.rates / self.rates.sum(dim=1, keepdim=True).clamp(min=1e-12)
        member = torch.stack([self.classes == k for k in range(self.rates.shape[1])], dim=1).double()
        return (counts.double() @ (member * share / member.sum(dim=0).clamp(min=1))).argmax(dim=1)


__all__ = ["DiehlCook", "DiehlCookConfig", "ExcitatoryLayer", "NeuronLabels"]
