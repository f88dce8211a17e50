"""Models whose CUDA kernels are executed under the detectors: graphs with fixed inputs.

Convolution, attention, message passing, spiking neurons, int8 and half precision; weights
and inputs are random and seeded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

import plait
from plait.frontends.families import example
from plait.ir import Graph, QuantType, TensorType
from plait.ir import types as t
from plait.ir.ops import core, quant
from plait.ir.ops import nn as layers
from plait.ir.value import hash_content


@dataclass(frozen=True)
class ProofModel:
    """A model to execute.

    Attributes:
        build: the graph and its inputs by name; `small` asks for a version for tests.
        tolerance: relative, of results against the interpreter; the absolute one is a tenth of it.
    """

    build: Callable[[bool], tuple[Graph, dict[str, Any]]]
    tolerance: float


def _image_model(name: str, size: int) -> Callable[[bool], tuple[Graph, dict[str, Any]]]:
    def build(small: bool) -> tuple[Graph, dict[str, Any]]:
        chosen = example("small_cnn" if small else name)
        inputs = (
            chosen.inputs(1, 0) if small else {"image": torch.randn(1, 3, size, size, generator=_seed(1))}
        )
        return plait.lower(chosen.build(0), tuple(inputs.values()), name=chosen.name), inputs

    return build


def _seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def _vit(small: bool) -> tuple[Graph, dict[str, Any]]:
    if not small:
        return _image_model("vit_tiny", 224)(False)
    chosen = example("small_transformer")
    inputs = chosen.inputs(1, 0)
    return plait.lower(chosen.build(0), tuple(inputs.values()), name=chosen.name), inputs


def _gin(small: bool) -> tuple[Graph, dict[str, Any]]:
    """A graph isomorphism network of three layers with sum pooling, on random graphs."""
    import dgl
    import dgl.nn.pytorch as dglnn

    from plait.frontends.dgl import graph_arguments

    width, sizes = (8, (17, 5, 9)) if small else (64, (300,))

    class GraphNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(
                dglnn.GINConv(
                    nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)), kind
                )
                for kind in ("sum", "max", "mean")
            )
            self.pool = dglnn.SumPooling()
            self.read = nn.Linear(width, 10)

        def forward(self, graph: Any, feat: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                feat = torch.relu(layer(graph, feat))
            return self.read(self.pool(graph, feat))

    torch.manual_seed(0)
    dgl.seed(0)
    model = GraphNet().eval()
    graph = dgl.batch([dgl.add_self_loop(dgl.rand_graph(size, 4 * size)) for size in sizes])
    feat = torch.randn(sum(sizes), width)
    lowered = plait.lower(model, (graph, feat), name="gin")
    given = {**graph_arguments(graph, lowered, name="graph"), "feat": feat}
    return lowered, {value.name: given[value.name] for value in lowered.inputs}


_SPIKING = """plait.ir 1.0
const @w1 : f32[{hidden},{width}] = blob("{w1}")
const @b1 : f32[{hidden}] = blob("{b1}")
const @w2 : f32[10,{hidden}] = blob("{w2}")
func @spiking(%events: f32[{steps},{batch},{width}]) -> f32[{batch},10], f32[{batch},10] {{
  %v1 = core.full() {{value=0.0}} : f32[{batch},{hidden}]
  %v2 = core.full() {{value=0.0}} : f32[{batch},10]
  %n0 = core.full() {{value=0.0}} : f32[{batch},10]
  %e1, %e2, %counts = core.scan(%events, %v1, %v2, %n0) {{carries=3}} : f32[{batch},{hidden}], f32[{batch},10], f32[{batch},10] do (%x: f32[{batch},{width}], %p1: f32[{batch},{hidden}], %p2: f32[{batch},10], %n: f32[{batch},10]) {{
    %in = spike.threshold(%x) {{level=0.8}} : spike[{batch},{width}]
    %i1 = spike.linear(%in, @w1, @b1) : f32[{batch},{hidden}]
    %s1, %q1 = spike.lif(%i1, %p1) {{dt=0.001, reset="subtract", tau=0.004, v_th=0.5}} : spike[{batch},{hidden}], f32[{batch},{hidden}]
    %i2 = spike.linear(%s1, @w2) : f32[{batch},10]
    %s2, %q2 = spike.integrate_and_fire(%i2, %p2) {{reset="zero", v_th=1.0}} : spike[{batch},10], f32[{batch},10]
    %f2 = core.cast(%s2) : f32[{batch},10]
    %m = core.add(%n, %f2) : f32[{batch},10]
    yield %q1, %q2, %m
  }}
  return %e2, %counts
}}
"""  # noqa: E501


def _spiking(small: bool) -> tuple[Graph, dict[str, Any]]:
    """Two layers of spiking neurons, run over time steps by core.scan."""
    steps, batch, width, hidden = (3, 2, 300, 140) if small else (12, 8, 784, 256)
    rng = np.random.default_rng(0)
    constants = {
        "w1": (rng.normal(size=(hidden, width)) / np.sqrt(0.2 * width)).astype(np.float32),
        "b1": rng.normal(size=hidden).astype(np.float32),
        "w2": (rng.normal(size=(10, hidden)) / np.sqrt(0.2 * hidden)).astype(np.float32),
    }
    hashes = {name: hash_content(array) for name, array in constants.items()}
    text = _SPIKING.format(steps=steps, batch=batch, width=width, hidden=hidden, **hashes)
    return plait.parse(text, constants=constants), {
        "events": torch.from_numpy(rng.random((steps, batch, width), dtype=np.float32))
    }


def _int8(small: bool) -> tuple[Graph, dict[str, Any]]:
    """A convolutional network on int8 activations and weights, with per-channel weight scales."""
    size, channels = (8, (16, 24)) if small else (32, (16, 32, 64))
    rng = np.random.default_rng(0)
    g = Graph("int8")
    image = (2, 3, size, size)
    x = g.add_input("image", TensorType(t.f32, image))
    kind = QuantType(8, True, 0.02, image, zero_point=-7)
    value = g.emit(quant.Quantize(x, out=kind))
    previous = 3
    for number, count in enumerate(channels):
        shape = (count, previous, 3, 3)
        g.add_constant(f"scale{number}", rng.uniform(0.002, 0.006, count).astype(np.float32))
        weight = g.add_constant(
            f"weight{number}",
            rng.integers(-127, 128, shape).astype(np.int8),
            QuantType(8, True, f"scale{number}", shape, axis=0),
        )
        bias = g.add_constant(f"bias{number}", rng.integers(-900, 900, (count,)).astype(np.int32))
        size, before = size // 2, size
        kind = QuantType(8, True, 0.05, (2, count, before, before), zero_point=-128)
        value = g.emit(layers.Conv2d(value, weight, bias, pad=(1, 1), act="relu", out=kind))
        value = g.emit(layers.MaxPool2d(value, kernel=(2, 2), stride=(2, 2)))
        previous = count
    flat = g.emit(core.Reshape(value, out=kind.with_shape((2, previous * size * size))))
    weight = g.add_constant(
        "classifier",
        rng.integers(-127, 128, (10, previous * size * size)).astype(np.int8),
        QuantType(8, True, 0.01, (10, previous * size * size)),
    )
    total = g.emit(layers.Linear(flat, weight))
    g.set_outputs([total, g.emit(quant.Dequantize(value))])
    g.verify()
    return g, {"image": torch.from_numpy(rng.normal(size=image).astype(np.float32))}


def _half(small: bool) -> tuple[Graph, dict[str, Any]]:
    """Two dense layers in half precision with softmax: matrix products on tensor cores."""
    rows, inner, columns = (64, 64, 64) if small else (128, 256, 512)
    rng = np.random.default_rng(0)
    g = Graph("half")
    value = g.add_input("x", TensorType(t.f16, (rows, inner)))
    for number, (wide, narrow) in enumerate(((inner, columns), (columns, inner))):
        weight = (rng.normal(size=(narrow if number else columns, wide)) / np.sqrt(wide)).astype(np.float16)
        constant = g.add_constant(f"w{number}", weight)
        value = g.emit(layers.Linear(value, constant, act="none" if number else "relu"))
    g.set_outputs([g.emit(layers.Softmax(value, axis=-1))])
    g.verify()
    return g, {"x": torch.from_numpy(rng.normal(size=(rows, inner)).astype(np.float16))}


#: By name, in the order in which they run.
MODELS: dict[str, ProofModel] = {
    "resnet18": ProofModel(_image_model("resnet18", 64), 1e-3),
    "vit_tiny": ProofModel(_vit, 1e-3),
    "gin": ProofModel(_gin, 1e-3),
    "spiking": ProofModel(_spiking, 1e-3),
    "int8": ProofModel(_int8, 1e-3),
    "half": ProofModel(_half, 1e-2),
}
