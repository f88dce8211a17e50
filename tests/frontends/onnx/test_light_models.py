"""Models that ship inside the onnx package, in the interpreter, against the outputs stored next to them.

Their weights come from ConstantOfShape nodes.  The input is what onnx's own
backend test feeds them: arange(n) / n in the shape of the input.
"""

from pathlib import Path

import numpy as np
import onnx
import pytest

from plait.frontends.onnx import lower_onnx

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet"])
def test_light_model(run, name):
    graph = lower_onnx(FOLDER / f"light_{name}.onnx")
    graph.verify()
    feeds = {}
    for value in graph.inputs:
        shape = tuple(int(dim) for dim in value.shaped.shape)
        count = int(np.prod(shape))
        feeds[value.name] = (np.arange(count).reshape(shape) / count).astype(np.float32)
    stored = onnx.TensorProto.FromString((FOLDER / f"light_{name}_output_0.pb").read_bytes())
    expected = onnx.numpy_helper.to_array(stored)
    (found,) = run(graph, feeds)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-7)
