"""The public functions on every kind of source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import plait


class Net(nn.Module):
    """A convolution with batch norm, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.bn1(self.conv1(image))).mean((2, 3)))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def graph(model: nn.Module) -> plait.Graph:
    return plait.lower(model, (torch.randn(2, 3, 8, 8),), dynamic={"image": {0: ("B", 1, 16)}})


def test_lower_takes_text_graph_and_file(graph: plait.Graph, tmp_path: Path) -> None:
    assert plait.lower(graph) is graph
    assert plait.lower(str(graph)) == graph
    graph.save(tmp_path / "net.plait")
    assert plait.lower(tmp_path / "net.plait") == graph
    assert plait.load(tmp_path / "net.plait") == graph


def test_lower_takes_exported_programs(model: nn.Module, tmp_path: Path) -> None:
    x = torch.randn(2, 3, 8, 8)
    program = torch.export.export(model, (x,))
    torch.export.save(program, tmp_path / "net.pt2")
    for source in (program, tmp_path / "net.pt2"):
        lowered = plait.lower(source)
        torch.testing.assert_close(plait.interpret(lowered, (x,))[0], model(x))


def test_unknown_source_says_what_is_taken() -> None:
    with pytest.raises(plait.LoweringError, match="cannot lower a builtins.dict"):
        plait.lower({})


def test_lower_takes_dgl_modules() -> None:
    dgl = pytest.importorskip("dgl")
    from dgl.nn.pytorch import SAGEConv

    torch.manual_seed(0)
    layer = SAGEConv(3, 4, "mean").eval()
    first, second = dgl.rand_graph(6, 15), dgl.rand_graph(9, 40)
    executable = plait.compile(layer, (first, torch.randn(6, 3)))
    for topology in (first, second):
        x = torch.randn(topology.num_nodes(), 3)
        torch.testing.assert_close(executable(topology, x), layer(topology, x).detach(), rtol=1e-4, atol=1e-5)


def test_lower_takes_keras_models_functions_and_saved_models(tmp_path: Path) -> None:
    tensorflow = pytest.importorskip("tensorflow")
    import keras

    keras.utils.set_random_seed(0)
    net = keras.Sequential(
        [
            keras.layers.Input((8, 8, 3)),
            keras.layers.Conv2D(4, 3),
            keras.layers.Flatten(),
            keras.layers.Dense(2),
        ]
    )
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype(np.float32)
    expected = net(x).numpy()
    net.export(tmp_path / "saved", verbose=False)
    function = tensorflow.function(lambda image: net(image))
    concrete = function.get_concrete_function(tensorflow.TensorSpec([None, 8, 8, 3], name="image"))
    for source in (net, tmp_path / "saved", concrete):
        (result,) = plait.interpret(source, [x])
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


def test_a_folder_that_is_no_saved_model(tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    with pytest.raises(plait.PlaitError, match=str(tmp_path)):
        plait.lower(tmp_path)


def test_to_onnx_and_back(graph: plait.Graph, model: nn.Module, tmp_path: Path) -> None:
    plait.save_onnx(graph, tmp_path / "net.onnx")
    x = torch.randn(3, 3, 8, 8)
    for source in (plait.to_onnx(graph), tmp_path / "net.onnx"):
        back = plait.lower(source)
        assert [value.name for value in back.inputs] == ["image"]
        torch.testing.assert_close(plait.interpret(back, [x])[0], model(x).detach(), rtol=1e-4, atol=1e-5)


def test_optimize_leaves_the_graph_alone(graph: plait.Graph) -> None:
    before = str(graph)
    best = plait.optimize(graph)
    assert str(graph) == before
    assert {op.opname for op in best.ops} == {"nn.conv2d", "core.mean", "nn.linear"}
    found = plait.diff(graph, best)
    assert found.op_counts == {"nn.batch_norm": -1, "nn.relu": -1}


def test_compile_cpu_runs_any_batch_and_survives_saving(
    graph: plait.Graph, model: nn.Module, tmp_path: Path
) -> None:
    executable = plait.compile(graph, target="cpu")
    for batch in (1, 2, 5):
        x = torch.randn(batch, 3, 8, 8)
        torch.testing.assert_close(executable(x), model(x).detach(), rtol=1e-4, atol=1e-5)
    result = executable(image=x.numpy())
    assert isinstance(result, np.ndarray)
    executable.save(tmp_path / "net.so.plait")
    loaded = plait.load(tmp_path / "net.so.plait")
    np.testing.assert_array_equal(loaded(x.numpy()), result)
    assert loaded.graph == executable.graph


def test_compile_a100_gives_sources_and_resources(graph: plait.Graph, model: nn.Module) -> None:
    executable = plait.compile(graph, target="a100", dims={"B": 2})
    names = {op.name for op in executable.graph.ops}
    for kernel in executable.kernels:
        assert "__global__" in kernel.source
        assert kernel.registers > 0
        assert kernel.ops
        assert set(kernel.ops) <= names
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(
        torch.as_tensor(executable.emulate(x)), model(x).detach(), rtol=1e-4, atol=1e-5
    )


def test_predict(graph: plait.Graph) -> None:
    prediction = plait.predict(graph, dims={"B": 8})
    assert prediction.basis == "roofline"
    assert prediction.mig.profile == "1g.5gb"
    assert prediction.latency_ms > 0
    larger = plait.predict(graph, dims={"B": 16})
    assert larger.memory_mb >= prediction.memory_mb


def test_call_errors_name_the_input(graph: plait.Graph) -> None:
    executable = plait.compile(graph, target="cpu")
    for arguments, words in (
        ((np.zeros((1, 4, 8, 8), np.float32),), ["image", "f32[B,3,8,8]"]),
        ((np.zeros((1, 3, 8, 8), np.float64),), ["image", "float64"]),
        ((np.zeros((17, 3, 8, 8), np.float32),), ["B", "17"]),
        ((), ["image"]),
    ):
        with pytest.raises(plait.InputError) as caught:
            executable(*arguments)
        assert all(word in str(caught.value) for word in words), str(caught.value)
