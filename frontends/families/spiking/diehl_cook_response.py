"""The trained network of Diehl and Cook as a module: how often each neuron fires, for given spikes.

It computes what `DiehlCook.respond` does, with fixed weights and thresholds: the currents of all steps
first, then the excitatory layer over time as one scan.  See `diehl_cook` for the equations.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from plait.frontends.families.spiking.diehl_cook import DiehlCook


class DiehlCookResponse(nn.Module):
    """Spikes of the inputs to counts of spikes of the neurons; what to hand to `plait.lower`.

    The weights and thresholds are copies of those of the network, transposed as nn.Linear has them.
    Run by torch it compiles the step first.
    """

    weight: Tensor
    level: Tensor

    def __init__(self, network: DiehlCook) -> None:
        super().__init__()
        config = self.config = network.config
        self.register_buffer("weight", network.weights.T.contiguous())
        #: Potentials above rest at which a neuron fires, float32 [neurons].
        self.register_buffer("level", network.theta + (config.threshold - config.rest))
        self.decay = math.exp(-config.dt_ms / config.tau_ms)
        self.reset = config.reset - config.rest
        self.refractory = round(config.refractory_ms / config.dt_ms)

    def forward(self, spikes: Tensor) -> Tensor:
        """Spikes bool [T, B, inputs], T at least 1, as `DiehlCook.encode` gives: int64 [B, neurons].

        Raises ValueError for spikes of another number of inputs.
        """
        from torch._higher_order_ops.scan import scan

        config = self.config
        if spikes.dim() != 3 or spikes.shape[2] != config.inputs:
            raise ValueError(
                f"DiehlCookResponse: spikes [T, B, {config.inputs}] are wanted, got {list(spikes.shape)}"
            )
        currents = nn.functional.linear(spikes.to(self.weight.dtype), self.weight)
        rest = torch.zeros_like(currents[0])
        silent = torch.zeros_like(rest, dtype=torch.bool)
        waiting = torch.zeros_like(rest, dtype=torch.int32)
        state = (rest, waiting, silent, torch.zeros_like(silent), torch.zeros_like(waiting))
        after: Any
        after, _ = scan(self.step, state, currents)
        counts: Tensor = after[-1]
        return counts.to(torch.int64)

    def step(self, before: tuple[Tensor, ...], current: Tensor) -> tuple[tuple[Tensor, ...], tuple[()]]:
        """One step of the layer: the state and the current [B, neurons] to the next state.

        The state is the potentials above rest, the steps left of the refractory time, who fired two
        steps ago and one step ago, and the counts so far, all [B, neurons].
        """
        above, waiting, earlier, latest, counts = before
        inhibiting = earlier.to(current.dtype)
        current = current - self.config.inhibition * (inhibiting.sum(dim=1, keepdim=True) - inhibiting)
        above = above * self.decay + torch.where(waiting == 0, current, 0.0)
        excess = above - self.level
        reached = excess >= 0
        first = excess.argmax(dim=1, keepdim=True)
        fired = reached & (torch.arange(excess.shape[1], device=excess.device) == first)
        above = torch.where(reached, self.reset, above)
        waiting = torch.where(reached, self.refractory, (waiting - 1).clamp(min=0))
        return (above, waiting, latest.clone(), fired, counts + fired), ()


__all__ = ["DiehlCookResponse"]
