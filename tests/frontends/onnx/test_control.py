"""If, Loop and Scan, in the interpreter, against onnx's reference evaluator."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser
from onnx.reference import ReferenceEvaluator

from plait.frontends.onnx import lower_onnx
from plait.ir import Graph, LoweringError, parse
from plait.ir.ops import core

ALWAYS = np.asarray(True)
BRANCHES = """
<ir_version: 8, opset_import: ["": 13]>
net (bool c, float[2,3] a) => (float[2,3] y, float[2,3] z) {
  scaled = Mul(a, two)
  y, z = If(c) <
    then_branch = yes () => (float[2,3] p, float[2,3] q) { p = Relu(scaled) q = Neg(a) },
    else_branch = no () => (float[2,3] r, float[2,3] s) <float[1] five = {5.0}> {
      r = Add(scaled, five)
      s = Identity(a)
    }>
}
"""

COUNTED = """
<ir_version: 8, opset_import: ["": 13]>
net (float[3] a) => (float[3] last, float[N,3] all) {
  last, all = Loop(rounds, always, a) <body = step (int64 i, bool go, float[3] s)
    => (bool stay, float[3] t, float[3] shown) {
      stay = Identity(go)
      number = Cast<to = 1>(i)
      t = Add(s, number)
      shown = Mul(t, a)
  }>
}
"""

STOPPING = """
<ir_version: 8, opset_import: ["": 13]>
net (int64 rounds, bool go, float[3] a) => (float[3] last, float[N,3] all) {
  last, all = Loop(rounds, go, a) <body = step (int64 i, bool g, float[3] s)
    => (bool stay, float[3] t, float[3] shown) {
      t = Add(s, s)
      shown = Identity(t)
      total = ReduceSum<keepdims = 0>(t)
      stay = Less(total, hundred)
  }>
}
"""


def model_of(text: str, **constants: np.ndarray) -> onnx.ModelProto:
    """A model from ONNX text with initialisers."""
    model = parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in constants.items())
    return model


@pytest.fixture
def agrees(run):
    """Lower a model, compare with the reference evaluator, and return the graph."""

    def check(model: onnx.ModelProto, **feeds: np.ndarray) -> Graph:
        graph = lower_onnx(model)
        graph.verify()
        assert parse(str(graph)) == graph
        expected = ReferenceEvaluator(model).run(None, feeds)
        for actual, wanted in zip(run(graph, feeds), expected, strict=True):
            assert actual.shape == np.asarray(wanted).shape
            np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=1e-6)
        return graph

    return check


def ops_of(graph: Graph, kind: type) -> list:
    return [op for op in graph.walk() if isinstance(op, kind)]


@pytest.mark.parametrize("flag", [True, False])
def test_if_on_a_run_time_condition_reads_values_around_it(agrees, rng, flag):
    model = model_of(BRANCHES, two=np.asarray([2.0], np.float32))
    a = rng.standard_normal((2, 3)).astype(np.float32)
    graph = agrees(model, c=np.asarray(flag), a=a)
    assert len(ops_of(graph, core.Cond)) == 1


@pytest.mark.parametrize("flag", [True, False])
def test_if_on_a_constant_condition_is_one_branch(agrees, rng, flag):
    model = model_of(BRANCHES, two=np.asarray([2.0], np.float32), c=np.asarray(flag))
    del model.graph.input[0]
    graph = agrees(model, a=rng.standard_normal((2, 3)).astype(np.float32))
    assert not ops_of(graph, core.Cond)


def test_branches_of_different_shapes_are_refused():
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["": 13]>
        net (bool c, float[4] a) => (float[K] y) {
          y = If(c) <then_branch = t () => (float[4] r) { r = Relu(a) },
                     else_branch = e () => (float[8] s) { s = Concat<axis = 0>(a, a) }>
        }"""
    )
    with pytest.raises(LoweringError, match=r"f32\[4\] in the then branch and f32\[8\] in the other"):
        lower_onnx(model)


@pytest.mark.parametrize("rounds", [0, 1, 4])
def test_loop_of_known_rounds_is_a_scan(agrees, rng, rounds):
    model = model_of(COUNTED, rounds=np.asarray(rounds, np.int64), always=ALWAYS)
    if rounds == 0:  # the reference evaluator cannot stack nothing
        (last, stacked) = lower_onnx(model).outputs
        assert [str(last.type), str(stacked.type)] == ["f32[3]", "f32[0,3]"]
        return
    graph = agrees(model, a=rng.standard_normal(3).astype(np.float32))
    (scan,) = ops_of(graph, core.Scan)
    assert scan.length == rounds


@pytest.mark.parametrize(("rounds", "go"), [(3, True), (50, True)])
def test_loop_that_may_stop_is_a_while(agrees, rounds, go):
    model = model_of(STOPPING, hundred=np.asarray(100.0, np.float32))
    a = np.asarray([1.0, 2.0, 3.0], np.float32)
    graph = agrees(model, rounds=np.asarray(rounds, np.int64), go=np.asarray(go), a=a)
    (loop,) = ops_of(graph, core.While)
    assert loop.count is not None


def test_loop_that_never_starts_has_no_rounds(run):
    model = model_of(STOPPING, hundred=np.asarray(100.0, np.float32))
    a = np.ones(3, np.float32)
    feeds = {"rounds": np.asarray(7, np.int64), "go": np.asarray(False), "a": a}
    last, stacked = run(lower_onnx(model), feeds)
    np.testing.assert_array_equal(last, a)
    assert stacked.shape == (0, 3)


def test_loop_whose_state_grows_is_unrolled(agrees, rng):
    model = model_of(
        """<ir_version: 8, opset_import: ["": 13]>
        net (float[2] a) => (float[K] last) {
          last = Loop(rounds, always, a) <body = step (int64 i, bool go, float[n] s) => (bool stay, float[m] t) {
            stay = Identity(go)
            t = Concat<axis = 0>(s, a)
          }>
        }""",
        rounds=np.asarray(3, np.int64),
        always=ALWAYS,
    )
    graph = agrees(model, a=rng.standard_normal(2).astype(np.float32))
    assert str(graph.outputs[0].type) == "f32[8]"


def test_loop_whose_state_grows_without_end_is_refused():
    model = model_of(
        """<ir_version: 8, opset_import: ["": 13]>
        net (float[2] a) => (float[K] last) {
          last = Loop(rounds, always, a) <body = step (int64 i, bool go, float[n] s) => (bool stay, float[m] t) {
            stay = Identity(go)
            t = Concat<axis = 0>(s, a)
          }>
        }""",
        rounds=np.asarray(1 << 40, np.int64),
        always=ALWAYS,
    )
    with pytest.raises(LoweringError, match=r"enters the body as f32\[2\] and leaves it as f32\[4\]"):
        lower_onnx(model)


def test_loop_in_a_loop_and_a_constant_used_on_both_sides(agrees, rng):
    model = model_of(
        """<ir_version: 8, opset_import: ["": 13]>
        net (float[3] a) => (float[3] y) {
          last = Loop(rounds, always, a) <body = outer (int64 i, bool go, float[3] s) => (bool stay, float[3] t) {
            stay = Identity(go)
            u = Add(s, half)
            t = Loop(rounds, always, u) <body = inner (int64 j, bool g, float[3] v) => (bool st, float[3] w) {
              st = Identity(g)
              w = Mul(v, half)
            }>
          }>
          y = Add(last, half)
        }""",
        rounds=np.asarray(2, np.int64),
        always=ALWAYS,
        half=np.asarray(0.5, np.float32),
    )
    assert len(ops_of(agrees(model, a=rng.standard_normal(3).astype(np.float32)), core.Scan)) == 2


def scan_model(
    opset: int, directions: list[int], axes: list[int], shapes: list[list[int]]
) -> onnx.ModelProto:
    """A running sum that also gives out the sum times the element."""
    body = parser.parse_graph(
        "step (float[2] s, float[2] e) => (float[2] t, float[2] shown) { t = Add(s, e) shown = Mul(t, e) }"
    )
    node = helper.make_node(
        "Scan",
        ["state", "data"],
        ["last", "rows"],
        body=body,
        num_scan_inputs=1,
        scan_input_directions=directions[:1],
        scan_output_directions=directions[1:],
        scan_input_axes=axes[:1],
        scan_output_axes=axes[1:],
    )
    ports = [
        helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s)
        for n, s in zip(("state", "data", "last", "rows"), shapes, strict=True)
    ]
    graph = helper.make_graph([node], "net", ports[:2], ports[2:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


@pytest.mark.parametrize("directions", [[0, 0], [1, 0], [0, 1], [1, 1]])
@pytest.mark.parametrize("axes", [[0, 0], [1, 0], [1, -1]])
def test_scan_directions_and_axes(run, rng, directions, axes):
    data = rng.standard_normal((4, 2) if axes[0] == 0 else (2, 4)).astype(np.float32)
    state = rng.standard_normal(2).astype(np.float32)
    rows_shape = [4, 2] if axes[1] == 0 else [2, 4]
    model = scan_model(13, directions, axes, [[2], list(data.shape), [2], rows_shape])
    last, rows = run(lower_onnx(model), {"state": state, "data": data})
    elements = np.moveaxis(data, axes[0], 0)[:: -1 if directions[0] else 1]
    sums = state + np.cumsum(elements, axis=0)
    expected = (sums * elements)[:: -1 if directions[1] else 1]
    np.testing.assert_allclose(last, sums[-1], rtol=1e-5)
    np.testing.assert_allclose(rows, np.moveaxis(expected, 0, axes[1]), rtol=1e-5)


def test_scan_over_a_symbolic_length(run, rng):
    model = scan_model(13, [0, 0], [0, 0], [[2], [4, 2], [2], [4, 2]])
    graph = lower_onnx(model, dynamic={"data": {0: "T"}})
    assert str(graph.outputs[1].type) == "f32[T,2]"
    data = rng.standard_normal((7, 2)).astype(np.float32)
    last, _ = run(graph, {"state": np.zeros(2, np.float32), "data": data})
    np.testing.assert_allclose(last, data.sum(axis=0), rtol=1e-5)
