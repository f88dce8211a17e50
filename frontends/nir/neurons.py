"""Neurons and delays at one step: NIR's equations by the forward Euler method.

With the time step dt and the input current or spikes x of the step:

    I                v' = v + dt R x
    LI               v' = v + dt/tau ((v_leak - v) + R x)
    CubaLI           i' = i + dt/tau_syn (w_in x - i);  v' = v + dt/tau_mem ((v_leak - v) + R i')
    IF, LIF, CubaLIF  as these, then z = 1 where v' > v_threshold, and there v' = v_reset
    Delay            y = x of round(delay / dt) steps before

The membrane sees the synaptic current of the same step, and the reset takes place in the step
of the spike.  Integrators put out v', the others z.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from plait.frontends.nir.builder import Builder
from plait.frontends.nir.fields import Shape, check_times, delay_steps
from plait.frontends.nir.layers import fired
from plait.frontends.nir.structure import Node
from plait.ir import TensorType, Value
from plait.ir import types as t
from plait.ir.ops import core


@dataclass(frozen=True)
class State:
    """One tensor that a node carries from step to step.

    Attributes:
        name: `v` the potential, `i` the synaptic current, `line` the last inputs of a delay,
            newest first, `z` the last output where a cycle reads it.
        type: f32[B, *shape]; f32[B, steps, *shape] for a delay line.
    """

    name: str
    type: TensorType


def states_of(build: Builder, node: Node, shape: Shape, lagged: bool) -> tuple[State, ...]:
    """What a node carries; `lagged` where an edge carries its output of the last step."""
    states = []
    for name in node.primitive.states:
        if name != "line":
            states.append(State(name, build.signal(shape)))
        elif steps := int(delay_steps(build.network, node, build.dt).max(initial=0)):
            states.append(State(name, build.signal((steps, *shape))))
    if lagged and shown_state(node) is None:
        states.append(State("z", build.signal(shape)))
    return tuple(states)


def shown_state(node: Node) -> str | None:
    """The state that a node puts out as it is; None where it puts out something else."""
    return "v" if "v" in node.primitive.states and not node.primitive.fires else None


def holds_all_back(build: Builder, node: Node) -> bool:
    """Whether a node is a Delay whose output does not depend on the input of the same step."""
    return node.kind == "Delay" and int(delay_steps(build.network, node, build.dt).min(initial=1)) > 0


# -- before the loop ----------------------------------------------------------------
def prepare_neuron(build: Builder, node: Node, shape: Shape) -> None:
    """Make the factors of a node's equations outside of the loop; in f64, rounded once to f32.

    Raises LoweringError for a time constant below dt.
    """
    if node.kind == "Delay":
        _prepare_delay(build, node, shape)
        return
    check_times(build.network, node, build.dt)
    for name in node.primitive.tensors:
        if name.startswith("tau"):
            rate = core.Div(_dt(build, node), build.parameter(node, name, t.f64))
            _keep_factor(build, node, f"rate{name[3:]}", build.emit(node, rate, f"dt_over_{name}"))
        elif name == "r" and node.kind in ("I", "IF"):
            gain = core.Mul(_dt(build, node), build.parameter(node, name, t.f64))
            _keep_factor(build, node, "gain", build.emit(node, gain, "dt_times_r"))
        else:
            build.parameter(node, name)


def _dt(build: Builder, node: Node) -> Value:
    return build.full(node, build.dt, t.f64, hint="dt")


def _keep_factor(build: Builder, node: Node, name: str, factor: Value) -> None:
    build.keep(node, name, build.cast(node, factor, t.f32, name))


def _prepare_delay(build: Builder, node: Node, shape: Shape) -> None:
    """Where each element is in the line: round(delay / dt) steps back, i64[B, 1, *shape]."""
    if np.unique(delay_steps(build.network, node, build.dt)).size <= 1:
        build.constant(node, "delay")  # one place for all, known by now; the constant is kept for writing
        return
    count = build.emit(node, core.Div(build.parameter(node, "delay", t.f64), _dt(build, node)), "dt_in_delay")
    steps = build.cast(node, build.emit(node, core.Round(count), "rounded"), t.i64, "steps")
    if holds_all_back(build, node):
        steps = build.emit(node, core.Sub(steps, build.full(node, 1, t.i64)), "places")
    wide = TensorType(t.i64, (build.batch, 1, *shape))
    build.keep(node, "places", build.emit(node, core.Broadcast(steps, out=wide), "places"))


# -- one step -----------------------------------------------------------------------
def step_neuron(build: Builder, node: Node, x: Value, states: dict[str, Value]) -> Value:
    """The output of a neuron; `states` gets the next ones."""
    current = x
    if "i" in states:
        current = states["i"] = _current(build, node, x, states["i"])
    v = _potential(build, node, current, states["v"])
    if not node.primitive.fires:
        states["v"] = v
        return v
    fires = fired(build, node, v, "v_threshold")
    states["v"] = build.emit(node, core.Where(fires, build.parameter(node, "v_reset"), v), "v.next")
    return build.cast(node, fires, t.f32, "")


def _current(build: Builder, node: Node, x: Value, current: Value) -> Value:
    drive = build.emit(node, core.Mul(x, build.parameter(node, "w_in")), "drive")
    change = build.emit(node, core.Sub(drive, current), "i.change")
    change = build.emit(node, core.Mul(change, build.kept(node, "rate_syn")), "i.change")
    return build.emit(node, core.Add(current, change), "i.next")


def _potential(build: Builder, node: Node, current: Value, v: Value) -> Value:
    if node.kind in ("I", "IF"):
        change = build.emit(node, core.Mul(current, build.kept(node, "gain")), "v.change")
    else:
        leak = build.emit(node, core.Sub(build.parameter(node, "v_leak"), v), "leak")
        drive = build.emit(node, core.Mul(current, build.parameter(node, "r")), "r_times_i")
        change = build.emit(node, core.Add(leak, drive), "v.change")
        rate = build.kept(node, "rate" if node.kind in ("LI", "LIF") else "rate_mem")
        change = build.emit(node, core.Mul(change, rate), "v.change")
    return build.emit(node, core.Add(v, change), "v.charged" if node.primitive.fires else "v.next")


def delayed_output(build: Builder, node: Node, line: Value, x: Value | None) -> Value:
    """What a Delay puts out: from the line, or where some elements are not held back, from x before it."""
    window = line if x is None else _window(build, node, line, x)
    steps = np.unique(delay_steps(build.network, node, build.dt))
    shape = (build.batch, *line.shaped.shape[2:])
    if steps.size == 1:
        last = int(steps[0])
        held = build.emit(node, core.Slice(window, axes=(1,), starts=(last - 1,), stops=(last,)), "held")
    else:
        held = build.emit(node, core.GatherElements(window, build.kept(node, "places"), axis=1), "held")
    return build.reshape(node, held, shape)


def next_line(build: Builder, node: Node, line: Value, x: Value) -> Value:
    """The line with x in front and its oldest entry gone."""
    length = int(line.shaped.shape[1])  # type: ignore[arg-type]  # a line has a known length
    window = _window(build, node, line, x)
    return build.emit(node, core.Slice(window, axes=(1,), starts=(0,), stops=(length,)), "line.next")


def _window(build: Builder, node: Node, line: Value, x: Value) -> Value:
    newest = build.reshape(node, x, (build.batch, 1, *x.shaped.shape[1:]), "newest")
    return build.emit(node, core.Concat((newest, line), axis=1), "window")
