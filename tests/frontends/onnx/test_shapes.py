"""Shape, slicing, indexing, creation and quantisation operators against the reference evaluator."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from plait.ir import QuantType


def f32(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("shape", [[6, 4], [0, -1], [-1], [2, 0, 2, 2], [1, 2, 3, 4, 1]])
@pytest.mark.parametrize("opset", [7, 13, 21])
def test_reshape(check, rng, shape, opset):
    check("Reshape", {"x": f32(rng, 2, 3, 4)}, static={"s": np.array(shape)}, opset=opset)


def test_reshape_takes_zero_literally_with_allowzero(check):
    check(
        "Reshape", {"x": np.zeros((0, 3), np.float32)}, static={"s": np.array([3, 0])}, opset=14, allowzero=1
    )


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1])
def test_flatten(check, rng, axis):
    check("Flatten", {"x": f32(rng, 2, 3, 4)}, opset=13, axis=axis)


@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize("op_type", ["Squeeze", "Unsqueeze"])
def test_axes_by_attribute_or_input(check, rng, op_type, opset):
    x = f32(rng, 1, 3, 1, 4)
    if opset < 13:
        check(op_type, {"x": x}, opset=opset, axes=[0, 2])
    else:
        check(op_type, {"x": x}, static={"a": np.array([0, -2])}, opset=opset)


def test_squeeze_of_all(check, rng):
    check("Squeeze", {"x": f32(rng, 1, 3, 1, 4)}, opset=13)


@pytest.mark.parametrize("perm", [None, [1, 0, 2], [0, 1, 2]])
def test_transpose(check, rng, perm):
    options = {} if perm is None else {"perm": perm}
    check("Transpose", {"x": f32(rng, 2, 3, 4)}, opset=13, **options)


@pytest.mark.parametrize("axis", [0, -1])
def test_concat(check, rng, axis):
    check("Concat", {"a": f32(rng, 2, 3), "b": f32(rng, 2, 3), "c": f32(rng, 2, 3)}, opset=13, axis=axis)


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_split_into_sizes(check, rng, opset):
    x, sizes = f32(rng, 2, 7), [2, 4, 1]
    if opset < 13:
        check("Split", {"x": x}, opset=opset, outputs=3, axis=1, split=sizes)
    else:
        check("Split", {"x": x}, static={"s": np.array(sizes)}, opset=opset, outputs=3, axis=1)


def test_split_with_a_smaller_last_part(check, rng):
    check("Split", {"x": f32(rng, 2, 7)}, opset=18, outputs=3, axis=1, num_outputs=3)


SLICES = [
    ([1], [3], [1], [1]),
    ([0, 1], [2, -1], [0, 2], [1, 2]),
    ([-1], [-100], [1], [-1]),
    ([-2], [0], [1], [-2]),
    ([3], [0], [2], [-1]),
    ([100], [-100], [2], [-2]),
    ([2], [2**63 - 1], [2], [1]),
    ([3], [1], [1], [1]),
    ([-3, 4], [-1, -5], [1, 2], [1, -1]),
]


@pytest.mark.parametrize(("starts", "ends", "axes", "steps"), SLICES)
def test_slice(check, rng, starts, ends, axes, steps):
    static = {n: np.array(v) for n, v in zip("seat", (starts, ends, axes, steps), strict=True)}
    check("Slice", {"x": f32(rng, 2, 4, 6)}, static=static, opset=13)


def test_slice_by_attributes(check, rng):
    x = f32(rng, 2, 4, 6)
    expected = [x[:, 1:3, :-1]]
    check("Slice", {"x": x}, opset=9, starts=[1, 0], ends=[3, -1], axes=[1, 2], expected=expected)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
def test_pad(check, rng, mode):
    static = {"p": np.array([0, 1, 2, 0, 2, 1]), "v": np.float32(1.5)}
    check("Pad", {"x": f32(rng, 2, 4, 5)}, static=static, opset=19, mode=mode)


def test_pad_of_some_axes_crops_where_negative(check, rng):
    x = f32(rng, 2, 4, 5)
    static = {"p": np.array([-1, 2, 0, -3]), "v": np.float32(0), "a": np.array([1, -1])}
    expected = [np.pad(x, ((0, 0), (0, 0), (2, 0)))[:, 1:, :4]]
    check("Pad", {"x": x}, static=static, opset=18, expected=expected)


def test_pad_by_attributes(check, rng):
    x = f32(rng, 2, 3)
    expected = [np.pad(x, ((1, 0), (0, 2)), constant_values=2.0)]
    check("Pad", {"x": x}, opset=10, pads=[1, 0, 0, 2], value=2.0, expected=expected)


@pytest.mark.parametrize("shape", [[2, 3, 4], [1, 1], [5, 1, 1, 4]])
def test_expand(check, rng, shape):
    check("Expand", {"x": f32(rng, 3, 1)}, static={"s": np.array(shape)}, opset=13)


def test_tile(check, rng):
    check("Tile", {"x": f32(rng, 2, 3, 4)}, static={"r": np.array([2, 1, 3])}, opset=13)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space(check, rng, mode):
    check("DepthToSpace", {"x": f32(rng, 2, 8, 2, 3)}, opset=13, blocksize=2, mode=mode)


def test_space_to_depth(check, rng):
    check("SpaceToDepth", {"x": f32(rng, 2, 2, 4, 6)}, opset=13, blocksize=2)


@pytest.mark.parametrize("upper", [0, 1])
def test_triangle(check, rng, upper):
    check("Trilu", {"x": f32(rng, 2, 4, 5)}, static={"k": np.array(1)}, opset=14, upper=upper)


@pytest.mark.parametrize(
    "indices", [np.array(1), np.array(-1), np.array([0, -2]), np.array([[0, 1], [2, 0]])]
)
@pytest.mark.parametrize("axis", [0, 1])
def test_gather(check, rng, indices, axis):
    check("Gather", {"x": f32(rng, 3, 4, 2)}, static={"i": indices}, opset=13, axis=axis)
    check("Gather", {"x": f32(rng, 3, 4, 2), "i": indices}, opset=13, axis=axis)


def test_gather_elements(check, rng):
    check("GatherElements", {"x": f32(rng, 3, 4), "i": np.array([[0, -1], [2, 1], [1, 1]])}, opset=13, axis=1)


@pytest.mark.parametrize("batch", [0, 1])
def test_gather_nd(check, rng, batch):
    feeds = {"x": f32(rng, 2, 3, 4), "i": np.array([[[0, 1]], [[1, 2]]])}
    check("GatherND", feeds, opset=13, batch_dims=batch)


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
def test_scatter(check, rng, reduction):
    x, i, u = f32(rng, 3, 4), np.array([[0, 2], [1, 0]]), f32(rng, 2, 2)
    check("ScatterElements", {"x": x, "i": i, "u": u}, opset=18, axis=1, reduction=reduction)
    nd = {"x": x, "i": np.array([[1], [0]]), "u": f32(rng, 2, 4)}
    check("ScatterND", nd, opset=18, reduction=reduction)


def test_deprecated_operators_still_lower(check, rng):
    x, i, u = f32(rng, 3, 4), np.array([[0, 2], [1, 0]]), f32(rng, 2, 2)
    expected = x.copy()
    np.put_along_axis(expected[:2], i, u, axis=1)
    check("Scatter", {"x": x, "i": i, "u": u}, opset=11, axis=1, expected=[expected])
    image = f32(rng, 1, 1, 2, 3)
    static = {"s": np.array([1, 1, 2, 2], np.float32)}
    check("Upsample", {"x": image}, static=static, opset=9, expected=[image.repeat(2, 2).repeat(2, 3)])


@pytest.mark.parametrize("largest", [0, 1])
def test_top_k(check, rng, largest):
    x = rng.permutation(20).reshape(4, 5).astype(np.float32)
    check("TopK", {"x": x}, static={"k": np.array([3])}, opset=11, outputs=2, axis=1, largest=largest)


@pytest.mark.parametrize("axis", [-1, 0])
def test_one_hot(check, axis):
    static = {"d": np.array(4), "v": np.array([0.5, 2.0], np.float32)}
    check("OneHot", {"i": np.array([[0, -1], [3, 9]])}, static=static, opset=11, axis=axis)


@pytest.mark.parametrize("k", [-1, 0, 2])
def test_eye_like(check, k):
    check("EyeLike", {"x": np.zeros((3, 4), np.int32)}, opset=9, k=k, dtype=TensorProto.FLOAT)


@pytest.mark.parametrize("opset", [7, 12, 13])
def test_dropout_is_the_identity(check, rng, opset):
    graph = check("Dropout", {"x": f32(rng, 2, 3)}, opset=opset)
    assert len(graph) == 0


@pytest.mark.parametrize("start", [0, 1, -2])
def test_shape_and_size_are_constants(check, rng, start):
    check("Shape", {"x": f32(rng, 2, 3, 4)}, opset=15, start=start)
    check("Size", {"x": f32(rng, 2, 3, 4)}, opset=15)


def test_range_and_fill(check):
    check("Range", {}, static={"a": np.array(10), "b": np.array(0), "c": np.array(-3)}, opset=11)
    check("Range", {}, static={n: np.float32(v) for n, v in zip("abc", (0, 2.5, 0.5), strict=True)}, opset=11)
    value = numpy_helper.from_array(np.array([7], np.int32))
    check("ConstantOfShape", {}, static={"s": np.array([2, 3])}, opset=9, value=value)


@pytest.mark.parametrize(
    "value",
    [
        {"value_float": 1.5},
        {"value_ints": [1, 2]},
        {"value": helper.make_tensor("", TensorProto.DOUBLE, [1], [3])},
    ],
)
def test_constant(check, value):
    check("Constant", {}, opset=13, **value)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_quantise_gives_a_quantised_type(rng, dtype, make_node_model, run):
    from plait.frontends.onnx import lower_onnx

    x = f32(rng, 4, 5)
    static = {"s": np.float32(0.05), "z": np.array(3, dtype)}
    graph = lower_onnx(make_node_model("QuantizeLinear", {"x": x}, static=static, opset=13))
    kind = graph.outputs[0].type
    assert kind == QuantType(8, dtype == np.int8, 0.05, (4, 5), 3)
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    np.testing.assert_array_equal(
        run(graph, {"x": x})[0], np.clip(np.rint(x / np.float32(0.05)) + 3, low, high).astype(dtype)
    )


def test_dequantise_along_an_axis(check):
    stored = np.arange(-6, 6, dtype=np.int8).reshape(3, 4)
    scale, zero = np.array([0.5, 1, 2], np.float32), np.array([0, 1, -1], np.int8)
    static = {"w": stored, "s": scale, "z": zero}
    graph = check("DequantizeLinear", {}, static=static, opset=19, axis=0)
    assert graph.constants["w"].type == QuantType(8, True, "node.scale", (3, 4), "node.zero_point", 0)
    check("DequantizeLinear", {"x": stored}, static={"s": scale, "z": zero}, opset=19, axis=0)
