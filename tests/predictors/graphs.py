"""Small graphs that the predictor tests price."""

from __future__ import annotations

from plait.ir import Constant, Graph, Region, TensorType, Value
from plait.ir import types as t
from plait.ir.ops import core, linalg, nn


def constant(graph: Graph, name: str, *shape: int) -> Constant:
    """A constant without data; predictions read its type only."""
    return graph.add_constant(name, None, TensorType(t.f32, shape), content_hash="0" * 16)


def matmul(rows: int, depth: int, columns: int) -> Graph:
    """One product of two inputs."""
    graph = Graph("product")
    left = graph.add_input("left", TensorType(t.f32, (rows, depth)))
    right = graph.add_input("right", TensorType(t.f32, (depth, columns)))
    graph.set_outputs([graph.emit(linalg.Matmul(left, right), name="product")])
    return graph


def relu(count: int) -> Graph:
    """One elementwise op."""
    graph = Graph("relu")
    x = graph.add_input("x", TensorType(t.f32, (count,)))
    graph.set_outputs([graph.emit(nn.Relu(x), name="y")])
    return graph


def residual_net(*, high: int | None = 512, size: int = 32, name: str = "residual") -> Graph:
    """Convolution, norm, relu, a residual block, pooling and a dense layer, with a symbolic batch."""
    graph = Graph(name)
    batch = graph.declare_dim("B", 1, high)
    x = graph.add_input("image", TensorType(t.f32, (batch, 3, size, size)))

    def block(value: Value, number: int, channels_in: int, channels: int) -> Value:
        weight = constant(graph, f"conv{number}.weight", channels, channels_in, 3, 3)
        parts = [
            constant(graph, f"norm{number}.{part}", channels)
            for part in ("mean", "variance", "scale", "bias")
        ]
        y = graph.emit(nn.Conv2d(value, weight, pad=(1, 1)), name=f"conv{number}")
        return graph.emit(nn.BatchNorm(y, *parts), name=f"norm{number}")

    stem = graph.emit(nn.Relu(block(x, 1, 3, 32)), name="relu1")
    branch = block(graph.emit(nn.Relu(block(stem, 2, 32, 32)), name="relu2"), 3, 32, 32)
    joined = graph.emit(nn.Relu(graph.emit(core.Add(branch, stem), name="sum")), name="relu3")
    pooled = graph.emit(nn.AdaptiveAvgPool2d(joined, size=(1, 1)), name="pool")
    flat = graph.emit(core.Reshape(pooled, out=TensorType(t.f32, (batch, 32))), name="flat")
    dense = nn.Linear(flat, constant(graph, "fc.weight", 10, 32), constant(graph, "fc.bias", 10))
    graph.set_outputs([graph.emit(dense, name="logits")])
    return graph


def recurrent(steps: int) -> Graph:
    """A scan of `steps` dense layers over one state."""
    graph = Graph("recurrent")
    kind = TensorType(t.f32, (8, 64))
    state = graph.add_input("state", kind)
    weight = constant(graph, "weight", 64, 64)
    body = Region([Value(graph.fresh_name("h"), kind)])
    body.set_results([graph.emit(nn.Linear(body.params[0], weight), name="next", region=body)])
    graph.set_outputs([graph.emit(core.Scan((state,), carries=1, length=steps, body=body), name="last")])
    return graph
