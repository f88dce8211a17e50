"""Elementwise ops against the interpreter."""

from __future__ import annotations

import numpy as np
import pytest

from plait.ir import types as t
from plait.ir.ops import core, nn, quant, spike
from plait.ir.types import QuantType, TensorType

from .emission import B, Case, boolean, check, f32, i64

UNARY = {
    core.Neg: None,
    core.Abs: None,
    core.Sign: None,
    core.Exp: None,
    core.Expm1: None,
    core.Log: (0.1, 4.0),
    core.Log1p: (-0.5, 4.0),
    core.Sqrt: (0.0, 4.0),
    core.Rsqrt: (0.1, 4.0),
    core.Reciprocal: (0.1, 4.0),
    core.Sin: None,
    core.Cos: None,
    core.Tan: (-1.2, 1.2),
    core.Asin: (-0.9, 0.9),
    core.Acos: (-0.9, 0.9),
    core.Atan: None,
    core.Sinh: None,
    core.Cosh: None,
    core.Asinh: None,
    core.Acosh: (1.1, 4.0),
    core.Atanh: (-0.9, 0.9),
    core.Erf: None,
    core.Floor: None,
    core.Ceil: None,
    core.Round: None,
    core.Trunc: None,
    core.IsNan: None,
    core.IsInf: None,
    nn.Relu: None,
    nn.Relu6: (-3.0, 9.0),
    nn.LeakyRelu: None,
    nn.Elu: None,
    nn.Selu: None,
    nn.Sigmoid: None,
    nn.Tanh: None,
    nn.Gelu: None,
    nn.Silu: None,
    nn.Mish: None,
    nn.Softplus: None,
    nn.Hardswish: (-5.0, 5.0),
    nn.Hardsigmoid: (-5.0, 5.0),
}
ARITHMETIC = (
    core.Add,
    core.Sub,
    core.Mul,
    core.Div,
    core.Maximum,
    core.Minimum,
    core.Remainder,
    core.FloorDiv,
)
COMPARISONS = (core.Eq, core.Ne, core.Lt, core.Le, core.Gt, core.Ge)


def unary_case() -> Case:
    inputs = {op.opname.replace(".", "_"): f32(B, 5) for op in UNARY}
    ranges = {op.opname.replace(".", "_"): r for op, r in UNARY.items() if r is not None}
    return Case(
        "unary", inputs, lambda g, v: [op(v[op.opname.replace(".", "_")]) for op in UNARY], ranges=ranges
    )


def test_unary_ops() -> None:
    check(unary_case())


@pytest.mark.parametrize(
    "act", ["relu", "relu6", "leaky_relu", "sigmoid", "tanh", "gelu", "gelu_tanh", "silu"]
)
def test_activation_of_arithmetic(act: str) -> None:
    check(
        Case(
            act, {"a": f32(B, 6), "b": f32(6)}, lambda g, v: core.Add(v["a"], v["b"], act=act, act_alpha=0.2)
        )
    )


def test_arithmetic_broadcasts() -> None:
    check(
        Case(
            "arithmetic",
            {"a": f32(B, 1, 4), "b": f32(3, 1)},
            lambda g, v: [op(v["a"], v["b"]) for op in ARITHMETIC],
            ranges={"b": (0.5, 2.0)},
            tolerance=1e-4,
        )
    )


def test_integer_arithmetic_rounds_as_the_interpreter_does() -> None:
    check(
        Case(
            "integers",
            {"a": i64(B, 7), "b": i64(7)},
            lambda g, v: [
                op(v["a"], v["b"])
                for op in (
                    core.Add,
                    core.Sub,
                    core.Mul,
                    core.Div,
                    core.FloorDiv,
                    core.Remainder,
                    core.Maximum,
                )
            ],
            ranges={"a": (-20, 20), "b": (1, 5)},
        )
    )


def test_comparison_and_logic() -> None:
    check(
        Case(
            "compare",
            {"a": i64(B, 7), "b": i64(7), "p": boolean(B, 7), "q": boolean(7)},
            lambda g, v: [
                *(op(v["a"], v["b"]) for op in COMPARISONS),
                *(op(v["p"], v["q"]) for op in (core.And, core.Or, core.Xor, core.Eq, core.Ne)),
                *(op(v["a"], v["b"]) for op in (core.And, core.Or, core.Xor)),
                core.Not(v["p"]),
                core.Not(v["a"]),
            ],
            ranges={"a": (0, 3), "b": (0, 3)},
        )
    )


def test_nan_wins_in_extremes() -> None:
    values = {
        "a": np.array([[1.0, np.nan, 3.0]], np.float32),
        "b": np.array([[np.nan, 2.0, 1.0]], np.float32),
    }
    case = Case(
        "nan",
        {"a": f32(1, 3), "b": f32(1, 3)},
        lambda g, v: [core.Maximum(v["a"], v["b"]), core.Minimum(v["a"], v["b"]), core.IsNan(v["a"])],
        values=lambda batch: values,
    )
    check(case, batches=(1,))


def test_nan_and_infinities_in_reductions() -> None:
    rows = [[1.0, np.nan, 3.0], [-np.inf, -np.inf, -np.inf], [np.inf, np.inf, np.inf], [2.0, 5.0, -1.0]]
    case = Case(
        "rows",
        {"a": f32(4, 3)},
        lambda g, v: [
            op(v["a"], **place)
            for ops, place in (
                ((core.Max, core.Min), {"axes": (1,)}),
                ((core.ArgMax, core.ArgMin), {"axis": 1}),
            )
            for op in ops
        ],
        values=lambda batch: {"a": np.array(rows, np.float32)},
    )
    check(case, batches=(1,))


def test_where_pow_clamp_prelu_atan2() -> None:
    check(
        Case(
            "rest",
            {"c": boolean(B, 5), "x": f32(B, 5), "y": f32(5), "p": f32(B, 5)},
            lambda g, v: [
                core.Where(v["c"], v["x"], v["y"]),
                core.Pow(v["p"], v["y"]),
                core.Clamp(v["x"], low=-0.5, high=1.0),
                core.Clamp(v["x"], low=0.25),
                nn.Prelu(v["x"], v["y"]),
                core.Atan2(v["x"], v["y"]),
                nn.Gelu(v["x"], approximate="tanh"),
            ],
            ranges={"p": (0.2, 3.0)},
        )
    )


def test_casts() -> None:
    def build(g, v):
        return [
            core.Cast(v["x"], out=TensorType(t.i64, (B, 6))),
            core.Cast(v["x"], out=TensorType(t.boolean, (B, 6))),
            core.Cast(v["n"], out=TensorType(t.f32, (B, 6))),
            core.Cast(v["b"], out=TensorType(t.i32, (B, 6))),
            core.Cast(v["x"], out=TensorType(t.f64, (B, 6))),
        ]

    check(Case("casts", {"x": f32(B, 6), "n": i64(B, 6), "b": boolean(B, 6)}, build))


def test_quantise_round_trip_per_tensor_and_per_axis() -> None:
    def build(g, v):
        tensor = QuantType(8, True, 0.02, (B, 4, 3), zero_point=5)
        axis = QuantType(8, True, "scales", (B, 4, 3), axis=1)
        ops = []
        for kind in (tensor, axis):
            q = g.emit(quant.Quantize(v["x"], out=kind))
            ops.append(g.add(quant.Dequantize(q)))
            ops.append(g.add(quant.Requantize(q, out=QuantType(8, False, 0.05, (B, 4, 3), zero_point=100))))
        ops.append(quant.FakeQuant(v["x"], scale=0.03, zero_point=2, bits=6))
        return ops

    scales = np.array([0.01, 0.02, 0.03, 0.04], np.float32)
    check(Case("quantise", {"x": f32(B, 4, 3)}, build, constants={"scales": scales}))


def test_spiking_neurons() -> None:
    def build(g, v):
        return [
            spike.Threshold(v["x"], level=0.5),
            spike.IntegrateAndFire(v["x"], v["v"], v_th=1.0, reset="zero"),
            spike.Lif(v["x"], v["v"], tau=0.02, dt=0.001, v_th=1.0, reset="subtract"),
        ]

    check(Case("spikes", {"x": f32(B, 9), "v": f32(B, 9)}, build))
