"""Kernels written as loops: factorisations, scans and scatters, against the interpreter or their definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from plait.backends import compile_graph
from plait.ir.ops import core, linalg

from .emission import B, Case, check, f32, i64


def positive_definite(batch: int) -> np.ndarray:
    root = np.random.default_rng(batch).standard_normal((batch, 2, 5, 5))
    return (root @ root.swapaxes(-1, -2) + 5 * np.eye(5)).astype(np.float32)


def solve_case() -> Case:
    def values(batch: int) -> dict[str, Any]:
        right = np.random.default_rng(3).standard_normal((batch, 2, 5, 3)).astype(np.float32)
        return {"x": positive_definite(batch), "r": right}

    forms = [(lower, transposed) for lower in (False, True) for transposed in (False, True)]
    return Case(
        "solve",
        {"x": f32(B, 2, 5, 5), "r": f32(B, 2, 5, 3)},
        lambda g, v: [
            linalg.Cholesky(v["x"]),
            *(linalg.TriangularSolve(v["x"], v["r"], lower=a, transposed=b) for a, b in forms),
            linalg.TriangularSolve(g.emit(core.Mul(v["x"], v["x"])), v["r"], unit=True),
        ],
        values=values,
        tolerance=2e-3,
    )


def factor_case() -> Case:
    return Case(
        "factor",
        {"x": f32(B, 5, 5), "tall": f32(6, 3), "wide": f32(B, 2, 4)},
        lambda g, v: [op(v[name]) for op in (linalg.LU, linalg.QR) for name in ("x", "tall", "wide")],
        tolerance=2e-4,
    )


def scan_case() -> Case:
    return Case(
        "scan",
        {"x": f32(B, 6, 3), "n": i64(B, 4)},
        lambda g, v: [
            core.CumSum(v["x"], axis=1),
            core.CumProd(v["x"], axis=0),
            core.CumProd(v["n"], axis=-1),
            core.Fmod(v["x"], g.emit(core.Full(value=0.3, out=f32()))),
            core.Remainder(v["x"], g.emit(core.Full(value=-0.3, out=f32()))),
            core.FloorDiv(v["x"], g.emit(core.Full(value=0.1, out=f32()))),
            core.ShiftLeft(g.emit(core.Full(value=5, out=i64())), v["n"]),
            core.ShiftRight(v["n"], g.emit(core.Full(value=1, out=i64()))),
        ],
    )


def dft_case() -> Case:
    return Case(
        "dft",
        {"x": f32(B, 12, 2), "y": f32(B, 12, 2), "z": f32(B, 7), "u": f32(3, B)},
        lambda g, v: [
            core.Dft(v["x"], v["y"], axis=1),
            core.Dft(v["x"], v["y"], axis=1, inverse=True),
            core.Dft(v["x"], axis=1, onesided=True),
            core.Dft(v["z"], onesided=True),
            core.Dft(v["u"], axis=1, inverse=True),
        ],
    )


def scatter_case() -> Case:
    """The indices repeat, are negative, and cover a part of the other axes."""

    def values(batch: int) -> dict[str, Any]:
        rng = np.random.default_rng(batch)
        return {
            "x": rng.standard_normal((batch, 5, 6)).astype(np.float32),
            "i": rng.integers(-5, 5, (batch, 3, 4)),
            "u": rng.standard_normal((batch, 3, 4)).astype(np.float32),
        }

    return Case(
        "scatter",
        {"x": f32(B, 5, 6), "i": i64(B, 3, 4), "u": f32(B, 3, 4)},
        lambda g, v: [
            core.ScatterElements(v["x"], v["i"], v["u"], axis=axis, reduce=reduce)
            for axis, reduce in ((1, "add"), (2, "mul"), (1, "max"), (2, "min"))
        ],
        values=values,
    )


CASES = (solve_case, factor_case, scan_case, dft_case, scatter_case)


@pytest.mark.parametrize("case", CASES)
def test_on_cpu(case: Any) -> None:
    check(case())


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_cuda_text(case: Any) -> None:
    check(case(), "a100", batches=(2,))


@pytest.mark.parametrize("target", ["cpu", pytest.param("a100", marks=pytest.mark.slow)])
def test_jacobi(target: str) -> None:
    """Eigenvectors and singular vectors are unique up to sign: products give the matrix back."""
    case = Case(
        "jacobi",
        {"x": f32(B, 2, 5, 5), "tall": f32(6, 3), "wide": f32(B, 2, 4)},
        lambda g, v: [linalg.Eigh(v["x"]), linalg.SVD(v["tall"]), linalg.SVD(v["wide"])],
    )
    arguments = case.arguments(2, 1) | {"x": positive_definite(2)}
    executable = compile_graph(case.graph(), target)
    results = (executable if target == "cpu" else executable.emulate)(**arguments)
    values, vectors = results[:2]
    np.testing.assert_allclose(values, np.linalg.eigvalsh(arguments["x"]), rtol=1e-4)
    back = (vectors * values[..., None, :]) @ vectors.swapaxes(-1, -2)
    np.testing.assert_allclose(back, arguments["x"], atol=2e-4)
    for name, (u, s, v) in zip(("tall", "wide"), (results[2:5], results[5:8]), strict=True):
        np.testing.assert_allclose(s, np.linalg.svd(arguments[name], compute_uv=False), atol=1e-4)
        np.testing.assert_allclose((u * s[..., None, :]) @ v, arguments[name], atol=1e-4)
