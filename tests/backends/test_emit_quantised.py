"""Ops on stored integers compiled for this machine: the same bits as the interpreter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from plait.backends import compile_graph
from plait.ir import Graph, QuantType, Value
from plait.ir.interpret import interpret
from plait.ir.ops import core, linalg, nn, quant

from .emission import B


def weights(
    g: Graph, shape: tuple[int, ...], *, seed: int, per_channel: bool = True, bits: int = 8, zero: int = 0,
    signed: bool = True,
) -> Value:  # fmt: skip
    """A constant of random stored integers over the whole range, and scales of several magnitudes."""
    rng = np.random.default_rng(seed)
    name = g.free_name("w")
    if per_channel:
        scale = g.add_constant(f"{name}.scale", np.exp(rng.uniform(-7, -3, shape[0])).astype(np.float32))
        kind = QuantType(bits, signed, scale.name, shape, zero, axis=0)
    else:
        kind = QuantType(bits, signed, 0.0123, shape, zero)
    low, high = kind.range
    return g.add_constant(name, rng.integers(low, high + 1, shape).astype(kind.dtype.numpy), kind)


def bias(g: Graph, count: int) -> Value:
    rng = np.random.default_rng(count)
    return g.add_constant(g.free_name("b"), rng.integers(-20000, 20000, count).astype(np.int32))


def same_bits(
    build: Callable[[Graph], list[Value]],
    batches: tuple[int, ...] = (1, 3),
    seed: int = 0,
    target: str = "cpu",
) -> None:
    """Compile a graph of quantised inputs and compare its integers with those of the interpreter."""
    g = Graph("quantised")
    g.declare_dim("B", 1, 64)
    g.set_outputs(build(g))
    g.verify()
    executable = compile_graph(g, target)
    run = executable if target == "cpu" else executable.emulate
    for batch in batches:
        rng = np.random.default_rng(seed + batch)
        inputs = {}
        for value in g.inputs:
            kind = value.type
            assert isinstance(kind, QuantType)
            low, high = kind.range
            shape = tuple(d if isinstance(d, int) else d.evaluate({"B": batch}) for d in kind.shape)
            inputs[value.name] = rng.integers(low, high + 1, shape).astype(kind.dtype.numpy)
        results = run(**inputs)
        results = results if isinstance(results, tuple) else (results,)
        for got, want in zip(results, interpret(g, inputs), strict=True):
            np.testing.assert_array_equal(np.asarray(got), want.numpy())
            assert got.dtype == want.numpy().dtype
            assert np.unique(got).size > 1


CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "plain": {"x": (3, 11, 9), "w": (20, 3, 3, 3), "pad": (1, 1)},
    "in words": {"x": (16, 9, 9), "w": (24, 16, 3, 3), "pad": (1, 1), "act": "relu"},
    "strided": {"x": (16, 15, 13), "w": (16, 16, 3, 3), "stride": (2, 2), "pad": (1, 1), "act": "relu6"},
    "asymmetric": {"x": (4, 9, 9), "w": (8, 4, 3, 2), "pad": (0, 1, 2, 1)},
    "dilated": {"x": (4, 11, 11), "w": (8, 4, 3, 3), "dilation": (2, 2)},
    "pointwise": {"x": (24, 7, 7), "w": (40, 24, 1, 1), "act": "relu"},
    "grouped": {"x": (32, 8, 8), "w": (32, 8, 3, 3), "groups": 4, "pad": (1, 1), "act": "relu"},
    "odd groups": {"x": (9, 8, 8), "w": (6, 3, 3, 3), "groups": 3},
    "depthwise": {"x": (12, 14, 14), "w": (12, 1, 3, 3), "groups": 12, "pad": (1, 1), "stride": (2, 2)},
    "depthwise, wide": {"x": (32, 7, 7), "w": (32, 1, 5, 5), "groups": 32, "pad": (2, 2), "act": "relu6"},
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize(
    ("signed", "zero", "per_channel"), [(True, -7, True), (False, 133, True), (False, 0, False)]
)
def test_fixed_point_conv2d(name: str, signed: bool, zero: int, per_channel: bool) -> None:
    options = dict(CONVOLUTIONS[name])
    shape, w = options.pop("x"), options.pop("w")

    def build(g: Graph) -> list[Value]:
        x = g.add_input("x", QuantType(8, signed, 0.031, (B, *shape), zero))
        weight = weights(g, w, seed=len(name), per_channel=per_channel)
        op = nn.Conv2d(x, weight, bias(g, w[0]), **options)
        (found,) = op.evolve(act="none").infer()
        out = QuantType(8, signed, 0.61, found.shape, zero)  # type: ignore[attr-defined]
        return [g.emit(op.evolve(requantize="fixed_point", out=out))]

    same_bits(build)


def test_fixed_point_conv1d_and_conv3d() -> None:
    def build(g: Graph) -> list[Value]:
        x = g.add_input("x", QuantType(8, True, 0.031, (B, 4, 13), 5))
        y = g.add_input("y", QuantType(8, False, 0.031, (B, 2, 5, 6, 5), 120))
        first = nn.Conv1d(x, weights(g, (6, 2, 5), seed=1), None, pad=(2,), groups=2, act="relu")
        second = nn.Conv3d(y, weights(g, (4, 2, 2, 3, 3), seed=2), bias(g, 4), pad=(0, 1, 1))
        kinds = [QuantType(8, True, 0.5, op.infer()[0].shape, -20) for op in (first, second)]  # type: ignore[attr-defined]
        return [
            g.emit(op.evolve(requantize="fixed_point", out=kind))
            for op, kind in zip((first, second), kinds, strict=True)
        ]

    same_bits(build)


@pytest.mark.parametrize(("depth", "outputs"), [(64, 48), (37, 5), (20, 64)])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("act", ["none", "relu", "relu6"])
def test_fixed_point_linear(depth: int, outputs: int, signed: bool, act: Any) -> None:
    def build(g: Graph) -> list[Value]:
        x = g.add_input("x", QuantType(8, signed, 0.031, (B, 3, depth), 3))
        w = weights(g, (outputs, depth), seed=depth)
        out = QuantType(8, not signed, 0.37, (B, 3, outputs), 9)
        fixed = nn.Linear(x, w, bias(g, outputs), act=act, requantize="fixed_point", out=out)
        return [g.emit(fixed), g.emit(nn.Linear(x, w, bias(g, outputs)))]

    same_bits(build)


def test_affine_and_narrow_weights() -> None:
    """Zero points of weights, one and one for each channel, and widths below 8 bits."""

    def build(g: Graph) -> list[Value]:
        x = g.add_input("x", QuantType(8, False, 0.031, (B, 24), 99))
        out = QuantType(8, True, 0.9, (B, 16))
        points = g.add_constant("points", np.arange(100, 116, dtype=np.int32))
        affine = weights(g, (16, 24), seed=1, zero=120, signed=False)
        narrow = weights(g, (16, 24), seed=2, bits=4)
        by_channel = weights(g, (16, 24), seed=3, signed=False)
        kind = by_channel.type
        assert isinstance(kind, QuantType)
        shifted = g.add_constant(
            "shifted",
            by_channel.data,  # type: ignore[attr-defined]  # a constant
            QuantType(8, False, kind.scale, kind.shape, points.name, axis=0),
        )
        return [
            g.emit(nn.Linear(x, w, bias(g, 16), requantize="fixed_point", out=out))
            for w in (affine, narrow, shifted)
        ]

    same_bits(build)


@pytest.mark.parametrize("mode", ["real", "fixed_point"])
def test_products_of_activations(mode: Any) -> None:
    """Zero points on both sides, leading dims that broadcast, and a scale for each column."""

    def build(g: Graph) -> list[Value]:
        a = g.add_input("a", QuantType(8, True, 0.031, (B, 2, 5, 24), -11))
        b = g.add_input("b", QuantType(8, False, 0.017, (B, 1, 24, 7), 140))
        out = QuantType(8, True, 0.23, (B, 2, 5, 7), 12)
        scales = g.add_constant("columns", np.linspace(0.01, 0.09, 7).astype(np.float32))
        matrix = np.random.default_rng(4).integers(-128, 128, (24, 7)).astype(np.int8)
        m = g.add_constant("m", matrix, QuantType(8, True, scales.name, (24, 7), axis=1))
        return [
            g.emit(linalg.Matmul(a, b, requantize=mode, out=out)),
            g.emit(linalg.Matmul(a, m, act="relu", requantize=mode, out=out)),
            g.emit(linalg.Matmul(a, b)),
        ]

    same_bits(build)


@pytest.mark.parametrize("act", ["none", "relu", "relu6"])
def test_sums(act: Any) -> None:
    def build(g: Graph) -> list[Value]:
        x = g.add_input("x", QuantType(8, True, 0.053, (B, 6, 5, 5), -3))
        y = g.add_input("y", QuantType(8, False, 0.021, (6, 1, 5), 117))
        out = QuantType(8, True, 0.047, (B, 6, 5, 5), -70)
        coarse = QuantType(4, False, 0.9, (B, 6, 5, 5), 4)
        return [g.emit(quant.Add(x, y, act=act, out=out)), g.emit(quant.Add(x, x, act=act, out=coarse))]

    same_bits(build)


@pytest.mark.parametrize("axes", [(2, 3), (1,), (0, 2), (-1,), ()])
@pytest.mark.parametrize("keepdims", [True, False])
def test_means(axes: tuple[int, ...], keepdims: bool) -> None:
    def build(g: Graph) -> list[Value]:
        x = g.add_input("x", QuantType(8, False, 0.053, (4, 6, 5, 7), 113))
        shape = [1 if i in [a % 4 for a in axes] else d for i, d in enumerate((4, 6, 5, 7))]
        if not keepdims:
            shape = [d for i, d in enumerate((4, 6, 5, 7)) if i not in [a % 4 for a in axes]]
        out = QuantType(8, True, 0.0091, tuple(shape), 5)
        return [g.emit(quant.Mean(x, axes=axes, keepdims=keepdims, out=out))]

    same_bits(build)


@pytest.mark.parametrize("signed", [True, False])
def test_pooling(signed: bool) -> None:
    def build(g: Graph) -> list[Value]:
        kind = QuantType(8, signed, 0.053, (B, 16, 9, 11), 19)
        x = g.add_input("x", kind)
        average = quant.AvgPool2d(
            x,
            kernel=(3, 2),
            stride=(2, 1),
            pad=(1, 1, 0, 0),
            out=QuantType(8, signed, 0.02, (B, 16, 4, 11), 8),
        )
        whole = quant.AvgPool2d(x, kernel=(9, 11), out=QuantType(8, signed, 0.03, (B, 16, 1, 1), 8))
        largest = nn.MaxPool2d(x, kernel=(3, 3), stride=(2, 2), pad=(1, 1), ceil=True)
        return [g.emit(average), g.emit(whole), g.emit(largest)]

    same_bits(build)


def test_requantisation() -> None:
    def build(g: Graph) -> list[Value]:
        x = g.add_input("x", QuantType(8, True, 0.053, (B, 8, 9), 19))
        w = weights(g, (12, 9), seed=3, per_channel=False)
        out = QuantType(8, False, 0.031, (B, 8, 9), 60)
        total = g.emit(nn.Linear(x, w))
        narrow = QuantType(8, True, 0.4, (B, 8, 12), -2)
        return [
            g.emit(quant.Requantize(x, requantize="fixed_point", out=out)),
            g.emit(quant.Requantize(x, act="relu6", requantize="fixed_point", out=out)),
            g.emit(quant.Requantize(x, act="relu", out=out)),
            g.emit(quant.Requantize(total, scale=0.053 * 0.0123, requantize="fixed_point", out=narrow)),
        ]

    same_bits(build)


def test_movement_of_stored_integers() -> None:
    def build(g: Graph) -> list[Value]:
        kind = QuantType(8, True, 0.053, (B, 6, 8), 19)
        x, y = g.add_input("x", kind), g.add_input("y", kind)
        joined = g.emit(core.Concat((x, y), axis=1))
        turned = g.emit(core.Transpose(joined, permutation=(0, 2, 1)))
        flat = g.emit(core.Reshape(turned, out=kind.with_shape((B, 96))))
        part = g.emit(core.Slice(flat, axes=(1,), starts=(3,), stops=(50,), steps=(2,)))
        wide = g.emit(core.Broadcast(part, out=kind.with_shape((2, B, 24))))
        flipped = g.emit(core.Flip(wide, axes=(2,)))
        return [turned, part, g.emit(core.Roll(flipped, shifts=(5,), axes=(2,)))]

    same_bits(build)


@pytest.mark.parametrize("target", ["cpu", pytest.param("a100", marks=pytest.mark.slow)])
def test_a_residual_block_of_integers(target: str) -> None:
    """Fixed-point convolutions, their sum and a mean in one graph, where kernels fuse."""

    def build(g: Graph) -> list[Value]:
        kind = QuantType(8, True, 0.031, (B, 16, 8, 8), -4)
        x = g.add_input("x", kind)
        inner = grid = QuantType(8, True, 0.61, (B, 16, 8, 8), -128)
        shortcut = g.emit(
            nn.Conv2d(x, weights(g, (16, 16, 1, 1), seed=5), bias(g, 16), requantize="fixed_point", out=inner)
        )
        y = g.emit(
            nn.Conv2d(
                x, weights(g, (16, 16, 3, 3), seed=6), bias(g, 16), pad=(1, 1), act="relu",
                requantize="fixed_point", out=inner,
            )
        )  # fmt: skip
        total = g.emit(quant.Add(y, shortcut, act="relu", out=inner))
        pooled = g.emit(quant.Mean(total, axes=(2, 3), out=QuantType(8, True, 0.4, (B, 16), -100)))
        real = g.emit(quant.Dequantize(pooled))
        small = g.emit(
            quant.AvgPool2d(total, kernel=(2, 2), stride=(2, 2), out=grid.with_shape((B, 16, 4, 4)))
        )
        return [g.emit(quant.Quantize(real, out=QuantType(8, True, 0.4, (B, 16), -100))), total, small]

    same_bits(build, target=target)
