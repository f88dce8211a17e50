"""Each way in which a model file, its external data or its operators can be wrong, and what the message says."""

import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper, parser

from plait.frontends.onnx import lower_onnx, lowers
from plait.ir import InputError, LoweringError
from plait.ir.ops import nn


def simple(nodes: str = "y = Relu(x)", opset: int = 13, imports: str = "") -> onnx.ModelProto:
    return parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}{imports}]> g (float[2, 3] x) => (float[2, 3] y) {{ {nodes} }}'
    )


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="model file does not exist"):
        lower_onnx(tmp_path / "none.onnx")
    with pytest.raises(InputError, match="is a folder"):
        lower_onnx(tmp_path)
    with pytest.raises(InputError, match="cannot lower a int as an ONNX model"):
        lower_onnx(3)


@pytest.mark.parametrize("content", [b"", b"not a model at all", b"\x08\x07"])
def test_a_file_of_something_else(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(LoweringError, match="no ONNX model, or was cut short"):
        lower_onnx(path)


def test_a_truncated_file(tmp_path):
    path = tmp_path / "model.onnx"
    data = simple().SerializeToString()
    path.write_bytes(data[: len(data) - 7])
    with pytest.raises(LoweringError, match="no ONNX model, or was cut short"):
        lower_onnx(path)


def test_damaged_files_raise_nothing_but_lowering_errors(tmp_path):
    data, path = simple("a = Exp(x)  y = Add(a, x)").SerializeToString(), tmp_path / "model.onnx"
    rng = np.random.default_rng(0)
    failures = 0
    for _ in range(300):
        damaged = bytearray(data)
        for position in rng.integers(0, len(data), 2):
            damaged[position] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            lower_onnx(path)
        except LoweringError:
            failures += 1
    assert failures > 100


def test_checker_failures_are_passed_on():
    model = simple()
    model.graph.node[0].input[0] = "absent"
    with pytest.raises(LoweringError, match="the onnx checker rejects the model") as caught:
        lower_onnx(model)
    assert "absent" in (caught.value.why or "")


@pytest.mark.parametrize(("opset", "remedy"), [(0, "newer onnx"), (10_000, "newer onnx")])
def test_opset_out_of_range(opset, remedy):
    model = simple()
    model.opset_import[0].version = opset
    with pytest.raises(LoweringError, match=f"uses opset {opset}") as caught:
        lower_onnx(model)
    assert remedy in (caught.value.remedy or "")


def test_no_opset():
    model = simple()
    del model.opset_import[:]
    with pytest.raises(LoweringError, match="does not say which operator set"):
        lower_onnx(model)


def test_initialiser_data_that_does_not_fill_its_shape():
    model = simple("y = Add(x, w)")
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float32), "w"))
    model.graph.initializer[0].raw_data = b"\0" * 8
    with pytest.raises(LoweringError, match="the data of tensor 'w' does not make f32"):
        lower_onnx(model)


def test_element_type_without_counterpart():
    model = simple()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    with pytest.raises(LoweringError, match="element type STRING has no counterpart"):
        lower_onnx(model)


# -- external data --------------------------------------------------------------
def external(folder, location: str, **entries: object):
    model = simple("y = Add(x, w)")
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    tensor.dims.append(3)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    model.graph.initializer.append(tensor)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_external_data_is_read_with_its_offset(tmp_path):
    (tmp_path / "sub").mkdir()
    data = np.arange(5, dtype=np.float32)
    (tmp_path / "sub" / "w.bin").write_bytes(data.tobytes())
    graph = lower_onnx(external(tmp_path, "sub/w.bin", offset=8, length=12))
    np.testing.assert_array_equal(graph.constants["w"].data, [2, 3, 4])


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "sub/../../secret.bin", "", "."])
def test_external_data_stays_in_the_folder(tmp_path, location):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(b"\0" * 12)
    with pytest.raises(LoweringError, match="leaves the folder of the model"):
        lower_onnx(external(folder, location))


def test_external_data_does_not_follow_a_link_out(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(b"\0" * 12)
    os.symlink(tmp_path / "secret.bin", folder / "w.bin")
    with pytest.raises(LoweringError, match="leaves the folder of the model"):
        lower_onnx(external(folder, "w.bin"))


def test_external_data_missing_short_or_inconsistent(tmp_path):
    with pytest.raises(LoweringError, match=r"external data file 'w.bin' is missing"):
        lower_onnx(external(tmp_path, "w.bin"))
    (tmp_path / "w.bin").write_bytes(b"\0" * 11)
    with pytest.raises(LoweringError, match=r"external data file 'w.bin' is short"):
        lower_onnx(external(tmp_path, "w.bin"))
    with pytest.raises(LoweringError, match="states offset '-4'"):
        lower_onnx(external(tmp_path, "w.bin", offset=-4))
    with pytest.raises(LoweringError, match="length '16'"):
        lower_onnx(external(tmp_path, "w.bin", length=16))


def test_external_data_of_a_model_in_memory(tmp_path):
    model = onnx.load(external(tmp_path, "w.bin"), load_external_data=False)
    with pytest.raises(LoweringError, match="in an external file 'w.bin'") as caught:
        lower_onnx(model)
    assert "pass the path" in (caught.value.remedy or "")


# -- operators ------------------------------------------------------------------
def test_all_unsupported_operators_are_in_one_report():
    nodes = (
        """a = StringNormalizer(x)  b = com.acme.Relu6x(x)  [second] c = com.acme.Relu6x(b)  y = Relu(c)"""
    )
    with pytest.raises(LoweringError) as caught:
        lower_onnx(simple(nodes, imports=', "com.acme" : 1'))
    text = str(caught.value)
    assert "3 operators of 2 kinds in the model cannot be lowered" in text
    assert "com.acme::Relu6x x2 in node 'b' under opset 1, node 'second' under opset 1" in text
    assert "nearest supported: onnx::Relu" in text
    assert "onnx::StringNormalizer x1 in node 'a' under opset 13" in text
    assert '@register("com.acme::Relu6x")' in text
    entries = caught.value.to_dict()["operators"]
    assert [(e["operator"], e["count"]) for e in entries] == [
        ("com.acme::Relu6x", 2),
        ("onnx::StringNormalizer", 1),
    ]


def test_a_registered_rule_is_used():
    @lowers("FastRelu", domain="test.acme")
    def fast_relu(call):
        return call.emit(nn.Relu(call.value(0)))

    graph = lower_onnx(simple("y = test.acme.FastRelu(x)", imports=', "test.acme" : 1'))
    assert [op.opname for op in graph.ops] == ["nn.relu"]


def test_a_shape_computed_at_run_time():
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 13]> g (float[6] x, int64[2] s) => (float[a, b] y)'
        "{ [view] y = Reshape(x, s) }"
    )
    with pytest.raises(LoweringError, match=r"node 'view' \(Reshape\): the shape \(input 1, 's'") as caught:
        lower_onnx(model)
    assert caught.value.remedy is not None


def test_shapes_that_do_not_fit_name_the_node():
    model = simple("y = Add(x, w)")
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(4, np.float32), "w"))
    with pytest.raises(LoweringError, match=r"node 'y' \(Add\): ") as caught:
        lower_onnx(model)
    assert "dims 4 and 3" in (caught.value.why or "") or "dims 3 and 4" in (caught.value.why or "")


def test_sequences():
    model = simple()
    model.graph.input[0].type.sequence_type.elem_type.tensor_type.elem_type = TensorProto.FLOAT
    with pytest.raises(LoweringError, match="the input is a sequence_type"):
        lower_onnx(model)


def test_unsupported_forms_are_reported_together():
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 16]> g (float[1, 2, 4, 4] x, float[1, 2, 3, 3, 3, 3] z)'
        " => (float[1, 2, 1, 1] y, float[1, 2, 3, 3, 3, 3] w, float[1, 2, 3, 3, 3, 3] v)"
        " { [a] y = GlobalAveragePool(x)  [b] p = MaxPool<kernel_shape = [1, 1, 1, 1]>(z)"
        "   [c] w = Relu(p)  [d] v = AveragePool<kernel_shape = [1, 1, 1, 1]>(z) }"
    )
    with pytest.raises(LoweringError) as caught:
        lower_onnx(model)
    entries = caught.value.to_dict()["operators"]
    assert [(entry["operator"], entry["places"]) for entry in entries] == [
        ("onnx::MaxPool", ["node 'b'"]),
        ("onnx::AveragePool", ["node 'd'"]),
    ]
    assert "pooling over 4 axes has no lowering" in str(caught.value)
