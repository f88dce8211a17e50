"""Convolutions, products, norms and pooling against the interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from plait.ir import types as t
from plait.ir.ops import core, linalg, nn, quant, spike
from plait.ir.types import QuantType, SpikeType

from .emission import B, Case, boolean, check, f32, i64, weights

CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "plain": {"x": (3, 12, 12), "w": (20, 3, 3, 3), "pad": (1, 1)},
    "strided": {"x": (16, 15, 13), "w": (16, 16, 3, 3), "stride": (2, 2), "pad": (1, 1), "act": "relu"},
    "asymmetric": {"x": (4, 9, 9), "w": (8, 4, 3, 2), "pad": (0, 1, 2, 1)},
    "dilated": {"x": (4, 11, 11), "w": (8, 4, 3, 3), "dilation": (2, 2), "act": "silu"},
    "pointwise": {"x": (24, 7, 7), "w": (40, 24, 1, 1), "act": "relu6"},
    "grouped": {"x": (32, 8, 8), "w": (32, 8, 3, 3), "groups": 4, "pad": (1, 1)},
    "odd groups": {"x": (9, 8, 8), "w": (6, 3, 3, 3), "groups": 3},
    "depthwise": {"x": (12, 14, 14), "w": (12, 1, 3, 3), "groups": 12, "pad": (1, 1), "stride": (2, 2)},
    "one column": {"x": (8, 1, 1), "w": (5, 8, 1, 1), "act": "sigmoid"},
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("constant", [True, False])
def test_conv2d(name: str, constant: bool) -> None:
    options = dict(CONVOLUTIONS[name])
    x, w = options.pop("x"), options.pop("w")
    arrays = {"w": weights(*w), "b": weights(w[0], seed=8)}
    inputs = {"x": f32(B, *x)} | ({} if constant else {"w": f32(*w), "b": f32(w[0])})
    check(
        Case(
            "conv",
            inputs,
            lambda g, v: nn.Conv2d(v["x"], v["w"], v["b"], **options),
            constants=arrays if constant else {},
            tolerance=1e-4,
        )
    )


def test_conv1d_conv3d_and_transposed() -> None:
    arrays = {
        "w1": weights(6, 2, 5),
        "w3": weights(4, 2, 2, 3, 3),
        "wt": weights(4, 3, 3, 3),
        "b": weights(6),
    }
    check(
        Case(
            "convs",
            {"l": f32(B, 4, 17), "v": f32(B, 2, 5, 6, 7), "i": f32(B, 4, 5, 6)},
            lambda g, v: [
                nn.Conv1d(v["l"], v["w1"], stride=(2,), pad=(2, 1), groups=2),
                nn.Conv3d(v["v"], v["w3"], pad=(0, 1, 1), stride=(1, 2, 1)),
                nn.ConvTranspose2d(
                    v["i"],
                    v["wt"],
                    v["b"],
                    stride=(2, 3),
                    pad=(1, 0, 0, 1),
                    output_pad=(1, 0),
                    groups=2,
                    act="relu",
                ),
            ],
            constants=arrays,
            tolerance=1e-4,
        )
    )


@pytest.mark.parametrize("shape", [(B, 40), (B, 13, 40), (B, 2, 7, 40), (40,)])
@pytest.mark.parametrize("outputs", [1, 24, 50])
def test_linear(shape: tuple[Any, ...], outputs: int) -> None:
    check(
        Case(
            "linear",
            {"x": f32(*shape)},
            lambda g, v: nn.Linear(v["x"], v["w"], v["b"], act="gelu"),
            constants={"w": weights(outputs, 40), "b": weights(outputs)},
            tolerance=1e-4,
        )
    )


def test_matmul_batched_and_broadcast() -> None:
    check(
        Case(
            "matmul",
            {"a": f32(B, 3, 5, 8), "b": f32(3, 8, 11), "c": f32(8, 6), "d": f32(B, 1, 8, 5)},
            lambda g, v: [
                linalg.Matmul(v["a"], v["b"], act="relu"),
                linalg.Matmul(v["a"], v["c"]),
                linalg.Matmul(v["a"], v["w"]),
                linalg.Matmul(v["a"], v["d"]),
            ],
            constants={"w": weights(8, 19)},
            tolerance=1e-4,
        )
    )


@pytest.mark.parametrize("mask", ["none", "bool", "add", "causal"])
def test_attention(mask: str) -> None:
    extra = {"bool": {"m": boolean(B, 1, 9, 9)}, "add": {"m": f32(9, 9)}}.get(mask, {})
    check(
        Case(
            "attention",
            {"q": f32(B, 2, 9, 8), "k": f32(B, 2, 9, 8), "v": f32(1, 2, 9, 5), **extra},
            lambda g, v: nn.Attention(v["q"], v["k"], v["v"], v.get("m"), causal=mask == "causal", scale=0.4),
            tolerance=1e-4,
        )
    )


def test_attention_over_a_symbolic_length() -> None:
    check(
        Case(
            "length",
            {"q": f32(2, B, 8), "k": f32(2, B * 2, 8), "v": f32(2, B * 2, 4)},
            lambda g, v: nn.Attention(v["q"], v["k"], v["v"]),
        ),
        batches=(3, 7),
    )


def test_norms() -> None:
    c, s = weights(6, seed=1), weights(6, seed=2)
    check(
        Case(
            "norms",
            {"x": f32(B, 6, 5, 4), "y": f32(B, 4, 6)},
            lambda g, v: [
                nn.BatchNorm(v["x"], v["c"], v["u"], v["s"], v["c"], epsilon=1e-3),
                nn.BatchNorm(v["x"], v["c"], v["u"]),
                nn.LayerNorm(v["y"], v["s"], v["c"]),
                nn.LayerNorm(v["y"], axes=2),
                nn.RmsNorm(v["y"], v["s"]),
                nn.GroupNorm(v["x"], v["s"], v["c"], groups=3),
                nn.InstanceNorm(v["x"]),
                nn.LocalResponseNorm(v["x"], size=3, alpha=0.1),
                nn.LocalResponseNorm(v["x"], size=4, alpha=0.1),
                nn.Softmax(v["y"], axis=-1),
                nn.Softmax(v["y"], axis=1),
                nn.LogSoftmax(v["y"], axis=-1),
            ],
            constants={"c": c, "s": s, "u": np.abs(c) + 0.5},
            tolerance=1e-4,
        )
    )


def test_pools() -> None:
    check(
        Case(
            "pools",
            {"x": f32(B, 3, 11, 10)},
            lambda g, v: [
                nn.MaxPool2d(v["x"], kernel=(3, 3), stride=(2, 2), pad=(1, 1)),
                nn.MaxPool2d(v["x"], kernel=(3, 2), stride=(2, 2), pad=(1, 0, 0, 1), dilation=(2, 1)),
                nn.MaxPool2d(v["x"], kernel=(3, 3), stride=(2, 2), ceil=True),
                nn.AvgPool2d(v["x"], kernel=(2, 2), stride=(2, 2)),
                nn.AvgPool2d(v["x"], kernel=(3, 3), stride=(2, 2), pad=(1, 1)),
                nn.AvgPool2d(v["x"], kernel=(3, 3), stride=(2, 2), pad=(1, 1), count_pad=True, ceil=True),
                nn.AvgPool2d(v["x"], kernel=(3, 3), stride=(2, 2), pad=(0, 1, 1, 0), ceil=True),
                nn.AdaptiveAvgPool2d(v["x"], size=(1, 1)),
                nn.AdaptiveAvgPool2d(v["x"], size=(4, 3)),
                nn.AdaptiveAvgPool2d(v["x"], size=(11, 5)),
            ],
        )
    )


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize(mode: str) -> None:
    check(
        Case(
            "resize",
            {"x": f32(B, 2, 5, 6)},
            lambda g, v: [
                nn.Resize2d(v["x"], size=size, mode=mode, coordinates=coordinates)
                for size in ((10, 9), (3, 4), (1, 6))
                for coordinates in ("half_pixel", "align_corners", "asymmetric")
            ],
            tolerance=1e-4,
        )
    )


def test_embedding_and_spike_linear() -> None:
    def build(g, v):
        return [nn.Embedding(v["i"], v["table"]), spike.SpikeLinear(v["s"], v["w"], v["b"])]

    case = Case(
        "embedding",
        {"i": i64(B, 4), "s": SpikeType((B, 12))},
        build,
        constants={"table": weights(10, 6), "w": weights(20, 12), "b": weights(20)},
        ranges={"i": (0, 10)},
        tolerance=1e-4,
    )
    check(case)


def quantised_case() -> Case:
    """A quantised convolution and dense layer with per-channel weight scales."""
    rng = np.random.default_rng(3)

    def build(g, v):
        g.add_constant("ws", np.array([0.01, 0.02, 0.015, 0.03] * 5, np.float32))
        w = g.add_constant(
            "cw",
            rng.integers(-50, 50, (20, 4, 3, 3)).astype(np.int8),
            QuantType(8, True, "ws", (20, 4, 3, 3), axis=0),
        )
        b = g.add_constant("cb", rng.integers(-900, 900, (20,)).astype(np.int32))
        fw = g.add_constant(
            "fw", rng.integers(-50, 50, (8, 20)).astype(np.int8), QuantType(8, True, 0.02, (8, 20))
        )
        x = g.emit(quant.Quantize(v["x"], out=QuantType(8, True, 0.02, (B, 4, 8, 8), zero_point=-7)))
        kind = QuantType(8, True, 0.05, (B, 20, 8, 8), zero_point=-128)
        y = g.emit(nn.Conv2d(x, w, b, pad=(1, 1), act="relu", out=kind))
        pooled = g.emit(nn.MaxPool2d(y, kernel=(8, 8)))
        flat = g.emit(core.Reshape(pooled, out=kind.with_shape((B, 20))))
        total = g.add(nn.Linear(flat, fw))
        return [g.add(quant.Dequantize(y)), total]

    return Case("quantised", {"x": f32(B, 4, 8, 8)}, build)


def test_quantised_layers() -> None:
    check(quantised_case())


def test_half_precision_runs() -> None:
    kind = t.TensorType(t.f16, (B, 8))
    check(Case("half", {"x": kind}, lambda g, v: nn.Relu(v["x"]), tolerance=1e-3))
