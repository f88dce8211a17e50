"""Reductions, movement and indexing against the interpreter."""

from __future__ import annotations

import numpy as np
import pytest

from plait.ir import types as t
from plait.ir.ops import core, prob
from plait.ir.types import TensorType

from .emission import B, Case, boolean, check, f32, i64


@pytest.mark.parametrize("axes", [(1,), (-1,), (0, 2), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("keepdims", [False, True])
def test_reductions(axes: tuple[int, ...], keepdims: bool) -> None:
    kinds = (core.Sum, core.Mean, core.Max, core.Min, core.Prod)
    check(
        Case(
            "reduce",
            {"x": f32(B, 5, 9)},
            lambda g, v: [
                *(op(v["x"], axes=axes, keepdims=keepdims) for op in kinds),
                prob.LogSumExp(v["x"], axes=axes, keepdims=keepdims),
            ],
            tolerance=1e-4,
        )
    )


def test_logical_and_index_reductions() -> None:
    check(
        Case(
            "index",
            {"b": boolean(B, 5, 4), "x": f32(B, 5, 4), "n": i64(B, 5, 4)},
            lambda g, v: [
                core.Any(v["b"], axes=(1,)),
                core.All(v["b"], axes=(2,), keepdims=True),
                core.ArgMax(v["x"], axis=-1),
                core.ArgMin(v["x"], axis=1, keepdims=True),
                core.ArgMax(v["n"], axis=1),
                core.CumSum(v["x"], axis=1),
                core.CumSum(v["n"], axis=0),
            ],
        )
    )


def test_movement() -> None:
    def build(g, v):
        x = v["x"]
        return [
            core.Transpose(x, permutation=(2, 0, 1)),
            core.Concat((x, v["y"], x), axis=1),
            core.Slice(x, axes=(1, 2), starts=(1, 2), stops=(5, 9), steps=(2, 3)),
            core.Slice(x, axes=(0,), starts=(B - 1,), stops=(B,)),
            core.Pad(x, before=(0, 1, 2), after=(1, 0, 3), value=1.5),
            core.Pad(x, before=(0, 2, 1), after=(0, 3, 2), mode="reflect"),
            core.Pad(x, before=(1, 2, 0), after=(0, 1, 2), mode="edge"),
            core.Flip(x, axes=(0, 2)),
            core.Roll(x, shifts=(1, -3), axes=(1, 2)),
            core.Triangle(x, diagonal=1),
            core.Triangle(x, upper=True, diagonal=-1),
            core.Broadcast(v["z"], out=f32(B, 6, 9)),
            core.Reshape(x, out=f32(B * 2, 27)),
        ]

    check(Case("movement", {"x": f32(B, 6, 9), "y": f32(B, 2, 9), "z": f32(6, 1)}, build))


def test_creation() -> None:
    def build(g, v):
        total = g.emit(core.DimValue(dim=2 * B + 1))
        return [
            core.Full(value=2.5, out=f32(B, 3)),
            core.Iota(axis=1, start=3, step=2, out=i64(B, 4)),
            core.Add(v["n"], total),
            core.Add(v["x"], g.emit(core.Iota(axis=0, start=0.5, step=0.25, out=f32(B, 1)))),
            g.add(core.DimValue(dim=B)),
        ]

    check(Case("creation", {"n": i64(B), "x": f32(B, 3)}, build))


def test_gather_and_scatter() -> None:
    def build(g, v):
        return [
            core.Take(v["x"], v["i"], axis=1),
            core.GatherElements(v["x"], v["e"], axis=1),
            core.GatherND(v["x"], v["nd"]),
            core.ScatterElements(v["x"], v["e"], v["u"], axis=1, reduce="add"),
            core.ScatterElements(v["x"], v["e"], v["u"], axis=1, reduce="max"),
            core.ScatterND(v["x"], v["once"], v["w"]),
            core.ScatterND(v["x"], v["nd"], v["nu"], reduce="add"),
        ]

    check(
        Case(
            "scatter",
            {
                "x": f32(B, 5, 4),
                "i": i64(3, 2),
                "e": i64(B, 2, 4),
                "u": f32(B, 2, 4),
                "nd": i64(6, 2),
                "nu": f32(6, 4),
                "once": i64(1, 1),
                "w": f32(1, 5, 4),
            },
            build,
            ranges={"i": (-5, 5), "e": (0, 5), "nd": (-1, 1), "once": (0, 1)},
        )
    )


def test_sort_and_top_k() -> None:
    check(
        Case(
            "sort",
            {"x": f32(B, 11), "n": i64(B, 11, 2)},
            lambda g, v: [
                core.Sort(v["x"]),
                core.Sort(v["n"], axis=1, descending=True),
                core.TopK(v["x"], k=4),
                core.TopK(v["x"], k=3, largest=False),
            ],
        )
    )


def test_single_elements_and_scalars() -> None:
    def build(g, v):
        half = g.emit(core.Full(value=0.5, out=TensorType(t.f32, ())))
        return [core.Mul(v["x"], half), core.Sum(v["x"], axes=(0,)), core.Neg(v["s"])]

    check(Case("scalars", {"x": f32(B), "s": f32()}, build))


def test_argmax_takes_the_first_of_equals() -> None:
    x = np.array([[1.0, 3.0, 3.0, 0.0]], np.float32)
    check(
        Case("ties", {"x": f32(1, 4)}, lambda g, v: core.ArgMax(v["x"], axis=1), values=lambda b: {"x": x}),
        batches=(1,),
    )
