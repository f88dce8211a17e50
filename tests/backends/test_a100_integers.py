"""Integer products on the A100, executed under the detectors: the same numbers as the interpreter's, by IMMA."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from plait.backends import compile_graph
from plait.backends.executable import Executable
from plait.ir import Graph, QuantType
from plait.ir import types as t
from plait.ir.ops import core, linalg, nn

from .quantised_cases import PAIRS, SHAPES, activations, agree, grid, scaled_weight, stored, weight_only
from .test_a100_products import body, multiplies, opcodes


def run(graph: Graph, inputs: dict[str, np.ndarray], tolerance: float = 0.0, **options: Any) -> Executable:
    """Compile, emulate with all detectors, compare with the interpreter; the executable."""
    executable = compile_graph(graph, "a100")
    agree(executable.emulate(**inputs, check=True, **options), graph, inputs, tolerance)
    assert not any(kernel.spills for kernel in executable.kernels)
    assert not [note for kernel in executable.kernels for note in kernel.notes]
    return executable


def in_integers(executable: Executable) -> bool:
    """Whether tensor cores multiply bytes, and each product has a kernel that does."""
    products = [k for k in executable.kernels if "plait_multiply_s8" in body(k)]
    ops = {op.name for op in executable.graph.walk() if isinstance(op, (linalg.Matmul, nn.Linear, nn.Conv2d))}
    return bool(opcodes(executable)["IMMA"]) and ops <= {op for k in products for op in k.ops}


@pytest.mark.parametrize(("name", "zeros"), PAIRS)
def test_products_of_two_activations(name: str, zeros: tuple[int, int]) -> None:
    left, right = SHAPES[name]
    graph, inputs = activations(grid(left, zeros[0]), grid(right, zeros[1]))
    executable = run(graph, inputs)
    assert in_integers(executable)
    assert ("row_sums" in body(executable.kernels[0])) == bool(zeros[1])
    assert ("column_sums" in body(executable.kernels[0])) == bool(zeros[0])


@pytest.mark.parametrize("signs", [(False, True), (True, False), (False, False)])
@pytest.mark.parametrize("middle", [False, True])
def test_unsigned_operands(signs: tuple[bool, bool], middle: bool) -> None:
    zeros = [(128 if middle else 7) if not signed else 0 for signed in signs]
    kinds = (grid((2, 18, 35), zeros[0], signed=signs[0]), grid((2, 35, 24), zeros[1], signed=signs[1]))
    executable = run(*activations(*kinds), lane_order=4)
    assert in_integers(executable)
    assert "plait_flip_signs" in body(executable.kernels[0])


def test_a_requantised_product() -> None:
    out = grid((2, 20, 24), -5, scale=9.0)
    graph, inputs = activations(grid((2, 20, 40), -128), grid((2, 40, 24)), out, requantize="fixed_point")
    assert in_integers(run(graph, inputs))


def attention_graph(tokens: int, width: int) -> tuple[Graph, dict[str, np.ndarray]]:
    """Scores of queries and transposed keys, and weighted sums of values, both in integers."""
    graph = Graph("attention")
    shape = (1, 2, tokens, width)
    q, k, v = (graph.add_input(name, grid(shape)) for name in "qkv")
    turned = grid((1, 2, width, tokens))
    keys = graph.emit(core.Transpose(k, permutation=(0, 1, 3, 2)))
    assert keys.type == turned
    scores = graph.emit(linalg.Matmul(q, keys, out=grid((1, 2, tokens, tokens), -128, scale=2.0)))
    result = graph.emit(linalg.Matmul(scores, v, out=grid(shape, scale=90.0)))
    graph.set_outputs([result])
    graph.verify()
    return graph, {name: stored(grid(shape), seed) for seed, name in enumerate("qkv")}


def test_transposed_keys_stay_in_memory_as_they_were() -> None:
    executable = run(*attention_graph(19, 32))
    assert in_integers(executable)
    scores, values = (k for k in executable.kernels if "linalg.matmul" in k.opnames)
    assert "plait_copy_async_16" in body(scores)
    assert "plait_gather_columns" not in body(scores)
    assert "plait_gather_columns" in body(values)


@pytest.mark.slow
def test_attention_of_a_vision_transformer() -> None:
    assert in_integers(run(*attention_graph(197, 64), lane_order=7))


def layers(x: QuantType, *, weight_zero: int = 0, weight_signed: bool = True) -> Graph:
    """A convolution of few channels, and a dense layer and a product with a constant over what it gives."""
    graph = Graph("layers")
    image = graph.add_input("x", x)
    draw = np.random.default_rng(0)
    name = "i1" if weight_signed else "u1"
    low, high = (-128, 128) if weight_signed else (0, 256)

    def weight(label: str, *shape: int) -> Any:
        kind = grid(shape, weight_zero, signed=weight_signed)
        return graph.add_constant(label, draw.integers(low, high, shape).astype(name), kind)

    channels = int(x.shape[1])
    bias = graph.add_constant("bias", draw.integers(-900, 900, 20).astype(np.int32))
    out = grid((2, 20, 4, 5), 3, scale=1.5)
    conv = graph.emit(
        nn.Conv2d(image, weight("c", 20, channels, 3, 3), bias, stride=(2, 2), pad=(1, 1), out=out)
    )
    flat = graph.emit(core.Reshape(conv, out=out.with_shape((2, 20, 20))))
    graph.set_outputs(
        [
            conv,
            graph.emit(nn.Linear(flat, weight("l", 12, 20))),
            graph.emit(linalg.Matmul(flat, weight("m", 20, 9))),
            graph.emit(linalg.Matmul(flat, weight("s", 2, 20, 9))),
        ]
    )
    graph.verify()
    return graph


@pytest.mark.parametrize("channels", [1, 3, 8])
@pytest.mark.parametrize(("signed", "zero_point"), [(True, -7), (True, 0), (False, 131)])
def test_layers_with_constant_weights(channels: int, signed: bool, zero_point: int) -> None:
    kind = grid((2, channels, 8, 9), zero_point, signed=signed)
    executable = run(layers(kind), {"x": stored(kind, 1)})
    assert in_integers(executable)
    convolution = next(k for k in executable.kernels if "nn.conv2d" in k.opnames and multiplies(k))
    if channels % 4:
        assert "plait_copy_async_4" in body(convolution), "channels are filled up to words"
    else:
        assert not any("widened" in kernel.name for kernel in executable.kernels)


@pytest.mark.parametrize(("signed", "zero_point"), [(True, 9), (False, 140)])
def test_weights_with_zero_points(signed: bool, zero_point: int) -> None:
    kind = grid((2, 3, 8, 9), -20)
    graph = layers(kind, weight_zero=zero_point, weight_signed=signed)
    assert in_integers(run(graph, {"x": stored(kind, 1)}))


def test_a_zero_point_for_each_channel_takes_another_kernel() -> None:
    graph = Graph("channels")
    x = graph.add_input("x", grid((5, 24), 3))
    graph.add_constant("zeros", np.arange(-4, 4, dtype=np.int32))
    graph.add_constant("scales", np.linspace(0.01, 0.02, 8).astype(np.float32))
    kind = QuantType(8, True, "scales", (8, 24), zero_point="zeros", axis=0)
    weight = graph.add_constant("w", stored(grid((8, 24)), 2), kind)
    graph.set_outputs([graph.emit(nn.Linear(x, weight))])
    inputs = {"x": stored(grid((5, 24)), 1)}
    executable = compile_graph(graph, "a100")
    agree(executable.emulate(**inputs, check=True), graph, inputs)
    assert "plait_multiply" not in body(executable.kernels[0])


# -- weights of integers under half precision ----------------------------------------------------
@pytest.mark.parametrize(
    ("bits", "element", "group"),
    [
        *((bits, t.f16, None) for bits in (2, 3, 4, 6, 8)),
        (4, t.f16, 32),
        (8, t.f16, 64),
        (4, t.bf16, 64),
        (8, t.bf16, None),
    ],
)
def test_weights_are_unpacked_in_registers(bits: int, element: Any, group: int | None) -> None:
    graph, inputs = weight_only(
        (2, 9), 128, 40, element=element, bits=bits, axis=0 if group is None else 1, group=group
    )
    executable = run(graph, inputs, 2e-2 if element is t.bf16 else 3e-3)
    (kernel,) = executable.kernels
    width = 4 if bits <= 4 else 8
    assert f"plait_unpack_{element}_{width}" in body(kernel)
    assert opcodes(executable)["HMMA"]


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("signed", "zero_point"), [(True, 3), (False, 0), (False, 8)])
def test_zero_points_and_odd_sizes_of_unpacked_weights(
    transposed: bool, signed: bool, zero_point: int
) -> None:
    graph, inputs = weight_only(
        (19,),
        45,
        21,
        element=t.f16,
        bits=4,
        signed=signed,
        zero_point=zero_point,
        transposed=transposed,
    )
    assert "plait_unpack" in body(run(graph, inputs, 3e-3).kernels[0])


@pytest.mark.parametrize(
    "options",
    [
        {"rows": (7,), "element": t.f32, "axis": 1, "group": 16},
        {"rows": (1,), "element": t.f16, "axis": 1, "group": 32},
        {"rows": (1, 1), "element": t.f32, "bits": 8},
        {"rows": (5,), "element": t.f16, "axis": 1, "group": 8, "transposed": True},
        {"rows": (5,), "element": t.f16, "axis": 1},
    ],
    ids=["f32", "one row", "one row of f32", "short groups", "scales along the depth"],
)
def test_other_products_with_weights_of_integers(options: dict[str, Any]) -> None:
    graph, inputs = weight_only(depth=64, columns=24, **options)
    executable = compile_graph(graph, "a100")
    agree(executable.emulate(**inputs, check=True), graph, inputs, 3e-3)


def test_four_bits_take_half_a_byte_of_memory() -> None:
    sizes = {}
    for bits in (4, 8):
        graph, _ = weight_only((16,), 256, 128, element=t.f16, bits=bits)
        executable = compile_graph(graph, "a100")
        sizes[bits] = sum(a.nbytes for n, a in executable._code.parameters.items() if n.startswith("weight"))
    assert sizes == {4: 256 * 128 // 2, 8: 256 * 128}


def test_scaled_weight_of_a_stack_is_read_as_it_is() -> None:
    graph = Graph("stack")
    x = graph.add_input("x", t.TensorType(t.f16, (3, 5, 32)))
    weight = scaled_weight(graph, stored(grid((3, 32, 8)), 1), bits=8, axis=2)
    graph.set_outputs([graph.emit(linalg.Matmul(x, weight))])
    inputs = {"x": np.random.default_rng(0).standard_normal((3, 5, 32)).astype(np.float16)}
    executable = compile_graph(graph, "a100")
    agree(executable.emulate(**inputs, check=True), graph, inputs, 3e-3)
