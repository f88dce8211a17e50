"""Operators whose output size depends on values, against the reference evaluator."""

import numpy as np
import pytest

import plait
from plait.frontends.onnx import lower_onnx


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 2)])
def test_non_zero(check, rng, shape):
    graph = check("NonZero", {"x": rng.integers(0, 2, shape)}, opset=13)
    assert graph.outputs[0].shaped.shape[0] == len(shape)
    check("NonZero", {"x": np.zeros(shape, np.float32)}, opset=9)


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_compress(check, rng, axis):
    x = rng.normal(size=(3, 4)).astype(np.float32)
    options = {} if axis is None else {"axis": axis}
    for condition in ([True, False, True], [False, False]):  # may be shorter than the axis
        check("Compress", {"x": x, "c": np.array(condition)}, opset=11, **options)


@pytest.mark.parametrize("axis", [None, 0, -1])
def test_unique(check, rng, axis):
    x = rng.integers(0, 3, (4, 2)).astype(np.float32)
    options = {} if axis is None else {"axis": axis}
    check("Unique", {"x": x}, opset=11, outputs=4, **options)
    check("Unique", {"x": x}, opset=11, **options)


def test_unique_in_the_order_of_first_occurrence(check):
    """The reference evaluator does not do this for a matrix."""
    x = np.float32([[2, 1], [0, 0], [2, 1], [1, 1]])
    elements = ([2, 1, 0], [0, 1, 2], [0, 1, 2, 2, 0, 1, 1, 1], [2, 4, 2])
    rows = ([[2, 1], [0, 0], [1, 1]], [0, 1, 3], [0, 1, 0, 2], [2, 1, 1])
    for options, (values, *numbers) in (({}, elements), ({"axis": 0}, rows)):
        expected = [np.float32(values), *(np.array(n) for n in numbers)]
        check("Unique", {"x": x}, opset=11, outputs=4, sorted=0, expected=expected, **options)


@pytest.mark.parametrize("centred", [0, 1])
@pytest.mark.parametrize("limit", [0, 2, 9])
def test_non_max_suppression(check, rng, centred, limit):
    boxes, scores = rng.random((2, 7, 4)).astype(np.float32), rng.random((2, 3, 7)).astype(np.float32)
    static = {"limit": np.array([limit]), "iou": np.float32([0.2]), "score": np.float32([0.3])}
    check(
        "NonMaxSuppression",
        {"b": boxes, "s": scores},
        static=static,
        opset=11,
        center_point_box=centred,
    )


def test_a_size_that_depends_on_data_runs_on_the_cpu(make_node_model, rng):
    model = make_node_model(
        "Compress", {"x": np.zeros((5, 2), np.float32), "c": np.zeros(5, bool)}, opset=11, axis=0
    )
    executable = plait.compile(lower_onnx(model), threads=1, isolate=False, cache=False)
    x = rng.normal(size=(5, 2)).astype(np.float32)
    for condition in ([True, False, True, True, False], [False] * 5):
        assert np.array_equal(executable(x, np.array(condition)), x[np.array(condition)])
