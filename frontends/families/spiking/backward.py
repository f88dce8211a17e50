"""Temporal backpropagation for neurons that fire at most once, with real or binary weights.

S4NN (Kheradpisheh and Masquelier, Int. J. Neural Systems 30(6), 2020) and
BS4NN (Kheradpisheh, Mirsadeghi and Masquelier, Neural Processing Letters,
2021).  A layer is an integrate-and-fire layer without leak; t are first-spike
times in 0..T, T for silent; W [O, I] are real weights, and the layer computes
with W or, in the binary form, with s sign(W) and one learned scale s.

- The earliest output neuron decides.  With m the earliest time of a sample,
  the target time of the labelled neuron is m, that of any other one is
  max(t, min(m + gamma, T)).
- The gradient of an output is d_o = (t*_o - t_o) / T: a neuron that fires too
  early has d > 0 and its weights fall.
- Input i is causal for output o if it fired no later than o, and fired at all;
  with C_oi in {0, 1} for that, dW_oi = d_o C_oi.
- A hidden neuron h of a layer below has d_h = sum_o d_o W_oh C_oh.
- W is lessened by rate * dW, then multiplied by 1 - rate * decay (L2);
  s is lessened by scale_rate * mean(dW * sign(W)).

`update` is this step as Spyker takes it in one layer, `TemporalNetwork` the
whole network, learned by mini-batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from plait.frontends.families.spiking import coding, layers


@dataclass(frozen=True)
class BackwardConfig:
    """Learning rate of the weights, their L2 decay, and the learning rate of the scale of binary weights."""

    rate: float
    decay: float = 0.0
    scale_rate: float = 0.0


def target_times(times: Tensor, labels: Tensor, steps: int, gamma: float, *, wake: bool = False) -> Tensor:
    """Target times float32 [B, O] of output times [B, O] and labels int64 [B]; gamma in steps.

    Where every output is silent the targets are `steps`, as in Spyker, so
    nothing is learned; with `wake` the labelled neuron's is then steps - gamma,
    as in S4NN.
    Raises ValueError for a label outside 0..O-1 or a negative gamma.
    """
    if gamma < 0:
        raise ValueError(f"target_times: gamma is 0 steps or above, got {gamma}")
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < times.shape[1]:
        raise ValueError(
            f"target_times: labels are {int(labels.min())}..{int(labels.max())}, "
            f"but the layer has {times.shape[1]} outputs, 0..{times.shape[1] - 1}"
        )
    actual = times.to(torch.float32)
    earliest = actual.amin(dim=1, keepdim=True)
    target = torch.maximum(actual, (earliest + gamma).clamp(max=steps))
    own = torch.where(earliest >= steps, steps - gamma, earliest) if wake else earliest
    return target.scatter(1, labels.unsqueeze(1), own)


def time_gradient(times: Tensor, labels: Tensor, steps: int, gamma: float, *, wake: bool = False) -> Tensor:
    """Gradient (t* - t) / T of the output layer, float32 [B, O]; see target_times."""
    return (target_times(times, labels, steps, gamma, wake=wake) - times.to(torch.float32)) / steps


def causal(input_times: Tensor, output_times: Tensor, steps: int) -> Tensor:
    """Causal set, bool [B, O, I]: input [B, I] fired, and no later than the output [B, O].

    It counts an input of the same step, since layers.connect does.
    """
    fired = (input_times < steps).unsqueeze(1)
    return fired & (input_times.unsqueeze(1) <= output_times.unsqueeze(2))


@dataclass(frozen=True)
class BackwardStep:
    """Result of `update`: new weights [O, I], new scale, and the gradient [B, I] for the layer below."""

    weights: Tensor
    scale: float
    gradient: Tensor


def update(
    weights: Tensor,
    scale: float,
    input_times: Tensor,
    output_times: Tensor,
    gradient: Tensor,
    config: BackwardConfig,
) -> BackwardStep:
    """One layer's step as Spyker's FC.backward takes it: one sample after the other.

    weights [O, I]; input_times [B, I]; output_times and gradient [B, O].  An
    input is causal here if it fired before the output, not in the same step.
    The gradient for the layer below uses the weights just updated by that
    sample; the scale uses the signs of the weights as they were given.
    """
    new = weights.detach().clone()
    signs = torch.sign(new)
    causes = input_times.unsqueeze(1) < output_times.unsqueeze(2)
    below = []
    for sample in range(input_times.shape[0]):
        change = gradient[sample].unsqueeze(1) * causes[sample]
        new = (new - config.rate * change) * (1 - config.rate * config.decay)
        below.append((change * new).sum(dim=0))
        scale = scale - config.scale_rate * float((change * signs).mean())
    return BackwardStep(new, scale, torch.stack(below))


class TemporalNetwork(nn.Module):
    """Fully connected integrate-and-fire layers learned by S4NN, or by BS4NN if `binary`.

    `sizes` are (inputs, hidden..., outputs) and `thresholds` one a layer.
    Initial weights are uniform between `low` and `high`, each divided by the
    number of inputs of the layer; `seed` alone determines them.  `scales`
    [layers] multiply binary weights and start at 1 / inputs of the layer.
    """

    scales: Tensor

    def __init__(
        self,
        sizes: Sequence[int],
        thresholds: Sequence[float],
        *,
        steps: int,
        low: float,
        high: float,
        binary: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if len(sizes) != len(thresholds) + 1 or not thresholds:
            raise ValueError(
                f"TemporalNetwork: {len(sizes)} sizes need {len(sizes) - 1} thresholds, "
                f"got {len(thresholds)}; pass (inputs, hidden..., outputs) and one threshold a layer"
            )
        self.thresholds = tuple(thresholds)
        self.steps = steps
        self.binary = binary
        generator = torch.Generator().manual_seed(seed)
        self.weights = nn.ParameterList()
        for inputs, outputs in pairwise(sizes):
            initial = low + (high - low) * torch.rand(outputs, inputs, generator=generator)
            self.weights.append(nn.Parameter(initial / inputs, requires_grad=False))
        self.register_buffer("scales", torch.tensor([1 / inputs for inputs in sizes[:-1]]))

    def effective(self, layer: int) -> Tensor:
        """Weights [O, I] that the layer computes with."""
        weights = self.weights[layer]
        return self.scales[layer] * torch.sign(weights) if self.binary else weights

    def potential(self, times: Tensor, layer: int) -> Tensor:
        """Potentials [B, T, O] of a layer for its input times [B, I]."""
        return layers.connect(coding.wave_of(times, self.steps), self.effective(layer))

    def forward(self, times: Tensor) -> Tensor:
        """Output times int64 [B, O] of input times int64 [B, I]."""
        for layer, threshold in enumerate(self.thresholds):
            times = coding.first_spike_times(self.potential(times, layer), threshold)
        return times

    def decide(self, times: Tensor) -> Tensor:
        """Class int64 [B] of input times [B, I]: the earliest output.

        Ties go to the largest potential at that step, then to the lowest index.
        Where every output is silent, the largest last potential decides.
        """
        for layer, threshold in enumerate(self.thresholds):
            potential = self.potential(times, layer)
            times = coding.first_spike_times(potential, threshold)
        earliest = times.amin(dim=1, keepdim=True)
        step = earliest.clamp(max=self.steps - 1).unsqueeze(2).expand(-1, 1, times.shape[1])
        level = potential.gather(1, step).squeeze(1)
        return torch.where(times == earliest, level, -torch.inf).argmax(dim=1)

    @torch.no_grad()
    def learn(self, times: Tensor, labels: Tensor, gamma: float, config: BackwardConfig) -> Tensor:
        """One update on a batch of input times [B, I] and labels [B]; returns the output times before it.

        The changes of the samples are averaged and every layer's gradient uses
        the weights from before the update.
        """
        reached = [times]
        for layer, threshold in enumerate(self.thresholds):
            reached.append(coding.first_spike_times(self.potential(reached[-1], layer), threshold))
        gradient = time_gradient(reached[-1], labels, self.steps, gamma, wake=True)
        for layer in reversed(range(len(self.thresholds))):
            weights = self.weights[layer]
            causes = causal(reached[layer], reached[layer + 1], self.steps).to(weights.dtype)
            by_sample = gradient.unsqueeze(2) * causes
            change = by_sample.mean(dim=0)
            gradient = (by_sample * weights).sum(dim=1)
            signs = torch.sign(weights)
            weights.sub_(config.rate * change).mul_(1 - config.rate * config.decay)
            if self.binary:
                self.scales[layer] -= config.scale_rate * (change * signs).mean()
        return reached[-1]
