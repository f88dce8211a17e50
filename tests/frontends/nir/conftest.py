"""Fixtures: NIR graphs of many kinds, a simulator written from NIR's equations, and checked lowering."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import plait
from plait.frontends.nir import initial_states, lower_nir, to_nir
from plait.ir import Graph, parse
from plait.ir.interpret import interpret

try:
    import nir
except ImportError:  # the test files are skipped
    nir = None

torch.set_num_threads(1)
Array = np.ndarray


# -- the simulator: float64, recursive, one sample and one step at a time ---------------
def windows(x: Array, kernel: tuple[int, ...], stride: tuple[int, ...], pad: Any, dilation: Any) -> Array:
    """[channels, *positions, *kernel] of x [channels, *size]."""
    x = np.pad(x, [(0, 0), *pad])
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation)]
    view = np.lib.stride_tricks.sliding_window_view(x, spans, axis=tuple(range(1, x.ndim)))
    steps = tuple(slice(None, None, s) for s in stride)
    inside = tuple(slice(None, None, d) for d in dilation)
    return view[(slice(None), *steps, *inside)]


def numbers(value: Any, count: int) -> tuple[int, ...]:
    flat = [int(n) for n in np.asarray(value).reshape(-1)]
    return tuple(flat * count if len(flat) == 1 else flat)


def convolve(node: Any, x: Array) -> Array:
    weight = np.asarray(node.weight, np.float64)
    axes = weight.ndim - 2
    kernel, groups = weight.shape[2:], int(node.groups)
    stride, dilation = numbers(node.stride, axes), numbers(node.dilation, axes)
    if isinstance(node.padding, str) and node.padding == "same":
        pad = [((d * (k - 1)) // 2, d * (k - 1) - (d * (k - 1)) // 2) for k, d in zip(kernel, dilation)]
    else:
        pad = [(p, p) for p in (numbers(0 if isinstance(node.padding, str) else node.padding, axes))]
    found = windows(x, kernel, stride, pad, dilation)
    parts = [
        np.tensordot(w, c, ([1, *range(2, 2 + axes)], [0, *range(1 + axes, 1 + 2 * axes)]))
        for w, c in zip(np.split(weight, groups), np.split(found, groups))
    ]
    return np.concatenate(parts) + np.asarray(node.bias).reshape(-1, *([1] * axes))


class Simulator:
    """One sample; `states` starts at zeros and is public."""

    def __init__(self, graph: Any, dt: float) -> None:
        self.dt, self.states = dt, {}
        self.nodes: dict[str, Any] = {}
        self.into: dict[str, list[str]] = {}
        self._open(graph, "")
        self.before: dict[str, Array] = {}

    def _open(self, graph: Any, prefix: str) -> None:
        for name, node in graph.nodes.items():
            if isinstance(node, nir.NIRGraph):
                self._open(node, f"{prefix}{name}.")
            else:
                self.nodes[prefix + name] = node
        for source, target in graph.edges:
            ends = []
            for end, kind in ((source, nir.Output), (target, nir.Input)):
                node = graph.nodes[end]
                if isinstance(node, nir.NIRGraph):
                    end = f"{end}.{next(k for k, n in node.nodes.items() if isinstance(n, kind))}"
                ends.append(prefix + end)
            self.into.setdefault(ends[1], []).append(ends[0])

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        outputs = [k for k, n in self.nodes.items() if isinstance(n, nir.Output) and "." not in k]
        found: dict[str, list[Array]] = {name: [] for name in outputs}
        for t in range(len(next(iter(inputs.values())))):
            self.now: dict[str, Array] = {k: x[t].astype(np.float64) for k, x in inputs.items()}
            self.open: set[str] = set()
            self.waiting: list[str] = []
            for name in outputs:
                found[name].append(self.value(name))
            for name in self.nodes:
                self.value(name)
            for name in self.waiting:
                self.states[name].append(self._taken(name))
            self.before = dict(self.now)
        return {name: np.stack(values) for name, values in found.items()}

    def value(self, name: str) -> Array:
        if name in self.now:
            return self.now[name]
        node = self.nodes[name]
        if name in self.open:  # a cycle: the output of the last step
            return self.before.get(name, np.zeros(1))
        self.open.add(name)
        if isinstance(node, nir.Delay):
            past = self.states.setdefault(name, [])
            steps = np.round(np.asarray(node.delay, np.float64) / self.dt).astype(int)
            if steps.min() > 0:
                self.now[name] = self._held(past, steps)
                self.waiting.append(name)
            else:
                past.append(self._taken(name))
                self.now[name] = self._held(past, steps + 1)
        else:
            self.now[name] = self._output(name, node, self._taken(name))
        return self.now[name]

    def _taken(self, name: str) -> Array:
        return sum(self.value(source) for source in self.into[name])  # type: ignore[return-value]

    @staticmethod
    def _held(past: list[Array], steps: Array) -> Array:
        found = np.zeros(steps.shape)
        for index, count in np.ndenumerate(steps):
            found[index] = past[-count][index] if count <= len(past) else 0.0
        return found

    def _output(self, name: str, node: Any, x: Array) -> Array:
        kind = type(node).__name__
        if kind in ("Input", "Output"):
            return x
        if kind in ("Affine", "Linear"):
            y = np.einsum("...oi,...i->...o", np.asarray(node.weight, np.float64), x)
            return y + np.asarray(node.bias).reshape(y.shape) if kind == "Affine" else y
        if kind in ("Conv1d", "Conv2d"):
            return convolve(node, x)
        if kind in ("SumPool2d", "AvgPool2d"):
            pad = [(p, p) for p in numbers(node.padding, 2)]
            found = windows(x, numbers(node.kernel_size, 2), numbers(node.stride, 2), pad, (1, 1))
            return found.sum((-2, -1)) if kind == "SumPool2d" else found.mean((-2, -1))
        if kind == "Flatten":
            rank = x.ndim
            start, end = int(node.start_dim) % rank, int(node.end_dim) % rank
            return x.reshape(*x.shape[:start], -1, *x.shape[end + 1 :])
        if kind == "Scale":
            return x * node.scale
        if kind == "Threshold":
            return (x > node.threshold) * 1.0
        return self._neuron(name, node, kind, x)

    def _neuron(self, name: str, node: Any, kind: str, x: Array) -> Array:
        v, i = self.states.get(name, (np.zeros(x.shape), np.zeros(x.shape)))
        if kind.startswith("Cuba"):
            i = x = i + self.dt / node.tau_syn * (node.w_in * x - i)
        if kind in ("I", "IF"):
            v = v + self.dt * node.r * x
        else:
            tau = node.tau_mem if kind.startswith("Cuba") else node.tau
            v = v + self.dt / tau * ((node.v_leak - v) + node.r * x)
        z = v
        if kind.endswith("IF"):
            z = (v > node.v_threshold) * 1.0
            v = np.where(z == 1, node.v_reset, v)
        self.states[name] = (v, i)
        return z


# -- fixtures ---------------------------------------------------------------------------
Checked = Callable[..., tuple[Graph, dict[str, Array]]]


@pytest.fixture
def check() -> Checked:
    """check(nir graph, inputs [T, B, ...] by name): lowered, verified, parsed again, written back and run.

    The outputs of the interpreter (and of a compiled graph, with target=) are compared with the
    simulator; spikes must be equal, other values close.
    """

    def run(
        source: Any, inputs: dict[str, Array], *, dt: float = 1e-4, target: str | None = None, **options: Any
    ) -> tuple[Graph, dict[str, Array]]:
        graph = lower_nir(source, dt=dt, **options)
        graph.verify()
        again = parse(str(graph), constants={c.name: c.data for c in graph.constants.values()})
        assert again == graph
        assert str(again) == str(graph)
        assert_same_nir(source, to_nir(again))
        batch = next(iter(inputs.values())).shape[1]
        arguments = {**inputs, **initial_states(graph, {"B": batch})}
        results = [value.numpy() for value in interpret(graph, arguments)]
        samples = [
            Simulator(source, dt).run({name: x[:, b] for name, x in inputs.items()}) for b in range(batch)
        ]
        names = [value.name for value in graph.outputs]
        compared = [results]
        if target is not None:
            found = plait.compile(graph, target=target, cache=False)(**arguments)
            compared.append(list(found) if isinstance(found, tuple) else [found])
        outputs = {name: np.stack([sample[name] for sample in samples], 1) for name in samples[0]}
        for found in compared:
            for wanted, actual in zip(outputs.values(), found):
                assert actual.shape == wanted.shape
                if set(np.unique(wanted)) <= {0.0, 1.0}:
                    assert np.array_equal(actual, wanted)
                else:
                    assert np.allclose(actual, wanted, rtol=1e-4, atol=1e-5)
        return graph, dict(zip(names, results))

    return run


def assert_same_nir(wanted: Any, found: Any) -> None:
    """Equal nodes, in order, with equal parameters, element types, shapes, metadata and edges."""
    assert list(found.nodes) == list(wanted.nodes)
    assert [tuple(edge) for edge in found.edges] == [tuple(edge) for edge in wanted.edges]
    assert str(found.metadata) == str(wanted.metadata)
    for name, node in wanted.nodes.items():
        other = found.nodes[name]
        assert type(other) is type(node), name
        if isinstance(node, nir.NIRGraph):
            assert_same_nir(node, other)
            continue
        for field, value in vars(node).items():
            if field in ("input_type", "output_type"):
                (key, shape), (other_key, other_shape) = *value.items(), *getattr(other, field).items()
                assert key == other_key
                assert shape is None or np.array_equal(shape, other_shape), (name, field)
            elif field == "metadata":
                assert str(value) == str(other.metadata)
            elif field == "input_shape" and value is None:
                assert other.input_shape is not None
            else:
                assert np.array_equal(value, getattr(other, field)), (name, field)
                assert np.asarray(value).dtype == np.asarray(getattr(other, field)).dtype, (name, field)


@pytest.fixture(name="assert_same_nir")
def assert_same_nir_fixture() -> Callable[[Any, Any], None]:
    return assert_same_nir


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture
def networks(random: np.random.Generator) -> dict[str, Any]:
    """Whole networks: a layer of LIF, recurrent CubaLIF, a convolutional network, and others."""

    def normal(*shape: int) -> Array:
        return random.standard_normal(shape).astype(np.float32)

    def uniform(low: float, high: float, *shape: int) -> Array:
        return random.uniform(low, high, shape)

    lif = nir.NIRGraph.from_list(
        nir.Affine(normal(5, 3), normal(5)),
        nir.LIF(
            tau=uniform(2e-4, 2e-3, 5), r=uniform(1, 3, 5), v_leak=uniform(-0.1, 0.1, 5),
            v_threshold=uniform(0.2, 0.5, 5), v_reset=uniform(-0.2, 0.1, 5),
        ),
    )  # fmt: skip
    cuba = nir.NIRGraph(
        nodes={
            "input": nir.Input(np.array([3])),
            "fc": nir.Linear(normal(6, 3)),
            "lif": nir.CubaLIF(
                tau_syn=uniform(2e-4, 9e-4, 6), tau_mem=uniform(3e-4, 2e-3, 6), r=uniform(1, 4, 6),
                v_leak=uniform(-0.1, 0.1, 6), v_threshold=uniform(0.1, 0.5, 6),
                v_reset=uniform(-0.2, 0, 6), w_in=uniform(0.5, 2, 6),
            ),
            "w_rec": nir.Affine(normal(6, 6) * 0.4, normal(6) * 0.1),
            "output": nir.Output(np.array([6])),
        },
        edges=[("input", "fc"), ("fc", "lif"), ("lif", "w_rec"), ("w_rec", "lif"), ("lif", "output")],
    )  # fmt: skip
    convolutional = nir.NIRGraph.from_list(
        nir.Input(np.array([2, 9, 10])),
        nir.Conv2d(None, normal(4, 2, 3, 3), (2, 1), (1, 0), (1, 2), 1, normal(4)),
        nir.IF(r=np.full((4, 5, 6), 1e4, np.float32), v_threshold=np.ones((4, 5, 6), np.float32)),
        nir.SumPool2d(np.array([2, 3]), np.array([2, 2]), np.array([1, 0])),
        nir.Flatten(None, 0, -1),
        nir.Linear(normal(3, 24)),
        nir.LI(tau=np.full(3, 1e-3), r=np.ones(3), v_leak=np.full(3, 0.25)),
    )
    return {"lif": lif, "cuba": cuba, "convolutional": convolutional}
