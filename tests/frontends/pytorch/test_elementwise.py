"""Elementwise rules against torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

UNARY = [
    "exp",
    "expm1",
    "sin",
    "cos",
    "tan",
    "atan",
    "sinh",
    "cosh",
    "asinh",
    "erf",
    "erfc",
    "tanh",
    "sigmoid",
    "floor",
    "ceil",
    "round",
    "trunc",
    "frac",
    "neg",
    "abs",
    "sign",
    "square",
    "exp2",
    "isnan",
    "isinf",
    "isfinite",
    "logical_not",
    "relu",
]
POSITIVE = ["log", "log1p", "log2", "log10", "sqrt", "rsqrt", "reciprocal", "acosh"]
BOUNDED = ["asin", "acos", "atanh"]


@pytest.mark.parametrize("name", UNARY)
def test_unary(check: Any, name: str) -> None:
    check(lambda x: getattr(torch, name)(x * 2), ["B", 3])


@pytest.mark.parametrize("name", POSITIVE)
def test_unary_of_positive_numbers(check: Any, name: str) -> None:
    check(lambda x: getattr(torch, name)(x * x + 1.1), ["B", 3])


@pytest.mark.parametrize("name", BOUNDED)
def test_unary_of_small_numbers(check: Any, name: str) -> None:
    check(lambda x: getattr(torch, name)(torch.tanh(x) * 0.9), ["B", 3])


@pytest.mark.parametrize(
    "name", ["exp", "sqrt", "reciprocal", "sigmoid", "floor", "abs", "neg", "bitwise_not"]
)
def test_unary_of_integers(check: Any, name: str) -> None:
    check(lambda x: getattr(torch, name)(x + 1), ["B", 3, torch.int64])


@pytest.mark.parametrize(
    "name", ["add", "sub", "mul", "div", "fmod", "remainder", "maximum", "minimum", "atan2"]
)
def test_binary(check: Any, name: str) -> None:
    check(lambda x, y: getattr(torch, name)(x, y), ["B", 3, 4], [3, 1])


@pytest.mark.parametrize("mode", ["floor", "trunc"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_rounded_division(check: Any, mode: str, dtype: torch.dtype) -> None:
    check(lambda x, y: torch.div(x - 2, y + 1.5 if y.is_floating_point() else y + 1, rounding_mode=mode),
          ["B", 5, dtype], ["B", 5, dtype])  # fmt: skip


def test_scalars_and_promotion(check: Any) -> None:
    check(lambda x: (x + 1, x * 0.5, x / 2, 3 - x, x // 2, x % 3, 2**x, x.float() + 1), ["B", 3, torch.int32])
    check(lambda x, y: (x + y, x * y, x / y.double(), x.half() + y), ["B", 3], ["B", 3, torch.int64])
    check(lambda x, y: (x + y, x * y, x & y, x | y, x ^ y, ~x, x + 1), ["B", torch.bool], ["B", torch.bool])


def test_alpha(check: Any) -> None:
    check(
        lambda x, y: (torch.add(x, y, alpha=2.5), torch.sub(x, y, alpha=3), torch.rsub(x, y, alpha=2)),
        ["B"],
        ["B"],
    )


@pytest.mark.parametrize("exponent", [2, 3, 0.5, -0.5, -1, 2.5])
def test_power(check: Any, exponent: float) -> None:
    check(lambda x: (x.abs() + 0.5) ** exponent, ["B", 3])


@pytest.mark.parametrize("name", ["eq", "ne", "lt", "le", "gt", "ge"])
def test_comparison(check: Any, name: str) -> None:
    check(lambda x, y: getattr(torch, name)(x, y), ["B", 3, torch.int64], ["B", 3])
    check(lambda x: (getattr(torch, name)(x, 1), getattr(torch, name)(x, 1.5)), ["B", 3, torch.int64])


def test_logic(check: Any) -> None:
    check(lambda x, y: (x.logical_and(y), x.logical_or(y), x.logical_xor(y)), ["B", 3], ["B", 3, torch.bool])


def test_clamp(check: Any) -> None:
    check(
        lambda x: (x.clamp(-0.5, 0.5), x.clamp(min=0.1), x.clamp(max=0.1), x.clamp_min(0), x.clip(0, 1)),
        ["B", 4],
    )
    check(lambda x, y: (x.clamp(min=y), x.clamp(y - 1, y)), ["B", 4], [4])
    check(lambda x: (x.clamp(1, 2), x.clamp(min=0.5)), ["B", 4, torch.int64])


def test_selection(check: Any) -> None:
    check(lambda x, y: torch.where(x > 0, x, y), ["B", 3], [3])
    check(lambda x: (torch.where(x > 0, 1.0, x), torch.where(x > 0, x, 0)), ["B", 3])
    check(lambda x, y: x.masked_fill(y, float("-inf")), ["B", 3], [3, torch.bool])


def test_casts(check: Any) -> None:
    check(lambda x: (x.int(), x.bool(), x.double(), x.to(torch.int64), x.bfloat16().float()), ["B", 3])
    check(lambda x, y: x.type_as(y) + x.to(y.dtype), ["B", 3], ["B", 3, torch.int64])


def test_compositions(check: Any) -> None:
    check(lambda x, y, z: (torch.addcmul(x, y, z, value=0.5), torch.addcdiv(x, y, z + 10), torch.lerp(x, y, z)),
          ["B", 3], ["B", 3], ["B", 3])  # fmt: skip
    check(
        lambda x, y: (torch.logaddexp(x, y), torch.hypot(x, y), torch.nan_to_num(x / 0), x.sinc()),
        ["B", 3],
        ["B", 3],
    )


def test_sizes_as_numbers(check: Any) -> None:
    check(lambda x: (x / x.shape[0], x * x.shape[0], x + 1 / x.shape[0], x * x.shape[0] ** 0.5), ["B", 3])


ACTIVATIONS = {
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "elu": lambda x: F.elu(x, 0.7),
    "celu": lambda x: F.celu(x, 1.3),
    "selu": F.selu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "mish": F.mish,
    "softplus": F.softplus,
    "softplus_sharp": lambda x: F.softplus(x, beta=3, threshold=1),
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "hardtanh": F.hardtanh,
    "hardshrink": F.hardshrink,
    "softshrink": F.softshrink,
    "threshold": lambda x: F.threshold(x, 0.2, 3.0),
    "logsigmoid": F.logsigmoid,
    "softsign": F.softsign,
    "tanhshrink": F.tanhshrink,
    "rrelu": F.rrelu,
    "glu": lambda x: F.glu(x, 1),
    "softmax": lambda x: F.softmax(x, 1),
    "log_softmax": lambda x: F.log_softmax(x, -1),
    "softmin": lambda x: F.softmin(x, 1),
    "softmax_cast": lambda x: F.softmax(x, 1, dtype=torch.float64),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(check: Any, name: str) -> None:
    check(lambda x: ACTIVATIONS[name](3 * x), ["B", 6])


def test_prelu(check: Any) -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.each = torch.nn.PReLU(4)
            self.one = torch.nn.PReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.one(self.each(x))

    check(Net(), ["B", 4, 3])
