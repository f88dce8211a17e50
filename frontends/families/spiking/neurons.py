"""Spiking neurons with explicit state: integrate-and-fire, leaky, and leaky with a synaptic current.

A neuron is a module without parameters.  `step` takes an input and the state and gives spikes, 0 or 1
in the type of the input, and the next state; `forward` does so over time, [T, B, ...].  Nothing is kept
between calls.  Times are in seconds, potentials without unit; each equation is the explicit Euler step
of its differential equation.  A neuron spikes where v >= v_th and is then reset, `"subtract"` to
v - v_th or `"zero"` to 0.  These are the neurons of plait's IR, `spike.integrate_and_fire` and `spike.lif`:
while torch.export records a step it is one operator of torch, `plait::integrate_and_fire` or `plait::lif`,
which plait lowers to the op of the same name.

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


@torch.library.custom_op("plait::integrate_and_fire", mutates_args=())
def integrate_and_fire(
    current: Tensor, v: Tensor, v_th: float, reset: str, surrogate: str, parameters: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """One step without leak: spikes 0 or 1 and the potential after reset, both of the type of v.

    `surrogate` and `parameters` are `kind()` and `parameters` of the surrogate; they concern the gradient.
    """
    return _fire(v + current, v_th, reset)


@torch.library.custom_op("plait::lif", mutates_args=())
def lif(
    current: Tensor,
    v: Tensor,
    tau: float,
    dt: float,
    v_th: float,
    reset: str,
    surrogate: str,
    parameters: Sequence[float],
) -> tuple[Tensor, Tensor]:
    """One step with leak: spikes 0 or 1 and the potential after reset, both of the type of v."""
    return _fire(v + (dt / tau) * (current - v), v_th, reset)


def _fire(v: Tensor, v_th: float, reset: str) -> tuple[Tensor, Tensor]:
    """What `Neuron.fire` computes, without a gradient."""
    spikes = (v - v_th >= 0).to(v.dtype)
    return spikes, v - spikes * v_th if reset == "subtract" else v * (1 - spikes)


@integrate_and_fire.register_fake
@lif.register_fake
def _(current: Tensor, v: Tensor, *constants: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(v), torch.empty_like(v)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    current, v, *leak, ctx.v_th, ctx.reset, kind, parameters = inputs
    ctx.rate = leak[1] / leak[0] if leak else None
    ctx.surrogate = Surrogate.from_parameters(kind, parameters)
    ctx.save_for_backward(current, v)


def _gradients(ctx: Any, of_spikes: Tensor, of_after: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients of current and v: the surrogate's for the spikes, none through the reset."""
    current, v = ctx.saved_tensors
    reached = (v + current if ctx.rate is None else v + ctx.rate * (current - v)) - ctx.v_th
    kept = of_after if ctx.reset == "subtract" else of_after * (1 - (reached >= 0).to(v.dtype))
    gradient = kept + of_spikes * ctx.surrogate.derivative(reached)
    if ctx.rate is None:
        return gradient, gradient, None, None, None, None
    into = gradient * ctx.rate
    return into, gradient - into, None, None, None, None, None, None


integrate_and_fire.register_autograd(_gradients, setup_context=_save)
lif.register_autograd(_gradients, setup_context=_save)


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

    def is_one_operator(self, x: Tensor, v: Tensor) -> bool:
        """Whether a step is recorded as one operator: on export, for inputs and state of one kind.

        Numbers of 16 bits are left out: there v - v_th >= 0, rounded, is not quite v >= v_th.
        """
        return (
            torch.compiler.is_exporting()
            and x.dtype == v.dtype
            and x.dtype in (torch.float32, torch.float64)
            and x.shape == v.shape
        )

    def extra_repr(self) -> str:
        return f"v_th={self.v_th}, reset={self.reset!r}, surrogate={self.surrogate}"


class IntegrateAndFire(Neuron):
    """v' = v + x, then spike and reset: no leak.  State: v."""

    def step(self, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        (v,) = state
        if self.is_one_operator(x, v):
            kind, parameters = self.surrogate.kind(), self.surrogate.parameters
            return integrate_and_fire(x, v, self.v_th, self.reset, kind, parameters)
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
        return self.leak_and_fire(x, v)

    def leak_and_fire(self, current: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Spikes and the next potential for a current into the membrane."""
        if self.is_one_operator(current, v):
            kind, parameters = self.surrogate.kind(), self.surrogate.parameters
            return lif(current, v, self.tau, self.dt, self.v_th, self.reset, kind, parameters)
        return self.fire(v + (self.dt / self.tau) * (current - v))

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
        spikes, v = self.leak_and_fire(current, v)
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
