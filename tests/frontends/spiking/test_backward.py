"""Temporal backpropagation: by hand, against plain loops, against Spyker, and learning the digits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import plait
from plait.frontends.families.spiking import coding
from plait.frontends.families.spiking.backward import (
    BackwardConfig,
    TemporalNetwork,
    causal,
    target_times,
    time_gradient,
    update,
)
from plait.ir.interpret import interpret


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_times(seed: int, steps: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, steps + 1, shape, generator=seeded(seed))


def test_targets_by_hand() -> None:
    times = torch.tensor([[3, 5, 8, 1], [2, 2, 2, 7], [7, 6, 8, 8], [8, 8, 8, 8]])
    labels = torch.tensor([0, 3, 1, 2])
    assert target_times(times, labels, 8, 3).tolist() == [
        [1, 5, 8, 4],  # the last was first: it waits until 1 + 3, the labelled one moves to 1
        [5, 5, 5, 2],
        [8, 6, 8, 8],  # 6 + 3 is past the end
        [8, 8, 8, 8],
    ]
    assert target_times(times, labels, 8, 3, wake=True)[3].tolist() == [8, 8, 5, 8]
    gradient = time_gradient(times, labels, 8, 3)
    assert gradient[0].tolist() == [-0.25, 0.0, 0.0, 0.375]
    # A right decision with the margin gamma has no gradient.
    assert time_gradient(torch.tensor([[4, 1, 5]]), torch.tensor([1]), 8, 3).tolist() == [[0.0, 0.0, 0.0]]


def test_causal_inputs_are_those_the_potential_counts() -> None:
    steps = 6
    inputs, outputs = random_times(0, steps, 4, 7), random_times(1, steps, 4, 3)
    causes = causal(inputs, outputs, steps)
    wave = coding.wave_of(inputs, steps)
    for sample in range(4):
        for output in range(3):
            # A silent neuron has all spikes behind it at the last step.
            step = min(int(outputs[sample, output]), steps - 1)
            assert torch.equal(causes[sample, output], wave[sample, step].bool())


def test_update_by_hand() -> None:
    weights = torch.tensor([[1.0, -2.0]])
    step = update(
        weights,
        1.0,
        torch.tensor([[0, 3], [0, 0]]),
        torch.tensor([[3], [1]]),
        torch.tensor([[0.5], [-1.0]]),
        BackwardConfig(rate=0.1, decay=0.5, scale_rate=0.2),
    )
    # Sample 1: only input 0 is before the output.  (1 - 0.05) * 0.95 = 0.9025; -2 * 0.95 = -1.9.
    # Sample 2: both.  (0.9025 + 0.1) * 0.95 = 0.952375; (-1.9 + 0.1) * 0.95 = -1.71.
    torch.testing.assert_close(step.weights, torch.tensor([[0.952375, -1.71]]))
    torch.testing.assert_close(step.gradient, torch.tensor([[0.5 * 0.9025, 0.0], [-0.952375, 1.71]]))
    # The mean of dW * sign(W): (0.5, 0) / 2 and (-1, 1) / 2.
    assert step.scale == pytest.approx(1 - 0.2 * 0.25)
    assert weights.tolist() == [[1.0, -2.0]]


@pytest.mark.parametrize("binary", [False, True])
def test_two_layers_against_plain_loops(binary: bool) -> None:
    steps, gamma, config = 6, 2.0, BackwardConfig(rate=0.3, decay=0.01, scale_rate=0.05)
    network = TemporalNetwork((5, 4, 3), (0.5, 0.3), steps=steps, low=-1, high=4, binary=binary, seed=2)
    network.double()
    inputs, labels = random_times(3, steps, 6, 5), torch.tensor([0, 1, 2, 0, 1, 2])
    before = [weights.detach().clone() for weights in network.weights]
    scales = network.scales.clone()

    def fire(times: list[int], weights: torch.Tensor, threshold: float) -> list[int]:
        result = []
        for row in weights.tolist():
            first = steps
            for step in range(steps):
                if sum(w for w, t in zip(row, times) if t <= step) > threshold:
                    first = step
                    break
            result.append(first)
        return result

    def used(layer: int) -> torch.Tensor:
        return scales[layer] * before[layer].sign() if binary else before[layer]

    changes = [torch.zeros_like(w) for w in before]
    for sample in range(6):
        first = inputs[sample].tolist()
        hidden = fire(first, used(0), 0.5)
        output = fire(hidden, used(1), 0.3)
        assert network(inputs[sample : sample + 1])[0].tolist() == output
        delta = []
        for o in range(3):
            silent = min(output) == steps
            if o == int(labels[sample]):
                target = steps - gamma if silent else min(output)
            else:
                target = max(output[o], min(min(output) + gamma, steps))
            delta.append((target - output[o]) / steps)
        for o in range(3):
            for h in range(4):
                if hidden[h] <= output[o] and hidden[h] < steps:
                    changes[1][o, h] += delta[o] / 6
        for h in range(4):
            error = sum(
                delta[o] * float(before[1][o, h])
                for o in range(3)
                if hidden[h] <= output[o] and hidden[h] < steps
            )
            for i in range(5):
                if first[i] <= hidden[h] and first[i] < steps:
                    changes[0][h, i] += error / 6
    network.learn(inputs, labels, gamma, config)
    for layer in range(2):
        assert float(changes[layer].abs().max()) > 0.01
        expected = (before[layer] - 0.3 * changes[layer]) * (1 - 0.3 * 0.01)
        torch.testing.assert_close(network.weights[layer].detach(), expected, atol=1e-7, rtol=0)
        moved = 0.05 * (changes[layer] * before[layer].sign()).mean() if binary else 0.0
        torch.testing.assert_close(network.scales[layer], scales[layer] - moved, atol=1e-7, rtol=0)


def test_decisions_break_ties_by_potential() -> None:
    network = TemporalNetwork((2, 3), (1.0,), steps=4, low=0, high=1)
    network.weights[0].copy_(torch.tensor([[1.5, 0.0], [2.0, 0.0], [0.0, 2.5]]))
    inputs = torch.tensor([[1, 2], [4, 0], [4, 4]])
    assert network(inputs).tolist() == [[1, 1, 2], [4, 4, 0], [4, 4, 4]]
    assert network.decide(inputs).tolist() == [1, 2, 0]
    network.thresholds = (5.0,)
    assert network.decide(torch.tensor([[0, 3]])).tolist() == [2]


def test_state_is_restored() -> None:
    network = TemporalNetwork((6, 4, 3), (0.2, 0.2), steps=5, low=-1, high=2, binary=True, seed=1)
    again = TemporalNetwork((6, 4, 3), (0.2, 0.2), steps=5, low=-1, high=2, binary=True, seed=2)
    inputs = random_times(4, 5, 10, 6)
    assert not torch.equal(network.weights[0], again.weights[0])
    network.learn(inputs, torch.arange(10) % 3, 1.0, BackwardConfig(0.1, scale_rate=0.1))
    again.load_state_dict(network.state_dict())
    assert torch.equal(network(inputs), again(inputs))


@pytest.mark.parametrize("binary", [False, True])
def test_it_lowers(binary: bool) -> None:
    network = TemporalNetwork((6, 4, 3), (0.2, 0.2), steps=5, low=-1, high=2, binary=binary)
    inputs = random_times(11, 5, 4, 6)
    graph = plait.lower(network, (inputs,))
    assert torch.equal(interpret(graph, [inputs])[0], network(inputs))


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"labels are 0\.\.3"):
        target_times(torch.zeros(2, 3), torch.tensor([0, 3]), 8, 1)
    with pytest.raises(ValueError, match="gamma"):
        target_times(torch.zeros(1, 3), torch.tensor([0]), 8, -1)
    with pytest.raises(ValueError, match="need 2 thresholds, got 1"):
        TemporalNetwork((4, 3, 2), (1.0,), steps=4, low=0, high=1)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """The batches are small: a second thread costs more than it gives."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def digits_accuracy(binary: bool, epochs: int) -> tuple[float, torch.Tensor]:
    """Test accuracy on 450 digits after learning from the other 1347, and the weights of the last layer."""
    datasets: Any = pytest.importorskip("sklearn.datasets")
    images, labels = datasets.load_digits(return_X_y=True)
    times = coding.latency_times(torch.tensor(images, dtype=torch.float32), 8)
    targets = torch.tensor(labels)
    train, test = torch.randperm(len(targets), generator=seeded(0)).split([1347, 450])
    if binary:
        network = TemporalNetwork((64, 400, 10), (0.05, 0.05), steps=8, low=-0.5, high=0.5, binary=True)
        config = BackwardConfig(rate=0.02, scale_rate=0.01)
    else:
        network = TemporalNetwork((64, 200, 10), (0.2, 0.2), steps=8, low=-2, high=4)
        config = BackwardConfig(rate=0.1)
    generator = seeded(1)
    for epoch in range(epochs):
        current = BackwardConfig(config.rate * 0.9**epoch, scale_rate=config.scale_rate)
        for batch in train[torch.randperm(len(train), generator=generator)].split(8):
            network.learn(times[batch], targets[batch], 2.0, current)
    right = network.decide(times[test]) == targets[test]
    return float(right.double().mean()), network.weights[-1].detach()


@pytest.mark.usefixtures("one_thread")
def test_two_layers_learn_the_digits() -> None:
    accuracy, _ = digits_accuracy(binary=False, epochs=6)
    print(f"S4NN, 64-200-10, 6 epochs: test accuracy {accuracy:.3f}")
    assert accuracy >= 0.85


@pytest.mark.usefixtures("one_thread")
def test_learning_reproduces_bit_for_bit() -> None:
    for binary in (False, True):
        first, second = digits_accuracy(binary, epochs=1), digits_accuracy(binary, epochs=1)
        assert first[0] == second[0]
        assert torch.equal(first[1], second[1])


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_two_binary_layers_learn_the_digits() -> None:
    accuracy, _ = digits_accuracy(binary=True, epochs=10)
    print(f"BS4NN, 64-400-10, 10 epochs: test accuracy {accuracy:.3f}")
    assert accuracy >= 0.85


@pytest.mark.parametrize("gamma", [0.0, 1.5, 3.0])
def test_gradient_against_spyker(gamma: float) -> None:
    spyker: Any = pytest.importorskip("spyker")
    times = random_times(5, 8, 40, 10)
    times[:3] = 8
    labels = torch.randint(0, 10, (40,), generator=seeded(6))
    theirs = spyker.backward(times.float(), labels, 8, gamma)
    torch.testing.assert_close(time_gradient(times, labels, 8, gamma), theirs, atol=1e-7, rtol=0)


@pytest.mark.parametrize(("decay", "scale_rate"), [(0.0, 0.0), (0.05, 0.1)])
def test_update_against_spyker(decay: float, scale_rate: float) -> None:
    spyker: Any = pytest.importorskip("spyker")
    spyker.random_seed(2)
    module = spyker.FC(12, 5, 0.0, 0.5)
    module.bpconfig = spyker.BPConfig(1.7, 0.2, scale_rate, decay)
    weights = torch.from_numpy(spyker.to_numpy(module.kernel).copy())
    inputs, outputs = random_times(7, 8, 6, 12), random_times(8, 8, 6, 5)
    gradient = torch.randn(6, 5, generator=seeded(9))
    below = module.backward(inputs.float(), outputs.float(), gradient.clone())
    step = update(weights, 1.7, inputs, outputs, gradient, BackwardConfig(0.2, decay, scale_rate))
    expected = torch.from_numpy(spyker.to_numpy(module.kernel).copy())
    assert not torch.equal(expected, weights)
    torch.testing.assert_close(step.weights, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(step.gradient, below, atol=1e-5, rtol=0)
    assert step.scale == pytest.approx(module.bpconfig.sfactor, abs=1e-5)


def test_binary_potentials_against_spyker() -> None:
    spyker: Any = pytest.importorskip("spyker")
    network = TemporalNetwork((12, 5), (0.1,), steps=8, low=-1, high=1, binary=True)
    network.scales[0] = 1.0
    times = random_times(10, 8, 6, 12)
    theirs = spyker.fc(coding.wave_of(times, 8).float(), network.weights[0].detach().clone(), sign=True)
    torch.testing.assert_close(network.potential(times, 0), theirs, atol=1e-5, rtol=0)
