"""Sums of spikes against the interpreter: every kernel, on both targets.

Weights are multiples of 1/8, so that sums are exact in any order; only Winograd's transforms round.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import plait
from plait.backends import compile_graph
from plait.backends.executable import Executable
from plait.backends.targets import host_cpu
from plait.ir import CompileError, Graph, SpikeType, TensorType
from plait.ir import types as t
from plait.ir.interpret import interpret
from plait.ir.ops import core, nn, spike

from .emission import B

GATHER, COUNT, SILENT = "gather of weight rows", "counts of bits", "nothing for silent images"
#: channels, outputs, kernel, and options; heights and widths are 9 and 7.
CONVOLUTIONS: list[tuple[int, int, int, dict[str, Any]]] = [
    (1, 3, 1, {}),
    (6, 30, 5, {"pad": (2, 2), "stride": (2, 1)}),
    (40, 33, 2, {"pad": (1, 0, 0, 1)}),
]
#: inputs and outputs.
LINEARS = [(20, 12), (300, 130)]


def weights(*shape: int, levels: bool = False, seed: int = 0) -> np.ndarray:
    found = (np.random.default_rng(seed).integers(-8, 9, shape) / 8).astype(np.float32)
    return np.where(found > 0, np.float32(0.75), np.float32(-0.25)) if levels else found


def layer(
    inputs: tuple[int, ...],
    outputs: int,
    window: tuple[int, ...] = (),
    *,
    constant: bool = True,
    bias: bool = True,
    dtype: Any = np.float32,
    density: float | None = None,
    **options: Any,
) -> Graph:
    """spikes [B, inputs...] -> relu(sums of spikes)."""
    g = Graph("layer")
    g.declare_dim("B", 1, 32)
    x = g.add_input("x", SpikeType((B, *inputs), density))
    levels = options.get("kernel") == "popcount"
    channels = inputs[0] if window else inputs[-1]
    array = weights(outputs, channels, *window, levels=levels).astype(dtype)
    w = g.add_constant("w", array) if constant else g.add_input("w", TensorType(t.f32, array.shape))
    b = g.add_constant("b", weights(outputs, seed=1).astype(dtype)) if bias else None
    made: Any = (spike.SpikeConv2d if window else spike.SpikeLinear)(x, w, b, **options)
    g.set_outputs([g.emit(nn.Relu(g.emit(made)))])
    g.verify()
    return g


def spikes(g: Graph, density: float, *, batch: int = 3, silent: tuple[int, ...] = ()) -> np.ndarray:
    shape = (batch, *map(int, g.inputs[0].shaped.shape[1:]))
    found = np.random.default_rng(1).random(shape) < density
    found[list(silent)] = False
    return found


def methods(exe: Executable) -> str:
    return "; ".join(kernel.method for kernel in exe.kernels)


def check(g: Graph, exe: Executable, x: np.ndarray, *, exact: bool = True, **given: np.ndarray) -> None:
    """The executable, or its emulation, gives what the interpreter does."""
    run = exe if exe.target.name == "cpu" else exe.emulate
    found = run(x, **given)
    (wanted,) = interpret(g, {"x": x, **given})
    if exact:
        np.testing.assert_array_equal(found, wanted.numpy())
    else:
        np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kernel", "method"), [("gather_rows", GATHER), ("popcount", COUNT), ("dense", "product")]
)
@pytest.mark.parametrize(("channels", "outputs", "window", "options"), CONVOLUTIONS, ids=str)
def test_convolution(
    channels: int, outputs: int, window: int, options: dict[str, Any], kernel: str, method: str
) -> None:
    g = layer((channels, 9, 7), outputs, (window, window), kernel=kernel, **options)
    exe = compile_graph(g, "cpu")
    assert method in methods(exe)
    for density in (0.0, 0.15, 1.0):
        check(g, exe, spikes(g, density))


@pytest.mark.parametrize(
    ("kernel", "method"), [("gather_rows", GATHER), ("popcount", COUNT), ("dense", "product")]
)
@pytest.mark.parametrize(("inputs", "outputs"), LINEARS)
def test_linear(inputs: int, outputs: int, kernel: str, method: str) -> None:
    g = layer((2, inputs), outputs, kernel=kernel, bias=inputs == 20)
    exe = compile_graph(g, "cpu")
    assert method in methods(exe)
    for density in (0.0, 0.15, 1.0):
        check(g, exe, spikes(g, density))


@pytest.mark.parametrize("kernel", ["gather_rows", "popcount"])
@pytest.mark.parametrize(("height", "width"), [(5, 70), (3, 1)])
def test_rows_longer_than_a_word_and_narrower_vectors(height: int, width: int, kernel: str) -> None:
    narrow = replace(host_cpu(), processor="haswell", vector_bits=256, registers=16, dot_products=False)
    g = layer((3, height, width), 20, (3, 3), kernel=kernel, pad=(1, 1))
    for target in (host_cpu(), narrow) if host_cpu().vector_bits == 512 else (host_cpu(),):
        check(g, compile_graph(g, target), spikes(g, 0.2))


def test_dense_convolutions_go_the_way_of_nn_conv2d() -> None:
    g = layer((32, 9, 7), 64, (3, 3), kernel="dense", pad=(1, 1))
    exe = compile_graph(g, "cpu")
    assert "Winograd" in methods(exe)
    check(g, exe, spikes(g, 0.2), exact=False)


@pytest.mark.parametrize("kernel", ["gather_rows", "popcount", "dense"])
def test_a_network_stays_channels_last_and_layers_of_one_shape_keep_their_own_weights(
    kernel: str, tmp_path: Path
) -> None:
    g = Graph("network")
    g.declare_dim("B", 1, 32)
    value = g.add_input("x", SpikeType((B, 8, 9, 7)))
    for number in range(3):
        array = weights(8, 8, 3, 3, levels=kernel == "popcount", seed=number) * (1 + number)
        w = g.add_constant(f"w{number}", array.astype(np.float32))
        made = spike.SpikeConv2d(value, w, kernel=kernel, pad=(1, 1))  # type: ignore[arg-type]
        value = g.emit(made)
        if number < 2:
            value = g.emit(spike.Threshold(value, level=1.0))
    g.set_outputs([g.emit(core.Transpose(value, permutation=(0, 2, 3, 1)))])
    g.verify()
    exe = compile_graph(g, "cpu")
    # Between layers nothing is turned over; counts of bits read the input channels last.
    assert sum("channels_last" in k.name for k in exe.kernels) == (kernel == "popcount")
    check(g, exe, spikes(g, 0.1))
    exe.save(tmp_path / "network.plait")
    check(g, plait.load(tmp_path / "network.plait"), spikes(g, 0.3))


def test_auto_takes_events_below_the_crossover_only() -> None:
    def method(density: float | None) -> str:
        return methods(compile_graph(layer((32, 14, 14), 64, (5, 5), density=density, pad=(2, 2)), "cpu"))

    assert GATHER in method(0.01)
    assert GATHER not in method(0.99)
    assert GATHER not in method(None)


@pytest.mark.parametrize("options", [{"constant": False}, {"dtype": np.float16}], ids=str)
@pytest.mark.parametrize("target", ["cpu", "a100"])
def test_dense_where_weights_come_in_or_are_not_f32(options: dict[str, Any], target: str) -> None:
    g = layer((16, 9, 7), 8, (2, 2), kernel="gather_rows", **options)
    exe = compile_graph(g, target)
    assert GATHER not in methods(exe)
    assert not any("plait_ballot" in kernel.source for kernel in exe.kernels)
    given = {} if options.get("constant", True) else {"w": weights(8, 16, 2, 2)}
    check(g, exe, spikes(g, 0.2), **given)


@pytest.mark.parametrize("target", ["cpu", "a100"])
def test_popcount_refuses_weights_of_more_levels(target: str) -> None:
    g = layer((2, 9, 7), 4, (3, 3))
    (op, _) = g.walk()
    g.replace(op, op.evolve(kernel="popcount"))
    with pytest.raises(CompileError, match=r"distinct values") as refused:
        compile_graph(g, target)
    assert refused.value.where is not None
    assert op.name in refused.value.where
    assert refused.value.why is not None
    assert refused.value.remedy is not None


def test_popcount_refuses_weights_that_come_in() -> None:
    with pytest.raises(CompileError, match="come in at run time"):
        compile_graph(layer((20,), 4, kernel="popcount", constant=False), "cpu")


# -- silence ------------------------------------------------------------------------------------
SILENT_LAYERS: list[tuple[tuple[int, ...], int, tuple[int, ...], dict[str, Any]]] = [
    ((3, 300), 130, (), {}),
    ((6, 9, 7), 30, (5, 5), {"pad": (2, 2)}),
    ((32, 9, 7), 64, (3, 3), {"pad": (1, 1)}),
]


@pytest.mark.parametrize(("inputs", "outputs", "window", "options"), SILENT_LAYERS, ids=str)
def test_dense_layers_leave_out_silent_images(
    inputs: tuple[int, ...], outputs: int, window: tuple[int, ...], options: dict[str, Any]
) -> None:
    g = layer(inputs, outputs, window, kernel="dense", skip_silent=True, **options)
    exe = compile_graph(g, "cpu")
    (kernel,) = exe.kernels
    assert SILENT in kernel.method
    assert "memchr" in kernel.source
    for batch, silent in ((1, ()), (1, (0,)), (5, (1, 2)), (17, tuple(range(16))), (17, (0, 4, 9))):
        x = spikes(g, 0.2, batch=batch, silent=silent)
        if not window:
            x[:, 1] = False
        check(g, exe, x)


# -- A100 ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("channels", "outputs", "window", "options", "kernel"),
    [
        (*CONVOLUTIONS[1], "gather_rows"),
        (*CONVOLUTIONS[1], "dense"),
        (*CONVOLUTIONS[2], "popcount"),
        (3, 512, 2, {}, "auto"),
    ],
    ids=str,
)
def test_convolution_on_a_gpu(
    channels: int, outputs: int, window: int, options: dict[str, Any], kernel: str
) -> None:
    g = layer((channels, 9, 7), outputs, (window, window), kernel=kernel, **options)
    exe = compile_graph(g, "a100")
    assert any("plait_ballot" in k.source for k in exe.kernels) == (kernel != "dense")
    for density in (0.0, 0.2):
        x = spikes(g, density, batch=2)
        found = exe.emulate(x, check=True)
        np.testing.assert_array_equal(found, interpret(g, {"x": x})[0].numpy())


def test_a_gpu_reads_the_weights_of_events_only() -> None:
    g = layer((4, 9, 7), 16, (3, 3), kernel="gather_rows")
    exe = compile_graph(g, "a100")
    name = next(kernel.name for kernel in exe.kernels if "plait_ballot" in kernel.source)
    loads = []
    for events in (0, 4):
        x = np.zeros((1, 4, 9, 7), bool)
        x[0, :events, 4, 3] = True  # nine windows see this place
        exe.emulate(x, count=True)
        loads.append(exe.emulation_counts[name].load_bytes)
    assert loads[1] - loads[0] == 9 * 4 * 16 * 4


def test_dense_f16_on_tensor_cores() -> None:
    g = layer((16, 9, 7), 32, (3, 3), kernel="dense", dtype=np.float16)
    exe = compile_graph(g, "a100")
    assert "tensor cores" in methods(exe)
    check(g, exe, spikes(g, 0.2))
