"""CPU kernels written as loops: products, windows, Winograd's transforms, layouts and polynomials."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import plait
from plait.backends import CpuTarget, resolve_target
from plait.backends.tvm.emit.cpu.tiles import choose_tile
from plait.backends.tvm.emit.cpu.winograd import F2, F4, choose_transforms
from plait.backends.tvm.layouts import assign_layouts, is_view
from plait.ir import QuantType
from plait.ir.ops import core
from plait.ir.ops import nn as nn_ops

HOST = resolve_target("cpu", threads=2)
assert isinstance(HOST, CpuTarget)


def compiled(module: nn.Module, *inputs: torch.Tensor, **fields: Any) -> Any:
    """The module for the CPU, with fields of the target changed."""
    return plait.compile(module.eval(), inputs, target=replace(HOST, **fields), isolate=False, cache=False)


def assert_agrees(module: nn.Module, *inputs: torch.Tensor, tolerance: float = 1e-4, **fields: Any) -> None:
    with torch.no_grad():
        expected = module.eval()(*inputs)
        found = compiled(module, *inputs, **fields)(*inputs)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def assert_equal_nan(module: nn.Module, x: torch.Tensor) -> None:
    found = compiled(module, x)(x)
    torch.testing.assert_close(found, module(x), rtol=1e-5, atol=1e-6, equal_nan=True)


class Between(nn.Module):
    """A layer between two convolutions, so that its images lie channels last."""

    def __init__(self, layer: nn.Module, channels: int, outputs: int) -> None:
        super().__init__()
        self.before = nn.Conv2d(3, channels, 1)
        self.layer = layer
        self.behind = nn.Conv2d(outputs, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.behind(torch.relu(self.layer(torch.relu(self.before(x)))))


# -- products ---------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("rows", "depth", "columns"),
    [(1, 7, 5), (1, 64, 1000), (5, 3, 16), (13, 129, 17), (49, 32, 24), (128, 66, 40)],
)
def test_dense_layers_of_odd_sizes(rows: int, depth: int, columns: int) -> None:
    torch.manual_seed(0)
    assert_agrees(nn.Sequential(nn.Linear(depth, columns), nn.GELU()), torch.randn(rows, depth))


def test_a_symbolic_number_of_rows() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(24, 20).eval()
    graph = plait.lower(layer, (torch.randn(2, 24),), dynamic={"input": {0: "B"}})
    exe = plait.compile(graph, target=HOST, isolate=False, cache=False)
    for batch in (1, 2, 7, 33):
        x = torch.randn(batch, 24)
        torch.testing.assert_close(exe(x), layer(x).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1000), (49, 512), (128, 768), (3136, 64), (7, 8)])
@pytest.mark.parametrize(("bits", "registers"), [(128, 16), (256, 16), (512, 32)])
def test_tiles_fit_the_registers_and_waste_little(rows: int, columns: int, bits: int, registers: int) -> None:
    tile = choose_tile(replace(HOST, vector_bits=bits, registers=registers), rows, columns)
    assert tile.width == bits // 32
    assert tile.rows * tile.vectors + tile.vectors + 1 <= registers or tile.rows == tile.vectors == 1
    assert -(-rows // tile.rows) * tile.rows <= 1.25 * rows
    assert (tile.vectors - 1) * tile.width < columns


# -- windows ----------------------------------------------------------------------------
@pytest.mark.parametrize("size", [5, 14, 17])
@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.Conv2d(16, 16, 3, stride=2, padding=1, groups=16),
        nn.Conv2d(16, 16, 7, padding=3, groups=16),
        nn.Conv2d(16, 16, 3, padding=2, dilation=2, groups=16),
        nn.MaxPool2d(3, 2, 1),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        nn.AvgPool2d(2),
    ],
    ids=str,
)
def test_windows_over_images(layer: nn.Module, size: int) -> None:
    torch.manual_seed(0)
    assert_agrees(Between(layer, 16, 16), torch.randn(2, 3, size, size))


def test_a_pooling_whose_result_is_flattened() -> None:
    """The window has no epilogue, and its result lies in the logical order."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(784, 4)
    )
    assert_agrees(net, torch.randn(2, 3, 14, 14))


# -- rows ---------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [1, 3, 8, 16, 49, 64, 130, 771])
@pytest.mark.parametrize("rows", [3, 700])
def test_maps_over_rows(rows: int, size: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(rows, size) * 4
    layers = [nn.Softmax(-1), nn.LogSoftmax(-1), nn.LayerNorm(size), nn.RMSNorm(size, eps=1e-5)]
    for layer in layers:
        assert_agrees(nn.Sequential(layer, nn.GELU()), x, tolerance=1e-5)


@pytest.mark.parametrize("bits", [128, 256])
def test_maps_over_rows_of_narrower_vectors(bits: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.LayerNorm(77), nn.Softmax(-1))
    assert_agrees(net, torch.randn(5, 9, 77), tolerance=1e-5, vector_bits=bits)


def test_rows_whose_length_only_a_run_shows() -> None:
    graph = plait.lower(nn.Softmax(-1), (torch.randn(4, 20),), dynamic={"input": {1: "N"}})
    exe = plait.compile(graph, target=HOST, isolate=False, cache=False)
    for size in (1, 5, 16, 33, 200, 5000):
        x = torch.randn(4, size)
        torch.testing.assert_close(exe(x), x.softmax(-1), rtol=1e-5, atol=1e-6)


def test_a_softmax_keeps_what_is_no_number() -> None:
    x = torch.randn(3, 40)
    x[0, 7], x[1, 3], x[2] = float("nan"), float("-inf"), float("-inf")
    assert_equal_nan(nn.Softmax(-1), x)


# -- Winograd's transforms ------------------------------------------------------------------
@pytest.mark.parametrize("transforms", [F2, F4], ids=["F(2,3)", "F(4,3)"])
@pytest.mark.parametrize("size", [8, 13])
@pytest.mark.parametrize("outputs", [16, 20])
def test_transforms_give_the_convolution(
    transforms: Any, size: int, outputs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plait.backends.tvm.emit.images.choose_transforms", lambda *_: transforms)
    torch.manual_seed(0)
    net = Between(nn.Conv2d(16, outputs, 3, padding=1), 16, outputs)
    assert_agrees(net, torch.randn(2, 3, size, size), tolerance=3e-4)


def test_transforms_are_the_minimal_filters() -> None:
    """A^T [(G g) * (B^T d)] is the correlation of d with g, for any d and g."""
    rng = np.random.default_rng(0)
    for transforms in (F2, F4):
        data, taps = rng.standard_normal(transforms.size), rng.standard_normal(3)
        found = transforms.outputs @ ((transforms.weights @ taps) * (transforms.inputs @ data))
        np.testing.assert_allclose(found, np.correlate(data, taps, "valid"), atol=1e-12)


def test_transforms_are_chosen_where_they_pay() -> None:
    assert choose_transforms(HOST, 1, (64, 64), (56, 56)) is not None
    # At 7 x 7 the transformed weights take longer to read than the direct sum takes.
    assert choose_transforms(HOST, 1, (512, 512), (7, 7)) is None
    net = Between(nn.Conv2d(32, 32, 3, padding=1), 32, 32)
    x = torch.randn(1, 3, 28, 28)
    with_them, without = (compiled(net, x, winograd=flag) for flag in (True, False))
    assert "(T.int64(36)" in with_them.kernels[1].source or "(T.int64(16)" in with_them.kernels[1].source
    assert with_them.kernels[1].source != without.kernels[1].source


# -- layouts --------------------------------------------------------------------------------
class ToTokens(nn.Module):
    """Patches of an image as a sequence, with a residual through a channels-last branch."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 2, 2)
        self.norm = nn.LayerNorm(16)
        self.back = nn.Conv2d(16, 16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        image = self.patches(x)
        inside = self.norm(image.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.back(image + inside).flatten(2).transpose(1, 2) * 2.0


def test_transpositions_between_images_and_tokens_are_views() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 12, 12)
    assert_agrees(ToTokens(), x)
    assert_agrees(ToTokens(), x, layouts=False)
    exe = compiled(ToTokens(), x)
    layouts = assign_layouts(exe.graph, HOST)
    turned = [op for op in exe.graph.body if isinstance(op, core.Transpose)]
    assert len(turned) == 3
    assert all(is_view(op, layouts) for op in turned)
    assert len(exe.kernels) < len(compiled(ToTokens(), x, layouts=False).kernels)


def test_outputs_and_views_keep_the_logical_order() -> None:
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU())
    graph = plait.optimize(plait.lower(net.eval(), (torch.randn(1, 3, 8, 8),)))
    assert not set(graph.outputs) & assign_layouts(graph, HOST).keys()
    assert assign_layouts(graph, replace(HOST, layouts=False)) == {}


def test_roll_of_static_images() -> None:
    class Roll(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.roll(x, (-3, 5), (1, 2)) * 1.0

    assert_agrees(Roll(), torch.randn(1, 56, 56, 96))


# -- polynomials ------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "units"), [("exp", 3), ("tanh", 8), ("erf", 8), ("sigmoid", 8)])
def test_polynomials_are_within_units_in_the_last_place(name: str, units: int) -> None:
    class Apply(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return getattr(torch, name)(x)

    special = torch.tensor([float("inf"), -float("inf"), float("nan"), 0.0, 88.7, 88.4, -87.3, 1e30, -1e30])
    x = torch.cat([torch.linspace(-100, 100, 20001), torch.linspace(-1e-3, 1e-3, 1001), special])
    found, expected = compiled(Apply(), x)(x), getattr(torch, name)(x.double())
    assert torch.equal(torch.isnan(found), torch.isnan(expected))
    assert torch.equal(torch.isinf(found), torch.isinf(expected.float()))
    kept = torch.isfinite(expected.float()) & (expected.abs() > 2.0**-125)
    error = ((found.double() - expected).abs() / expected.abs())[kept]
    assert float(error.max()) < units * 2.0**-24


def test_threads_do_not_change_results() -> None:
    torch.manual_seed(0)
    net = Between(nn.Conv2d(32, 32, 3, padding=1), 32, 32)
    x = torch.randn(2, 3, 20, 20)
    exe = compiled(net, x)
    one, two = [], []
    exe.threads = 1
    one.append(exe(x))
    exe.threads = max(2, os.cpu_count() or 1)
    two.append(exe(x))
    assert torch.equal(one[0], two[0])


# -- dot products of 8-bit integers -----------------------------------------------------------
def quantised_graph(signed: bool, zero_point: int, size: int) -> plait.Graph:
    """A convolution and a dense layer over the same elements."""
    random = np.random.default_rng(0)
    graph = plait.Graph("dots")
    x = graph.add_input("x", QuantType(8, signed, 0.02, (2, 32, size, size), zero_point=zero_point))
    rows = graph.add_input("rows", QuantType(8, signed, 0.02, (3, size, 64), zero_point=zero_point))
    graph.add_constant("scales", np.linspace(0.01, 0.03, 40).astype(np.float32))
    weight = graph.add_constant(
        "weight",
        random.integers(-128, 128, (40, 32, 3, 3)).astype(np.int8),
        QuantType(8, True, "scales", (40, 32, 3, 3), axis=0),
    )
    dense = graph.add_constant(
        "dense", random.integers(-128, 128, (24, 64)).astype(np.int8), QuantType(8, True, 0.02, (24, 64))
    )
    bias = graph.add_constant("bias", random.integers(-900, 900, (40,)).astype(np.int32))
    conv = graph.emit(nn_ops.Conv2d(x, weight, bias, stride=(2, 2), pad=(1, 1)))
    graph.set_outputs([conv, graph.emit(nn_ops.Linear(rows, dense))])
    graph.verify()
    return graph


@pytest.mark.parametrize(
    ("signed", "zero_point"), [(True, 0), (True, -128), (True, 7), (False, 0), (False, 131)]
)
@pytest.mark.parametrize("size", [1, 9])
def test_dot_products_are_exact(signed: bool, zero_point: int, size: int) -> None:
    """Sums of 8-bit products are whole numbers, the same by every method, at both ends of the range too."""
    graph = quantised_graph(signed, zero_point, size)
    random = np.random.default_rng(1)
    low, high, kind = (-128, 128, np.int8) if signed else (0, 256, np.uint8)
    inputs = {
        "x": random.choice(np.array([low, high - 1, 3]), (2, 32, size, size)).astype(kind),
        "rows": random.integers(low, high, (3, size, 64)).astype(kind),
    }
    expected = plait.interpret(graph, inputs)
    widths = (128, 256, HOST.vector_bits) if HOST.dot_products else (HOST.vector_bits,)
    for dots, bits in [(False, HOST.vector_bits), *((HOST.dot_products, bits) for bits in widths)]:
        target = replace(HOST, dot_products=dots, vector_bits=bits)
        exe = plait.compile(graph, target=target, pipeline="", isolate=False, cache=False)
        assert sum("dots of 4" in kernel.method for kernel in exe.kernels) == 2 * dots
        for found, wanted in zip(exe(**inputs), expected, strict=True):
            assert np.array_equal(found, wanted.numpy())
