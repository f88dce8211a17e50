"""Transforms, running products, reversals and cache writes against the examples of the ONNX standard."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

import plait
from plait.ir.interpret import interpret

OPERATORS = (
    "test_dft", "test_stft", "test_cumprod", "test_cumsum", "test_reversesequence", "test_tensorscatter",
    "test_det_", "test_bitshift", "test_melweightmatrix", "test_reduce_max_empty_set", "test_mod_mixed",
)  # fmt: skip


def examples() -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [case for case in load_model_tests(kind="node") if case.name.startswith(OPERATORS)]


def with_constants(model: onnx.ModelProto, inputs: list[Any]) -> tuple[onnx.ModelProto, list[Any]]:
    """The model with its scalars and vectors behind the first input known, as an exporter writes them."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    kept, rest = [], []
    for position, (declared, array) in enumerate(zip(model.graph.input, inputs, strict=True)):
        if np.ndim(array) == 0 or (position and np.ndim(array) == 1):
            changed.graph.initializer.append(numpy_helper.from_array(np.asarray(array), declared.name))
        else:
            kept.append(declared)
            rest.append(array)
    del changed.graph.input[:]
    changed.graph.input.extend(kept)
    return changed, rest


@pytest.mark.parametrize("case", examples(), ids=lambda case: case.name)
def test_example(case: Any) -> None:
    inputs, outputs = case.data_sets[0]
    try:
        graph, given = plait.lower(case.model), list(inputs)
    except plait.PlaitError:
        model, given = with_constants(case.model, list(inputs))
        graph = plait.lower(model)
    for got, want in zip(interpret(graph, given), outputs, strict=True):
        # the examples hold rounding noise of their own where a sum is zero
        wanted = torch.from_numpy(np.asarray(want).astype(np.float64))
        torch.testing.assert_close(got.double(), wanted, rtol=case.rtol, atol=max(case.atol, 1e-6))
