"""Reductions and scans against the reference evaluator."""

import numpy as np
import pytest

REDUCTIONS = [
    "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
    "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare",
]  # fmt: skip


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("op_type", REDUCTIONS)
def test_axes_by_attribute_or_input(check, rng, op_type, opset, keepdims):
    x = rng.uniform(0.5, 2, (2, 3, 4)).astype(np.float32)
    by_input = opset >= 18 or (op_type == "ReduceSum" and opset >= 13)
    if by_input:
        check(op_type, {"x": x}, static={"a": np.array([0, -1])}, opset=opset, keepdims=keepdims)
    else:
        check(op_type, {"x": x}, opset=opset, axes=[0, -1], keepdims=keepdims)


@pytest.mark.parametrize("noop", [0, 1])
def test_without_axes(check, rng, noop):
    check("ReduceSum", {"x": rng.normal(size=(2, 3)).astype(np.float32)}, opset=13, noop_with_empty_axes=noop)


def test_mean_of_integers(check):
    check("ReduceMean", {"x": np.array([[1, 2], [3, 8]], np.int32)}, opset=13, axes=[1])


@pytest.mark.parametrize("op_type", ["ReduceMax", "ReduceMin"])
def test_extremes_of_booleans(check, op_type):
    x = np.array([[True, False], [True, True]])
    check(op_type, {"x": x}, static={"a": np.array([1])}, opset=20)


@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("op_type", ["ArgMax", "ArgMin"])
def test_index_of_extreme(check, op_type, keepdims, last):
    x = np.array([[2, 2, 1, 1], [3, 10, 10, 3]], np.float32)
    check(op_type, {"x": x}, opset=13, axis=1, keepdims=keepdims, select_last_index=last)


@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
def test_running_sum(check, rng, exclusive, reverse):
    x = rng.normal(size=(2, 5)).astype(np.float32)
    check("CumSum", {"x": x}, static={"a": np.array(1)}, opset=14, exclusive=exclusive, reverse=reverse)


@pytest.mark.parametrize("p", [1, 2])
def test_lp_normalization(check, rng, p):
    x = rng.normal(size=(3, 4)).astype(np.float32)
    x[1] = 0
    norm = np.linalg.norm(x, ord=p, axis=1, keepdims=True)
    expected = x / np.where(norm == 0, 1, norm)
    check("LpNormalization", {"x": x}, opset=13, p=p, axis=1, expected=[expected])
