"""The nine models inside the onnx package on the CPU target, against the outputs stored next to them.

Their weights come from ConstantOfShape nodes.  The input is what onnx's own
backend test feeds them: arange(n) / n in the shape of the input.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import plait

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
MODELS = sorted(path.stem for path in FOLDER.glob("light_*.onnx"))


def test_all_nine_are_there() -> None:
    assert len(MODELS) == 9


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_light_model_on_the_cpu(name: str) -> None:
    executable = plait.compile(FOLDER / f"{name}.onnx", target="cpu", isolate=False, cache=False)
    feeds = {}
    for value in executable.graph.inputs:
        shape = tuple(int(dim) for dim in value.shaped.shape)
        count = int(np.prod(shape))
        feeds[value.name] = (np.arange(count).reshape(shape) / count).astype(np.float32)
    stored = onnx.TensorProto.FromString((FOLDER / f"{name}_output_0.pb").read_bytes())
    np.testing.assert_allclose(executable(**feeds), onnx.numpy_helper.to_array(stored), rtol=1e-3, atol=1e-7)
