"""The main job on the families: every route agrees with torch, every kernel assembles and is mapped."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from plait.frontends.families import examples

BENCH = Path(__file__).resolve().parent.parent / "bench"
SMALL = ("small_cnn", "small_transformer")


@pytest.fixture(scope="module")
def main_job() -> Any:
    """The module bench/main_job.py, whose `measure` does the work."""
    sys.path.insert(0, str(BENCH))
    try:
        import main_job
    finally:
        sys.path.remove(str(BENCH))
    return main_job


@pytest.mark.parametrize(
    "name", [n if n in SMALL else pytest.param(n, marks=pytest.mark.slow) for n in examples()]
)
def test_main_job(main_job: Any, name: str) -> None:
    row = main_job.measure(name, seed=0, show=False, onnx=True)
    assert row["round_trip"]
    assert row["located"]
    assert list(row["dims"]) == ["B"]
    # errors are in units of the tolerance, rtol 1e-3 and atol 1e-4, at batch 1 and 3
    assert row["interpreter_error"] <= 1.0
    assert row["cpu_error"] <= 1.0
    assert row["onnx_error"] <= 1.0
    assert row["ops_optimised"] < row["ops"]
    assert row["a100_unmapped_kernels"] == 0
    for kernel in row["kernels"]:
        assert kernel["registers"] > 0
        assert kernel["block"]
        assert kernel["ops"]
    for batch in (1, 8, 32):
        prediction = row[f"predict_b{batch}"]
        assert prediction["latency_ms"] > 0
        assert prediction["energy_j"] > 0
        assert prediction["mig"]["profile"]
        assert len(prediction["top_ops"]) == 3 or len(row["kernels"]) < 3
    assert (
        row["predict_b1"]["latency_ms"] <= row["predict_b8"]["latency_ms"] <= row["predict_b32"]["latency_ms"]
    )
