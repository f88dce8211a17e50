"""Casts and quantisation among all element types."""

from __future__ import annotations

import warnings
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from plait.backends import compile_graph
from plait.frontends.onnx import lower_onnx
from plait.ir import Graph, QuantType
from plait.ir.interpret import interpret
from plait.ir.ops import quant
from plait.ir.reference.tensors import to_numpy

OPERATORS = ("Cast", "CastLike", "BitCast", "QuantizeLinear", "DequantizeLinear")
_SIGNED = (np.dtype(ml_dtypes.int4), np.dtype(ml_dtypes.int2))
_UNSIGNED = (np.dtype(ml_dtypes.uint4), np.dtype(ml_dtypes.uint2))


def held(array: Any) -> np.ndarray:
    """An array as the IR holds it: integers below 8 bits in a byte each."""
    array = np.asarray(onnx.numpy_helper.to_array(array) if isinstance(array, onnx.TensorProto) else array)
    if array.dtype in _SIGNED:
        return array.astype(np.int8)
    return array.astype(np.uint8) if array.dtype in _UNSIGNED else array


def assert_close(got: np.ndarray, wanted: np.ndarray, rtol: float = 1e-6, atol: float = 1e-6) -> None:
    wanted = held(wanted)
    assert got.dtype == wanted.dtype
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got.astype(np.float64), wanted.astype(np.float64), rtol=rtol, atol=atol)


def interpreted(graph: Graph, inputs: list[np.ndarray]) -> list[np.ndarray]:
    return [to_numpy(y, v.shaped) for y, v in zip(interpret(graph, inputs), graph.outputs, strict=True)]


@pytest.mark.slow
def test_node_tests_of_onnx() -> None:
    """Those of Cast, CastLike, BitCast, QuantizeLinear and DequantizeLinear, and some compiled."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        cases = [case for name in OPERATORS for case in collect_testcases(name)]
    ran = 0
    for case in cases:
        graph = case.model.graph
        types = {info.type.tensor_type.elem_type for info in (*graph.input, *graph.output)}
        if len(graph.node) != 1 or TensorProto.STRING in types or graph.node[0].op_type not in OPERATORS:
            continue
        lowered = lower_onnx(case.model)
        for inputs, outputs in case.data_sets:
            given = [held(x) for x in inputs]
            found = interpreted(lowered, given)
            if ran % 12 == 0:
                found = [compile_graph(lowered, "cpu")(*given)]
            for got, wanted in zip(found, outputs, strict=True):
                assert_close(got, held(wanted), case.rtol, case.atol)
            ran += 1
    assert ran > 100


def node(
    op_type: str,
    inputs: dict[str, tuple[int, tuple[int, ...]]],
    output: int,
    static: dict[str, onnx.TensorProto] | None = None,
    **attributes: Any,
) -> onnx.ModelProto:
    """A model of one node; inputs are (element type, shape)."""
    names = [*inputs, *(static or {})]
    graph = helper.make_graph(
        [helper.make_node(op_type, names, ["y"], **attributes)],
        "test",
        [helper.make_tensor_value_info(name, code, shape) for name, (code, shape) in inputs.items()],
        [helper.make_tensor_value_info("y", output, next(iter(inputs.values()))[1])],
        list((static or {}).values()),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)])


def test_saturation_is_the_default_of_casts_to_float8() -> None:
    x = np.array([1e6, -1e6, 3.3, np.nan], np.float32)
    for saturate, top in ((1, 448.0), (0, np.nan)):
        model = node(
            "Cast",
            {"x": (TensorProto.FLOAT, (4,))},
            TensorProto.FLOAT8E4M3FN,
            to=TensorProto.FLOAT8E4M3FN,
            saturate=saturate,
        )
        (found,) = interpreted(lower_onnx(model), [x])
        np.testing.assert_array_equal(found.astype(np.float32), [top, -top, 3.25, np.nan])


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_known_scales_make_quantised_types(bits: int) -> None:
    code = {8: TensorProto.UINT8, 4: TensorProto.UINT4, 2: TensorProto.UINT2}[bits]
    scale = onnx.numpy_helper.from_array(np.float32(0.5), "scale")
    zero = helper.make_tensor("zero", code, [], [1])
    model = node("QuantizeLinear", {"x": (TensorProto.FLOAT, (5,))}, code, {"scale": scale, "zero": zero})
    graph = lower_onnx(model)
    (op,) = [op for op in graph.ops if isinstance(op, quant.Quantize)]
    assert op.out == QuantType(bits, False, 0.5, (5,), 1)
    x = np.array([-9.0, 0.0, 0.25, 0.75, 1000.0], np.float32)
    assert interpreted(graph, [x])[0].tolist() == [0, 1, 1, 3, (1 << bits) - 1]


@pytest.mark.parametrize("code", [TensorProto.INT16, TensorProto.UINT16, TensorProto.FLOAT4E2M1], ids=str)
def test_scales_of_blocks_at_run_time(code: int) -> None:
    """Ragged blocks of three along the last axis, quantised and brought back."""
    rng = np.random.default_rng(3)
    x = rng.uniform(-4, 4, (2, 7)).astype(np.float32)
    scale = rng.uniform(0.7, 1.5, (2, 3)).astype(np.float32)
    shapes = {"x": (TensorProto.FLOAT, (2, 7)), "scale": (TensorProto.FLOAT, (2, 3))}
    model = node("QuantizeLinear", shapes, code, axis=1, block_size=3, output_dtype=code)
    (stored,) = interpreted(lower_onnx(model), [x, scale])
    wide = np.repeat(scale, 3, axis=1)[:, :7]
    if code == TensorProto.FLOAT4E2M1:
        wanted = (x / wide).astype(ml_dtypes.float4_e2m1fn)
    else:
        limits = np.iinfo(np.int16 if code == TensorProto.INT16 else np.uint16)
        wanted = np.clip(np.rint(x / wide), limits.min, limits.max).astype(limits.dtype)
    assert_close(stored, wanted)
    shapes = {"x": (code, (2, 7)), "scale": (TensorProto.FLOAT, (2, 3))}
    back = lower_onnx(node("DequantizeLinear", shapes, TensorProto.FLOAT, axis=1, block_size=3))
    assert_close(interpreted(back, [stored, scale])[0], wanted.astype(np.float32) * wide)


@pytest.mark.parametrize("code", [TensorProto.COMPLEX64, TensorProto.COMPLEX128])
def test_a_complex_scalar_constant(code: int) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(code)
    scalar = onnx.numpy_helper.from_array(np.array(2.0 - 1.5j, dtype), "s")
    result = helper.make_tensor_value_info("y", code, [])
    node_ = helper.make_node("Identity", ["s"], ["y"])
    model = helper.make_model(helper.make_graph([node_], "g", [], [result], [scalar]))
    (found,) = interpret(lower_onnx(model), [])
    assert found.numpy() == np.array(2.0 - 1.5j, dtype)
    assert found.numpy().dtype == dtype
