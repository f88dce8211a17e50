"""Models as torch's ONNX exporters write them, with a symbolic batch; the large families are in test_main_job."""

import io

import onnx
import pytest
import torch

from plait.frontends.families import example
from plait.frontends.onnx import lower_onnx
from plait.ir.interpret import interpret

pytest.importorskip("onnxscript")


def compare(model, graph, inputs, batch: int) -> None:
    """The graph and the module agree on another batch size, and no shape code is left in the graph."""
    graph.verify()
    assert list(graph.dims) == ["B"]
    assert "core.dim_value" not in {op.opname for op in graph.walk()}
    feeds = inputs(batch, 1)
    with torch.no_grad():
        expected, found = model(**feeds), interpret(graph, feeds)[0]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-5)


def export(name: str):
    family = example(name)
    model = family.build(0)
    shapes = {k: {axis: torch.export.Dim(dim) for axis, dim in v.items()} for k, v in family.dynamic.items()}
    program = torch.onnx.export(
        model, (), kwargs=family.inputs(2, 0), dynamo=True, dynamic_shapes=shapes, verbose=False
    )
    assert program is not None
    return family, model, program.model_proto


@pytest.mark.slow
@pytest.mark.parametrize("name", ["small_cnn", "small_transformer"])
def test_exported_family(name):
    family, model, proto = export(name)
    compare(model, lower_onnx(proto, dynamic=family.dynamic), family.inputs, 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_tiny", "swin_tiny"])
def test_family_traced_to_opset_17(name):
    """TorchScript's exporter leaves all shape arithmetic in the model."""
    family = example(name)
    model, inputs, file = family.build(0), family.inputs(2, 0), io.BytesIO()
    torch.onnx.export(
        model, tuple(inputs.values()), file, dynamo=False, opset_version=17,
        input_names=list(inputs), dynamic_axes={k: dict(v) for k, v in family.dynamic.items()},
    )  # fmt: skip
    compare(model, lower_onnx(onnx.load_from_string(file.getvalue())), family.inputs, 3)


@pytest.mark.slow
def test_locations_point_into_the_family():
    family, _, proto = export("small_cnn")
    graph = lower_onnx(proto, dynamic=family.dynamic)
    files = {origin.file for op in graph.ops for origin in op.loc.origins}
    assert "small.py" in files
