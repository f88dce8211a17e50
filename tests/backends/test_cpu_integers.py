"""Integer products on the CPU: dot products of four where the processor has them, and unpacked weights."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import plait
from plait.backends import CpuTarget, resolve_target
from plait.backends.executable import Executable
from plait.ir import Graph, QuantType
from plait.ir import types as t
from plait.ir.ops import core, linalg, nn

from .quantised_cases import PAIRS, SHAPES, activations, agree, grid, stored, weight_only

HOST = resolve_target("cpu", threads=2)
assert isinstance(HOST, CpuTarget)
WITH_DOTS = pytest.mark.skipif(not HOST.dot_products, reason="the processor has no dot products of bytes")


def run(graph: Graph, inputs: dict[str, np.ndarray], tolerance: float = 0.0, **fields: Any) -> Executable:
    """Compile for this processor, with fields of the target changed, and compare with the interpreter."""
    executable = plait.compile(graph, target=replace(HOST, **fields), pipeline="", isolate=False, cache=False)
    agree(executable(**inputs), graph, inputs, tolerance)
    return executable


def assembly(executable: Executable) -> str:
    """The machine code of all kernels, as text."""
    pending, texts = [executable._code.module.mod], []
    while pending:
        module = pending.pop()
        pending += list(module.imports)
        if module.kind == "llvm":
            texts.append(str(module.inspect_source("asm")))
    return "\n".join(texts)


def by_dots(executable: Executable) -> int:
    """How many kernels sum by dot products of four, all of which the machine code must have."""
    count = sum("dots of 4" in kernel.method for kernel in executable.kernels)
    assert not count or "vpdpbusd" in assembly(executable)
    return count


# -- two activations --------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "zeros"), PAIRS)
def test_products_of_two_activations(name: str, zeros: tuple[int, int]) -> None:
    left, right = SHAPES[name]
    graph, inputs = activations(grid(left, zeros[0]), grid(right, zeros[1]))
    assert by_dots(run(graph, inputs)) == HOST.dot_products
    assert by_dots(run(graph, inputs, dot_products=False)) == 0


@pytest.mark.parametrize("signs", [(False, True), (True, False), (False, False)])
def test_unsigned_operands(signs: tuple[bool, bool]) -> None:
    kinds = [
        grid(shape, 0 if signed else 131, signed=signed)
        for shape, signed in zip([(2, 18, 35), (2, 35, 24)], signs, strict=True)
    ]
    assert by_dots(run(*activations(*kinds))) == HOST.dot_products


@pytest.mark.parametrize("bits", [128, 256])
@WITH_DOTS
def test_narrower_vectors(bits: int) -> None:
    graph, inputs = activations(grid((2, 9, 22), -128), grid((2, 22, 19), 4))
    assert by_dots(run(graph, inputs, vector_bits=bits, registers=16)) == 1


def test_a_depth_shorter_than_a_word_takes_another_way() -> None:
    assert by_dots(run(*activations(grid((2, 9, 3), -128), grid((2, 3, 19), 4)))) == 0


def test_a_requantised_product_of_transposed_keys() -> None:
    graph = Graph("keys")
    shape = (2, 2, 21, 32)
    q, k = graph.add_input("q", grid(shape)), graph.add_input("k", grid(shape))
    keys = graph.emit(core.Transpose(k, permutation=(0, 1, 3, 2)))
    out = grid((2, 2, 21, 21), -128, scale=2.0)
    graph.set_outputs([graph.emit(linalg.Matmul(q, keys, out=out, requantize="fixed_point"))])
    graph.verify()
    inputs = {name: stored(grid(shape), seed) for seed, name in enumerate("qk")}
    assert by_dots(run(graph, inputs)) == HOST.dot_products


# -- constant weights ---------------------------------------------------------------------------
def layers(
    x: QuantType,
    *,
    weight_zero: int = 0,
    weight_signed: bool = True,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
) -> Graph:
    """A convolution, and over what it gives a dense layer and a product with a constant."""
    graph = Graph("layers")
    image = graph.add_input("x", x)
    draw = np.random.default_rng(0)

    def weight(label: str, *shape: int) -> Any:
        kind = grid(shape, weight_zero, signed=weight_signed)
        return graph.add_constant(label, stored(kind, int(draw.integers(99))), kind)

    channels = int(x.shape[1]) // groups
    bias = graph.add_constant("bias", draw.integers(-900, 900, 64).astype(np.int32))
    conv = nn.Conv2d(
        image,
        weight("c", 64, channels, kernel, kernel),
        bias,
        stride=(stride, stride),
        pad=(kernel // 2,) * 2,
        groups=groups,
        act="relu",
    )
    sums = graph.emit(conv)
    rows = graph.add_input("rows", grid((7, 22), 5))
    graph.set_outputs(
        [
            sums,
            graph.emit(nn.Linear(rows, weight("l", 12, 22))),
            graph.emit(linalg.Matmul(rows, weight("m", 22, 9))),
        ]
    )
    graph.verify()
    return graph


@pytest.mark.parametrize(
    "options",
    [
        {"channels": 3, "kernel": 7, "stride": 2},
        {"channels": 3, "kernel": 1},
        {"channels": 16, "kernel": 1},
        {"channels": 18, "kernel": 3, "stride": 2},
        {"channels": 32, "kernel": 3, "groups": 4},
    ],
    ids=["first layer", "1x1 of 3", "1x1", "strided", "groups"],
)
@pytest.mark.parametrize(("signed", "zero_point"), [(True, -7), (False, 131)])
def test_layers_with_constant_weights(options: dict[str, int], signed: bool, zero_point: int) -> None:
    given = dict(options)
    kind = grid((2, given.pop("channels"), 9, 10), zero_point, signed=signed)
    inputs = {"x": stored(kind, 1), "rows": stored(grid((7, 22)), 2)}
    executable = run(layers(kind, **given), inputs)
    # The 16 columns of one of four groups fill a vector of 512 bits at most.
    assert by_dots(executable) == 3 * HOST.dot_products
    run(layers(kind, **given), inputs, dot_products=False)


@pytest.mark.parametrize(("signed", "zero_point"), [(True, 9), (False, 140), (False, 128)])
def test_weights_with_zero_points(signed: bool, zero_point: int) -> None:
    kind = grid((2, 3, 8, 9), -20)
    graph = layers(kind, weight_zero=zero_point, weight_signed=signed)
    inputs = {"x": stored(kind, 1), "rows": stored(grid((7, 22)), 2)}
    assert by_dots(run(graph, inputs)) == 3 * HOST.dot_products


def test_many_weights_under_few_rows_are_asked_for_ahead() -> None:
    graph = Graph("streamed")
    rows = graph.add_input("rows", grid((3, 2048), -9))
    kind = grid((2048, 2048))
    graph.set_outputs([graph.emit(nn.Linear(rows, graph.add_constant("w", stored(kind, 1), kind)))])
    inputs = {"rows": stored(grid((3, 2048)), 2)}
    for dots in {HOST.dot_products, False}:
        executable = run(graph, inputs, dot_products=dots)
        assert "prefetch" in executable.kernels[0].source


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("signed", "zero_point"), [(True, -7), (False, 131)])
def test_depthwise_convolution_in_vectors_of_channels(stride: int, signed: bool, zero_point: int) -> None:
    graph = Graph("depthwise")
    kind = grid((2, 8, 9, 10), zero_point, signed=signed)
    x = graph.add_input("x", kind)
    draw = np.random.default_rng(0)
    first, second = (
        graph.add_constant(name, draw.integers(-128, 128, shape).astype(np.int8), grid(shape))
        for name, shape in (("first", (32, 8, 1, 1)), ("second", (32, 1, 3, 3)))
    )
    between = grid((2, 32, 9, 10), 4, scale=0.9)
    image = graph.emit(nn.Conv2d(x, first, out=between))
    graph.set_outputs([graph.emit(nn.Conv2d(image, second, groups=32, pad=(1, 1), stride=(stride, stride)))])
    graph.verify()
    executable = run(graph, {"x": stored(kind, 1)})
    assert "window of" in executable.kernels[-1].method
    if HOST.vector_bits >= 256:
        assert re.search(r"vpmulld\s.*[yz]mm", assembly(executable))


# -- weights of integers under floating point ----------------------------------------------------
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
@pytest.mark.parametrize(("group", "rows"), [(None, (2, 9)), (16, (1,)), (64, (2, 9))])
def test_weights_are_unpacked_in_registers(bits: int, group: int | None, rows: tuple[int, ...]) -> None:
    graph, inputs = weight_only(rows, 128, 40, bits=bits, axis=0 if group is None else 1, group=group)
    executable = run(graph, inputs, 1e-5)
    (weight,) = (a for n, a in executable._code.parameters.items() if n.startswith("weight"))
    blocks = -(-weight.shape[0] * weight.shape[-1] // 40)
    assert weight.nbytes <= blocks * 40 * 128 * (1 if bits > 4 else 0.5)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"signed": True, "zero_point": 3},
        {"signed": False, "zero_point": 9},
        {"bits": 8, "signed": False, "zero_point": 131},
        {"bits": 8, "zero_point": -4, "axis": None},
        {"axis": 1, "group": 15},
        {"axis": 1, "group": 9},
        {"axis": 1},
        {"axis": 0, "group": 7},
        {"element": t.f64, "bits": 3},
        {"element": t.f16},
    ],
    ids=str,
)
def test_zero_points_odd_sizes_and_other_scales(options: dict[str, Any], transposed: bool) -> None:
    graph, inputs = weight_only((19,), 45, 21, transposed=transposed, **options)
    run(graph, inputs, 2e-3 if options.get("element") is t.f16 else 1e-5)


def test_four_bits_take_half_a_byte_of_memory_and_vectors_to_unpack() -> None:
    sizes = {}
    for bits in (4, 8):
        graph, inputs = weight_only((1,), 256, 128, bits=bits, axis=1, group=32)
        executable = run(graph, inputs, 1e-5)
        sizes[bits] = sum(a.nbytes for n, a in executable._code.parameters.items() if n.startswith("weight"))
        text = assembly(executable)
        assert "vpmovzxbd" in text if bits == 4 else "vpmovsxbd" in text
        # Bytes never go through the registers of the scalar unit.
        assert not re.search(r"\tmov[sz]b[lq]\s.*\n(.*\n){0,6}?.*vcvtsi2ss", text)
    assert sizes == {4: 256 * 128 // 2, 8: 256 * 128}


@pytest.mark.parametrize("groups", [1, 24])
def test_convolutions_with_weights_of_integers(groups: int) -> None:
    graph = Graph("conv")
    x = graph.add_input("x", t.TensorType(t.f32, (2, 24, 9, 8)))
    shape = (24, 24 // groups, 3, 3)
    graph.add_constant("scales", np.linspace(0.01, 0.03, 24).astype(np.float32))
    kind = QuantType(8, True, "scales", shape, zero_point=-3, axis=0)
    weight = graph.add_constant("w", stored(grid(shape), 1), kind)
    bias = graph.add_constant("b", np.linspace(-1, 1, 24).astype(np.float32))
    graph.set_outputs([graph.emit(nn.Conv2d(x, weight, bias, pad=(1, 1), groups=groups, act="relu"))])
    graph.verify()
    image = np.random.default_rng(0).standard_normal((2, 24, 9, 8)).astype(np.float32)
    run(graph, {"x": image}, 1e-5)


def test_a_weight_that_is_no_constant() -> None:
    graph = Graph("computed")
    x = graph.add_input("x", t.TensorType(t.f32, (3, 5, 32)))
    kind = grid((3, 32, 8), 4)
    weight = graph.add_input("w", kind)
    matrix = graph.add_input("m", kind.with_shape((8, 32)))
    graph.set_outputs([graph.emit(linalg.Matmul(x, weight)), graph.emit(nn.Linear(x, matrix))])
    graph.verify()
    given = np.random.default_rng(0).standard_normal((3, 5, 32)).astype(np.float32)
    inputs = {"x": given, "w": stored(kind, 1), "m": stored(grid((8, 32)), 2)}
    run(graph, inputs, 1e-5)
