"""Small ONNX models, lowered and compared with onnx's reference evaluator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from plait.frontends.onnx import lower_onnx
from plait.ir import Graph, parse
from plait.ir.interpret import interpret

Arrays = Mapping[str, np.ndarray]


def one_node(
    op_type: str,
    feeds: Arrays,
    *,
    opset: int,
    static: Arrays | None = None,
    inputs: Sequence[str] | None = None,
    outputs: int = 1,
    domain: str = "",
    **attributes: Any,
) -> onnx.ModelProto:
    """A model of one node; `static` inputs are initialisers; `inputs` orders them ('' is left out)."""
    static = static or {}
    names = list(inputs) if inputs is not None else [*feeds, *static]
    results = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op_type, names, results, name="node", domain=domain, **attributes)
    graph = helper.make_graph(
        [node],
        "test",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for name, a in feeds.items()
        ],
        [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in results],
        [onnx.numpy_helper.from_array(array, name) for name, array in static.items()],
    )
    for info in graph.output:
        info.ClearField("type")
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    if domain:
        model.opset_import.append(helper.make_opsetid(domain, 1))
    model = onnx.shape_inference.infer_shapes(model)
    for info in model.graph.output:
        if not info.type.HasField("tensor_type"):
            first = next(iter(feeds.values()))  # function operators are not inferred
            info.CopyFrom(helper.make_tensor_value_info(info.name, TensorProto.FLOAT, first.shape))
    return model


def run_graph(graph: Graph, feeds: Arrays) -> list[np.ndarray]:
    """Results of the interpreter as arrays."""
    with torch.no_grad():
        found = interpret(graph, {name: torch.from_numpy(np.array(a)) for name, a in feeds.items()})
    return [tensor.numpy() for tensor in found]


@pytest.fixture
def check() -> Callable[..., Graph]:
    """Lower a one-node model, compare with the reference evaluator, and return the graph."""

    def compare(
        op_type: str,
        feeds: Arrays,
        *,
        opset: int,
        rtol: float = 1e-4,
        atol: float = 1e-5,
        expected: Sequence[np.ndarray] | None = None,
        **options: Any,
    ) -> Graph:
        model = one_node(op_type, feeds, opset=opset, **options)
        graph = lower_onnx(model)
        graph.verify()
        assert parse(str(graph)) == graph
        if expected is None:
            expected = ReferenceEvaluator(model).run(None, dict(feeds))
        found = run_graph(graph, feeds)
        assert len(found) == len(expected)
        for actual, wanted in zip(found, expected, strict=True):
            wanted = np.asarray(wanted)
            assert actual.shape == wanted.shape
            assert actual.dtype == wanted.dtype
            np.testing.assert_allclose(actual, wanted, rtol=rtol, atol=atol)
        return graph

    return compare


@pytest.fixture
def make_node_model() -> Callable[..., onnx.ModelProto]:
    return one_node


@pytest.fixture
def run() -> Callable[..., list[np.ndarray]]:
    return run_graph


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
