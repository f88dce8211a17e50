"""Ops on stored integers: fixed-point results against exact fractions, and layers with stored weights alone."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from plait.ir import Graph, QuantType, TensorType, VerifyError, parse_type
from plait.ir import types as t
from plait.ir.cost import op_cost
from plait.ir.fixed_point import bounds_of, fixed_point
from plait.ir.interpret import interpret
from plait.ir.ops import core, linalg, nn, quant
from plait.ir.reference.tensors import torch_dtype

RNG = np.random.default_rng(17)


def kind_of(text: str) -> QuantType:
    kind = parse_type(text)
    assert isinstance(kind, QuantType)
    return kind


def stored(kind: QuantType, seed: int = 3) -> np.ndarray:
    low, high = kind.range
    shape = [int(dim) for dim in kind.shape]
    return np.random.default_rng(seed).integers(low, high + 1, shape).astype(kind.dtype.numpy)


def on_grid(real: list[Fraction], out: QuantType, act: str) -> list[int]:
    """floor(real + 1/2) + zero point, bounded: what a fixed-point result is with an exact factor."""
    low, high = bounds_of(out, act)
    half = Fraction(1, 2)
    return [min(max((x + half).__floor__() + int(out.zero_point), low), high) for x in real]


# -- fixed-point products -------------------------------------------------------------
@pytest.mark.parametrize("act", ["none", "relu", "relu6"])
def test_fixed_point_conv_is_exact_arithmetic(act: Any) -> None:
    """Against sums of Python integers and factors as fractions."""
    x, w = kind_of("qu8<0.05, zp=120>[1,4,5,5]"), kind_of("qi8<@s, axis=0>[6,2,3,3]")
    out = kind_of("qi8<0.31, zp=-17>[1,6,3,3]")
    scale = RNG.uniform(0.002, 0.02, 6).astype(np.float32)
    weights, bias = stored(w, 1), RNG.integers(-3000, 3000, 6).astype(np.int32)
    g = Graph()
    value = g.add_input("x", x)
    g.add_constant("s", scale)
    wv, bv = g.add_constant("w", weights, w), g.add_constant("b", bias)
    g.set_outputs([g.emit(nn.Conv2d(value, wv, bv, groups=2, act=act, requantize="fixed_point", out=out))])
    g.verify()
    image = stored(x)
    (found,) = interpret(g, [image])
    wide = torch.from_numpy(image.astype(np.float64) - 120)
    total = F.conv2d(wide, torch.from_numpy(weights).double(), torch.from_numpy(bias).double(), groups=2)
    factor = fixed_point(0.05 * scale.astype(np.float64) / 0.31)
    for channel in range(6):
        exact = Fraction(int(factor.mantissa[channel]), 1 << int(factor.shift[channel]))
        wanted = on_grid([int(v) * exact for v in total[0, channel].reshape(-1)], out, act)
        assert found[0, channel].reshape(-1).tolist() == wanted
    assert len(found.unique()) > 10


def test_fixed_point_is_near_the_real_result() -> None:
    x, w = kind_of("qi8<0.04, zp=-9>[8,16]"), kind_of("qi8<0.013>[5,16]")
    results = []
    for mode in ("real", "fixed_point"):
        g = Graph()
        value = g.add_input("x", x)
        weight = g.add_constant("w", stored(w, 2), w)
        out = kind_of("qi8<0.097, zp=4>[8,5]")
        g.set_outputs([g.emit(nn.Linear(value, weight, requantize=mode, out=out))])  # type: ignore[arg-type]
        results.append(interpret(g, [stored(x)])[0].int())
    assert (results[0] - results[1]).abs().max() <= 1
    assert (results[0] == results[1]).float().mean() > 0.9


def test_product_of_activations_with_zero_points_and_a_scale_by_column() -> None:
    a, b = kind_of("qi8<0.04, zp=-9>[2,3,16]"), kind_of("qi8<@s, axis=1>[16,5]")
    out = kind_of("qu8<0.3, zp=90>[2,3,5]")
    scale = RNG.uniform(0.01, 0.03, 5).astype(np.float32)
    g = Graph()
    left = g.add_input("a", a)
    g.add_constant("s", scale)
    right = g.add_constant("b", stored(b, 4), b)
    g.set_outputs([g.emit(linalg.Matmul(left, right, requantize="fixed_point", out=out))])
    g.verify()
    (found,) = interpret(g, [stored(a)])
    total = (stored(a).astype(np.int64) + 9) @ stored(b, 4).astype(np.int64)
    factor = fixed_point(0.04 * scale.astype(np.float64) / 0.3)
    assert np.array_equal(found.numpy(), np.clip(factor.rescale(total) + 90, 0, 255).astype(np.uint8))


REFUSED = {
    "groups of scales": (
        "qi8<0.1>[4,8]",
        "qi8<@g, axis=1, group=4>[6,8]",
        "qi8<0.1>[4,6]",
        "none",
        "one factor for each output",
    ),
    "a scale along the depth": (
        "qi8<0.1>[4,8]", "qi8<@d, axis=1>[6,8]", "qi8<0.1>[4,6]", "none", "one factor for each output",
    ),
    "dense operand": ("f32[4,8]", "qi8<0.1>[6,8]", "qi8<0.1>[4,6]", "none", "one factor for each output"),
    "scale of the result by reference": (
        "qi8<0.1>[4,8]", "qi8<0.1>[6,8]", "qi8<@one>[4,6]", "none", "given as numbers",
    ),
    "gelu": ("qi8<0.1>[4,8]", "qi8<0.1>[6,8]", "qi8<0.1>[4,6]", "gelu", "rectified by relu or relu6 only"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_fixed_point_wants_one_factor_for_each_output(name: str) -> None:
    x, w, out, act, message = REFUSED[name]
    g = Graph()
    left, right = g.add_input("x", parse_type(x)), g.add_input("w", parse_type(w))
    with pytest.raises(VerifyError, match=message):
        g.emit(nn.Linear(left, right, act=act, requantize="fixed_point", out=parse_type(out)))  # type: ignore[arg-type]


def test_an_accumulator_has_no_scale_for_an_activation() -> None:
    """Neither is it requantised, whatever the attribute says."""
    x, w = kind_of("qi8<0.04, zp=-9>[8,16]"), kind_of("qi8<0.013>[5,16]")
    g = Graph()
    left, right = g.add_input("x", x), g.add_constant("w", stored(w, 2), w)
    plain = g.emit(nn.Linear(left, right, requantize="fixed_point"))
    assert plain.type == TensorType(t.i32, (8, 5))
    g.set_outputs([plain])
    total = (stored(x).astype(int) + 9) @ stored(w, 2).astype(int).T
    assert np.array_equal(interpret(g, [stored(x)])[0].numpy(), total)
    with pytest.raises(VerifyError, match="takes no activation but relu"):
        g.emit(nn.Linear(left, right, act="gelu"))


def test_a_quantised_operand_wants_quantised_weights() -> None:
    g = Graph()
    left, right = g.add_input("x", parse_type("qi8<0.1>[4,8]")), g.add_input("w", parse_type("f32[6,8]"))
    with pytest.raises(VerifyError, match=r"a quantised operand goes with quantised weights\n.*quant\."):
        g.emit(nn.Linear(left, right))
    x, kernel = (
        g.add_input("i", parse_type("f32[1,4,5,5]")),
        g.add_input("k", parse_type("qi8<0.1>[4,3,3,3]")),
    )
    with pytest.raises(VerifyError, match="both are quantised or neither"):
        g.emit(nn.ConvTranspose2d(x, kernel))


# -- stored weights under dense operands ------------------------------------------------
WEIGHTS = (
    "qi8<0.02>[6,8]",
    "qi8<@s, axis=0>[6,8]",
    "qi4<@g, axis=1, group=4>[6,8]",
    "qu4<@g, zp=7, axis=1, group=4>[6,8]",
)


@pytest.mark.parametrize("text", WEIGHTS)
@pytest.mark.parametrize("element", [t.f32, t.f16, t.bf16], ids=str)
def test_stored_weights_are_their_real_numbers(text: str, element: t.DType) -> None:
    """The same bits as dequantize, a cast and a dense layer."""
    kind = kind_of(text)
    g = Graph()
    x = g.add_input("x", TensorType(element, (3, 8)))
    g.add_constant("s", RNG.uniform(0.01, 0.02, 6).astype(np.float32))
    g.add_constant("g", RNG.uniform(0.01, 0.02, (6, 2)).astype(np.float32))
    b = g.add_constant("b", RNG.normal(size=6).astype(element.numpy))
    w = g.add_constant("w", stored(kind, 8), kind)
    direct = g.emit(nn.Linear(x, w, b, act="gelu"))
    real = g.emit(quant.Dequantize(w))
    if element != t.f32:
        real = g.emit(core.Cast(real, out=TensorType(element, (6, 8))))
    g.set_outputs([direct, g.emit(nn.Linear(x, real, b, act="gelu"))])
    g.verify()
    assert direct.type == TensorType(element, (3, 6))
    found, wanted = interpret(g, [torch.randn(3, 8).to(torch_dtype(element))])
    assert torch.equal(found, wanted)
    assert found.abs().max() > 0.01


def test_stored_weights_of_convolutions_and_products() -> None:
    g = Graph()
    x = g.add_input("x", parse_type("f32[2,4,6,6]"))
    g.add_constant("s", RNG.uniform(0.01, 0.02, 4).astype(np.float32))
    kind = kind_of("qi8<@s, axis=0>[4,1,3,3]")
    w = g.add_constant("w", stored(kind, 8), kind)
    direct = g.emit(nn.Conv2d(x, w, groups=4, pad=(1, 1)))
    apart = g.emit(nn.Conv2d(x, g.emit(quant.Dequantize(w)), groups=4, pad=(1, 1)))
    matrix = kind_of("qi8<0.02>[6,5]")
    m = g.add_constant("m", stored(matrix, 9), matrix)
    product = g.emit(linalg.Matmul(x, m))
    product_apart = g.emit(linalg.Matmul(x, g.emit(quant.Dequantize(m))))
    g.set_outputs([direct, apart, product, product_apart])
    g.verify()
    image = torch.randn(2, 4, 6, 6, requires_grad=True)
    first, second, third, fourth = interpret(g, [image])
    assert torch.equal(first, second)
    assert torch.equal(third, fourth)
    first.sum().backward()
    assert image.grad is not None
    assert image.grad.abs().min() > 0


# -- sums, means, pooling -----------------------------------------------------------------
@pytest.mark.parametrize("act", ["none", "relu", "relu6"])
def test_sum_is_within_one_quantum_of_the_real_one(act: Any) -> None:
    a, b, out = (
        kind_of("qi8<0.05, zp=7>[40,9]"),
        kind_of("qu8<0.021, zp=131>[9]"),
        kind_of("qi8<0.043, zp=-60>[40,9]"),
    )
    g = Graph()
    x, y = g.add_input("x", a), g.add_input("y", b)
    g.set_outputs([g.emit(quant.Add(x, y, act=act, out=out))])
    left, right = stored(a), stored(b, 5)
    (found,) = interpret(g, [left, right])
    real = 0.05 * (left.astype(float) - 7) + 0.021 * (right.astype(float) - 131)
    real = {"none": real, "relu": np.maximum(real, 0), "relu6": np.clip(real, 0, 6)}[act]
    exact = np.clip(real / 0.043 - 60, -128, 127)
    assert np.abs(found.numpy() - exact).max() < 0.5 + 1e-3
    assert len(found.unique()) > 20


def test_mean_and_pool_are_within_half_a_quantum_of_the_real_ones() -> None:
    a, flat, small = (
        kind_of("qi8<0.05, zp=7>[3,4,9,7]"),
        kind_of("qu8<0.0041, zp=100>[3,4]"),
        kind_of("qi8<0.05>[3,4,5,6]"),
    )
    g = Graph()
    x = g.add_input("x", a)
    mean = g.emit(quant.Mean(x, axes=(2, -1), out=flat))
    pool = g.emit(quant.AvgPool2d(x, kernel=(3, 2), stride=(2, 1), pad=(1, 0), out=small))
    none = g.emit(quant.Mean(x, axes=(), out=a.with_shape(a.shape)))  # type: ignore[arg-type]
    g.set_outputs([mean, pool, none])
    g.verify()
    given = stored(a)
    found, pooled, kept = interpret(g, [given])
    real = 0.05 * (given.astype(float) - 7)
    assert np.abs(found.numpy() - np.clip(real.mean((2, 3)) / 0.0041 + 100, 0, 255)).max() < 0.5 + 1e-6
    wanted = F.avg_pool2d(torch.from_numpy(real), (3, 2), (2, 1), (1, 0)) / 0.05
    assert (pooled - wanted.clamp(-128, 127)).abs().max() < 0.5 + 1e-6
    assert np.array_equal(kept.numpy(), given)


@pytest.mark.parametrize("scale", [None, 0.0007])
def test_fixed_point_requantize_rounds_halves_up(scale: float | None) -> None:
    given = kind_of("qi8<0.05, zp=7>[9]") if scale is None else TensorType(t.i32, (9,))
    g = Graph()
    x = g.add_input("x", given)
    out = kind_of("qi8<0.1, zp=-3>[9]") if scale is None else kind_of("qi8<0.0014, zp=-3>[9]")
    fixed = g.emit(quant.Requantize(x, scale=scale, requantize="fixed_point", out=out))
    real = g.emit(quant.Requantize(x, scale=scale, out=out))
    rectified = g.emit(quant.Requantize(x, scale=scale, act="relu", out=out))
    g.set_outputs([fixed, real, rectified])
    g.verify()
    zero = 7 if scale is None else 0
    numbers = np.arange(-4, 5) + zero
    array = numbers.astype(np.int8 if scale is None else np.int32)
    found, evenly, above = interpret(g, [array])
    assert found.tolist() == [-5, -4, -4, -3, -3, -2, -2, -1, -1]
    assert evenly.tolist() == [-5, -5, -4, -3, -3, -3, -2, -1, -1]
    assert above.tolist() == [-3, -3, -3, -3, -3, -3, -2, -1, -1]


# -- cost -----------------------------------------------------------------------------------
def test_costs_of_integer_ops() -> None:
    g = Graph()
    x = g.add_input("x", parse_type("f32[10,64]"))
    g.add_constant("s", np.ones((32, 2), np.float32))
    kind = kind_of("qi4<@s, axis=1, group=32>[32,64]")
    w = g.add_constant("w", np.zeros((32, 64), np.int8), kind)
    cost = op_cost(g.add(nn.Linear(x, w)), {})
    macs = 10 * 64 * 32
    assert cost.macs == macs
    assert cost.flops == 2 * macs + 2 * 32 * 64  # each weight is made real once
    assert cost.bytes_read == 4 * 640 + 32 * 64 // 2
    q, p = g.add_input("q", kind_of("qi8<0.1>[10,64]")), g.add_input("p", kind_of("qi8<0.1>[32,64]"))
    out = kind_of("qi8<0.2>[10,32]")
    fixed = op_cost(g.add(nn.Linear(q, p, act="relu6", requantize="fixed_point", out=out)), {})
    assert fixed.flops == 2 * macs + 6 * 320
    assert fixed.bytes_written == 320
    total = op_cost(g.add(quant.Add(q, q, out=kind_of("qi8<0.1>[10,64]"))), {})
    assert (total.flops, total.bytes_read) == (10 * 640, 640)
    mean = op_cost(g.add(quant.Mean(q, axes=(1,), out=kind_of("qi8<0.1>[10]"))), {})
    assert mean.flops == 2 * 640 + 6 * 10
