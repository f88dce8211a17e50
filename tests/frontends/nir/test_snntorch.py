"""Spike trains equal to snnTorch's, and potentials close.

snnTorch steps `mem = beta mem + x` (Leaky) and `syn = alpha syn + x; mem = beta mem + syn` (Synaptic)
and spikes where mem > threshold; with reset_delay=False it resets in the step of the spike.  These
are the forward Euler steps of NIR's equations with v_leak = 0, v_reset = 0 and

    beta = 1 - dt/tau,   alpha = 1 - dt/tau_syn,   R = tau/dt,   w_in = tau_syn/dt

and for I and IF with beta = 1 and R = 1/dt.  The factors here are fractions of powers of two, so that
both compute with the same numbers, and only the order of additions differs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

nir = pytest.importorskip("nir")
snntorch = pytest.importorskip("snntorch")

from plait.frontends.nir import initial_states, lower_nir, to_nir  # noqa: E402
from plait.ir.interpret import interpret  # noqa: E402

DT = 1e-4
STEPS, BATCH, SIZE = 60, 3, 8
RATE = np.array([1, 1 / 2, 1 / 4, 1 / 4, 1 / 8, 1 / 8, 1 / 16, 1 / 32])
RATE_SYN = RATE[::-1].copy()
LEVEL = np.linspace(0.25, 2.0, SIZE)


def zeros() -> np.ndarray:
    return np.zeros(SIZE)


def leaky(rate: Any, reset: str, threshold: Any = 1.0) -> Any:
    beta = torch.as_tensor(1 - rate, dtype=torch.float32)
    level = torch.as_tensor(threshold, dtype=torch.float32)
    return snntorch.Leaky(beta=beta, threshold=level, reset_mechanism=reset, reset_delay=False)


def synaptic(reset: str, threshold: Any = 1.0) -> Any:
    alpha, beta, level = (
        torch.as_tensor(x, dtype=torch.float32) for x in (1 - RATE_SYN, 1 - RATE, threshold)
    )
    return snntorch.Synaptic(alpha, beta, threshold=level, reset_mechanism=reset, reset_delay=False)


#: The NIR node, the snnTorch module, and whether spikes or the potential are what it puts out.
PAIRS: dict[str, tuple[Callable[[], Any], Callable[[], Any], bool]] = {
    "I": (lambda: nir.I(r=np.full(SIZE, 1 / DT)), lambda: leaky(0.0, "none"), False),
    "IF": (
        lambda: nir.IF(r=np.full(SIZE, 1 / DT), v_threshold=LEVEL),
        lambda: leaky(0.0, "zero", LEVEL),
        True,
    ),
    "LI": (lambda: nir.LI(tau=DT / RATE, r=1 / RATE, v_leak=zeros()), lambda: leaky(RATE, "none"), False),
    "LIF": (
        lambda: nir.LIF(tau=DT / RATE, r=1 / RATE, v_leak=zeros(), v_threshold=LEVEL),
        lambda: leaky(RATE, "zero", LEVEL),
        True,
    ),
    "CubaLI": (
        lambda: nir.CubaLI(
            tau_syn=DT / RATE_SYN, tau_mem=DT / RATE, r=1 / RATE, v_leak=zeros(), w_in=1 / RATE_SYN
        ),
        lambda: synaptic("none"),
        False,
    ),
    "CubaLIF": (
        lambda: nir.CubaLIF(
            tau_syn=DT / RATE_SYN, tau_mem=DT / RATE, r=1 / RATE, v_leak=zeros(), v_threshold=LEVEL,
            w_in=1 / RATE_SYN,
        ),
        lambda: synaptic("zero", LEVEL),
        True,
    ),
}  # fmt: skip


def current(seed: int = 0) -> torch.Tensor:
    """Multiples of 1/16, some negative."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-6, 12, (STEPS, BATCH, SIZE), generator=generator) / 16


@pytest.mark.parametrize("name", PAIRS)
def test_neuron(name: str) -> None:
    node, module, spikes = PAIRS[name]
    graph = lower_nir(nir.NIRGraph.from_list(node()), dt=DT)
    x, neuron = current(), module()
    found, *last = interpret(graph, {"input": x.numpy(), **initial_states(graph, {"B": BATCH})})
    state = [torch.zeros(BATCH, SIZE) for _ in last]
    trains, potentials = [], []
    for step in x:
        train, *state = neuron(step, *state)
        trains.append(train)
        potentials.append(state[-1])
    if spikes:
        assert torch.equal(found, torch.stack(trains))
        assert 0.02 < found.mean() < 0.9
    else:
        assert torch.allclose(found, torch.stack(potentials), rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(last, state):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["LIF", "CubaLIF"])
def test_recurrent_layer(name: str) -> None:
    """The recurrent layer takes the spikes of the last step, its bias from the first step on."""
    node, module, _ = PAIRS[name]
    generator = np.random.default_rng(1)
    weight = (generator.integers(-4, 5, (SIZE, SIZE)) / 16).astype(np.float32)
    bias = (generator.integers(-2, 3, SIZE) / 16).astype(np.float32)
    source = nir.NIRGraph(
        {"in": nir.Input(np.array([SIZE])), "lif": node(), "w": nir.Affine(weight, bias),
         "out": nir.Output(np.array([SIZE]))},
        [("in", "lif"), ("lif", "w"), ("w", "lif"), ("lif", "out")],
    )  # fmt: skip
    graph = lower_nir(source, dt=DT)
    x, neuron = current(2), module()
    found, *last = interpret(graph, {"in": x.numpy(), **initial_states(graph, {"B": BATCH})})
    train = torch.zeros(BATCH, SIZE)
    state = [torch.zeros(BATCH, SIZE) for _ in last[1:]]
    trains = []
    for step in x:
        train, *state = neuron(step + train @ torch.tensor(weight).T + torch.tensor(bias), *state)
        trains.append(train)
    assert torch.equal(found, torch.stack(trains))
    assert 0.02 < found.mean() < 0.9


def test_network_that_snntorch_imports() -> None:
    """snnTorch's own reading of a NIR graph, run beside ours."""
    pytest.importorskip("nirtorch")
    from snntorch.import_nir import import_from_nir

    generator = np.random.default_rng(3)
    weights = [(generator.integers(-8, 9, shape) / 16).astype(np.float32) for shape in ((12, SIZE), (5, 12))]

    def lif(size: int) -> Any:
        return nir.LIF(
            tau=np.full(size, DT * 8),
            r=np.full(size, 8.0),
            v_leak=np.zeros(size),
            v_threshold=np.full(size, 0.25),
        )

    source = nir.NIRGraph.from_list(
        nir.Affine(weights[0], np.zeros(12, np.float32)), lif(12), nir.Linear(weights[1]), lif(5)
    )
    graph = lower_nir(source)
    x = current(4)
    found = interpret(graph, {"input": x.numpy(), **initial_states(graph, {"B": BATCH})})[0]
    network, state, trains = import_from_nir(source), None, []
    for step in x:
        train, state = network(step) if state is None else network(step, state)
        trains.append(train)
    assert torch.equal(found, torch.stack(trains))
    assert found.mean() > 0.02


@pytest.mark.parametrize("kind", ["Leaky", "Synaptic", "RLeaky"])
def test_network_that_snntorch_exports(kind: str) -> None:
    pytest.importorskip("nirtorch")
    from snntorch.export_nir import export_to_nir

    torch.manual_seed(1)
    options: dict[str, Any] = {"init_hidden": True, "reset_mechanism": "zero", "reset_delay": False}
    quarter, half, one = (torch.full((4,), value) for value in (0.75, 0.5, 1.0))
    neuron = {
        "Leaky": lambda: snntorch.Leaky(quarter, threshold=one, **options),
        "Synaptic": lambda: snntorch.Synaptic(half, quarter, threshold=one, **options),
        "RLeaky": lambda: snntorch.RLeaky(quarter, linear_features=4, **options),
    }[kind]()
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), neuron)
    source = export_to_nir(module, torch.zeros(1, 3), ignore_dims=[0])
    graph = lower_nir(source)
    assert list(to_nir(graph).nodes) == list(source.nodes)
    x = torch.randn(STEPS, BATCH, 3)
    neuron.reset_mem()
    trains = torch.stack([module(step) for step in x]).detach()
    found = interpret(graph, {"input": x.numpy(), **initial_states(graph, {"B": BATCH})})[0]
    assert torch.equal(found, trains)
    assert found.mean() > 0.02
