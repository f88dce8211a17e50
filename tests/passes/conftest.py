"""A hypothesis strategy for random well-typed graphs, and the inputs to run them on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from plait.ir import Constant, DType, Graph, Loc, TensorType, Value
from plait.ir import types as t
from plait.ir.interpret import interpret
from plait.ir.ops import core, linalg, nn
from plait.ir.types import SpikeType

ACTIVATIONS = (
    nn.Relu,
    nn.Relu6,
    nn.LeakyRelu,
    nn.Sigmoid,
    nn.Tanh,
    nn.Gelu,
    nn.Silu,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.Softplus,
)


@dataclass
class RandomGraph:
    """A graph and what to run it on."""

    graph: Graph
    inputs: dict[str, torch.Tensor]
    rtol: float
    atol: float


class Builder:
    """Adds random ops; every choice goes through `draw`, so that hypothesis can shrink it."""

    def __init__(self, draw: Callable[[st.SearchStrategy], object], dtype: DType) -> None:
        self.draw = draw
        self.dtype = dtype
        self.graph = Graph()
        self.batch = self.graph.declare_dim("B", 1, 8)
        self.random = np.random.default_rng(draw(st.integers(0, 2**16)))
        self.count = 0
        self.values: list[Value] = []

    def pick(self, *options: object) -> object:
        return self.draw(st.sampled_from(options))

    def chance(self) -> bool:
        return self.draw(st.booleans())  # type: ignore[return-value]

    def constant(self, *shape: int, low: float = -0.7, high: float = 0.7) -> Constant:
        data = self.random.uniform(low, high, shape).astype(self.dtype.numpy)
        if self.draw(st.integers(0, 9)) == 0:
            data = np.full(shape, self.pick(0.0, 1.0, -1.0), self.dtype.numpy)
        self.count += 1
        return self.graph.add_constant(f"c{self.count}", data)

    def full(self, *shape: int, value: float | None = None) -> Value:
        number = self.pick(0.0, 1.0, -1.0, 0.5, 6.0) if value is None else value
        return self.emit(core.Full(value=number, out=TensorType(self.dtype, shape)))  # type: ignore[arg-type]

    def emit(self, op: object) -> Value:
        self.count += 1
        loc = Loc.at(f"layer{self.count}", "net.py", self.count)
        return self.graph.emit(op, name=f"v{self.count}", loc=loc)  # type: ignore[arg-type]

    # -- steps -----------------------------------------------------------------
    def step(self) -> None:
        x = self.values[self.draw(st.integers(0, len(self.values) - 1))]  # type: ignore[index]
        rank = x.shaped.rank
        steps = [self.activation, self.arithmetic, self.identity, self.movement, self.limit, self.join]
        steps += [self.pair, self.repeat]
        if rank == 4:
            steps += [self.conv, self.conv, self.conv, self.batch_norm, self.batch_norm, self.pool, self.bias]
        if rank == 3:
            steps += [self.conv1d, self.batch_norm, self.linear, self.matmul]
        if rank == 2:
            steps += [self.linear, self.matmul, self.batch_norm, self.bias]
        self.values.append(self.draw(st.sampled_from(steps))(x))  # type: ignore[operator]

    def activation(self, x: Value) -> Value:
        kind = self.pick(*ACTIVATIONS)
        if kind is nn.LeakyRelu:
            return self.emit(nn.LeakyRelu(x, alpha=self.pick(0.01, 0.2)))  # type: ignore[arg-type]
        if kind is nn.Gelu:
            return self.emit(nn.Gelu(x, approximate=self.pick("none", "tanh")))  # type: ignore[arg-type]
        if kind is nn.Sigmoid and self.chance():
            gate = self.emit(nn.Sigmoid(x))
            return self.emit(core.Mul(x, gate) if self.chance() else core.Mul(gate, x))
        return self.emit(kind(x))  # type: ignore[operator]

    def arithmetic(self, x: Value) -> Value:
        kind = self.pick(core.Add, core.Sub, core.Mul)
        other = self.full() if self.chance() else self.constant(*self.trailing(x))
        if self.chance():
            other = self.emit(core.Mul(other, self.full(value=0.5)))
        left, right = (x, other) if self.chance() else (other, x)
        act = self.pick("none", "none", "relu")
        return self.emit(kind(left, right, act=act))  # type: ignore[operator]

    def trailing(self, x: Value) -> tuple[int, ...]:
        """The last dim of x, if it is a number, else nothing."""
        last = x.shaped.shape[-1]
        return (last,) if isinstance(last, int) else ()

    def pair(self, x: Value) -> Value:
        others = [value for value in self.values if value.type == x.type]
        y = others[self.draw(st.integers(0, len(others) - 1))]  # type: ignore[index]
        if self.chance():
            y = self.emit(core.Neg(y))
        kind = self.pick(core.Add, core.Mul, core.Maximum, core.Minimum)
        return self.emit(kind(x, y))  # type: ignore[operator]

    def repeat(self, x: Value) -> Value:
        """An op that is there already, for common-subexpression."""
        op = x.producer
        return x if op is None or op.regions else self.emit(op.evolve())

    def identity(self, x: Value) -> Value:
        kind = x.shaped
        choice = self.pick(
            "reshape", "transpose", "broadcast", "slice", "concat", "pad", "cast", "neg", "where"
        )
        if choice == "reshape":
            return self.emit(core.Reshape(x, out=kind))
        if choice == "transpose":
            order = tuple(reversed(range(kind.rank)))
            return self.emit(
                core.Transpose(self.emit(core.Transpose(x, permutation=order)), permutation=order)
            )
        if choice == "broadcast":
            return self.emit(core.Broadcast(x, out=kind))
        if choice == "slice":
            stops = (kind.shape[0],)
            return self.emit(core.Slice(x, axes=(0,), starts=(0,), stops=stops))
        if choice == "concat":
            return self.emit(core.Concat((x,), axis=0))
        if choice == "pad":
            return self.emit(core.Pad(x, before=(0,) * kind.rank, after=(0,) * kind.rank))
        if choice == "cast":
            wide = self.emit(core.Cast(x, out=TensorType(t.f64, kind.shape)))
            return self.emit(core.Cast(wide, out=TensorType(self.dtype, kind.shape)))
        if choice == "where":
            condition = self.emit(core.Full(value=self.chance(), out=TensorType(t.boolean, ())))
            return self.emit(core.Where(condition, x, self.emit(core.Neg(x))))
        return self.emit(core.Neg(self.emit(core.Neg(x))))

    def movement(self, x: Value) -> Value:
        kind = x.shaped
        if kind.rank == 2:
            return self.emit(core.Reshape(x, out=kind.with_shape((kind.shape[0], 1, kind.shape[1]))))
        if self.chance():
            tail = kind.shape[1] * kind.shape[2] if kind.rank == 3 else kind.shape[2] * kind.shape[3]
            shape = (kind.shape[0], tail) if kind.rank == 3 else (*kind.shape[:2], tail)
            return self.emit(core.Reshape(x, out=kind.with_shape(shape)))
        if self.chance():
            axes = tuple(range(2, kind.rank)) if kind.rank > 2 else (1,)
            return self.emit(core.Mean(x, axes=axes))
        order = (0, *self.draw(st.permutations(range(1, kind.rank))))  # type: ignore[misc]
        return self.emit(core.Transpose(x, permutation=order))

    def limit(self, x: Value) -> Value:
        if self.chance():
            kind = self.pick(core.Maximum, core.Minimum)
            return self.emit(kind(x, self.full()))  # type: ignore[operator]
        low, high = self.pick((0.0, 6.0), (0.0, None), (None, 0.5), (-1.0, 1.0), (None, None))  # type: ignore[misc]
        return self.emit(core.Clamp(x, low=low, high=high))

    def join(self, x: Value) -> Value:
        if x.shaped.shape[1] > 24:  # type: ignore[operator]
            return self.emit(core.Slice(x, axes=(1,), starts=(1,), stops=(9,)))
        others = [value for value in self.values if value.type == x.type]
        return self.emit(core.Concat((x, others[-1]), axis=self.pick(1, 1 - x.shaped.rank)))  # type: ignore[arg-type]

    def conv(self, x: Value) -> Value:
        channels = x.shaped.shape[1]
        assert isinstance(channels, int)
        groups = self.pick(*(g for g in (1, 2, channels) if channels % g == 0))
        out = groups * self.draw(st.integers(1, 3))  # type: ignore[operator]
        bias = self.constant(out) if self.chance() else None
        if self.chance():
            weight = self.constant(out, channels // groups, 3, 3)  # type: ignore[operator]
            stride = (self.pick(1, 2),) * 2
            return self.emit(nn.Conv2d(x, weight, bias, stride=stride, pad=(1, 1), groups=groups))  # type: ignore[arg-type]
        weight = self.constant(channels, out // groups, 1, 1)
        return self.emit(nn.ConvTranspose2d(x, weight, bias, groups=groups))  # type: ignore[arg-type]

    def conv1d(self, x: Value) -> Value:
        channels = x.shaped.shape[1]
        assert isinstance(channels, int)
        return self.emit(nn.Conv1d(x, self.constant(3, channels, 3), pad=(1,)))

    def batch_norm(self, x: Value) -> Value:
        channels = x.shaped.shape[1]
        assert isinstance(channels, int)
        statistics = [self.constant(channels), self.constant(channels, low=0.5, high=2.0)]
        if not (statistics[1].data > 0).all():
            return x
        scale = self.constant(channels, low=0.5, high=1.5) if self.chance() else None
        bias = self.constant(channels) if self.chance() else None
        return self.emit(nn.BatchNorm(x, *statistics, scale, bias))

    def pool(self, x: Value) -> Value:
        if self.chance():
            return self.emit(nn.MaxPool2d(x, kernel=(1, 1)))
        return self.emit(nn.AvgPool2d(x, kernel=(3, 3), pad=(1, 1)))

    def bias(self, x: Value) -> Value:
        channels = x.shaped.shape[1]
        assert isinstance(channels, int)
        shape = (channels, 1, 1) if x.shaped.rank == 4 else (channels,)
        shape = (1, *shape) if self.chance() else shape
        kind = self.pick(core.Add, core.Sub, core.Mul)
        return self.emit(kind(x, self.constant(*shape)))  # type: ignore[operator]

    def linear(self, x: Value) -> Value:
        features = x.shaped.shape[-1]
        assert isinstance(features, int)
        bias = self.constant(4) if self.chance() else None
        return self.emit(nn.Linear(x, self.constant(4, features), bias))

    def matmul(self, x: Value) -> Value:
        features = x.shaped.shape[-1]
        assert isinstance(features, int)
        if self.chance():
            return self.emit(linalg.Matmul(x, self.constant(features, 4)))
        right = self.emit(core.Transpose(self.constant(4, features), permutation=(1, 0)))
        return self.emit(linalg.Matmul(x, right))


@st.composite
def random_graphs(draw: Callable[[st.SearchStrategy], object], steps: int = 12) -> RandomGraph:
    dtype = draw(st.sampled_from((t.f64, t.f64, t.f32)))
    build = Builder(draw, dtype)  # type: ignore[arg-type]
    size = 4
    build.values.append(build.graph.add_input("image", TensorType(dtype, (build.batch, 2, size, size))))  # type: ignore[arg-type]
    build.values.append(build.graph.add_input("rows", TensorType(dtype, (build.batch, 5))))  # type: ignore[arg-type]
    for _ in range(draw(st.integers(1, steps))):  # type: ignore[arg-type]
        build.step()
    chosen = draw(st.lists(st.sampled_from(build.values), max_size=2, unique=True))
    build.graph.set_outputs([build.values[-1], *chosen])  # type: ignore[misc]
    batch = draw(st.integers(1, 3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))  # type: ignore[arg-type]
    kind = torch.float64 if dtype == t.f64 else torch.float32
    inputs = {
        "image": torch.randn(batch, 2, size, size, generator=generator, dtype=kind),  # type: ignore[arg-type]
        "rows": torch.randn(batch, 5, generator=generator, dtype=kind),  # type: ignore[arg-type]
    }
    rtol, atol = (1e-9, 1e-9) if dtype == t.f64 else (2e-3, 2e-4)
    return RandomGraph(build.graph, inputs, rtol, atol)


@pytest.fixture(scope="session")
def graph_strategy() -> st.SearchStrategy[RandomGraph]:
    """Random graphs of up to 12 steps."""
    return random_graphs()


@pytest.fixture(autouse=True, scope="session")
def _two_threads() -> None:
    torch.set_num_threads(2)


def _run(graph: Graph, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    inputs = []
    for value in graph.inputs:
        assert isinstance(value.type, (TensorType, SpikeType))
        shape = tuple(dim if isinstance(dim, int) else 3 for dim in value.type.shape)
        if isinstance(value.type, SpikeType):
            inputs.append(random.random(shape) < 0.3)
            continue
        inputs.append(random.normal(size=shape, scale=3).astype(value.type.dtype.numpy))
    return [np.asarray(tensor.to(torch.float64)) for tensor in interpret(graph, inputs)]


def _assert_same(before: Graph, after: Graph) -> None:
    for old, new in zip(_run(before), _run(after), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-4, atol=1e-5)


@pytest.fixture
def assert_same() -> Callable[[Graph, Graph], None]:
    """Fails unless two graphs give the same outputs on random inputs, with symbolic dims at 3."""
    return _assert_same
