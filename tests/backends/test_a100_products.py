"""Products on tensor cores: the emulated kernels against the interpreter, and the instructions in them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from plait.backends import compile_graph
from plait.backends.cuda.sass import disassemble_images
from plait.backends.executable import Executable
from plait.backends.kernels import Kernel
from plait.ir import Graph, QuantType, TensorType, Value
from plait.ir import types as t
from plait.ir.interpret import interpret
from plait.ir.ops import core, linalg, nn, quant

from .emission import B, Case, boolean, compare, f32

Values = dict[str, Value]


def f16(*shape: Any) -> TensorType:
    return TensorType(t.f16, shape)


def bf16(*shape: Any) -> TensorType:
    return TensorType(t.bf16, shape)


def normal(*shape: int, seed: int = 3, scale: float = 0.2, dtype: Any = np.float16) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(dtype)


def integers(*shape: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(-60, 60, shape).astype(np.int8)


def run(case: Case, *, target: str = "a100", batch: int = 2, order: Any = "forward") -> Executable:
    """Compile, emulate, compare with the interpreter; the executable."""
    graph = case.graph()
    executable = compile_graph(graph, target)
    arguments = case.arguments(batch, 1)
    expected = interpret(graph, arguments)
    results = executable.emulate(**arguments, lane_order=order)
    for got, want in zip(results if isinstance(results, tuple) else (results,), expected, strict=True):
        if str(want.dtype) == "torch.bfloat16":
            got, want = got.astype(np.float32), want.float()
        compare(got, want, case.tolerance)
    return executable


def body(kernel: Kernel) -> str:
    """The text of a kernel without the functions above it, which all kernels share."""
    return kernel.source[kernel.source.index("__global__") :]


def multiplies(kernel: Kernel) -> bool:
    """Whether a kernel uses tensor cores."""
    return "plait_multiply_" in body(kernel)


def opcodes(executable: Executable) -> dict[str, int]:
    """Counts of instructions over all kernels."""
    found: dict[str, int] = {}
    for code in disassemble_images(executable.images).values():
        for opcode, count in code.histogram().items():
            found[opcode] = found.get(opcode, 0) + count
    return found


def dense(rows: int, depth: int, columns: int, *, kind: Any = f16, act: str = "gelu") -> Case:
    """A dense layer with bias, activation and a residual behind it."""

    def build(g: Graph, v: Values) -> Any:
        y = nn.Linear(v["x"], v["w"], v["b"], act=act)
        g.add(y)
        return core.Add(y.result, v["r"])

    dtype = kind(1).dtype.numpy
    return Case(
        "dense",
        {"x": kind(B, rows, depth), "r": kind(B, rows, columns)},
        build,
        {"w": normal(columns, depth, dtype=dtype), "b": normal(columns, seed=4, dtype=dtype)},
        tolerance=2e-2 if kind is bf16 else 3e-3,
    )


# Tails in rows and columns, a depth shorter and one longer than a stage, and sizes no vector divides.
@pytest.mark.parametrize(
    ("rows", "depth", "columns"), [(5, 8, 8), (37, 72, 40), (3, 200, 24), (9, 20, 12), (4, 33, 21)]
)
def test_dense_layer_with_bias_activation_and_residual(rows: int, depth: int, columns: int) -> None:
    executable = run(dense(rows, depth, columns))
    (kernel,) = executable.kernels
    assert kernel.grid is not None
    assert "B" in str(kernel.grid[0])
    found = opcodes(executable)
    assert found["HMMA"]
    assert found["LDSM"]
    assert not kernel.spills
    if depth % 8 == 0:
        assert found["LDGSTS"], "copies of whole chunks are asynchronous"


@pytest.mark.parametrize("order", ["reversed", 5])
def test_the_order_of_lanes_does_not_matter(order: Any) -> None:
    run(dense(37, 200, 40), order=order)


def test_bfloat16() -> None:
    executable = run(dense(19, 48, 24, kind=bf16, act="none"))
    assert "plait_multiply_bf16" in body(executable.kernels[0])
    assert opcodes(executable)["HMMA"]


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "depth", "columns"), [(300, 512, 768), (128, 256, 256), (1, 1024, 512)])
def test_large_dense_layers(rows: int, depth: int, columns: int) -> None:
    case = dense(rows, depth, columns)
    case.tolerance = 2e-2
    run(case, order=3)


def convolution(
    channels: int,
    outputs: int,
    kernel: int,
    *,
    size: tuple[int, int] = (9, 10),
    kind: Any = f16,
    **attributes: Any,
) -> Case:
    """Two convolutions, so that the second finds channels innermost, with a residual and a pool."""
    groups = attributes.get("groups", 1)
    dtype = kind(1).dtype.numpy

    def build(g: Graph, v: Values) -> Any:
        first = nn.Conv2d(v["x"], v["stem"], v["b"], act="relu", pad=(1, 1))
        g.add(first)
        second = nn.Conv2d(first.result, v["w"], v["c"], **attributes)
        g.add(second)
        pointwise = nn.Conv2d(second.result, v["p"])
        g.add(pointwise)
        total = core.Add(pointwise.result, second.result)
        g.add(total)
        pooled = nn.MaxPool2d(total.result, kernel=(2, 2))
        return [total, pooled]

    return Case(
        "convolution",
        {"x": kind(B, 3, *size)},
        build,
        {
            "stem": normal(channels, 3, 3, 3, dtype=dtype),
            "b": normal(channels, seed=4, dtype=dtype),
            "w": normal(outputs, channels // groups, kernel, kernel, seed=5, dtype=dtype),
            "c": normal(outputs, seed=6, dtype=dtype),
            "p": normal(outputs, outputs, 1, 1, seed=7, dtype=dtype),
        },
        tolerance=1e-2,
    )


@pytest.mark.parametrize(
    "case",
    [
        convolution(16, 24, 3, pad=(1, 1)),
        convolution(16, 16, 1),
        convolution(32, 32, 3, pad=(1, 1), stride=(2, 2), groups=4),
        convolution(8, 16, 3, pad=(2, 2), dilation=(2, 2), size=(7, 11)),
    ],
    ids=["3x3", "1x1", "strided groups", "dilated"],
)
def test_convolutions(case: Case) -> None:
    executable = run(case)
    found = opcodes(executable)
    assert found["HMMA"]
    assert found["LDGSTS"]
    assert not any(kernel.spills for kernel in executable.kernels)
    products = [k for k in executable.kernels if "nn.conv2d" in k.opnames]
    assert products
    assert all(map(multiplies, products))
    # The kernels behind the first read and write channels innermost: as whole chunks.
    assert sum("plait_copy_async_16" in body(kernel) for kernel in products) == len(products)


def heads(
    queries: int, keys: int, width: int, *, causal: bool = False, mask: TensorType | None = None
) -> Case:
    def build(g: Graph, v: Values) -> Any:
        return nn.Attention(v["q"], v["k"], v["v"], v.get("mask"), causal=causal)

    inputs = {name: f16(B, 2, size, width) for name, size in (("q", queries), ("k", keys), ("v", keys))}
    if mask is not None:
        inputs["mask"] = mask
    return Case("heads", inputs, build, tolerance=3e-3)


@pytest.mark.parametrize(
    "case",
    [
        heads(24, 40, 16),
        heads(19, 19, 24, causal=True),
        heads(13, 21, 32, mask=boolean(B, 1, 13, 21)),
        heads(5, 7, 8, mask=f16(5, 7)),
    ],
    ids=["plain", "causal", "boolean mask", "added mask"],
)
def test_attention(case: Case) -> None:
    executable = run(case)
    products = [kernel for kernel in executable.kernels if multiplies(kernel)]
    assert len(products) == 2, "scores and values"
    assert not any(kernel.spills for kernel in executable.kernels)


@pytest.mark.parametrize(
    ("left", "right"),
    [((B, 5, 24), (24, 40)), ((B, 3, 7, 16), (B, 3, 16, 24)), ((B, 3, 7, 16), (1, 3, 16, 9))],
    ids=["shared", "stack", "broadcast"],
)
@pytest.mark.parametrize("target", ["a100", "a100-tf32"])
def test_matrix_products(left: Any, right: Any, target: str) -> None:
    kind = f16 if target == "a100" else f32
    case = Case(
        "matmul",
        {"x": kind(*left), "y": kind(*right)},
        lambda g, v: linalg.Matmul(v["x"], v["y"]),
        tolerance=1e-2,
    )
    assert opcodes(run(case, target=target))["HMMA"]


def test_single_precision_uses_tensor_cores_on_demand_only() -> None:
    case = dense(19, 36, 24, kind=f32)
    case.tolerance = 1e-4
    assert "HMMA" not in opcodes(run(case))
    case.tolerance = 5e-3
    assert opcodes(run(case, target="a100-tf32"))["HMMA"]
    case = convolution(8, 16, 3, pad=(1, 1), kind=f32)
    executable = run(case, target="a100-tf32")
    assert opcodes(executable)["HMMA"]
    assert all("plait_multiply_tf32" in body(kernel) for kernel in executable.kernels if multiplies(kernel))


def quantised(zero_point: int) -> Case:
    """A quantised convolution and dense layer, with zero points of the operands and pads around them."""

    def build(g: Graph, v: Values) -> Any:
        g.add_constant("ws", np.array([0.01, 0.02, 0.015, 0.03] * 6, np.float32))
        w = g.add_constant("cw", integers(24, 16, 3, 3), QuantType(8, True, "ws", (24, 16, 3, 3), axis=0))
        b = g.add_constant("cb", integers(24).astype(np.int32) * 9)
        fw = g.add_constant("fw", integers(8, 24), QuantType(8, True, 0.02, (8, 24)))
        mw = g.add_constant("mw", integers(24, 16), QuantType(8, True, 0.02, (24, 16)))
        x = g.emit(quant.Quantize(v["x"], out=QuantType(8, True, 0.02, (B, 16, 6, 5), zero_point=zero_point)))
        kind = QuantType(8, True, 0.05, (B, 24, 6, 5), zero_point=zero_point)
        y = g.emit(nn.Conv2d(x, w, b, pad=(1, 1), act="relu", out=kind))
        pooled = g.emit(nn.MaxPool2d(y, kernel=(6, 5)))
        flat = g.emit(core.Reshape(pooled, out=kind.with_shape((B, 24))))
        return [
            g.add(quant.Dequantize(y)),
            g.add(nn.Linear(flat, fw)),
            g.add(linalg.Matmul(flat, mw)),
        ]

    return Case("quantised", {"x": f32(B, 16, 6, 5)}, build)


@pytest.mark.parametrize("zero_point", [0, -7])
def test_quantised_products_are_exact(zero_point: int) -> None:
    executable = run(quantised(zero_point))
    assert opcodes(executable)["IMMA"]
    products = [k for k in executable.kernels if {"nn.conv2d", "nn.linear", "linalg.matmul"} & set(k.opnames)]
    assert len(products) == 3
    assert all(map(multiplies, products))


def test_fixed_sizes_fill_the_multiprocessors() -> None:
    """The tile is chosen so that a product of moderate size has a block for most of the 108."""
    graph = dense(512, 512, 768).graph()
    executable = compile_graph(graph, "a100", dims={"B": 1})
    (kernel,) = executable.kernels
    assert kernel.grid is not None
    assert 90 <= int(kernel.grid[0]) <= 432


def test_a_rule_that_fails_leaves_the_kernel_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    from plait.backends.tvm import schedule_gpu

    def broken(stage: Any, target: Any) -> Any:
        raise RuntimeError("no such shape")

    monkeypatch.setattr(schedule_gpu, "RULES", (broken,))
    (kernel,) = run(dense(5, 8, 8)).kernels
    assert not multiplies(kernel)
    assert kernel.notes[0] == "%linear, %add: broken failed: no such shape"
