"""Every exportable op on its registry examples: checked by onnx, run by onnxruntime, against the interpreter."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from plait.backends.onnx import to_onnx
from plait.backends.onnx.export import EXPORTS
from plait.ir import REGISTRY, CompileError, Graph
from plait.ir.interpret import interpret
from plait.ir.reference.tensors import to_numpy

_REGISTRY = Path(__file__).parents[2] / "ir" / "test_registry.py"
#: What onnxruntime's processor kernels lack, by what it says.
_NO_KERNEL = ("NOT_IMPLEMENTED", "No corresponding Numpy type", "can't be converted to MLDataType")
#: Forms that the export refuses, by op and part of the message.
REFUSED = {
    "core.bit_cast": "operator set 26",
    "core.broadcast": "no input shows the value of dim",
    "core.cast": "complex|c64|element type (i2|u2|f8e8m0fnu|f6e3m2fn|f4e2m1fn)",
    "core.nonzero": "of a scalar",
    "core.scan": "no input shows the value of dim",
    "core.shift_left": "unsigned",
    "core.shift_right": "unsigned",
    "core.unique": "neighbours",
    "nn.adaptive_avg_pool2d": "windows over a dim",
    "nn.grid_sample": "pixels",
    "nn.resize2d": "no input shows the value of dim",
}
#: onnxruntime rounds once more than the interpreter, or adds in another order.
TOLERANCE = {"f16": 2e-3, "bf16": 2e-2}


def _registry() -> Any:
    """The module that reads the examples of all ops."""
    name = "plait_registry_examples"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, _REGISTRY)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


NAMES = [name for name, cls in REGISTRY.items() if cls in EXPORTS]


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def run(model: onnx.ModelProto, graph: Graph, inputs: dict[str, Any]) -> list[np.ndarray] | None:
    """Results of onnxruntime; None where it has no kernel for the element types."""
    try:
        feeds = {value.name: to_numpy(inputs[value.name], value.shaped) for value in graph.inputs}
        found: list[np.ndarray] = session(model).run(None, feeds)
    except Exception as error:
        if any(word in str(error) for word in _NO_KERNEL):
            return None
        raise
    return found


@pytest.mark.parametrize("name", NAMES)
def test_op(name: str) -> None:
    registry = _registry()
    ran = 0
    refusals: list[str] = []
    for case in registry.cases_of(name).valid:
        graph = case.graph()
        try:
            model = to_onnx(graph)
        except CompileError as error:
            refusals.append(str(error))
            continue
        onnx.checker.check_model(model, full_check=True)
        inputs = registry.draw(graph, name)
        if name == "nn.non_max_suppression":
            inputs = {key: x.abs() for key, x in inputs.items()}  # widths are positive
        found = run(model, graph, inputs)
        if found is None or any(value.shaped.dtype.is_minifloat for value in graph.outputs):
            continue
        ran += 1
        for got, value, held in zip(found, graph.outputs, interpret(graph, inputs), strict=True):
            wanted = to_numpy(held, value.shaped)
            assert got.dtype == wanted.dtype
            assert got.shape == wanted.shape
            tolerance = TOLERANCE.get(value.shaped.dtype.name, 2e-5)
            if name.startswith("quant.") and wanted.dtype.kind in "iu":
                assert np.abs(got.astype(int) - wanted.astype(int)).max(initial=0) <= 1  # one quantum
            else:
                np.testing.assert_allclose(
                    got.astype(np.float64), wanted.astype(np.float64), rtol=tolerance, atol=tolerance
                )
    assert ran or name in REFUSED
    for message in refusals:
        assert re.search(REFUSED.get(name, "no op of this name is refused"), message), message
    assert bool(refusals) == (name in REFUSED)


def test_refused_forms_are_exportable_ops() -> None:
    assert set(REFUSED) <= set(NAMES)


def test_newer_operator_sets_write_more() -> None:
    for case in _registry().cases_of("core.bit_cast").valid:
        onnx.checker.check_model(to_onnx(case.graph(), opset=26), full_check=True)
