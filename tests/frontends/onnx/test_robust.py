"""Old opsets, sparse data, and models that are damaged or multiply."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from plait.frontends.onnx import lower_onnx, lowering
from plait.ir import LoweringError, PlaitError


def floats(name: str, *shape: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def model_of(
    nodes: list[onnx.NodeProto], inputs: list, outputs: list, opset: int = 13, **parts: list
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "net", inputs, outputs, parts.get("initializer", []))
    graph.sparse_initializer.extend(parts.get("sparse", []))
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=parts.get("functions", []), ir_version=8)


def test_opset_6_is_converted(run, rng):
    """`broadcast` and `axis` are attributes before opset 7."""
    a, b = rng.standard_normal((2, 3, 4)).astype(np.float32), np.asarray([1, 2, 3], np.float32)
    node = helper.make_node("Add", ["a", "b"], ["y"], broadcast=1, axis=1)
    model = model_of([node], [floats("a", 2, 3, 4)], [floats("y", 2, 3, 4)], 6,
                     initializer=[numpy_helper.from_array(b, "b")])  # fmt: skip
    model.graph.input.append(floats("b", 3))  # before IR version 4 initialisers are inputs
    model.ir_version = 3
    (y,) = run(lower_onnx(model), {"a": a})
    np.testing.assert_allclose(y, a + b[:, None])


def test_slopes_of_opset_6_run_along_the_channels(run, rng):
    a, slope = rng.standard_normal((2, 3, 3)).astype(np.float32), np.asarray([0.1, 0.2, 0.3], np.float32)
    node = helper.make_node("PRelu", ["a", "slope"], ["y"])
    model = model_of([node], [floats("a", 2, 3, 3)], [floats("y", 2, 3, 3)], 6,
                     initializer=[numpy_helper.from_array(slope, "slope")])  # fmt: skip
    model.graph.input.append(floats("slope", 3))
    model.ir_version = 3
    (y,) = run(lower_onnx(model), {"a": a})
    np.testing.assert_allclose(y, np.where(a > 0, a, a * slope[:, None]), rtol=1e-6)


def sparse(name: str, values: list[float], places: list, dims: list[int]) -> onnx.SparseTensorProto:
    indices = np.asarray(places, np.int64)
    return helper.make_sparse_tensor(
        helper.make_tensor(name, TensorProto.FLOAT, [len(values)], values),
        numpy_helper.from_array(indices, f"{name}.places"),
        dims,
    )


@pytest.mark.parametrize("places", [[1, 5], [[0, 1], [1, 2]]])
def test_sparse_initialiser_and_constant(run, places):
    nodes = [
        helper.make_node("Constant", [], ["c"], sparse_value=sparse("v", [3.0, 4.0], places, [2, 3])),
        helper.make_node("Add", ["a", "w"], ["s"]),
        helper.make_node("Mul", ["s", "c"], ["y"]),
    ]
    model = model_of(nodes, [floats("a", 2, 3)], [floats("y", 2, 3)],
                     sparse=[sparse("w", [1.0, 2.0], places, [2, 3])])  # fmt: skip
    (y,) = run(lower_onnx(model), {"a": np.ones((2, 3), np.float32)})
    np.testing.assert_array_equal(y, [[0, 6, 0], [0, 0, 12]])


def test_a_huge_sparse_tensor_is_refused():
    node = helper.make_node("Add", ["a", "w"], ["y"])
    model = model_of([node], [floats("a", 1)], [floats("y", 1 << 40)],
                     sparse=[sparse("w", [1.0], [7], [1 << 40])])  # fmt: skip
    with pytest.raises(LoweringError, match="made dense, of at most"):
        lower_onnx(model)


def test_functions_that_multiply_are_stopped(monkeypatch):
    monkeypatch.setattr(lowering, "NODE_LIMIT", 1000)
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid("own", 1)]
    functions = []
    for level in range(30):
        name, domain = (f"f{level - 1}", "own") if level else ("Relu", "")
        pair = [
            helper.make_node(name, ["x"], ["y"], domain=domain),
            helper.make_node(name, ["y"], ["z"], domain=domain),
        ]
        functions.append(helper.make_function("own", f"f{level}", ["x"], ["z"], pair, opsets))
    node = helper.make_node("f29", ["a"], ["b"], domain="own")
    with pytest.raises(LoweringError, match="more than 1000 nodes come from functions and loops"):
        lower_onnx(model_of([node], [floats("a", 2)], [floats("b", 2)], functions=functions))


def test_a_function_that_calls_itself_is_refused():
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid("own", 1)]
    call = helper.make_node("f", ["x"], ["z"], domain="own")
    function = helper.make_function("own", "f", ["x"], ["z"], [call], opsets)
    node = helper.make_node("f", ["a"], ["b"], domain="own")
    with pytest.raises(LoweringError, match="recursive"):
        lower_onnx(model_of([node], [floats("a", 2)], [floats("b", 2)], functions=[function]))


NET = """
<ir_version: 8, opset_import: ["": 13]>
net (float[2,4] a, bool c) => (float[N,2] y) <int64[2] shape = {4, 2}, int64 rounds = {3}, bool go = {1},
    int64[1] axes = {1}, int64[2] repeats = {1, 2}, float[8] w = {1, 2, 3, 4, 5, 6, 7, 8}> {
  wide = Tile(a, repeats)
  biased = Add(wide, w)
  s = Loop(rounds, go, biased) <body = step (int64 i, bool g, float[2,8] t) => (bool k, float[2,8] u) {
    k = Identity(g)
    u = Mul(t, t)
  }>
  p = If(c) <then_branch = yes () => (float[2,8] q) { q = Relu(s) },
             else_branch = no () => (float[2,8] r) { r = Neg(s) }>
  half, other = Split<axis = 1>(p)
  sum = ReduceSum<keepdims = 1>(other, axes)
  mixed = Sub(half, sum)
  y = Reshape(mixed, shape)
}
"""


def test_damaged_bytes_raise_errors_of_plait_only(rng, tmp_path):
    intact = parser.parse_model(NET).SerializeToString()
    path = tmp_path / "net.onnx"
    path.write_bytes(intact)
    lower_onnx(path).verify()
    refused = 0
    for _ in range(300):
        damaged = bytearray(intact)
        for place in rng.integers(0, len(damaged), int(rng.integers(1, 5))):
            damaged[place] = int(rng.integers(0, 256))
        path.write_bytes(damaged[: None if rng.random() < 0.8 else int(rng.integers(1, len(damaged)))])
        try:
            lower_onnx(path)
        except PlaitError:
            refused += 1
    assert refused > 200


@pytest.mark.parametrize("mode", ["TF", "IDF", "TFIDF"])
@pytest.mark.parametrize("skips", [0, 3])
def test_ngrams(check, rng, mode, skips):
    check(
        "TfIdfVectorizer",
        {"x": rng.integers(1, 6, (3, 12)).astype(np.int64)},
        opset=9,
        mode=mode,
        min_gram_length=1,
        max_gram_length=2,
        max_skip_count=skips,
        pool_int64s=[2, 3, 5, 1, 2, 3, 4, 5, 5],
        ngram_counts=[0, 3],
        ngram_indexes=[0, 2, 1, 3, 4, 5],
        weights=[1.0, 2.0, 0.5, 1.5, 3.0, 4.0],
    )


def test_dropout_in_training_keeps_by_chance(run):
    node = helper.make_node("Dropout", ["a", "ratio", "training"], ["y", "mask"], seed=5)
    constants = [
        numpy_helper.from_array(np.asarray(0.25, np.float32), "ratio"),
        numpy_helper.from_array(np.asarray(True), "training"),
    ]
    outputs = [floats("y", 40, 50), helper.make_tensor_value_info("mask", TensorProto.BOOL, (40, 50))]
    model = model_of([node], [floats("a", 40, 50)], outputs, initializer=constants)
    y, mask = run(lower_onnx(model), {"a": np.full((40, 50), 3, np.float32)})
    np.testing.assert_array_equal(y, np.where(mask, np.float32(4), 0))
    assert 0.7 < mask.mean() < 0.8
