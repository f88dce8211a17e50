"""Operators on stored integers in the interpreter, against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from plait.frontends.onnx import lower_onnx
from plait.ir import Graph, QuantType, parse
from plait.ir.ops import linalg, nn

runtime = pytest.importorskip("onnxruntime")
MICROSOFT = "com.microsoft"
#: Signed weights stay below this, since the runtime's pairwise sums saturate at 16 bits on some processors.
WEIGHT = 64
Arrays = dict[str, np.ndarray]


def model_of(
    nodes: Sequence[onnx.NodeProto], feeds: Arrays, constants: Arrays, output: Any = np.uint8
) -> onnx.ModelProto:
    """A model whose result 'y' has any shape."""
    ports = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in feeds.items()
    ]
    result = helper.make_tensor_value_info("y", helper.np_dtype_to_tensor_dtype(np.dtype(output)), None)
    result.type.tensor_type.shape.SetInParent()
    initialisers = [numpy_helper.from_array(a, n) for n, a in constants.items()]
    graph = helper.make_graph(list(nodes), "net", ports, [result], initialisers)
    graph.output[0].type.tensor_type.ClearField("shape")
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid(MICROSOFT, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    inferred = onnx.shape_inference.infer_shapes(model)
    if inferred.graph.output[0].type.tensor_type.HasField("shape"):
        return inferred
    rank = next(iter(feeds.values())).ndim
    dims = [onnx.TensorShapeProto.Dimension(dim_param=f"d{i}") for i in range(rank)]
    model.graph.output[0].type.tensor_type.shape.dim.extend(dims)
    return model


@pytest.fixture
def agrees(run) -> Callable[..., Graph]:
    """Lower, compare with the runtime within `steps` quantisation steps, and return the graph."""

    def check(model: onnx.ModelProto, feeds: Arrays, steps: int = 0) -> Graph:
        options = runtime.SessionOptions()
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = runtime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        (expected,) = session.run(None, feeds)
        graph = lower_onnx(model)
        graph.verify()
        assert parse(str(graph)) == graph
        (found,) = run(graph, feeds)
        assert found.shape == expected.shape
        assert found.dtype == expected.dtype
        if expected.dtype.kind == "f":
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
        else:
            assert int(np.abs(found.astype(np.int64) - expected.astype(np.int64)).max()) <= steps
        return graph

    return check


def scalar(value: float, kind: Any = np.float32) -> np.ndarray:
    return np.asarray(value, kind)


def convolution(rng: np.random.Generator) -> Arrays:
    return {
        "x_scale": scalar(0.02),
        "x_zero": scalar(120, np.uint8),
        "w": rng.integers(-WEIGHT, WEIGHT, (6, 2, 3, 3)).astype(np.int8),
        "w_scale": rng.uniform(0.005, 0.02, 6).astype(np.float32),
        "w_zero": np.zeros(6, np.int8),
        "y_scale": scalar(0.11),
        "y_zero": scalar(110, np.uint8),
        "bias": rng.integers(-3000, 3000, 6).astype(np.int32),
    }


CONVOLUTION = ["q", "x_scale", "x_zero", "w", "w_scale", "w_zero", "y_scale", "y_zero", "bias"]


def test_convolution_between_quantised_types_is_one_op(agrees, rng):
    constants = convolution(rng)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["q"]),
        helper.make_node("QLinearConv", CONVOLUTION, ["y"], group=2, pads=[1, 1, 1, 1], strides=[2, 2]),
    ]
    feeds = {"x": rng.standard_normal((2, 4, 8, 8)).astype(np.float32)}
    graph = agrees(model_of(nodes, feeds, constants), feeds, steps=1)
    (conv,) = (op for op in graph.ops if isinstance(op, nn.Conv2d))
    assert isinstance(conv.x.type, QuantType)
    assert isinstance(conv.w.type, QuantType)
    assert isinstance(conv.result.type, QuantType)
    assert conv.w.type.axis == 0


def test_convolution_with_run_time_parameters(agrees, rng):
    constants = convolution(rng)
    given = {"q": rng.integers(0, 256, (1, 4, 6, 6)).astype(np.uint8)}
    given |= {n: constants.pop(n) for n in ("x_scale", "x_zero", "y_scale", "y_zero")}
    node = helper.make_node("QLinearConv", CONVOLUTION, ["y"], group=2)
    agrees(model_of([node], given, constants), given, steps=1)


@pytest.mark.parametrize("fixed", [True, False])
def test_matrix_product(agrees, rng, fixed):
    names = ["q", "x_scale", "x_zero", "w", "w_scale", "w_zero", "y_scale", "y_zero"]
    parameters = {
        "x_scale": scalar(0.02),
        "x_zero": scalar(128, np.uint8),
        "w_scale": scalar(0.01),
        "w_zero": scalar(5, np.int8),
        "y_scale": scalar(0.1),
        "y_zero": scalar(100, np.uint8),
    }
    weight = {"w": rng.integers(-WEIGHT, WEIGHT, (5, 7)).astype(np.int8)}
    nodes = [helper.make_node("QLinearMatMul", names, ["y"])]
    if fixed:
        nodes.insert(0, helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["q"]))
        feeds: Arrays = {"x": rng.standard_normal((3, 5)).astype(np.float32)}
        graph = agrees(model_of(nodes, feeds, {**parameters, **weight}), feeds, steps=1)
        (product,) = (op for op in graph.ops if isinstance(op, linalg.Matmul))
        assert isinstance(product.result.type, QuantType)
    else:
        feeds = {"q": rng.integers(0, 256, (3, 5)).astype(np.uint8), **parameters}
        agrees(model_of(nodes, feeds, weight), feeds, steps=1)


def test_integer_convolution_and_product(agrees, rng):
    x, w = rng.integers(0, 256, (1, 2, 5, 5)), rng.integers(0, 256, (3, 2, 3, 3))
    zeros = {"xz": scalar(7, np.uint8), "wz": scalar(130, np.uint8)}
    feeds = {"x": x.astype(np.uint8), "w": w.astype(np.uint8)}
    node = helper.make_node("ConvInteger", ["x", "w", "xz", "wz"], ["y"], pads=[1, 1, 1, 1])
    agrees(model_of([node], feeds, zeros, np.int32), feeds)
    feeds = {"x": x[0, 0].astype(np.uint8), "w": x[0, 1].astype(np.uint8)}
    node = helper.make_node("MatMulInteger", ["x", "w", "xz", "wz"], ["y"])
    agrees(model_of([node], feeds, zeros, np.int32), feeds)


def test_dynamic_quantisation(agrees, rng):
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    feeds = {"x": rng.standard_normal((3, 4)).astype(np.float32)}
    agrees(model_of(nodes, feeds, {}, np.float32), feeds)


PAIR = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"]
ONE = ["x", "xs", "xz", "ys", "yz"]


@pytest.mark.parametrize(
    ("kind", "names", "attributes"),
    [
        ("QLinearAdd", PAIR, {}),
        ("QLinearMul", PAIR, {}),
        ("QLinearSigmoid", ONE, {}),
        ("QLinearLeakyRelu", ONE, {"alpha": 0.2}),
        ("QLinearSoftmax", ONE, {"axis": 1, "opset": 13}),
        ("QLinearGlobalAveragePool", ONE, {}),
        ("QLinearAveragePool", ONE, {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("QLinearConcat", ["ys", "yz", "x", "xs", "xz", "w", "ws", "wz"], {"axis": 1}),
    ],
)
def test_operators_of_the_runtime(agrees, rng, kind, names, attributes):
    feeds = {n: rng.integers(0, 256, (2, 3, 4, 4)).astype(np.uint8) for n in ("x", "w") if n in names}
    constants = {
        "xs": scalar(0.03),
        "xz": scalar(128, np.uint8),
        "ws": scalar(0.02),
        "wz": scalar(120, np.uint8),
        "ys": scalar(1 / 256 if kind in ("QLinearSigmoid", "QLinearSoftmax") else 0.05),
        "yz": scalar(0 if kind in ("QLinearSigmoid", "QLinearSoftmax") else 100, np.uint8),
    }
    node = helper.make_node(kind, names, ["y"], domain=MICROSOFT, **attributes)
    agrees(model_of([node], feeds, constants), feeds, steps=1)
    if kind in ("QLinearAdd", "QLinearMul"):  # the others want constant parameters in the runtime
        feeds |= {n: constants.pop(n) for n in ("xs", "xz", "ys", "yz")}
        agrees(model_of([node], feeds, constants), feeds, steps=1)


def test_gemm_with_a_bias(agrees, rng):
    constants = {
        "w": rng.integers(-WEIGHT, WEIGHT, (7, 5)).astype(np.int8),
        "xs": scalar(0.02),
        "xz": scalar(128, np.uint8),
        "ws": scalar(0.01),
        "wz": scalar(0, np.int8),
        "bias": rng.integers(-500, 500, 7).astype(np.int32),
        "ys": scalar(0.08),
        "yz": scalar(120, np.uint8),
    }
    names = ["x", "xs", "xz", "w", "ws", "wz", "bias", "ys", "yz"]
    node = helper.make_node("QGemm", names, ["y"], domain=MICROSOFT, transB=1, alpha=1.0)
    feeds = {"x": rng.integers(0, 256, (3, 5)).astype(np.uint8)}
    agrees(model_of([node], feeds, constants), feeds, steps=1)


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16, np.int16])
def test_quantising_with_a_run_time_scale(agrees, rng, kind):
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])]
    feeds = {
        "x": (40 * rng.standard_normal((4, 5))).astype(np.float32),
        "s": scalar(0.3),
        "z": scalar(3, kind),
    }
    model = model_of(nodes, feeds, {}, kind)
    if np.dtype(kind).itemsize == 2:
        model.opset_import[0].version = 21
        model.ir_version = 10
    agrees(model, feeds)
