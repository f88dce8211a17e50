"""QDQ models that ONNX Runtime's own quantiser wrote: raised to integers, against ONNX Runtime."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from plait.api import lower, optimize
from plait.backends import compile_graph
from plait.backends.onnx import to_onnx
from plait.ir import Graph, TensorType
from plait.ir import QuantType as Quantised
from plait.ir.interpret import interpret
from plait.ir.ops import core, nn, quant
from plait.passes import optimize as run_passes
from plait.passes.quantize.integer_operands import LAYERS
from plait.passes.quantize.raise_integer import RaiseQuantized


def model() -> onnx.ModelProto:
    """Convolutions (one depthwise, one of stride 2), a residual sum, a join, poolings, and two products."""
    rng = np.random.default_rng(5)
    tensors: list[onnx.TensorProto] = []

    def weight(name: str, *shape: int) -> str:
        scale = 1.5 / np.sqrt(np.prod(shape[1:]) if len(shape) > 1 else 4)
        tensors.append(numpy_helper.from_array((rng.normal(size=shape) * scale).astype(np.float32), name))
        return name

    nodes = [
        helper.make_node("Conv", ["x", weight("w1", 8, 3, 3, 3), weight("b1", 8)], ["c1"], pads=[1] * 4),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node(
            "Conv", ["r1", weight("w2", 8, 1, 3, 3), weight("b2", 8)], ["c2"], pads=[1] * 4, group=8
        ),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("Conv", ["r2", weight("w3", 8, 8, 1, 1)], ["c3"]),
        helper.make_node("Add", ["r1", "c3"], ["s"]),
        helper.make_node("Relu", ["s"], ["r3"]),
        helper.make_node("MaxPool", ["r3"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node(
            "Conv", ["r3", weight("w4", 4, 8, 3, 3), weight("b4", 4)], ["c4"], pads=[1] * 4, strides=[2, 2]
        ),
        helper.make_node("Concat", ["p", "c4"], ["j"], axis=1),
        helper.make_node("GlobalAveragePool", ["j"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", weight("w5", 16, 12), weight("b5", 16)], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["r5"]),
        helper.make_node("MatMul", ["r5", weight("w6", 16, 5)], ["m"]),
        helper.make_node("Add", ["m", weight("b6", 5)], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 3, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", 5])],
        initializer=tensors,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made, full_check=True)
    return made


class Reader(CalibrationDataReader):  # type: ignore[misc]  # it has no types
    """A few batches of noise."""

    def __init__(self) -> None:
        rng = np.random.default_rng(8)
        self.batches = iter([{"x": rng.normal(size=(8, 3, 12, 12)).astype(np.float32)} for _ in range(4)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


SETTINGS: dict[str, dict[str, Any]] = {
    "u8 activations, i8 by channel": {"activation_type": QuantType.QUInt8, "per_channel": True},
    "i8 activations, i8": {"activation_type": QuantType.QInt8, "per_channel": False},
    "u8 activations, u8 weights": {
        "activation_type": QuantType.QUInt8,
        "weight_type": QuantType.QUInt8,
        "per_channel": False,
    },
}


def quantised(folder: Path, name: str) -> onnx.ModelProto:
    source, target = folder / "float.onnx", folder / "qdq.onnx"
    onnx.save(model(), source)
    options = {"weight_type": QuantType.QInt8, **SETTINGS[name]}
    quantize_static(source, target, Reader(), quant_format=QuantFormat.QDQ, **options)
    return onnx.load(target)


def session(made: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    # Exact sums of u8 x i8 products on processors without dot products of bytes.
    options.add_session_config_entry("session.x64quantprecision", "1")
    stream = io.BytesIO()
    onnx.save(made, stream)
    return onnxruntime.InferenceSession(stream.getvalue(), options, providers=["CPUExecutionProvider"])


def raised(made: onnx.ModelProto) -> Graph:
    graph, _ = run_passes(optimize(lower(made)), [RaiseQuantized()])
    return optimize(graph)


@pytest.fixture(params=SETTINGS, scope="module")
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[onnx.ModelProto, Graph]:
    made = quantised(tmp_path_factory.mktemp("qdq"), request.param)
    return made, raised(made)


def test_nothing_is_computed_in_floating_point(case: tuple[onnx.ModelProto, Graph]) -> None:
    _, graph = case
    for op in graph.walk():
        if isinstance(op, LAYERS):
            assert isinstance(op.operands[0].type, Quantised)
            assert op.requantize == "fixed_point"
    kinds = [type(op) for op in graph.walk()]
    assert kinds.count(nn.Conv2d) == 4
    assert kinds.count(nn.Linear) == 2
    allowed = (quant.Quantize, quant.Dequantize)
    floats = [
        op for op in graph.walk()
        if not isinstance(op, allowed) and any(isinstance(v.type, TensorType) for v in op.results)
    ]  # fmt: skip
    assert not floats
    assert {quant.Add, quant.Mean, nn.MaxPool2d, core.Concat} <= set(kinds)


def test_within_one_quantum_of_onnxruntime(case: tuple[onnx.ModelProto, Graph]) -> None:
    made, graph = case
    (output,) = graph.outputs
    assert isinstance(output.producer, quant.Dequantize)
    kind = output.producer.x.type
    assert isinstance(kind, Quantised)
    assert isinstance(kind.scale, float)
    executable = compile_graph(graph, "cpu")
    runner = session(made)
    rng = np.random.default_rng(21)
    for _ in range(3):
        x = rng.normal(size=(8, 3, 12, 12)).astype(np.float32)
        (theirs,) = runner.run(None, {"x": x})
        ours = interpret(graph, [x])[0].numpy()
        assert np.array_equal(np.asarray(executable(x)), ours)
        apart = np.abs(np.rint((theirs - ours) / kind.scale))
        assert apart.max() <= 1
        assert (apart == 0).mean() > 0.7


def test_written_back_as_qdq(case: tuple[onnx.ModelProto, Graph]) -> None:
    """The raised graph as a model again gives ONNX Runtime's results within one quantum."""
    _, graph = case
    made = to_onnx(graph)
    onnx.checker.check_model(made, full_check=True)
    x = np.random.default_rng(3).normal(size=(4, 3, 12, 12)).astype(np.float32)
    (theirs,) = session(made).run(None, {graph.inputs[0].name: x})
    ours = interpret(graph, [torch.from_numpy(x)])[0].numpy()
    (output,) = graph.outputs
    assert output.producer is not None
    kind = output.producer.operands[0].type
    assert isinstance(kind, Quantised)
    assert isinstance(kind.scale, float)
    assert np.abs(np.rint((theirs - ours) / kind.scale)).max() <= 1
