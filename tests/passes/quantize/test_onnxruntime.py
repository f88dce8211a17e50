"""The QDQ model that `to_onnx` writes of a quantised graph, in ONNX Runtime: outputs within one step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import plait
from plait.backends.targets import host_cpu
from plait.ir import Graph, QuantType, Value
from plait.ir.ops import quant
from plait.passes.quantize.calibrate import calibrate
from plait.passes.quantize.pipeline import quantize, raised
from plait.passes.quantize.scheme import INT8, OpScheme, Scheme

from .nets import block, images, residual, tokens

runtime = pytest.importorskip("onnxruntime")


def convnet() -> Graph:
    """Three convolutions, one of them strided, pooled twice, and a classifier."""
    torch.manual_seed(2)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(16, 24, 3, stride=2, padding=1),
        torch.nn.ReLU6(),
        torch.nn.Conv2d(24, 24, 1),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(24, 10),
    )
    return plait.lower(net.eval(), (torch.randn(2, 3, 8, 8),), dynamic={"input": {0: ("B", 1, 64)}})


def sole_input(batches: list[dict[str, torch.Tensor]]) -> list[torch.Tensor]:
    return [next(iter(batch.values())) for batch in batches]


def vit() -> Graph:
    """Patches by a strided convolution, a transformer block and a classifier."""

    class Vit(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = torch.nn.Conv2d(3, 16, 2, stride=2)
            self.layer = torch.nn.TransformerEncoderLayer(
                16, 2, 32, activation="gelu", batch_first=True, norm_first=True
            )
            self.head = torch.nn.Linear(16, 5)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.head(
                self.layer(self.patches(image).flatten(2).transpose(1, 2)).mean(1)
            )
            return found

    torch.manual_seed(3)
    return plait.lower(Vit().eval(), (torch.randn(8, 3, 8, 8),))


MODELS: dict[str, tuple[Callable[[], Graph], Callable[..., list[dict[str, torch.Tensor]]]]] = {
    "convnet": (convnet, images),
    "residual": (residual, images),
    "transformer": (block, tokens),
    "vit": (vit, images),
}


def with_quantised_outputs(qdq: Graph, batches: list[Any], bits: int = 8) -> Graph:
    """A QDQ graph whose outputs are rounded to a grid that was measured, so that they have steps."""
    schemes = {value.name: Scheme(bits, symmetric=False) for value in qdq.outputs}
    grids = calibrate(qdq, batches, schemes, "min-max")
    graph = qdq.clone()
    rounded = []
    for value in graph.outputs:
        assert value.producer is not None
        grid = grids[value.name]
        kind = grid.scheme.type_of(value.shaped.shape, float(grid.scale), int(grid.zero_point))
        loc = value.producer.loc
        stored = graph.emit(quant.Quantize(value, out=kind), name=f"{value.name}.quantized", loc=loc)
        rounded.append(graph.emit(quant.Dequantize(stored), name=f"{value.name}.dequantized", loc=loc))
    graph.set_outputs(rounded)
    graph.verify()
    return graph


def step_of(value: Value) -> float:
    """The distance of two neighbouring numbers that an output can take."""
    assert isinstance(value.producer, quant.Dequantize)
    kind = value.producer.x.type
    assert isinstance(kind, QuantType)
    assert isinstance(kind.scale, float)
    return kind.scale


def in_onnxruntime(graph: Graph, batch: Any, optimised: bool) -> list[np.ndarray]:
    options = runtime.SessionOptions()
    level = runtime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    if not host_cpu().dot_products:  # it would sum pairs of products in 16 bits, which saturate
        options.add_session_config_entry("session.x64quantprecision", "1")
    session = runtime.InferenceSession(
        plait.to_onnx(graph).SerializeToString(),
        options,
        providers=["CPUExecutionProvider"],
        # It leaves a quantise node of i8 behind, which another optimiser gives a zero point of u8.
        disabled_optimizers=["MatMulAddFusion"],
    )
    (port,) = session.get_inputs()
    found: list[np.ndarray] = session.run(None, {port.name: batch.numpy()})
    return found


@pytest.mark.parametrize("optimised", [False, True], ids=["as written", "optimised"])
@pytest.mark.parametrize("scheme", [INT8, OpScheme(weight=Scheme(4, axis=0))], ids=["int8", "int8 x int4"])
@pytest.mark.parametrize("name", MODELS)
def test_outputs_within_one_step(name: str, scheme: OpScheme, optimised: bool) -> None:
    build, data = MODELS[name]
    batches = sole_input(data())
    qdq = with_quantised_outputs(quantize(build(), batches, scheme=scheme).qdq, batches)
    integers = raised(qdq)
    (output,) = integers.outputs
    batch = sole_input(data(1, seed=9))[0]
    (expected,) = plait.interpret(integers, [batch])
    for exported in (qdq, integers):
        (found,) = in_onnxruntime(exported, batch, optimised)
        steps = np.abs(found - expected.numpy()) / step_of(output)
        assert steps.max() < 1.01, f"{(steps > 0.5).mean():.1%} of the elements differ"
        assert np.ptp(expected.numpy()) > 30 * step_of(output), "outputs that hardly vary show nothing"


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_executables_within_one_step(name: str) -> None:
    build, data = MODELS[name]
    batches = sole_input(data())
    qdq = with_quantised_outputs(quantize(build(), batches).qdq, batches)
    integers = raised(qdq)
    batch = sole_input(data(1, seed=9))[0]
    found = plait.compile(integers, target="cpu", isolate=False, cache=False)(batch.numpy())
    (expected,) = in_onnxruntime(qdq, batch, optimised=True)
    assert np.max(np.abs(found - expected)) < 1.01 * step_of(integers.outputs[0])
