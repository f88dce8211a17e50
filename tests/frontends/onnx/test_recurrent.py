"""LSTM, GRU and RNN in the interpreter, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from plait.frontends.onnx import lower_onnx
from plait.ir import LoweringError, parse
from plait.ir.ops import core

runtime = pytest.importorskip("onnxruntime")

TIME, BATCH, INPUT, HIDDEN = 5, 3, 4, 2
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
#: Inputs by place; LSTM has two more.
NAMES = ["x", "w", "r", "b", "lengths", "h", "c", "p"]


def feeds_of(
    kind: str, directions: int, rng: np.random.Generator, chosen: str
) -> tuple[list[str], dict[str, np.ndarray]]:
    """Names of the inputs by place, empty where left out, and their arrays."""
    rows = GATES[kind] * HIDDEN
    shapes = {
        "x": (TIME, BATCH, INPUT),
        "w": (directions, rows, INPUT),
        "r": (directions, rows, HIDDEN),
        "b": (directions, 2 * rows),
        "h": (directions, BATCH, HIDDEN),
        "c": (directions, BATCH, HIDDEN),
        "p": (directions, 3 * HIDDEN),
    }
    wanted = [n if n in ("x", "w", "r") or n[0] in chosen else "" for n in NAMES]
    while not wanted[-1]:
        wanted.pop()
    feeds = {n: rng.standard_normal(shapes[n]).astype(np.float32) for n in wanted if n in shapes}
    if "lengths" in wanted:
        feeds["lengths"] = np.asarray([5, 1, 3], np.int32)
    return wanted, feeds


def model_of(kind: str, names: list[str], feeds: dict[str, np.ndarray], **attributes: Any) -> onnx.ModelProto:
    outputs = ["y", "last", "cell"][: 3 if kind == "LSTM" else 2]
    node = helper.make_node(kind, names, outputs, hidden_size=HIDDEN, **attributes)
    ports = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in feeds.items()
    ]
    results = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in outputs]
    for info in results:
        info.type.tensor_type.shape.SetInParent()
        rank = 4 if info.name == "y" else 3
        info.type.tensor_type.shape.dim.extend(
            onnx.TensorShapeProto.Dimension(dim_param=f"{info.name}{i}") for i in range(rank)
        )
    graph = helper.make_graph([node], "net", ports, results)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)


CASES: list[tuple[str, str, str, dict[str, Any]]] = [
    ("RNN", "forward", "", {}),
    ("RNN", "reverse", "blh", {"activations": ["Relu"]}),
    ("RNN", "bidirectional", "bh", {"activations": ["Affine", "Elu"], "activation_alpha": [0.5, 0.7],
                                    "activation_beta": [0.1]}),
    ("GRU", "forward", "bh", {}),
    ("GRU", "forward", "bh", {"linear_before_reset": 1}),
    ("GRU", "bidirectional", "blh", {"clip": 0.3}),
    ("GRU", "reverse", "bl", {"linear_before_reset": 1, "activations": ["HardSigmoid", "Softsign"]}),
    ("LSTM", "forward", "bhc", {}),
    ("LSTM", "reverse", "blhc", {"clip": 0.4}),
    ("LSTM", "bidirectional", "blhcp", {}),
    ("LSTM", "forward", "bp", {"input_forget": 1}),
    ("LSTM", "bidirectional", "b", {"activations": ["Sigmoid", "Softplus", "ScaledTanh"] * 2,
                                    "activation_alpha": [1.7, 1.6], "activation_beta": [0.6, 0.7]}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "direction", "chosen", "attributes"), CASES)
def test_agrees_with_the_runtime(run, rng, kind, direction, chosen, attributes):
    names, feeds = feeds_of(kind, 2 if direction == "bidirectional" else 1, rng, chosen)
    model = model_of(kind, names, feeds, direction=direction, **attributes)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, feeds)
    graph = lower_onnx(model)
    graph.verify()
    assert parse(str(graph)) == graph
    assert sum(isinstance(op, core.Scan) for op in graph.walk()) == feeds["w"].shape[0]
    for actual, wanted in zip(run(graph, feeds), expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_batch_first_is_the_transpose(run, rng, kind):
    names, feeds = feeds_of(kind, 2, rng, "blhc" if kind == "LSTM" else "blh")
    plain = run(lower_onnx(model_of(kind, names, feeds, direction="bidirectional")), feeds)
    turned = {n: a.swapaxes(0, 1) if n in ("x", "h", "c") else a for n, a in feeds.items()}
    model = model_of(kind, names, turned, direction="bidirectional", layout=1)
    found = run(lower_onnx(model), {n: np.ascontiguousarray(a) for n, a in turned.items()})
    np.testing.assert_allclose(found[0], plain[0].transpose(2, 0, 1, 3), rtol=1e-5)
    for state, expected in zip(found[1:], plain[1:], strict=True):
        np.testing.assert_allclose(state, expected.swapaxes(0, 1), rtol=1e-5)


def test_time_and_batch_may_be_symbolic(run, rng):
    names, feeds = feeds_of("LSTM", 1, rng, "b")
    graph = lower_onnx(model_of("LSTM", names, feeds), dynamic={"x": {0: "T", 1: "B"}})
    assert [str(v.type) for v in graph.outputs] == ["f32[T,1,B,2]", "f32[1,B,2]", "f32[1,B,2]"]
    longer = {**feeds, "x": rng.standard_normal((8, 1, INPUT)).astype(np.float32)}
    assert run(graph, longer)[0].shape == (8, 1, 1, 2)


def test_an_unknown_activation_is_refused(rng):
    names, feeds = feeds_of("RNN", 1, rng, "")
    with pytest.raises(LoweringError, match="RNN with activation 'cube'"):
        lower_onnx(model_of("RNN", names, feeds, activations=["Cube"]))
