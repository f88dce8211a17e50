"""Spiking neurons by hand, against snnTorch and the IR's ops; their lowering, and learning of digits."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import plait
from plait.frontends.families.spiking.neurons import LIF, CurrentLIF, IntegrateAndFire, Neuron, OverTime
from plait.frontends.families.spiking.surrogate import FastSigmoid
from plait.frontends.families.spiking.training import (
    GradientTraining,
    SpikingClassifier,
    accuracy,
    latency_spikes,
    rate_spikes,
    spiking_convnet,
    spiking_mlp,
    train,
)
from plait.ir.interpret import interpret

SURROGATE = FastSigmoid(slope=10.0)
NEURONS: dict[str, Neuron] = {
    "if-subtract": IntegrateAndFire(v_th=1.0, reset="subtract", surrogate=SURROGATE),
    "if-zero": IntegrateAndFire(v_th=1.0, reset="zero", surrogate=SURROGATE),
    "lif-subtract": LIF(tau=0.02, dt=0.005, v_th=0.4, reset="subtract", surrogate=SURROGATE),
    "lif-zero": LIF(tau=0.02, dt=0.003, v_th=0.4, reset="zero", surrogate=SURROGATE),
    "current": CurrentLIF(
        tau=0.02, tau_synapse=0.01, dt=0.005, v_th=0.5, reset="subtract", surrogate=SURROGATE
    ),
}


def run(neuron: Neuron, inputs: list[float]) -> list[list[float]]:
    """Spikes over time, then the parts of the state at the end."""
    x = torch.tensor(inputs).reshape(-1, 1)
    return [part.flatten().tolist() for part in neuron(x, *neuron.rest(x[0]))]


def currents(steps: int) -> torch.Tensor:
    return 2 * torch.rand(steps, 3, 4, generator=torch.Generator().manual_seed(0))


def test_integrate_and_fire_by_hand() -> None:
    # v before reset: .5, 1 (spike at the threshold itself), .75, 2.25 (spike), then .25 more.
    inputs = [0.5, 0.5, 0.75, 1.5, 0.25]
    assert run(NEURONS["if-subtract"], inputs) == [[0, 1, 0, 1, 1], [0.5]]
    assert run(NEURONS["if-zero"], inputs) == [[0, 1, 0, 1, 0], [0.25]]


def test_lif_by_hand() -> None:
    # dt/tau = 1/4, v_th = 1/2.  Input 1: v = 1/4, 7/16, 37/64 -> spike.
    neuron = LIF(tau=0.5, dt=0.125, v_th=0.5, reset="subtract", surrogate=SURROGATE)
    assert run(neuron, [1, 1, 1]) == [[0, 0, 1], [5 / 64]]
    assert run(neuron, [1, 1, 1, -1]) == [[0, 0, 1, 0], [3 / 4 * 5 / 64 - 1 / 4]]
    neuron = LIF(tau=0.5, dt=0.125, v_th=0.5, reset="zero", surrogate=SURROGATE)
    assert run(neuron, [1, 1, 1, 1]) == [[0, 0, 1, 0], [1 / 4]]


def test_current_lif_by_hand() -> None:
    # dt/tau = 1/4, dt/tau_synapse = 1/2.  i = 4, 2, 1; v = 1, 1 + 1/4, 5/4 - 1/16 until the threshold.
    neuron = CurrentLIF(tau=0.5, tau_synapse=0.25, dt=0.125, v_th=1.25, reset="subtract", surrogate=SURROGATE)
    assert run(neuron, [4]) == [[0], [4], [1]]
    assert run(neuron, [4, 0]) == [[0, 1], [2], [0]]
    assert run(neuron, [4, 0, 0]) == [[0, 1, 0], [1], [1 / 4]]


@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_lif_equals_snntorch(reset: Any) -> None:
    snntorch = pytest.importorskip("snntorch")
    tau, dt, v_th = 0.02, 0.003, 0.4
    ours = LIF(tau=tau, dt=dt, v_th=v_th, reset=reset, surrogate=SURROGATE)
    # snnTorch's leaky neuron takes its input unscaled and by default resets a step late.
    theirs = snntorch.Leaky(beta=1 - dt / tau, threshold=v_th, reset_mechanism=reset, reset_delay=False)
    x = currents(60)
    spikes, last = ours(x, torch.zeros(3, 4))
    v = torch.zeros(3, 4)
    found = []
    for now in x:
        fired, v = theirs(now * (dt / tau), v)
        found.append(fired)
    assert 0.02 < float(spikes.mean()) < 0.9
    assert torch.equal(spikes, torch.stack(found))
    torch.testing.assert_close(last, v, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["if-subtract", "if-zero", "lif-subtract", "lif-zero"])
def test_neurons_are_the_ops_of_the_ir(name: str) -> None:
    neuron = NEURONS[name]
    if isinstance(neuron, LIF):
        call = f"spike.lif(%x, %v) {{tau={neuron.tau}, dt={neuron.dt}, v_th={neuron.v_th}, reset={neuron.reset!r}}}"
    else:
        call = f"spike.integrate_and_fire(%x, %v) {{v_th={neuron.v_th}, reset={neuron.reset!r}}}"
    call = call.replace("'", '"')
    graph = plait.parse(
        "plait.ir 1.0\nfunc @main(%xs: f32[40,3,4], %v0: f32[3,4]) -> spike[40,3,4], f32[3,4] {\n"
        "  %s, %last = core.scan(%xs, %v0) : spike[40,3,4], f32[3,4] do (%x: f32[3,4], %v: f32[3,4]) {\n"
        f"    %f, %n = {call} : spike[3,4], f32[3,4]\n    yield %f, %n\n  }}\n  return %s, %last\n}}\n"
    )
    x, v = currents(40), torch.zeros(3, 4)
    spikes, last = neuron(x, v)
    found_spikes, found_last = interpret(graph, [x, v])
    assert 0 < int(spikes.sum()) < spikes.numel()
    assert torch.equal(spikes.bool(), found_spikes)
    assert torch.equal(last, found_last)


@pytest.mark.parametrize("name", NEURONS)
def test_neurons_lower_and_compile(name: str) -> None:
    neuron, x = NEURONS[name], currents(5)
    state = neuron.rest(x[0])
    expected = neuron(x, *state)
    unrolled = plait.lower(neuron, (x, *state))
    scanned = plait.lower(OverTime(neuron), (x, *state))
    assert "core.scan" in str(scanned)
    assert "core.scan" not in str(unrolled)
    for graph in (unrolled, scanned):
        for found, part in zip(interpret(graph, [x, *state]), expected, strict=True):
            assert torch.equal(found, part)
    if name not in ("lif-zero", "current"):  # compiling takes a second or more
        return
    found = plait.compile(scanned, target="cpu")(x, *state)
    assert torch.equal(found[0], expected[0])
    for got, part in zip(found[1:], expected[1:], strict=True):
        torch.testing.assert_close(got, part)


def test_state_carries_over_a_cut() -> None:
    neuron, x = NEURONS["current"], currents(20)
    whole, *last = neuron(x, *neuron.rest(x[0]))
    first, *state = neuron(x[:7], *neuron.rest(x[0]))
    second, *end = neuron(x[7:], *state)
    assert torch.equal(whole, torch.cat([first, second]))
    assert all(torch.equal(a, b) for a, b in zip(last, end, strict=True))


def test_gradient_through_time_by_hand() -> None:
    # Two steps of IF, v_th 2: v1 = a, v2 = a + b, no spike; d(s1 + s2)/da = g(a - 2) + g(a + b - 2).
    neuron = IntegrateAndFire(v_th=2.0, reset="subtract", surrogate=SURROGATE)
    x = torch.tensor([[0.5], [1.0]], requires_grad=True)
    neuron(x, torch.zeros(1))[0].sum().backward()
    early, late = 1 / (1 + 10 * 1.5) ** 2, 1 / (1 + 10 * 0.5) ** 2
    torch.testing.assert_close(x.grad, torch.tensor([[early + late], [late]]))


def test_constants_and_states_are_checked() -> None:
    with pytest.raises(ValueError, match="0 < dt <= tau, got dt=2"):
        LIF(tau=1.0, dt=2.0, v_th=1.0, reset="zero", surrogate=SURROGATE)
    with pytest.raises(ValueError, match="dt <= tau_synapse"):
        CurrentLIF(tau=1.0, tau_synapse=0.1, dt=0.5, v_th=1.0, reset="zero", surrogate=SURROGATE)
    with pytest.raises(ValueError, match="v_th is above 0"):
        IntegrateAndFire(v_th=0.0, reset="zero", surrogate=SURROGATE)
    with pytest.raises(ValueError, match="reset is 'subtract' or 'zero'"):
        IntegrateAndFire(v_th=1.0, reset="none", surrogate=SURROGATE)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"the state is \(i, v\), each \(3, 4\)"):
        NEURONS["current"](currents(2), torch.zeros(3, 4))


def test_codes_by_hand() -> None:
    image = torch.tensor([[0.0, 1.0, 0.5]])
    assert latency_spikes(image, 4).tolist() == [[[0, 1, 0]], [[0, 0, 0]], [[0, 0, 1]], [[0, 0, 0]]]
    rate = rate_spikes(image, 4_000, torch.Generator().manual_seed(0))
    assert rate.sum(0)[0, :2].tolist() == [0, 4_000]
    assert abs(float(rate.mean(0)[0, 2]) - 0.5) < 0.04


def lif() -> LIF:
    return LIF(tau=0.01, dt=0.002, v_th=1.0, reset="subtract", surrogate=FastSigmoid(slope=5.0))


def classifiers() -> dict[str, SpikingClassifier]:
    return {
        "mlp": spiking_mlp(64, [32], 10, lif(), gain=10.0, seed=0),
        "convnet": spiking_convnet(8, [4, 8], 10, lif(), gain=10.0, seed=0),
    }


@pytest.mark.parametrize("kind", ["mlp", "convnet"])
def test_classifiers_lower_and_compile(kind: str) -> None:
    model = classifiers()[kind].eval()
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    spikes = latency_spikes(images, 4)
    with torch.no_grad():
        expected = model(spikes)
    assert float(expected.abs().max()) > 0.01
    graph = plait.lower(model, (spikes,))
    torch.testing.assert_close(interpret(graph, [spikes])[0], expected)
    torch.testing.assert_close(plait.compile(graph, target="cpu")(spikes), expected, rtol=1e-4, atol=1e-5)


def test_training_is_reproducible_and_lowers_the_loss() -> None:
    images = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = images.flatten(1)[:, :10].argmax(dim=1)
    training = GradientTraining(epochs=16, batch=16, learning_rate=1e-2, seed=3)
    runs = []
    for _ in range(2):
        model = classifiers()["mlp"]
        losses = train(model, lambda part: latency_spikes(part, 6), images, labels, training)
        runs.append((losses, model.readout.weight.detach()))
    assert runs[0][0] == runs[1][0]
    assert torch.equal(runs[0][1], runs[1][1])
    assert runs[0][0][-1] < 0.8 * runs[0][0][0]
    with pytest.raises(ValueError, match="64 images, but 3 labels"):
        train(model, lambda part: part, images, labels[:3], training)


@pytest.mark.slow
@pytest.mark.parametrize("code", ["latency", "rate"])
def test_an_mlp_learns_digits(code: str) -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32)
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], labels[order]
    generator = torch.Generator().manual_seed(1)

    def encode(part: torch.Tensor) -> torch.Tensor:
        return latency_spikes(part, 10) if code == "latency" else rate_spikes(part, 10, generator)

    model = spiking_mlp(64, [128], 10, lif(), gain=10.0, seed=0)
    training = GradientTraining(epochs=30, batch=64, learning_rate=1e-2, seed=0)
    train(model, encode, images[:1300], labels[:1300], training)
    assert accuracy(model, encode, images[1300:], labels[1300:]) >= 0.95
