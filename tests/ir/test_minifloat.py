"""Narrow and unsigned element types in the interpreter, against ml_dtypes and numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from plait.ir import Graph, TensorType, VerifyError
from plait.ir import types as t
from plait.ir.interpret import interpret
from plait.ir.ops import core
from plait.ir.reference.tensors import convert, from_numpy, to_numpy
from plait.ir.types import DTYPES, DType

MINIFLOATS = [element for element in DTYPES.values() if element.is_minifloat]
UNSIGNED = [t.u16, t.u32, t.u64]


def samples() -> np.ndarray:
    """f32 numbers of every magnitude, and the special ones."""
    rng = np.random.default_rng(3)
    patterns = rng.integers(0, 2**32, 20000, dtype=np.uint64).astype(np.uint32)
    near = (rng.standard_normal(20000) * np.repeat([0.01, 1.0, 4.0, 300.0], 5000)).astype(np.float32)
    special = np.array([0.0, -0.0, np.inf, -np.inf, 448.0, 464.0, 480.0, 57344.0, 61440.0], np.float32)
    return np.concatenate([patterns.view(np.float32), near, special])


@pytest.mark.parametrize("element", MINIFLOATS, ids=str)
def test_encoding_agrees_with_ml_dtypes(element: DType) -> None:
    x = samples()
    if element == t.f8e8m0fnu:
        x = np.abs(x[x != 0])  # ml_dtypes gives NaN for zero and negative numbers, unlike ONNX
    with np.errstate(all="ignore"):
        wanted = x.astype(element.numpy).astype(np.float32)
    found = to_numpy(convert(torch.from_numpy(x), element), element).astype(np.float32)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("element", MINIFLOATS, ids=str)
def test_every_pattern_decodes_and_encodes(element: DType) -> None:
    patterns = np.arange(1 << element.bits, dtype=np.uint8).view(element.numpy)
    real = convert(from_numpy(patterns), t.f32, element)
    np.testing.assert_array_equal(real.numpy(), patterns.astype(np.float32))
    again = to_numpy(convert(real, element), element)
    np.testing.assert_array_equal(again.astype(np.float32), patterns.astype(np.float32))


def test_saturation_and_round_modes() -> None:
    x = torch.tensor([1e9, -1e9, float("inf"), 3.0, 6.0])
    limits = {"f8e4m3fn": 448.0, "f8e5m2": 57344.0, "f8e4m3fnuz": 240.0, "f8e5m2fnuz": 57344.0}
    for name, limit in limits.items():
        element = DTYPES[name]
        found = convert(convert(x, element, saturate=True), t.f32, element)
        assert found.tolist() == [limit, -limit, limit, 3.0, 6.0]
    powers = {
        mode: convert(
            convert(torch.tensor([3.0, 2.9, 4.0]), t.f8e8m0fnu, round_mode=mode), t.f32, t.f8e8m0fnu
        )
        for mode in ("up", "down", "nearest")
    }
    assert powers["up"].tolist() == [4.0, 4.0, 4.0]
    assert powers["down"].tolist() == [2.0, 2.0, 4.0]
    assert powers["nearest"].tolist() == [4.0, 2.0, 4.0]


def run(build: Callable[..., Any], *arrays: np.ndarray) -> list[np.ndarray]:
    """Results of one op on arrays."""
    g = Graph()
    values = [
        g.add_input(f"x{i}", TensorType(t.dtype_of(array.dtype), array.shape))
        for i, array in enumerate(arrays)
    ]
    g.set_outputs(g.add(build(*values)).results)
    g.verify()
    return [to_numpy(y, v.shaped) for y, v in zip(interpret(g, list(arrays)), g.outputs, strict=True)]


ARITHMETIC: dict[Any, Callable[..., np.ndarray]] = {
    core.Add: np.add,
    core.Sub: np.subtract,
    core.Mul: np.multiply,
    core.Div: np.floor_divide,
    core.FloorDiv: np.floor_divide,
    core.Remainder: np.remainder,
    core.Maximum: np.maximum,
    core.Minimum: np.minimum,
    core.Lt: np.less,
    core.Ge: np.greater_equal,
    core.Eq: np.equal,
    core.And: np.bitwise_and,
    core.Xor: np.bitwise_xor,
}


@pytest.mark.parametrize("element", UNSIGNED, ids=str)
def test_unsigned_arithmetic(element: DType) -> None:
    rng = np.random.default_rng(5)
    high = 2**element.bits - 1
    a, b = (rng.integers(1, high, 500, dtype=element.numpy, endpoint=True) for _ in range(2))
    b[:50] = a[:50]
    for make, wanted in ARITHMETIC.items():
        (found,) = run(make, a, b)
        np.testing.assert_array_equal(found, wanted(a, b))
        assert found.dtype == wanted(a, b).dtype


@pytest.mark.parametrize("element", UNSIGNED, ids=str)
def test_unsigned_order_sums_and_movement(element: DType) -> None:
    rng = np.random.default_rng(6)
    x = rng.integers(0, 2**element.bits - 1, (6, 40), dtype=element.numpy, endpoint=True)
    values, places = run(lambda v: core.TopK(v, k=5, axis=1), x)
    np.testing.assert_array_equal(values, -np.sort(-x.astype(object), axis=1)[:, :5])
    np.testing.assert_array_equal(np.take_along_axis(x, places, 1), values)
    assert np.array_equal(run(lambda v: core.Max(v, axes=(1,)), x)[0], x.max(1))
    assert np.array_equal(run(lambda v: core.ArgMin(v, axis=1), x)[0], x.argmin(1))
    total = x.sum(1, dtype=element.numpy)
    assert np.array_equal(run(lambda v: core.Sum(v, axes=(1,)), x)[0], total)
    assert np.array_equal(run(lambda v: core.Clamp(v, low=7.0, high=2.0**15), x)[0], x.clip(7, 2**15))
    assert np.array_equal(run(lambda v: core.Flip(v, axes=(1,)), x)[0], x[:, ::-1])
    assert np.array_equal(run(core.Neg, x)[0], (0 - x.astype(object)) % 2**element.bits)


@pytest.mark.parametrize("element", MINIFLOATS, ids=str)
def test_minifloats_move(element: DType) -> None:
    x = np.arange(1 << element.bits, dtype=np.uint8).view(element.numpy).reshape(2, -1)
    (flipped,) = run(lambda v: core.Flip(v, axes=(1,)), x)
    assert np.array_equal(flipped.view(np.uint8), x.view(np.uint8)[:, ::-1])
    (joined,) = run(lambda v: core.Concat((v, v), axis=0), x)
    assert np.array_equal(joined.view(np.uint8), np.concatenate([x.view(np.uint8)] * 2))
    g = Graph()
    g.set_outputs([g.emit(core.Full(value=2.0, out=TensorType(element, (3,))))])
    assert to_numpy(interpret(g, [])[0], element).astype(np.float32).tolist() == [2.0] * 3


def test_minifloats_are_not_computed_with() -> None:
    g = Graph()
    x = g.add_input("x", TensorType(t.f8e5m2, (4,)))
    for make in (lambda: core.Add(x, x), lambda: core.Exp(x), lambda: core.Lt(x, x)):
        with pytest.raises(VerifyError, match="storage type") as caught:
            g.add(make())
        assert "core.cast" in str(caught.value)


def test_cast_attributes_are_refused_elsewhere() -> None:
    g = Graph()
    x = g.add_input("x", TensorType(t.f32, (4,)))
    with pytest.raises(VerifyError, match="only minifloats saturate"):
        g.add(core.Cast(x, saturate=True, out=TensorType(t.f16, (4,))))
    with pytest.raises(VerifyError, match="only f8e8m0fnu has it"):
        g.add(core.Cast(x, round_mode="up", out=TensorType(t.f8e5m2, (4,))))


def test_bit_cast() -> None:
    x = np.array([1.0, -2.5, np.inf], np.float32)
    (found,) = run(lambda v: core.BitCast(v, out=TensorType(t.u32, (3,))), x)
    assert np.array_equal(found, x.view(np.uint32))
    patterns = np.arange(256, dtype=np.uint8)
    (halves,) = run(lambda v: core.BitCast(v, out=TensorType(t.f8e5m2, (256,))), patterns)
    assert np.array_equal(halves.view(np.uint8), patterns)


def test_integers_below_a_byte_wrap_around() -> None:
    x = np.arange(-9, 9)
    for element, wanted in (
        (t.i2, (x + 2) % 4 - 2),
        (t.u2, x % 4),
        (t.i4, (x + 8) % 16 - 8),
        (t.u4, x % 16),
    ):
        (found,) = run(lambda v, e=element: core.Cast(v, out=TensorType(e, (18,))), x)
        assert found.tolist() == wanted.tolist()
