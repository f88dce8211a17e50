"""Products of spikes by events: exact order, every density, in several orders of threads, under the detectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from plait.backends import compile_graph
from plait.backends.executable import Executable
from plait.ir import Graph, SpikeType, TensorType
from plait.ir import types as t
from plait.ir.interpret import interpret
from plait.ir.ops import nn, spike

from .emission import B


def graph(inputs: int, outputs: int, *, kernel: str = "auto", constant: bool = True) -> Graph:
    """spikes [B, 3, in] -> relu(spikes w^T + b)."""
    random = np.random.default_rng(0)
    g = Graph("spikes")
    g.declare_dim("B", 1, 8)
    x = g.add_input("x", SpikeType((B, 3, inputs)))
    weights = random.standard_normal((outputs, inputs)).astype(np.float32)
    w = g.add_constant("w", weights) if constant else g.add_input("w", TensorType(t.f32, weights.shape))
    b = g.add_constant("b", random.standard_normal(outputs).astype(np.float32))
    g.set_outputs([g.emit(nn.Relu(g.emit(spike.SpikeLinear(x, w, b, kernel=kernel))))])  # type: ignore[arg-type]
    g.verify()
    return g


@pytest.fixture(scope="module", params=[(20, 12), (300, 130), (129, 1028)], ids=str)
def compiled(request: Any) -> tuple[Graph, Executable]:
    g = graph(*request.param)
    return g, compile_graph(g, "a100")


@pytest.mark.parametrize("density", [0.0, 0.15, 1.0])
@pytest.mark.parametrize("order", ["forward", "reversed", 5])
def test_sums_of_events(compiled: tuple[Graph, Executable], density: float, order: str | int) -> None:
    g, exe = compiled
    size = int(g.inputs[0].shaped.shape[-1])
    x = np.random.default_rng(1).random((2, 3, size)) < density
    found = exe.emulate(x, lane_order=order, check=True)
    (expected,) = interpret(g, {"x": x})
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-5)


def test_the_kernel_reads_the_weights_of_events_only(compiled: tuple[Graph, Executable]) -> None:
    g, exe = compiled
    inputs = int(g.inputs[0].shaped.shape[-1])
    name = next(kernel.name for kernel in exe.kernels if "plait_ballot" in kernel.source)
    loads = []
    for events in (0, 4):
        x = np.zeros((1, 3, inputs), dtype=bool)
        x[..., :events] = True
        exe.emulate(x, count=True)
        loads.append(exe.emulation_counts[name].load_bytes)
    outputs = int(g.outputs[0].shaped.shape[-1])
    assert loads[1] - loads[0] == 3 * 4 * outputs * 4


def test_results_do_not_depend_on_the_order_of_threads(compiled: tuple[Graph, Executable]) -> None:
    g, exe = compiled
    x = np.random.default_rng(2).random((2, 3, int(g.inputs[0].shaped.shape[-1]))) < 0.4
    results = [exe.emulate(x, lane_order=order) for order in ("forward", "reversed", 11)]
    assert all(np.array_equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize("options", [{"kernel": "dense"}, {"constant": False}], ids=str)
def test_the_dense_form_where_it_is_asked_for_or_weights_come_in(options: dict[str, Any]) -> None:
    g = graph(20, 12, **options)
    exe = compile_graph(g, "a100")
    assert not any("plait_ballot" in kernel.source for kernel in exe.kernels)
    given = {"x": np.random.default_rng(1).random((2, 3, 20)) < 0.3}
    if not options.get("constant", True):
        given["w"] = np.random.default_rng(3).standard_normal((12, 20)).astype(np.float32)
    np.testing.assert_allclose(exe.emulate(**given), interpret(g, given)[0].numpy(), rtol=1e-5, atol=1e-5)
