"""Function bodies, branches, names, locations, fused operators and lazy imports."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

from plait.frontends.onnx import lower_onnx
from plait.ir import LoweringError

FUNCTION = """<ir_version: 9, opset_import: ["" : 18, "local" : 1]>
g (float[N, 3] x) => (float[N, 3] y) { [scale] y = local.scaled<by = 3.0>(x) }
<domain: "local", opset_import: ["" : 18]>
scaled <by: float = 2.0> (a) => (b) { factor = Constant<value_float: float = @by>()  b = Mul(a, factor) }
"""


def test_model_functions_are_inlined_with_their_attributes(run):
    graph = lower_onnx(parser.parse_model(FUNCTION))
    assert [op.opname for op in graph.ops] == ["core.full", "core.mul"]
    x = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(run(graph, {"x": x})[0], 3 * x)
    default = lower_onnx(parser.parse_model(FUNCTION.replace("<by = 3.0>", "")))
    np.testing.assert_array_equal(run(default, {"x": x})[0], 2 * x)


def test_an_unsupported_operator_inside_a_function_is_reported():
    with pytest.raises(LoweringError, match=r"onnx::StringNormalizer x1"):
        lower_onnx(parser.parse_model(FUNCTION.replace("Mul(a, factor)", "StringNormalizer(a)")))


def branches(condition: np.ndarray | None) -> onnx.ModelProto:
    def branch(name: str, op_type: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2])
        return helper.make_graph([helper.make_node(op_type, ["x"], [name])], name, [], [out])

    node = helper.make_node(
        "If", ["c"], ["y"], then_branch=branch("t", "Relu"), else_branch=branch("e", "Neg")
    )
    inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2])]
    constants = []
    if condition is None:
        inputs.append(helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, []))
    else:
        constants.append(numpy_helper.from_array(condition, "c"))
    out = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2])
    graph = helper.make_graph([node], "g", inputs, [out], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)])


def test_a_constant_condition_selects_a_branch():
    assert [op.opname for op in lower_onnx(branches(np.array(True))).ops] == ["nn.relu"]
    assert [op.opname for op in lower_onnx(branches(np.array(False))).ops] == ["core.neg"]
    assert [op.opname for op in lower_onnx(branches(None)).ops] == ["core.cond"]


def test_names_and_locations(tmp_path):
    model = parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 18]> g (float[2, 3] x) => (float[2, 3] y)'
        "{ [first] a = Relu(x)  b = Neg(a)  y = Add(b, w) }"
    )
    model.graph.node[0].name = "/layer1/act/Relu"
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float32), "layer1/w.bias"))
    model.graph.node[2].input[1] = "layer1/w.bias"
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    graph = lower_onnx(path)
    assert [op.name for op in graph.ops] == ["layer1.act.Relu", "b", "y"]
    assert list(graph.constants) == ["layer1/w.bias"]
    assert [str(op.loc) for op in graph.ops] == [
        '"/layer1/act/Relu" net.onnx:0',
        '"b" net.onnx:1',
        '"y" net.onnx:2',
    ]


def test_locations_that_torch_left():
    model = parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 18]> g (float[2] x) => (float[2] y) { [node_relu] y = Relu(x) }'
    )
    trace = 'File "/site-packages/torch/nn/f.py", line 3, in f\n  a\nFile "/home/me/net.py", line 12, in forward\n  b'
    for key, value in {"name_scopes": "['', 'layer1', 'layer1.act', 'relu']", "stack_trace": trace}.items():
        model.graph.node[0].metadata_props.add(key=f"pkg.torch.onnx.{key}", value=value)
    graph = lower_onnx(model)
    assert [(op.name, str(op.loc)) for op in graph.ops] == [("relu", '"layer1.act" net.py:12')]


def test_an_initialiser_and_a_node_of_one_name():
    model = parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 18]> g (float[2, 3] x) => (float[2, 3] y) { [w] y = Add(x, w) }'
    )
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float32), "w"))
    graph = lower_onnx(model)
    assert list(graph.constants) == ["w"]
    assert graph.outputs[0].name == "w_1"


def test_results_that_nobody_reads_are_gone():
    model = parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 18]> g (float[2] x) => (float[2] y) { a = Exp(x)  y = Relu(x) }'
    )
    assert [op.opname for op in lower_onnx(model).ops] == ["nn.relu"]


FUSED = '<ir_version: 9, opset_import: ["" : 18, "com.microsoft" : 1]>'


@pytest.mark.parametrize(("op_type", "approximate"), [("Gelu", "none"), ("FastGelu", "tanh")])
def test_fused_gelu(run, rng, op_type, approximate):
    import torch

    text = f"{FUSED} g (float[2, 3] x) => (float[2, 3] y) {{ y = com.microsoft.{op_type}(x) }}"
    x = rng.normal(size=(2, 3)).astype(np.float32)
    expected = torch.nn.functional.gelu(torch.from_numpy(x), approximate=approximate)
    graph = lower_onnx(parser.parse_model(text))
    assert [op.opname for op in graph.ops] == ["nn.gelu"]
    np.testing.assert_allclose(run(graph, {"x": x})[0], expected, rtol=1e-5, atol=1e-6)


def test_fused_self_attention(run, rng):
    import torch

    text = f"""{FUSED} g (float[2, 5, 8] x, float[8, 24] w, float[24] b) => (float[2, 5, 8] y) {{
        y = com.microsoft.Attention<num_heads = 2>(x, w, b)
    }}"""
    shapes = {"x": (2, 5, 8), "w": (8, 24), "b": (24,)}
    feeds = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    x, w, b = (torch.from_numpy(a) for a in feeds.values())
    q, k, v = (part.reshape(2, 5, 2, 4).transpose(1, 2) for part in (x @ w + b).chunk(3, -1))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(2, 5, 8)
    found = run(lower_onnx(parser.parse_model(text)), feeds)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_importing_the_package_is_lazy():
    code = (
        "import sys, plait.frontends.onnx\n"
        "assert not {'onnx', 'torch', 'tvm'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
