"""Symbolic dims: names, renaming, fixing, and shape arithmetic that must not stay run-time code."""

import numpy as np
import onnx
import pytest
import torch
from onnx import parser

from plait.frontends.onnx import lower_onnx
from plait.ir import LoweringError, TensorType
from plait.ir import types as t
from plait.ir.graph import DimRange


def model(text: str, opset: int = 18) -> onnx.ModelProto:
    return parser.parse_model(f'<ir_version: 9, opset_import: ["" : {opset}]>\n{text}')


def opnames(graph):
    return [op.opname for op in graph.ops]


def test_dim_names_are_kept_and_made_identifiers():
    graph = lower_onnx(model("g (float[batch, 3] x) => (float[batch, 3] y) { y = Relu(x) }"))
    assert graph.dims == {"batch": DimRange(1, None)}
    renamed = model("g (float[batch, 3] x) => (float[batch, 3] y) { y = Relu(x) }")
    renamed.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch size/2 "
    assert list(lower_onnx(renamed).dims) == ["batch_size_2_"]


def test_a_dim_without_a_name_gets_one():
    proto = model("g (float[N, 3] x) => (float[N, 3] y) { y = Relu(x) }")
    proto.graph.input[0].type.tensor_type.shape.dim[0].Clear()
    assert str(lower_onnx(proto).inputs[0].type) == "f32[x_0,3]"


def test_a_dim_expression_refers_to_other_dims():
    proto = model("g (float[N] x, float[M] z) => (float[M] y) { a = Concat<axis=0>(x, x)  y = Add(a, z) }")
    proto.graph.input[1].type.tensor_type.shape.dim[0].dim_param = "2*N"
    assert str(lower_onnx(proto).outputs[0].type) == "f32[2*N]"


def test_dynamic_renames_everywhere_and_introduces():
    text = "g (float[batch, 3] x, float[batch, 1] z) => (float[batch, 3] y) { y = Add(x, z) }"
    graph = lower_onnx(model(text), dynamic={"x": {0: "B", -1: "W"}})
    assert [str(v.type) for v in graph.inputs] == ["f32[B,W]", "f32[B,1]"]
    assert set(graph.dims) == {"B", "W"}


def test_inputs_fix_open_dims_and_dynamic_wins():
    text = "g (float[N, L] x, float[N, 1] z) => (float[N, L] y) { y = Add(x, z) }"
    arrays = {"x": np.zeros((2, 7), np.float32)}
    assert [str(v.type) for v in lower_onnx(model(text), arrays).inputs] == ["f32[2,7]", "f32[2,1]"]
    graph = lower_onnx(model(text), arrays, dynamic={"x": {0: "B"}})
    assert [str(v.type) for v in graph.inputs] == ["f32[B,7]", "f32[B,1]"]


FLATTEN = """g (float[N, 3, H] x) => (float[N, K] y) {
    shape = Shape(x)
    zero = Constant<value_int = 0>()
    n = Gather<axis = 0>(shape, zero)
    axes = Constant<value_ints = [0]>()
    row = Unsqueeze(n, axes)
    minus = Constant<value_ints = [-1]>()
    target = Concat<axis = 0>(row, minus)
    y = Reshape(x, target)
}"""


def test_reshape_by_shape_arithmetic_is_one_reshape(run):
    graph = lower_onnx(model(FLATTEN))
    assert opnames(graph) == ["core.reshape"]
    assert str(graph.outputs[0].type) == "f32[N,3*H]"
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    np.testing.assert_array_equal(run(graph, {"x": x})[0], x.reshape(2, -1))


ARITHMETIC = """g (float[N, 4] x) => (float[A, B] y) {
    size = Size(x)
    two = Constant<value_int = 2>()
    half = Div(size, two)
    axes = Constant<value_ints = [0]>()
    rows = Unsqueeze(half, axes)
    wide = Constant<value_ints = [2]>()
    target = Concat<axis = 0>(rows, wide)
    y = Reshape(x, target)
}"""


def test_arithmetic_on_sizes_gives_expressions():
    graph = lower_onnx(model(ARITHMETIC))
    assert str(graph.outputs[0].type) == "f32[2*N,2]"


EXPAND = """g (float[N, 4] x, float[4] b) => (float[N, 4] y) {
    shape = Shape(x)
    minus = Constant<value_ints = [-1]>()
    absent = Equal(shape, minus)
    one = Constant<value_ints = [1]>()
    target = Where(absent, one, shape)
    wide = Expand(b, target)
    y = Mul(x, wide)
}"""


def test_a_comparison_that_the_ranges_decide_is_folded():
    assert opnames(lower_onnx(model(EXPAND))) == ["core.broadcast", "core.mul"]


POSITIONS = """g (float[N, L] x) => (float[N, L] y) {
    shape = Shape(x)
    one = Constant<value_int = 1>()
    length = Gather<axis = 0>(shape, one)
    zero = Constant<value_int = 0>()
    positions = Range(zero, length, one)
    real = Cast<to = 1>(positions)
    y = Add(x, real)
}"""


def test_a_symbolic_range_is_an_iota(run):
    graph = lower_onnx(model(POSITIONS))
    assert opnames(graph) == ["core.iota", "core.cast", "core.add"]
    x = np.zeros((2, 5), np.float32)
    np.testing.assert_array_equal(run(graph, {"x": x})[0], x + np.arange(5))


def test_symbolic_slices_are_bounded_by_the_dim(run):
    text = """g (float[N, 8] x) => (float[M, 8] y) {
        starts = Constant<value_ints = [-2]>()  ends = Constant<value_ints = [9223372036854775807]>()
        axes = Constant<value_ints = [0]>()
        y = Slice(x, starts, ends, axes)
    }"""
    graph = lower_onnx(model(text))
    for rows in (1, 2, 5):
        x = np.arange(rows * 8, dtype=np.float32).reshape(rows, 8)
        np.testing.assert_array_equal(run(graph, {"x": x})[0], x[-2:])


def test_a_slice_bound_that_must_not_be_negative_narrows_the_range(run):
    text = """g (float[N] x) => (float[M] y) {
        shape = Shape(x)  five = Constant<value_ints = [5]>()  stop = Sub(shape, five)
        zero = Constant<value_ints = [0]>()
        y = Slice(x, zero, stop)
    }"""
    graph = lower_onnx(model(text))
    assert graph.dims == {"N": DimRange(5, None)}
    assert str(graph.outputs[0].type) == "f32[N-5]"
    np.testing.assert_array_equal(run(graph, {"x": np.arange(7, dtype=np.float32)})[0], [0, 1])


def test_a_shape_that_is_an_output_becomes_dim_values(run):
    text = "g (float[N, 3] x) => (int64[2] s) { s = Shape(x) }"
    graph = lower_onnx(model(text))
    assert graph.outputs[0].type == TensorType(t.i64, (2,))
    np.testing.assert_array_equal(run(graph, {"x": np.zeros((5, 3), np.float32)})[0], [5, 3])


def test_symbolic_resize_by_an_integer_scale():
    text = """g (float[N, 3, H, W] x) => (float[N, 3, A, B] y) {
        scales = Constant<value_floats = [1.0, 1.0, 2.0, 2.0]>()
        y = Resize<mode = "linear">(x, , scales)
    }"""
    graph = lower_onnx(model(text))
    assert str(graph.outputs[0].type) == "f32[N,3,2*H,2*W]"
    x = torch.randn(1, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    from plait.ir.interpret import interpret

    expected = torch.nn.functional.interpolate(x, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(interpret(graph, {"x": x})[0], expected)


TEXT = "g (float[N, 3] image) => (float[N, 3] y) { y = Relu(image) }"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inputs": {"imag": np.zeros((1, 3), np.float32)}}, "names 'imag', which is no input.*'image'"),
        ({"dynamic": {"img": {0: "B"}}}, "dynamic names 'img', which is no input of the model"),
        ({"dynamic": {"image": {2: "B"}}}, "dynamic names axis 2 of input 'image'"),
        ({"dynamic": {"image": {0: "B-1"}}}, "dynamic calls axis 0 of input 'image' 'B-1'"),
        ({"inputs": {"image": np.zeros((1, 3))}}, r"the example array is float64\[1, 3\]"),
        ({"inputs": {"image": np.zeros((1, 4), np.float32)}}, "axis 1 of the example array for 'image' is 4"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(LoweringError, match=message):
        lower_onnx(model(TEXT), **arguments)


def test_one_dim_cannot_have_two_names_or_values():
    text = "g (float[N] a, float[N] b) => (float[N] y) { y = Add(a, b) }"
    with pytest.raises(LoweringError, match="both 'P' and 'Q'"):
        lower_onnx(model(text), dynamic={"a": {0: "P"}, "b": {0: "Q"}})
    arrays = {"a": np.zeros(2, np.float32), "b": np.zeros(3, np.float32)}
    with pytest.raises(LoweringError, match="dim 'N' is 2 by the array for 'a'"):
        lower_onnx(model(text), arrays)
