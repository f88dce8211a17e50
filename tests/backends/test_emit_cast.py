"""Casts among all element types, and unsigned arithmetic, against the interpreter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from plait.backends import compile_graph
from plait.backends.artifact import load_executable
from plait.ir import Graph, TensorType, Value
from plait.ir import types as t
from plait.ir.interpret import interpret
from plait.ir.ops import core
from plait.ir.reference.tensors import to_numpy
from plait.ir.types import DTYPES, DType

REAL = [element for element in DTYPES.values() if element.kind != "complex"]
MINIFLOATS = [element for element in DTYPES.values() if element.is_minifloat]


def draw(element: DType, seed: int = 2) -> np.ndarray:
    """Every minifloat, all sizes of integers, and numbers that each target type holds or overflows."""
    rng = np.random.default_rng(seed)
    if element.is_minifloat:
        return np.arange(1 << element.bits, dtype=np.uint8).view(element.numpy)
    if element == t.boolean:
        return rng.random(64) < 0.5
    if element.is_integer:
        low = 0 if element.kind == "uint" else -(1 << (element.bits - 1))
        high = (1 << (element.bits - (element.kind == "int"))) - 1
        return rng.integers(low, high, 256, dtype=element.numpy, endpoint=True)
    real = rng.standard_normal(256) * np.repeat([0.003, 0.3, 5.0, 200.0], 64)
    real[:6] = [0.0, -0.0, np.inf, -np.inf, np.nan, 6.5e4]
    return real.astype(element.numpy)


def casts(g: Graph, x: Value, targets: Sequence[DType]) -> list[Value]:
    found = []
    for target in targets:
        out = TensorType(target, x.shaped.shape)
        found.append(g.emit(core.Cast(x, out=out)))
        if target.is_minifloat:
            found.append(g.emit(core.Cast(x, saturate=True, out=out)))
        if target == t.f8e8m0fnu:
            found += [g.emit(core.Cast(x, round_mode=mode, out=out)) for mode in ("up", "down")]
    return found


def check_casts(source: DType, targets: Sequence[DType], target: str = "cpu") -> None:
    array = draw(source)
    g = Graph("casts")
    x = g.add_input("x", TensorType(source, array.shape))
    g.set_outputs(casts(g, x, [each for each in targets if each != source]))
    g.verify()
    executable = compile_graph(g, target)
    results = executable(array) if target == "cpu" else executable.emulate(array)
    results = results if isinstance(results, tuple) else (results,)
    for value, got, held in zip(g.outputs, results, interpret(g, [array]), strict=True):
        wanted = to_numpy(held, value.shaped)
        assert got.dtype == wanted.dtype
        kept = np.ones(array.shape, bool)
        if source.is_float and value.shaped.dtype.is_integer:
            kept = np.isfinite(array.astype(np.float64))  # no integer is infinity or NaN
        got, wanted = got[kept], wanted[kept]
        if value.shaped.dtype.is_float:
            got, wanted = got.astype(np.float64), wanted.astype(np.float64)
        np.testing.assert_array_equal(got, wanted, err_msg=f"{source} to {value.shaped.dtype}")


@pytest.mark.parametrize("source", [t.f32, t.f8e4m3fn, t.f4e2m1fn], ids=str)
def test_casts(source: DType) -> None:
    check_casts(source, MINIFLOATS if source == t.f32 else [t.f32, t.f16, t.i8, t.f8e5m2])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "targets"),
    [
        (t.f64, MINIFLOATS),
        (t.u64, [t.f32, t.i2, t.u4, t.f8e8m0fnu, t.i16]),
        (t.f32, [t.u64, t.u32, t.u16, t.i2, t.u2, t.i4, t.i8, t.boolean]),
        (t.f8e8m0fnu, [t.f64, t.f8e5m2fnuz]),
        (t.f8e5m2, [t.f64, t.f8e4m3fnuz, t.i32]),
        (t.f8e4m3fnuz, [t.f32, t.bf16]),
        (t.f6e3m2fn, [t.f32, t.u64]),
        (t.i2, [t.f8e4m3fn, t.u32]),
    ],
    ids=lambda given: str(given) if isinstance(given, DType) else "",
)
def test_casts_widely(source: DType, targets: Sequence[DType]) -> None:
    check_casts(source, targets)


def test_casts_on_a100() -> None:
    check_casts(t.f32, [t.f8e4m3fn, t.u16], "a100")
    check_casts(t.f8e5m2, [t.f32], "a100")


def test_bit_casts() -> None:
    pairs: list[tuple[DType, DType]] = [
        (t.f32, t.i32),
        (t.f32, t.u32),
        (t.i64, t.f64),
        (t.u64, t.i64),
        (t.i16, t.f16),
        (t.bf16, t.u16),
        (t.u8, t.f8e5m2),
        (t.f8e4m3fn, t.i8),
        (t.i4, t.u4),
        (t.f4e2m1fn, t.i4),
    ]
    g = Graph("bit_casts")
    arrays = [draw(source) for source, _ in pairs]
    inputs = [
        g.add_input(f"x{i}", TensorType(source, array.shape))
        for i, ((source, _), array) in enumerate(zip(pairs, arrays, strict=True))
    ]
    g.set_outputs(
        [
            g.emit(core.BitCast(x, out=TensorType(target, x.shaped.shape)))
            for x, (_, target) in zip(inputs, pairs, strict=True)
        ]
    )
    g.verify()
    for value, got, held in zip(
        g.outputs, compile_graph(g, "cpu")(*arrays), interpret(g, arrays), strict=True
    ):
        wanted = to_numpy(held, value.shaped)
        assert got.dtype == wanted.dtype
        width = f"u{got.dtype.itemsize}"
        np.testing.assert_array_equal(got.view(width), wanted.view(width))


@pytest.mark.parametrize("element", [t.u16, t.u32, t.u64], ids=str)
def test_unsigned_arithmetic(element: DType) -> None:
    classes: list[Any] = [core.Add, core.Sub, core.Mul, core.Div, core.Remainder, core.Maximum, core.Minimum]
    classes += [core.Lt, core.Ge, core.Eq, core.And, core.Or, core.Xor]
    a, b = draw(element), draw(element, 3)
    b[b == 0] = 1
    g = Graph("arithmetic")
    x, y = (g.add_input(name, TensorType(element, a.shape)) for name in ("a", "b"))
    g.set_outputs([g.emit(make(x, y)) for make in classes])
    g.verify()
    for value, got, held in zip(g.outputs, compile_graph(g, "cpu")(a, b), interpret(g, [a, b]), strict=True):
        np.testing.assert_array_equal(got, to_numpy(held, value.shaped), err_msg=str(value.producer))


def test_minifloats_go_in_and_out_and_to_disk(tmp_path: Any) -> None:
    g = Graph("moved")
    table = draw(t.f8e5m2).reshape(64, 4)
    x = g.add_input("x", TensorType(t.f8e5m2, (64, 4)))
    w = g.add_constant("table", table)
    filled = g.emit(core.Full(value=1.5, out=TensorType(t.f8e5m2, (1, 4))))
    g.set_outputs([g.emit(core.Concat((x, w, filled), axis=0))])
    g.verify()
    executable = compile_graph(g, "cpu")
    wanted = np.concatenate([table, table, np.full((1, 4), 1.5).astype(table.dtype)])
    executable.save(tmp_path / "moved.so.plait")
    for each in (executable, load_executable(tmp_path / "moved.so.plait")):
        found = each(table)
        assert found.dtype == wanted.dtype
        assert np.array_equal(found.view(np.uint8), wanted.view(np.uint8))
    held = executable(torch.from_numpy(table.view(np.uint8)).view(torch.float8_e5m2))
    assert held.dtype == torch.float8_e5m2
    assert np.array_equal(held.view(torch.uint8).numpy(), wanted.view(np.uint8))


def test_arrays_of_int4_are_taken() -> None:
    g = Graph("widen")
    x = g.add_input("x", TensorType(t.i4, (16,)))
    g.set_outputs([g.emit(core.Cast(x, out=TensorType(t.i32, (16,))))])
    g.verify()
    array = np.arange(-8, 8)
    assert compile_graph(g, "cpu")(array.astype(ml_dtypes.int4)).tolist() == array.tolist()
