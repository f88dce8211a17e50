"""Spiking neurons with explicit state: integrate-and-fire, leaky, and leaky with a synaptic current.

A neuron is a module without parameters.  `step` takes an input and the state and gives spikes, 0 or 1
in the type of the input, and the next state; `forward` does so over time, [T, B, ...].  Nothing is kept
between calls.  Times are in seconds, potentials without unit; each equation is the explicit Euler step
of its differential equation.  A neuron spikes where v >= v_th and is then reset, `"subtract"` to
v - v_th or `"zero"` to 0.  These are the neurons of plait's IR, `spike.integrate_and_fire` and `spike.lif`.

Spikes have the gradient of a surrogate; the reset has none of its own, because a gradient through it
hinders learning (Zenke and Vogels, Neural Computation 33(4), 2021).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from plait.frontends.families.spiking.surrogate import Surrogate

Reset = Literal["subtract", "zero"]


class Neuron(nn.Module, ABC):
    """What all neurons share: the threshold, the reset and the loop over time.

    Raises ValueError for a threshold not above 0 or another kind of reset.
    """

    #: Names of the parts of the state, in order.
    state_names: tuple[str, ...] = ("v",)

    def __init__(self, *, v_th: float, reset: Reset, surrogate: Surrogate) -> None:
        super().__init__()
        if v_th <= 0:
            raise ValueError(f"{type(self).__name__}: v_th is above 0, got {v_th}")
        if reset not in ("subtract", "zero"):
            raise ValueError(f"{type(self).__name__}: reset is 'subtract' or 'zero', got {reset!r}")
        self.v_th, self.reset, self.surrogate = v_th, reset, surrogate

    @abstractmethod
    def step(self, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """One step of an input [B, ...] and the state, each part [B, ...]: (spikes, *next state)."""

    def forward(self, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Inputs [T, B, ...] and the state at the start: (spikes [T, B, ...], *state at the end).

        torch.export unrolls the loop over T; `OverTime` keeps it a loop.
        Raises ValueError for a state of another number of parts or shape.
        """
        self.check_state(x.shape[1:], state)
        spikes = []
        for now in x:
            fired, *state_list = self.step(now, *state)
            state = tuple(state_list)
            spikes.append(fired)
        return (torch.stack(spikes) if spikes else torch.zeros_like(x), *state)

    def rest(self, like: Tensor) -> tuple[Tensor, ...]:
        """The state at rest for inputs [B, ...] like these: zeros."""
        return tuple(torch.zeros_like(like) for _ in self.state_names)

    def check_state(self, shape: Sequence[int], state: Sequence[Tensor]) -> None:
        """Raise ValueError unless each part of the state has this shape."""
        shapes = [tuple(part.shape) for part in state]
        if shapes != [tuple(shape)] * len(self.state_names):
            raise ValueError(
                f"{type(self).__name__}: the state is ({', '.join(self.state_names)}), each {tuple(shape)}, "
                f"but {shapes} were given; start with rest(x[0])"
            )

    def fire(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Spikes and the potential after reset."""
        spikes = self.surrogate(v - self.v_th)
        fired = spikes.detach()
        after = v - fired * self.v_th if self.reset == "subtract" else v * (1 - fired)
        return spikes, after

    def extra_repr(self) -> str:
        return f"v_th={self.v_th}, reset={self.reset!r}, surrogate={self.surrogate}"


class IntegrateAndFire(Neuron):
    """v' = v + x, then spike and reset: no leak.  State: v."""

    def step(self, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        (v,) = state
        return self.fire(v + x)


class LIF(Neuron):
    """tau dv/dt = x - v, hence v' = v + dt/tau (x - v), then spike and reset.  State: v.

    Raises ValueError unless 0 < dt <= tau, where the Euler step neither oscillates nor diverges.
    """

    def __init__(self, *, tau: float, dt: float, v_th: float, reset: Reset, surrogate: Surrogate) -> None:
        super().__init__(v_th=v_th, reset=reset, surrogate=surrogate)
        self.tau, self.dt = tau, dt
        check_time(self, "tau", tau, dt)

    def step(self, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        (v,) = state
        return self.fire(v + (self.dt / self.tau) * (x - v))

    def extra_repr(self) -> str:
        return f"tau={self.tau}, dt={self.dt}, {super().extra_repr()}"


class CurrentLIF(LIF):
    """A LIF neuron driven through a synapse that decays: tau_synapse di/dt = -i, raised by each input.

    i' = i - dt/tau_synapse i + x;  v' = v + dt/tau (i' - v), then spike and reset.  State: i, v.
    Raises ValueError unless 0 < dt <= tau and dt <= tau_synapse.
    """

    state_names = ("i", "v")

    def __init__(
        self, *, tau: float, tau_synapse: float, dt: float, v_th: float, reset: Reset, surrogate: Surrogate
    ) -> None:
        super().__init__(tau=tau, dt=dt, v_th=v_th, reset=reset, surrogate=surrogate)
        self.tau_synapse = tau_synapse
        check_time(self, "tau_synapse", tau_synapse, dt)

    def step(self, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        current, v = state
        current = current - (self.dt / self.tau_synapse) * current + x
        spikes, v = self.fire(v + (self.dt / self.tau) * (current - v))
        return spikes, current, v

    def extra_repr(self) -> str:
        return f"tau_synapse={self.tau_synapse}, {super().extra_repr()}"


class OverTime(nn.Module):
    """A neuron over time as one scan, for export: a graph of one step, whatever T.

    Gives what the neuron's `forward` gives, without gradients.  Run by torch it compiles the step first.
    """

    def __init__(self, neuron: Neuron) -> None:
        super().__init__()
        self.neuron = neuron

    def forward(self, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Inputs [T, B, ...] and the state at the start: (spikes [T, B, ...], *state at the end)."""
        from torch._higher_order_ops.scan import scan

        self.neuron.check_state(x.shape[1:], state)

        def step(before: tuple[Tensor, ...], now: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
            fired, *after = self.neuron.step(now, *before)
            return tuple(after), fired

        after: Any
        after, spikes = scan(step, state, x)
        return (spikes, *after)


def check_time(neuron: nn.Module, name: str, tau: float, dt: float) -> None:
    """Raise ValueError unless 0 < dt <= tau."""
    if not 0 < dt <= tau:
        raise ValueError(
            f"{type(neuron).__name__}: need 0 < dt <= {name}, got dt={dt} {name}={tau}; both in seconds"
        )


__all__ = ["LIF", "CurrentLIF", "IntegrateAndFire", "Neuron", "OverTime", "Reset"]
