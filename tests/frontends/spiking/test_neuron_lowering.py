"""Leaky neurons as ops of spikes: in the graph, in the interpreter and compiled, as torch computes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import plait
from plait.frontends.families.spiking.diehl_cook import DiehlCook, DiehlCookConfig
from plait.frontends.families.spiking.diehl_cook_response import DiehlCookResponse
from plait.frontends.families.spiking.neurons import (
    LIF,
    CurrentLIF,
    IntegrateAndFire,
    Neuron,
    OverTime,
    integrate_and_fire,
    lif,
)
from plait.frontends.families.spiking.surrogate import ArcTangent, FastSigmoid, StraightThrough, Triangle
from plait.frontends.families.spiking.training import (
    ClassifierOverTime,
    GradientTraining,
    SpikingClassifier,
    accuracy,
    latency_spikes,
    spiking_convnet,
    spiking_mlp,
    train,
)
from plait.ir import Graph, SpikeType, parse
from plait.ir.interpret import interpret
from plait.passes.spike import raise_products  # noqa: F401  # registers the pass

SURROGATES = [
    FastSigmoid(slope=10.0),
    ArcTangent(slope=2.0),
    Triangle(height=0.3, width=0.5),
    StraightThrough(window=0.5),
]
SURROGATE = SURROGATES[0]
NEURONS: dict[str, tuple[Neuron, str]] = {
    "if-subtract": (
        IntegrateAndFire(v_th=1.0, reset="subtract", surrogate=SURROGATE),
        'spike.integrate_and_fire({}) {{v_th=1.0, reset="subtract"}}',
    ),
    "if-zero": (
        IntegrateAndFire(v_th=0.7, reset="zero", surrogate=SURROGATE),
        'spike.integrate_and_fire({}) {{v_th=0.7, reset="zero"}}',
    ),
    "lif-subtract": (
        LIF(tau=0.02, dt=0.005, v_th=0.4, reset="subtract", surrogate=SURROGATE),
        'spike.lif({}) {{tau=0.02, dt=0.005, v_th=0.4, reset="subtract"}}',
    ),
    "lif-zero": (
        LIF(tau=0.02, dt=0.003, v_th=0.4, reset="zero", surrogate=SURROGATE),
        'spike.lif({}) {{tau=0.02, dt=0.003, v_th=0.4, reset="zero"}}',
    ),
    "current": (
        CurrentLIF(tau=0.02, tau_synapse=0.01, dt=0.005, v_th=0.5, reset="subtract", surrogate=SURROGATE),
        'spike.lif({}) {{tau=0.02, dt=0.005, v_th=0.5, reset="subtract"}}',
    ),
}
RAISE = "canonicalize,raise-spike-products,dead-code"


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Tensors are small; more threads cost more than they give."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def raised(graph: Graph) -> Graph:
    after = plait.optimize(graph, RAISE)
    assert parse(str(after)) == after
    return after


def counts(graph: Graph) -> Counter[str]:
    return Counter(op.opname for op in graph.walk())


# -- single neurons -----------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, torch.float32) for name in NEURONS), ("lif-zero", torch.float64)], ids=str
)
def test_a_neuron_is_one_op(name: str, dtype: torch.dtype) -> None:
    neuron, call = NEURONS[name]
    x = 2 * random(6, 3, 4).to(dtype)
    state = neuron.rest(x[0])
    expected = neuron(x, *state)
    assert 0 < int(expected[0].sum()) < expected[0].numel()
    graph = plait.lower(OverTime(neuron), (x, *state))
    (op,) = (op for op in graph.walk() if op.opname.startswith("spike."))
    assert call.format(", ".join(map(str, op.operands))) in str(graph)
    assert op.results[0].type == SpikeType((3, 4))
    assert counts(graph)["core.scan"] == 1
    assert not {"core.ge", "core.where"} & set(counts(graph))
    for found, part in zip(interpret(graph, [x, *state]), expected, strict=True):
        assert torch.equal(found, part)
        assert found.dtype == dtype


def test_the_loop_of_torch_is_one_op_a_step() -> None:
    neuron, _ = NEURONS["lif-zero"]
    x = 2 * random(6, 3, 4)
    graph = plait.lower(neuron, (x, *neuron.rest(x[0])))
    assert counts(graph)["spike.lif"] == 6
    assert "core.ge" not in counts(graph)


def test_half_precision_and_states_that_broadcast_keep_their_own_arithmetic() -> None:
    neuron, _ = NEURONS["lif-subtract"]
    x = 2 * random(6, 3, 4)
    for given, state in ((x.half(), torch.zeros(3, 4).half()), (x, torch.zeros(1, 4))):
        step = _Step(neuron)
        graph = plait.lower(step, (given[0], state))
        assert "spike.lif" not in counts(graph)
        for found, part in zip(interpret(graph, [given[0], state]), step(given[0], state), strict=True):
            assert torch.equal(found, part)


class _Step(nn.Module):
    def __init__(self, neuron: Neuron) -> None:
        super().__init__()
        self.neuron = neuron

    def forward(self, x: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        return self.neuron.step(x, v)


# -- the operators of torch ------------------------------------------------------------------
def operator(neuron: Any, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    kind, parameters = neuron.surrogate.kind(), neuron.surrogate.parameters
    if isinstance(neuron, LIF):
        return lif(x, v, neuron.tau, neuron.dt, neuron.v_th, neuron.reset, kind, parameters)
    return integrate_and_fire(x, v, neuron.v_th, neuron.reset, kind, parameters)


@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize("surrogate", SURROGATES, ids=lambda s: type(s).__name__)
def test_operators_have_the_results_and_gradients_of_the_modules(surrogate: Any, reset: Any) -> None:
    neurons = [
        IntegrateAndFire(v_th=0.9, reset=reset, surrogate=surrogate),
        LIF(tau=0.02, dt=0.005, v_th=0.4, reset=reset, surrogate=surrogate),
    ]
    for neuron in neurons:
        results = []
        for step in (neuron.step, lambda x, v, neuron=neuron: operator(neuron, x, v)):
            x, v = random(50).requires_grad_(), random(50, seed=1).requires_grad_()
            spikes, after = step(x, v)
            (spikes * random(50, seed=2) + after * random(50, seed=3)).sum().backward()
            results.append((spikes, after, x.grad, v.grad))
        assert 0 < int(results[0][0].sum()) < 50
        for module, own in zip(*results, strict=True):
            assert torch.equal(module, own)


def test_operators_keep_the_rules_of_torch() -> None:
    x, v = random(5).requires_grad_(), random(5, seed=1).requires_grad_()
    for call, constants in ((lif, (0.02, 0.005, 0.4, "zero")), (integrate_and_fire, (0.4, "subtract"))):
        surrogate = SURROGATES[2]
        torch.library.opcheck(
            call,
            (x, v, *constants, surrogate.kind(), surrogate.parameters),
            test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
        )


def test_a_derivative_inside_of_forward_is_the_surrogate() -> None:
    class Sensitivity(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            spikes, v = NEURONS["lif-zero"][0].step(x, torch.zeros_like(x))
            return torch.autograd.grad((2 * spikes + v).sum(), x)[0]

    x = (4 * random(3, 4)).requires_grad_()
    expected = Sensitivity()(x)
    graph = plait.lower(Sensitivity(), (x,))
    torch.testing.assert_close(interpret(graph, [x.detach()])[0], expected)


# -- networks --------------------------------------------------------------------------------
def neuron_of(reset: Any = "subtract") -> LIF:
    return LIF(tau=0.008, dt=0.002, v_th=1.0, reset=reset, surrogate=FastSigmoid(slope=5.0))


class TwoLayers(nn.Module):
    """Currents [T, B, in] -> the spikes of two layers, all over time; weights are multiples of 1/16."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = OverTime(neuron_of()), OverTime(neuron_of("zero"))
        self.between = nn.Linear(20, 12, bias=False)
        with torch.no_grad():
            self.between.weight.copy_(torch.floor(random(12, 20) * 32 - 12) / 16)

    def forward(self, currents: Tensor) -> tuple[Tensor, Tensor]:
        spikes, _ = self.first(currents, torch.zeros_like(currents[0]))
        inner = self.between(spikes)
        return spikes, self.second(inner, torch.zeros_like(inner[0]))[0]

    def reference(self, currents: Tensor) -> tuple[Tensor, Tensor]:
        """The same with the loops of torch."""
        spikes, _ = self.first.neuron(currents, torch.zeros_like(currents[0]))
        inner = self.between(spikes)
        return spikes, self.second.neuron(inner, torch.zeros_like(inner[0]))[0]


@pytest.fixture(scope="module")
def layers() -> tuple[Graph, Tensor, tuple[Tensor, Tensor]]:
    # sums and potentials are exact in float32, so that no order of additions changes a spike
    model, currents = TwoLayers().eval(), torch.floor(random(5, 2, 20) * 64) / 8
    with torch.no_grad():
        expected = model.reference(currents)
    assert all(0.2 < float(spikes.mean()) < 0.8 for spikes in expected)
    return raised(plait.lower(model, (currents,))), currents, expected


def test_spikes_go_from_loop_to_loop(layers: Any) -> None:
    graph, currents, expected = layers
    found = counts(graph)
    assert (found["core.scan"], found["spike.lif"], found["spike.linear"]) == (2, 2, 1)
    assert "nn.linear" not in found
    (product,) = (op for op in graph.walk() if op.opname == "spike.linear")
    loop = product.operands[0].producer
    assert loop is not None
    assert (loop.opname, product.operands[0].type) == ("core.scan", SpikeType((5, 2, 20)))
    for got, part in zip(interpret(graph, [currents]), expected, strict=True):
        assert torch.equal(got, part)


@pytest.mark.parametrize("target", ["cpu", pytest.param("a100", marks=pytest.mark.slow)])
def test_compiled_layers_spike_as_torch_does(target: str, layers: Any) -> None:
    graph, currents, expected = layers
    exe = plait.compile(graph, target=target)
    found = exe(currents) if target == "cpu" else exe.emulate(currents.numpy(), check=True)
    for got, part in zip(found, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(got), part.numpy())


def classifier(kind: str) -> SpikingClassifier:
    if kind == "mlp":
        return spiking_mlp(64, [24], 10, neuron_of(), gain=10.0, seed=0)
    return spiking_convnet(8, [4, 8], 10, neuron_of(), gain=10.0, seed=0)


@pytest.mark.parametrize("kind", ["mlp", "convnet"])
def test_classifiers_are_one_loop_over_products_of_spikes(kind: str) -> None:
    model = classifier(kind).eval()
    spikes = latency_spikes(random(3, 1, 8, 8), 6)
    with torch.no_grad():
        expected = model(spikes)
    plain = plait.lower(ClassifierOverTime(model), (spikes.bool(),), dynamic={"spikes": {0: "T", 1: "B"}})
    graph = raised(plain)
    found = counts(graph)
    wanted = {"mlp": (1, 1, 2, 0), "convnet": (1, 2, 1, 2)}[kind]
    assert tuple(found[op] for op in ("core.scan", "spike.lif", "spike.linear", "spike.conv2d")) == wanted
    assert not {"nn.linear", "nn.conv2d"} & set(found)
    loop = next(op for op in graph.walk() if op.opname == "core.scan")
    assert {op.opname for op in graph.body} & {"spike.lif", "spike.linear", "spike.conv2d"} == set()
    assert str(loop.inputs[0].type) == "bool[T,B,1,8,8]"  # type: ignore[attr-defined]
    for each in (plain, graph):
        assert torch.equal(interpret(each, [spikes.bool()])[0], expected)
    # other sizes than those of the example
    longer = latency_spikes(random(2, 1, 8, 8, seed=3), 9)
    with torch.no_grad():
        torch.testing.assert_close(interpret(graph, [longer.bool()])[0], model(longer))


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cpu", "a100"])
@pytest.mark.parametrize("kind", ["mlp", "convnet"])
def test_compiled_classifiers(kind: str, target: str) -> None:
    spikes = latency_spikes(random(2, 1, 8, 8), 4).bool()
    graph = raised(plait.lower(ClassifierOverTime(classifier(kind).eval()), (spikes,)))
    (expected,) = interpret(graph, [spikes])
    exe = plait.compile(graph, target=target)
    found = exe(spikes) if target == "cpu" else exe.emulate(spikes.numpy(), check=True)
    np.testing.assert_allclose(np.asarray(found), expected.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_trained_classifier_keeps_its_accuracy(compiled: bool) -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32)
    labels = torch.tensor(digits.target)
    model = spiking_mlp(64, [48], 10, neuron_of(), gain=10.0, seed=0)

    def encode(part: Tensor) -> Tensor:
        return latency_spikes(part, 8)

    training = GradientTraining(epochs=2, batch=16, learning_rate=2e-2, seed=0)
    train(model, encode, images[:1400], labels[:1400], training)
    source = accuracy(model, encode, images[1400:], labels[1400:])
    assert source > 0.7
    spikes = encode(images[1400:]).bool()
    graph = raised(plait.lower(ClassifierOverTime(model), (spikes,)))
    scores = plait.compile(graph, target="cpu")(spikes) if compiled else interpret(graph, [spikes])[0]
    found = scores.argmax(dim=1)
    with torch.no_grad():
        agreeing = found == model(spikes.float()).argmax(dim=1)
    # sums in another order may carry a potential over the threshold, or not
    assert float(agreeing.double().mean()) >= (0.99 if compiled else 1)
    assert abs(float((found == labels[1400:]).double().mean()) - source) < 0.01


# -- the network of Diehl and Cook ---------------------------------------------------------------
@pytest.fixture(scope="module")
def trained() -> DiehlCook:
    """A small network after some images, its thresholds apart."""
    config = DiehlCookConfig(inputs=64, neurons=20, duration_ms=60.0, norm=12.0)
    network = DiehlCook(config, seed=0)
    generator = torch.Generator().manual_seed(0)
    for image in random(6, 64):
        network.learn(image, generator)
    network.theta += random(20, seed=4)
    return network


def seeded(call: Callable[..., Tensor], images: Tensor) -> Tensor:
    return call(images, torch.Generator().manual_seed(5))


def test_responses_are_those_of_the_network(trained: DiehlCook) -> None:
    images = random(12, 64, seed=1)
    expected = seeded(trained.respond, images)
    spikes = seeded(trained.encode, images)
    assert len(expected.unique()) > 3
    assert int((expected > 0).sum()) > 12
    module = DiehlCookResponse(trained)
    assert torch.equal(module(spikes), expected)
    plain = plait.lower(module, (spikes,), dynamic={"spikes": {0: "T", 1: "B"}})
    graph = raised(plain)
    assert (counts(graph)["core.scan"], counts(graph)["spike.linear"]) == (1, 1)
    for each in (plain, graph):
        assert torch.equal(interpret(each, [spikes])[0], expected)
        assert torch.equal(interpret(each, [spikes[:, :3]])[0], expected[:3])
    with pytest.raises(ValueError, match=r"spikes \[T, B, 64\] are wanted, got \[60, 12, 63\]"):
        module(spikes[..., 1:])


@pytest.mark.slow
def test_compiled_responses_are_those_of_the_network(trained: DiehlCook) -> None:
    images = random(12, 64, seed=1)
    spikes = seeded(trained.encode, images)
    graph = raised(plait.lower(DiehlCookResponse(trained), (spikes,)))
    found = plait.compile(graph, target="cpu")(spikes)
    assert torch.equal(found, seeded(trained.respond, images))


@pytest.mark.slow
def test_responses_on_the_emulated_gpu(trained: DiehlCook) -> None:
    images = random(2, 64, seed=1)
    spikes = seeded(trained.encode, images)[:20]
    module = DiehlCookResponse(trained)
    exe = plait.compile(raised(plait.lower(module, (spikes,))), target="a100")
    expected = module(spikes)
    assert int(expected.sum()) > 0
    np.testing.assert_array_equal(exe.emulate(spikes.numpy(), check=True), expected.numpy())
