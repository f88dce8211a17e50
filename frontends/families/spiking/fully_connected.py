"""Competition and STDP for fully connected layers, whose neurons have no place: [B, T, O].

Potentials come from layers.connect, waves from layers.fire.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from plait.frontends.families.spiking import layers, stdp
from plait.frontends.families.spiking.coding import first_spike_times


def inhibit_neurons(potential: Tensor, threshold: float = 0.0) -> Tensor:
    """Lateral inhibition in a layer: only the neuron that fires first keeps its potentials.

    potential [B, T, O] -> the same shape.  It is layers.inhibit with all
    neurons at one place, ties included.
    """
    return layers.inhibit(potential[..., None, None], threshold)[..., 0, 0]


def neuron_winners(potential: Tensor, radius: int, count: int, threshold: float = 0.0) -> layers.Winners:
    """Winner-take-all over [B, T, O]: earliest spike, then largest potential at it, then lowest index.

    Each winner removes itself and the neurons whose index is at most `radius`
    from its own.  Up to `count` winners a sample; a silent neuron never wins.
    In the result, fields [B, count], `channel` is the neuron and y = x = 0.

    Spyker 0.1.0 chooses the same neurons, but calls them x, leaves the time at
    0, and in a sample whose potentials are one value at every step and neuron
    it stops after the first winner.
    Raises ValueError for a negative radius or a count below 1.
    """
    if radius < 0 or count < 1:
        raise ValueError(
            f"neuron_winners: radius is 0 or above and count 1 or above, got {radius} and {count}"
        )
    steps = potential.shape[1]
    times = first_spike_times(potential, threshold)
    level = potential.gather(1, times.clamp(max=steps - 1).unsqueeze(1)).squeeze(1)
    level = level if level.is_floating_point() else level.to(torch.float32)
    alive = times < steps
    index = torch.arange(potential.shape[2], device=potential.device).unsqueeze(0)
    slots: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(count):
        pending = torch.where(alive, times, steps)
        earliest = pending.amin(dim=1)
        tied = alive & (pending == earliest.unsqueeze(1))
        best = torch.where(tied, level, -torch.inf).argmax(dim=1)
        slots.append((earliest < steps, earliest, best))
        alive = alive & ((index - best.unsqueeze(1)).abs() > radius)
    valid, time, neuron = (torch.stack(field, dim=1) for field in zip(*slots))
    nowhere = torch.zeros_like(time)
    return layers.Winners(valid, nowhere, time, neuron, nowhere, nowhere)


def update_neurons(
    weights: Tensor,
    input_times: Tensor,
    winners: layers.Winners,
    configs: Sequence[stdp.STDPConfig],
    *,
    steps: int,
) -> Tensor:
    """New weights [O, I] by STDP, one sample after the other; see stdp.update for the rule.

    input_times [B, I] are first-spike times, `steps` for silent; winners are
    those of neuron_winners.  Only the rows of winners change.
    Spyker 0.1.0 has this rule for its convolutions; in its FC layer every winner
    counts as one that fired at step 0.
    Raises ValueError if a winner names a config that is not given.
    """
    kernels = weights[..., None, None]
    new = stdp.update(kernels, input_times[..., None, None], winners, configs, steps=steps)
    return new[..., 0, 0]
