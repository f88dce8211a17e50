"""Whole graphs as ONNX: names, dims and places kept, numbers as the interpreter's, and back again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from plait.api import optimize
from plait.backends.onnx import files, save_onnx, to_onnx
from plait.frontends.families import example, examples
from plait.frontends.onnx import lower_onnx
from plait.frontends.pytorch import lower_torch
from plait.ir import CompileError, Graph, InputError, Loc, QuantType, TensorType, parse
from plait.ir import types as t
from plait.ir.interpret import interpret
from plait.ir.ops import core, linalg, nn, quant
from plait.ir.reference.tensors import to_numpy

LARGE = [name for name in examples() if not name.startswith("small")]


def session(model: onnx.ModelProto | str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.x64quantprecision", "1")  # no saturating sums of u8 x i8
    source = model if isinstance(model, str) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def agree(graph: Graph, model: onnx.ModelProto, inputs: dict[str, Any], tolerance: float = 1e-4) -> None:
    """Compare onnxruntime with the interpreter."""
    found = session(model).run(None, {name: np.asarray(x) for name, x in inputs.items()})
    for got, value, held in zip(found, graph.outputs, interpret(graph, inputs), strict=True):
        wanted = to_numpy(held, value.shaped)
        assert got.dtype == wanted.dtype
        np.testing.assert_allclose(
            got, wanted, rtol=tolerance, atol=tolerance * max(1.0, float(np.abs(wanted).max(initial=0)))
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_family(name: str) -> None:
    """As lowered, and after the standard passes."""
    found = example(name)
    graph = lower_torch(found.build(0), found.inputs(2, 0), dynamic=found.dynamic)
    for each in (graph, optimize(graph)):
        model = to_onnx(each)
        if model.ByteSize() < 1 << 28:  # the checker copies the weights several times
            onnx.checker.check_model(model, full_check=True)
        for batch in (1, 3):
            agree(each, model, found.inputs(batch, batch))


def block() -> Graph:
    """Convolution, norm, pooling and a linear layer, with a symbolic batch and size."""
    torch.manual_seed(3)
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1),
        torch.nn.BatchNorm2d(8),
        torch.nn.SiLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 5),
    ).eval()
    return lower_torch(layers, (torch.randn(2, 3, 8, 8),), dynamic={"input": {0: "B"}})


@pytest.mark.parametrize("optimized", [False, True])
def test_block_runs_and_comes_back(optimized: bool) -> None:
    graph = block()
    if optimized:
        graph = optimize(graph)
    model = to_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    again = lower_onnx(model)
    for batch in (1, 3):
        x = {graph.inputs[0].name: torch.randn(batch, 3, 8, 8)}
        agree(graph, model, x)
        torch.testing.assert_close(interpret(again, x)[0], interpret(graph, x)[0], rtol=1e-4, atol=1e-5)


def test_names_dims_and_places_are_kept() -> None:
    g = Graph("named")
    batch = g.declare_dim("B", 1, 64)
    x = g.add_input("image", TensorType(t.f32, (batch, 4)))
    w = g.add_constant("fc.weight", np.eye(4, dtype=np.float32))
    y = g.emit(nn.Linear(x, w, act="relu"), name="fc", loc=Loc.at("model.fc", "net.py", 12))
    z = g.emit(core.Exp(y), name="grown", loc=Loc.at("model", "net.py", 13))
    g.set_outputs([z])
    model = to_onnx(g)
    assert [info.name for info in model.graph.input] == ["image"]
    assert [info.name for info in model.graph.output] == ["grown"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "B"
    assert "fc.weight" in {tensor.name for tensor in model.graph.initializer}
    by_output = {output: node for node in model.graph.node for output in node.output}
    assert by_output["fc"].op_type == "Relu"
    assert "net.py:12" in by_output["fc"].doc_string
    assert {p.key: p.value for p in model.metadata_props}["plait.dim.B"] == "in 1..64"


def test_results_that_are_inputs_constants_or_doubles() -> None:
    g = Graph("copies")
    x = g.add_input("x", TensorType(t.f32, (2,)))
    y = g.emit(core.Neg(x))
    g.set_outputs([x, y, y, g.add_constant("c", np.ones(2, np.float32))])
    model = to_onnx(g)
    onnx.checker.check_model(model, full_check=True)
    agree(g, model, {"x": torch.tensor([1.0, -2.0])})


SHAPES = """
plait.ir 1.0
dim B in 1..8
dim T in 0..16
func @main(%x: f32[B,T,6], %y: f32[2*B+1]) -> f32[B*T,6], f32[T,B,2,3], f32[B,T+2,6], f32[B,3,T,6], i64[], f32[B,(T+1)//2,6] {
  %a = core.reshape(%x) : f32[B*T,6]
  %t = core.transpose(%x) {permutation=[1,0,2]} : f32[T,B,6]
  %b = core.reshape(%t) : f32[T,B,2,3]
  %c = core.pad(%x) {before=[0,1,0], after=[0,1,0]} : f32[B,T+2,6]
  %u = core.reshape(%x) : f32[B,1,T,6]
  %d = core.broadcast(%u) : f32[B,3,T,6]
  %e = core.dim_value() {dim=(2*B+T)//3} : i64[]
  %f = core.slice(%x) {axes=[1], starts=[0], stops=[T], steps=[2]} : f32[B,(T+1)//2,6]
  return %a, %b, %c, %d, %e, %f
}
"""


def test_symbolic_shapes() -> None:
    graph = parse(SHAPES)
    model = to_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    for batch, steps in ((1, 4), (3, 1), (2, 7), (2, 0)):
        agree(graph, model, {"x": torch.randn(batch, steps, 6), "y": torch.randn(2 * batch + 1)})


CONTROL = """
plait.ir 1.0
dim B in 1..8
dim T in 1..8
func @main(%x: f32[T,B], %s: f32[B], %n: i64[], %go: bool[]) -> f32[T,B], f32[B], i64[], f32[B] {
  %ys, %last = core.scan(%x, %s) : f32[T,B], f32[B] do (%e: f32[B], %h: f32[B]) {
    %sum = core.add(%e, %h) : f32[B]
    %next = nn.tanh(%sum) : f32[B]
    yield %next, %next
  }
  %limit = core.full() {value=100} : i64[]
  %end = core.while(%n) : i64[] condition (%k: i64[]) {
    %more = core.lt(%k, %limit) : bool[]
    yield %more
  } do (%j: i64[]) {
    %twice = core.add(%j, %j) : i64[]
    yield %twice
  }
  %c = core.cond(%go, %last) : f32[B] then (%p: f32[B]) {
    %up = core.exp(%p) : f32[B]
    yield %up
  } otherwise (%q: f32[B]) {
    yield %s
  }
  return %ys, %last, %end, %c
}
"""


def test_control_flow() -> None:
    graph = parse(CONTROL)
    model = to_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    for go in (True, False):
        inputs = {
            "x": torch.randn(4, 3),
            "s": torch.randn(3),
            "n": torch.tensor(3),
            "go": torch.tensor(go),
        }
        agree(graph, model, inputs)


def quantised(act: str = "relu") -> Graph:
    """quantize, conv2d, max_pool2d, linear on flattened integers, dequantize."""
    rng = np.random.default_rng(8)
    g = Graph("quantised")
    batch = g.declare_dim("B", 1, 8)
    x = g.add_input("x", TensorType(t.f32, (batch, 3, 8, 8)))
    g.add_constant("w.scale", rng.uniform(0.005, 0.02, 4).astype(np.float32))
    w = g.add_constant(
        "w",
        rng.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8),
        QuantType(8, True, "w.scale", (4, 3, 3, 3), axis=0),
    )
    b = g.add_constant("b", rng.integers(-900, 900, 4).astype(np.int32))
    q = g.emit(quant.Quantize(x, out=QuantType(8, True, 0.02, (batch, 3, 8, 8), 3)))
    y = g.emit(nn.Conv2d(q, w, b, pad=(1, 1), act=act, out=QuantType(8, False, 0.03, (batch, 4, 8, 8), 7)))
    p = g.emit(nn.MaxPool2d(y, kernel=(2, 2), stride=(2, 2)))
    f = g.emit(core.Reshape(p, out=p.shaped.with_shape((batch, 64))))
    v = g.add_constant("v", rng.integers(-7, 8, (5, 64)).astype(np.int8), QuantType(4, True, 0.01, (5, 64)))
    total = g.emit(nn.Linear(f, v))
    out = g.emit(quant.Requantize(total, scale=0.03 * 0.01, out=QuantType(8, True, 0.05, (batch, 5))))
    g.set_outputs([y, total, out, g.emit(quant.Dequantize(out))])
    g.verify()
    return g


@pytest.mark.parametrize("act", ["none", "relu", "silu"])
def test_quantised_graph(act: str) -> None:
    graph = quantised(act)
    model = to_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    for batch in (1, 3):
        x = torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(batch))
        seen: dict[str, torch.Tensor] = {}
        interpret(graph, [x], observe=lambda value, tensor, seen=seen: seen.update({value.name: tensor}))
        found = session(model).run(None, {"x": x.numpy()})
        conv = seen[graph.outputs[0].name].numpy()
        assert np.abs(found[0].astype(int) - conv.astype(int)).max() <= 1  # one quantum
        assert np.mean(found[0] != conv) < 1e-3
        if np.array_equal(found[0], conv):  # the sums of equal integers are exact
            np.testing.assert_array_equal(found[1], seen[graph.outputs[1].name].numpy())
            np.testing.assert_array_equal(found[2], seen[graph.outputs[2].name].numpy())


def test_groups_of_weights_are_blocks() -> None:
    rng = np.random.default_rng(4)
    g = Graph("grouped")
    g.add_constant("s", rng.uniform(0.01, 0.1, (6, 4)).astype(np.float32))
    w = g.add_constant(
        "w", rng.integers(-8, 8, (6, 32)).astype(np.int8), QuantType(4, True, "s", (6, 32), axis=1, group=8)
    )
    x = g.add_input("x", TensorType(t.f32, (2, 32)))
    g.set_outputs([g.emit(nn.Linear(x, g.emit(quant.Dequantize(w))))])
    model = to_onnx(g)
    onnx.checker.check_model(model, full_check=True)
    agree(g, model, {"x": torch.randn(2, 32)})


def test_all_refused_ops_are_listed_in_one_error() -> None:
    g = Graph("refused")
    x = g.add_input("x", TensorType(t.f32, (3, 3)))
    factor = g.emit(linalg.Cholesky(x), loc=Loc.at("model.prior", "net.py", 4))
    noise = g.emit(core.Random(distribution="normal", seed=1, out=TensorType(t.f32, (3, 3))))
    more = g.emit(core.Random(distribution="normal", seed=2, out=TensorType(t.f32, (3, 3))))
    g.set_outputs([g.emit(core.Add(factor, g.emit(core.Add(noise, more))))])
    with pytest.raises(CompileError) as caught:
        to_onnx(g)
    message = str(caught.value)
    assert "3 ops of @refused" in message
    assert "linalg.cholesky x1" in message
    assert "net.py:4" in message
    assert "core.random x2" in message


def test_graph_values_are_refused() -> None:
    graph = parse(
        "plait.ir 1.0\ndim N in 1..9\ndim E in 1..9\n"
        "func @main(%g: graph<N, E, coo, i64>, %x: f32[N,2]) -> f32[E,2] {\n"
        '  %y = message.gather(%g, %x) {side="src"} : f32[E,2]\n  return %y\n}\n'
    )
    with pytest.raises(CompileError, match="no values of type graph"):
        to_onnx(graph)


def test_operator_sets_out_of_range_are_refused() -> None:
    for opset in (20, 1000):
        with pytest.raises(CompileError, match=f"operator set {opset} cannot be written"):
            to_onnx(block(), opset=opset)


def test_files_with_and_without_weights_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = block()
    x = torch.randn(2, 3, 8, 8)
    wanted = interpret(graph, [x])[0].detach().numpy()
    save_onnx(graph, tmp_path / "whole.onnx")
    files.write_model(to_onnx(graph), tmp_path / "split.onnx", limit=0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["split.onnx", "whole.onnx"]
    monkeypatch.setattr(files, "_SMALL", 100)  # shapes stay inside
    files.write_model(to_onnx(graph), tmp_path / "split.onnx", limit=0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["split.onnx", "split.onnx.data", "whole.onnx"]
    for name in ("whole.onnx", "split.onnx"):
        path = str(tmp_path / name)
        onnx.checker.check_model(path, full_check=True)
        (got,) = session(path).run(None, {graph.inputs[0].name: x.numpy()})
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError):
        save_onnx(graph, tmp_path / "nowhere" / "net.onnx")
