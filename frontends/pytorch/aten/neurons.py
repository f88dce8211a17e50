"""Rules: steps of spiking neurons, see `plait.frontends.families.spiking.neurons`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from plait.frontends.pytorch.builder import Builder
from plait.frontends.pytorch.registry import register
from plait.ir.op import Op
from plait.ir.ops import core, spike
from plait.ir.value import Value


@register("plait.integrate_and_fire.default")
def integrate_and_fire(
    build: Builder,
    current: Value,
    v: Value,
    v_th: float,
    reset: Any,
    surrogate: str,
    parameters: Sequence[float],
) -> tuple[Value, Value]:
    """One op; the surrogate concerns gradients alone."""
    return _numbers(build, spike.IntegrateAndFire(current, v, v_th=float(v_th), reset=reset))


@register("plait.lif.default")
def lif(
    build: Builder,
    current: Value,
    v: Value,
    tau: float,
    dt: float,
    v_th: float,
    reset: Any,
    surrogate: str,
    parameters: Sequence[float],
) -> tuple[Value, Value]:
    """One op; the surrogate concerns gradients alone."""
    return _numbers(build, spike.Lif(current, v, tau=float(tau), dt=float(dt), v_th=float(v_th), reset=reset))


def _numbers(build: Builder, neuron: Op) -> tuple[Value, Value]:
    """The results of a neuron, with its spikes as the numbers 0 and 1 that torch computes with."""
    spikes, after = build.emit_all(neuron)
    return build.emit(core.Cast(spikes, out=build.kind(after))), after
