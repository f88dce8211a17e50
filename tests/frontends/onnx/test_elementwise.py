"""Arithmetic, comparison, logic, activations, softmax and casts against the reference evaluator."""

import numpy as np
import pytest
from onnx import TensorProto

UNARY = [
    ("Abs", 13), ("Neg", 13), ("Exp", 13), ("Sin", 7), ("Cos", 7), ("Tan", 7), ("Atan", 7), ("Sinh", 9),
    ("Cosh", 9), ("Asinh", 9), ("Erf", 9), ("Floor", 13), ("Ceil", 13), ("Round", 11), ("Sign", 9),
    ("Tanh", 13), ("Sigmoid", 13), ("Relu", 7), ("Relu", 14), ("Softplus", 7), ("Softsign", 7),
    ("HardSwish", 14), ("Mish", 18), ("Gelu", 20), ("Identity", 14), ("IsNaN", 13), ("Swish", 24),
]  # fmt: skip


@pytest.mark.parametrize(("op_type", "opset"), UNARY)
def test_unary(check, rng, op_type, opset):
    check(op_type, {"x": rng.normal(size=(2, 3, 4)).astype(np.float32)}, opset=opset)


@pytest.mark.parametrize("op_type", ["Sqrt", "Log", "Reciprocal", "Acosh"])
def test_unary_of_positive_numbers(check, rng, op_type):
    check(op_type, {"x": rng.uniform(1.1, 3, (3, 5)).astype(np.float32)}, opset=13)


@pytest.mark.parametrize("op_type", ["Asin", "Acos", "Atanh"])
def test_unary_inside_one(check, rng, op_type):
    check(op_type, {"x": rng.uniform(-0.9, 0.9, (3, 5)).astype(np.float32)}, opset=9)


@pytest.mark.parametrize("opset", [7, 13, 14])
@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul", "Div"])
def test_arithmetic_broadcasts(check, rng, op_type, opset):
    a, b = rng.normal(size=(2, 3, 4)), rng.uniform(1, 2, (3, 1))
    check(op_type, {"a": a.astype(np.float32), "b": b.astype(np.float32)}, opset=opset)


def test_integer_division_truncates(check):
    a, b = np.array([7, -7, 7, -7], np.int32), np.array([2, 2, -2, -2], np.int32)
    check("Div", {"a": a, "b": b}, opset=13)


@pytest.mark.parametrize("fmod", [0, 1])
@pytest.mark.parametrize("dtype", [np.int64, np.float32])
def test_modulo_signs(check, fmod, dtype):
    if dtype == np.float32 and not fmod:
        pytest.skip("the standard wants fmod=1 for floats")
    a, b = np.array([7, -7, 7, -7], dtype), np.array([4, 4, -4, -4], dtype)
    check("Mod", {"a": a, "b": b}, opset=13, fmod=fmod)


@pytest.mark.parametrize("op_type", ["Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual"])
def test_comparison(check, rng, op_type):
    a, b = (rng.integers(0, 3, (4, 5)).astype(np.int32) for _ in range(2))
    check(op_type, {"a": a, "b": b}, opset=16)


@pytest.mark.parametrize("op_type", ["And", "Or", "Xor"])
def test_logic(check, rng, op_type):
    a, b = (rng.integers(0, 2, (4, 5)).astype(bool) for _ in range(2))
    check(op_type, {"a": a, "b": b}, opset=7)


@pytest.mark.parametrize("op_type", ["BitwiseAnd", "BitwiseOr", "BitwiseXor"])
def test_bitwise(check, rng, op_type):
    a, b = (rng.integers(0, 99, (4, 5)).astype(np.int32) for _ in range(2))
    check(op_type, {"a": a, "b": b}, opset=18)


@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
def test_shift_by_a_constant(check, direction):
    x, shift = np.array([1, 9, 200], np.uint8), np.array([1, 2, 3], np.uint8)
    expected = np.left_shift(x, shift) if direction == "LEFT" else np.right_shift(x, shift)
    check("BitShift", {"x": x}, static={"s": shift}, opset=11, direction=direction, expected=[expected])


@pytest.mark.parametrize("op_type", ["Sum", "Mean", "Max", "Min"])
@pytest.mark.parametrize("count", [1, 3])
def test_variadic(check, rng, op_type, count):
    feeds = {f"x{i}": rng.normal(size=(3, 4) if i != 1 else (4,)).astype(np.float32) for i in range(count)}
    check(op_type, feeds, opset=13)


@pytest.mark.parametrize("exponent", [2.0, 0.5, 3.0])
def test_power_of_a_constant(check, rng, exponent):
    x = rng.uniform(0.5, 2, (3, 4)).astype(np.float32)
    check("Pow", {"x": x}, static={"e": np.float32(exponent)}, opset=13)


def test_integer_power_of_a_float_is_computed_in_floats(check):
    x = np.array([2, 4, 9], np.int32)
    check("Pow", {"x": x}, static={"e": np.array([2.5, 0.5, 1.0], np.float32)}, opset=15)


@pytest.mark.parametrize("flags", [(1, 1), (1, 0), (0, 1)])
def test_infinities_by_sign(check, flags):
    x = np.array([1, np.inf, -np.inf, np.nan], np.float32)
    check("IsInf", {"x": x}, opset=10, detect_positive=flags[0], detect_negative=flags[1])


def test_where_broadcasts_three_ways(check, rng):
    feeds = {
        "c": rng.integers(0, 2, (3, 1)).astype(bool),
        "x": rng.normal(size=(1, 4)).astype(np.float32),
        "y": rng.normal(size=(2, 1, 1)).astype(np.float32),
    }
    check("Where", feeds, opset=16)


@pytest.mark.parametrize("to", [TensorProto.INT32, TensorProto.BOOL, TensorProto.DOUBLE, TensorProto.FLOAT16])
def test_cast(check, rng, to):
    check("Cast", {"x": (rng.normal(size=(3, 4)) * 5).astype(np.float32)}, opset=13, to=to)


@pytest.mark.parametrize("bounds", [(0.0, None), (0.0, 6.0), (-0.5, 0.5), (None, 0.25)])
@pytest.mark.parametrize("opset", [7, 11, 13])
def test_clip_bounds_by_attribute_or_input(check, rng, bounds, opset):
    x = (rng.normal(size=(4, 5)) * 4).astype(np.float32)
    named = {n: b for n, b in zip(("min", "max"), bounds, strict=True) if b is not None}
    if opset < 11:
        low, high = (bounds[0] if bounds[0] is not None else -np.inf), bounds[1]
        expected = [np.clip(x, low, high if high is not None else np.inf)]
        check("Clip", {"x": x}, opset=opset, expected=expected, **named)
        return
    order = ["x", *(n if n in named else "" for n in ("min", "max"))]
    static = {n: np.float32(b) for n, b in named.items()}
    check("Clip", {"x": x}, static=static, inputs=order, opset=opset)


def test_clip_at_zero_and_six_is_relu6(check, rng):
    x = rng.normal(size=(4, 5)).astype(np.float32)
    graph = check("Clip", {"x": x}, static={"a": np.float32(0), "b": np.float32(6)}, opset=13)
    assert [op.opname for op in graph.ops] == ["nn.relu6"]


@pytest.mark.parametrize(
    ("op_type", "opset", "attributes"),
    [
        ("LeakyRelu", 7, {"alpha": 0.2}),
        ("Elu", 7, {"alpha": 0.7}),
        ("Selu", 7, {}),
        ("Selu", 7, {"alpha": 2.0, "gamma": 3.0}),
        ("Celu", 12, {"alpha": 2.0}),
        ("HardSigmoid", 7, {"alpha": 0.3, "beta": 0.4}),
        ("ThresholdedRelu", 10, {"alpha": 0.5}),
        ("Gelu", 20, {"approximate": "tanh"}),
        ("Swish", 24, {"alpha": 1.5}),
        ("Shrink", 9, {"lambd": 0.3, "bias": 0.1}),
    ],
)
def test_activation_parameters(check, rng, op_type, opset, attributes):
    check(op_type, {"x": rng.normal(size=(3, 7)).astype(np.float32)}, opset=opset, **attributes)


def test_parametric_relu(check, rng):
    feeds = {"x": rng.normal(size=(2, 3, 4)).astype(np.float32)}
    check("PRelu", feeds, static={"slope": rng.uniform(0, 1, (3, 1)).astype(np.float32)}, opset=16)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax"])
def test_softmax_before_13_flattens(check, rng, op_type, axis):
    x = rng.normal(size=(2, 3, 4)).astype(np.float32)
    rows = x.reshape(int(np.prod(x.shape[:axis])), -1).astype(np.float64)
    soft = np.exp(rows - rows.max(1, keepdims=True))
    soft /= soft.sum(1, keepdims=True)
    expected = (np.log(soft) if op_type == "LogSoftmax" else soft).reshape(x.shape).astype(np.float32)
    check(op_type, {"x": x}, opset=11, axis=axis, expected=[expected])


@pytest.mark.parametrize("axis", [-1, 0, 1])
@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax", "Hardmax"])
def test_softmax_from_13_on_keeps_axes(check, rng, op_type, axis):
    check(op_type, {"x": rng.normal(size=(2, 3, 4)).astype(np.float32)}, opset=13, axis=axis)
