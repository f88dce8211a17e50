"""Small Keras models and TensorFlow functions, lowered and compared with TensorFlow's own results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import plait
from plait.frontends.tensorflow import lower_tensorflow
from plait.frontends.tensorflow.quiet import quiet
from plait.ir import Graph, Op
from plait.ir.ops import core
from plait.ir.ops.nn.conv import Convolution


@pytest.fixture(scope="session")
def tf() -> Any:
    """TensorFlow, imported when the first test needs it; tests are skipped where it is not installed."""
    with quiet():
        return pytest.importorskip("tensorflow")


@pytest.fixture(scope="session")
def keras(tf: Any) -> Any:
    return pytest.importorskip("keras")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def model(keras: Any) -> Callable[..., Any]:
    """A function from an input shape and layers to a sequential graph of layers with perturbed weights."""

    def build(shape: Sequence[int | None], *layers: Any, name: str = "net", dtype: str = "float32") -> Any:
        x = y = keras.Input(shape, name="x", dtype=dtype)
        for layer in layers:
            y = layer(y)
        return perturbed(keras.Model(x, y, name=name))

    return build


def perturbed(model: Any, seed: int = 0) -> Any:
    """Give every weight another value, so that none of them is neutral."""
    generator = np.random.default_rng(seed)
    for variable in model.variables:
        array = np.asarray(variable)
        if array.dtype != np.float32:
            continue
        noise = generator.standard_normal(array.shape).astype(np.float32)
        positive = variable.path.endswith(("moving_variance", "gamma"))
        variable.assign(np.exp(0.3 * noise) if positive else array + 0.2 * noise)
    return model


@pytest.fixture
def check(tf: Any) -> Callable[..., Graph]:
    """Lower, round-trip through text, run, and compare with the source; returns the graph."""

    def run(source: Any, *arrays: np.ndarray, cpu: bool = False, rtol: float = 1e-4, **options: Any) -> Graph:
        graph = lower_tensorflow(source, **options)
        graph.verify()
        assert plait.parse(str(graph)) == graph
        arguments = [np.asarray(array) for array in arrays]
        multiple = hasattr(source, "call") and len(arguments) > 1
        expected = tf.nest.flatten(source(arguments) if multiple else source(*arguments))
        compare(plait.interpret(graph, arguments), expected, rtol)
        if cpu:
            results = plait.compile(graph, target="cpu", threads=1, isolate=False, cache=False)(*arguments)
            compare(results if isinstance(results, tuple) else (results,), expected, rtol)
        return graph

    return run


def compare(results: Sequence[Any], expected: Sequence[Any], rtol: float = 1e-4) -> None:
    """Assert that element types, shapes and numbers agree."""
    assert len(results) == len(expected)
    for result, wanted in zip(results, expected, strict=True):
        actual, reference = np.asarray(result), np.asarray(wanted)
        assert actual.dtype == reference.dtype
        assert actual.shape == reference.shape
        np.testing.assert_allclose(actual, reference, rtol=rtol, atol=rtol * 0.1)


@pytest.fixture
def between_convolutions() -> Callable[[Graph], list[str]]:
    """A function to the names of the transposes that have a convolution in front of them and one behind."""
    return _between_convolutions


def _between_convolutions(graph: Graph) -> list[str]:
    def touches(op: Op, next_ops: Callable[[Op], list[Op]]) -> bool:
        seen, pending = set(), [op]
        while pending:
            for other in next_ops(pending.pop()):
                if isinstance(other, Convolution):
                    return True
                if other not in seen:
                    seen.add(other)
                    pending.append(other)
        return False

    def readers(op: Op) -> list[Op]:
        return [user for value in op.results for user in value.users if isinstance(user, Op)]

    def producers(op: Op) -> list[Op]:
        return [value.producer for value in op.operands if value.producer is not None]

    moved = [op for op in graph.walk() if isinstance(op, core.Transpose)]
    return [op.results[0].name for op in moved if touches(op, readers) and touches(op, producers)]
