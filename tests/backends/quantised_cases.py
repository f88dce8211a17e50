"""Products of quantised operands, and of weights of integers under floating-point operands, for both targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import plait
from plait.ir import Graph, QuantType, TensorType
from plait.ir import types as t
from plait.ir.ops import linalg, nn

#: Shapes of both operands of matrix products: depths and columns that fill chunks, words, and neither.
SHAPES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "whole chunks": ((2, 3, 19, 32), (2, 3, 32, 48)),
    "odd depth": ((1, 2, 37, 21), (1, 2, 21, 64)),
    "odd columns": ((2, 3, 17, 64), (1, 3, 64, 13)),
    "one matrix": ((5, 70), (70, 34)),
    "one word": ((2, 5, 4), (2, 4, 3)),
}
#: Names of shapes and zero points of both operands: all shapes, and all kinds of zero points.
PAIRS = [
    *((name, (-3, 127)) for name in SHAPES),
    *(("odd depth", zeros) for zeros in ((0, 0), (-128, 0), (0, 5))),
]


def grid(
    shape: Sequence[Any], zero_point: int = 0, *, signed: bool = True, bits: int = 8, scale: float = 0.02
) -> QuantType:
    """A quantised type with one scale."""
    return QuantType(bits, signed, scale, tuple(shape), zero_point=zero_point)


def stored(kind: QuantType, seed: int) -> np.ndarray:
    """Stored integers over the whole range, its ends included."""
    low, high = kind.range
    random = np.random.default_rng(seed)
    found = random.integers(low, high + 1, kind.shape).astype(kind.dtype.numpy)
    ends = random.random(kind.shape) < 0.2
    return np.where(ends, random.choice(np.array([low, high], found.dtype), kind.shape), found)


def activations(
    left: QuantType, right: QuantType, out: QuantType | None = None, **attributes: Any
) -> tuple[Graph, dict[str, np.ndarray]]:
    """A matrix product of two inputs, and arrays for them."""
    graph = Graph("activations")
    a, b = graph.add_input("a", left), graph.add_input("b", right)
    graph.set_outputs([graph.emit(linalg.Matmul(a, b, out=out, **attributes))])
    graph.verify()
    return graph, {"a": stored(left, 1), "b": stored(right, 2)}


def scaled_weight(
    graph: Graph,
    array: np.ndarray,
    *,
    bits: int,
    signed: bool = True,
    zero_point: int = 0,
    axis: int | None = None,
    group: int | None = None,
) -> Any:
    """A constant of stored integers with random scales."""
    random = np.random.default_rng(5)
    if axis is None:
        scale: float | str = 0.013
    else:
        shape = [array.shape[axis]]
        if group is not None:
            shape = list(array.shape)
            shape[axis] //= group
        scale = graph.add_constant("scale", random.uniform(0.01, 0.03, shape).astype(np.float32)).name
    kind = QuantType(bits, signed, scale, array.shape, zero_point=zero_point, axis=axis, group=group)
    return graph.add_constant("weight", array, kind)


def weight_only(
    rows: Sequence[Any],
    depth: int,
    columns: int,
    *,
    element: Any = t.f32,
    bits: int = 4,
    signed: bool = True,
    zero_point: int = 0,
    axis: int | None = 0,
    group: int | None = None,
    transposed: bool = False,
    act: str = "relu",
) -> tuple[Graph, dict[str, np.ndarray]]:
    """A dense layer in floating point with a weight of integers, or a matrix product where `transposed`.

    Args:
        axis: of the weight as [columns, depth].
    """
    graph = Graph("weight_only")
    x = graph.add_input("x", TensorType(element, (*rows, depth)))
    low, high = QuantType(bits, signed, 1.0, ()).range
    array = (
        np.random.default_rng(3).integers(low, high + 1, (columns, depth)).astype("i1" if signed else "u1")
    )
    place = axis
    if transposed:
        array, place = array.transpose().copy(), None if axis is None else 1 - axis
    weight = scaled_weight(
        graph, array, bits=bits, signed=signed, zero_point=zero_point, axis=place, group=group
    )
    if transposed:
        result = graph.emit(linalg.Matmul(x, weight, act=act))
    else:
        bias = np.random.default_rng(4).standard_normal(columns).astype(element.numpy)
        result = graph.emit(nn.Linear(x, weight, graph.add_constant("bias", bias), act=act))
    graph.set_outputs([result])
    graph.verify()
    given = np.random.default_rng(6).standard_normal((*rows, depth)).astype(element.numpy)
    return graph, {"x": given}


def agree(results: Any, graph: plait.Graph, inputs: dict[str, np.ndarray], tolerance: float = 0.0) -> None:
    """Assert that results are those of the interpreter; `tolerance` is relative to the largest of them."""
    results = results if isinstance(results, tuple) else (results,)
    for found, wanted in zip(results, plait.interpret(graph, inputs), strict=True):
        exact = wanted.float().numpy() if wanted.dtype.is_floating_point else wanted.numpy()
        got = np.asarray(found)
        assert got.shape == exact.shape
        if tolerance:
            bound = tolerance * float(np.abs(exact).max())
            np.testing.assert_allclose(got.astype(np.float32), exact, rtol=0, atol=bound)
        else:
            np.testing.assert_array_equal(got, exact)
