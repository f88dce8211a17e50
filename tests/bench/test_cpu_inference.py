"""The CPU benchmark: turns, ratios, tables, levers, and a run of it on one model."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from plait.backends.targets import host_cpu
from plait.ir.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


def row(model: str, batch: int, plait_ms: float, **others: dict[str, Any]) -> dict[str, Any]:
    own = {"ms": plait_ms, "error": 0.25}
    contenders = {"plait": own, **others}
    return {
        "model": model, "batch": batch, "threads": 2, "rounds": 3, "load_before": 0.1, "contenders": contenders
    }  # fmt: skip


def record(rows: list[dict[str, Any]]) -> dict[str, Any]:
    from cpu_inference import summary

    return {
        "date": "2026-01-01",
        "machine": {"cores": 2, "processor": "P"},
        "versions": {"torch": "1"},
        "models": ["mlp", "vgg16"],
        "summary": summary(rows),
        "rows": rows,
    }


def test_turns_are_interleaved_in_alternating_order_and_leave_out_the_first_call() -> None:
    from cpu_contenders import CALLS, take_turns

    log: list[str] = []

    def contender(name: str, first_s: float, then_s: float) -> Any:
        def run() -> None:
            woken = log and log[-1] == name
            log.append(name)
            time.sleep(then_s if woken else first_s)

        return run

    found = take_turns(
        {"a": contender("a", 0.05, 0.002), "b": contender("b", 0.05, 0.004)},
        rounds=2,
        pause_s=0.0,
        turn_s=0.0,
    )
    fewest = CALLS[0]
    a, b = ["a"] * (fewest + 1), ["b"] * (fewest + 1)
    assert log[: 2 * (fewest + 1)] == a + b
    assert log[2 * (fewest + 1) :] == b + a
    for name, seconds in (("a", 0.002), ("b", 0.004)):
        assert found[name]["calls"] == 2 * fewest
        assert 1e3 * seconds <= found[name]["fastest_ms"] <= found[name]["ms"] <= found[name]["slowest_ms"]
    assert found["a"]["fastest_ms"] < 30  # the 50 ms of the call that wakes a contender do not count


def test_the_summary_has_geometric_means_and_the_lowest_ratio() -> None:
    from cpu_inference import faults, summary

    rows = [
        row("mlp", 1, 2.0, onnxruntime={"ms": 4.0}, tvm_default={"over_s": 240.0}),
        row("vgg16", 1, 10.0, onnxruntime={"ms": 5.0}),
        row("mlp", 8, 1.0, onnxruntime={"ms": 8.0}, torch={"failure": "E"}),
    ]
    found = summary(rows)
    assert list(found) == ["onnxruntime"]
    ort = found["onnxruntime"]
    assert ort["1"] == {
        "geometric_mean": pytest.approx(1.0), "lowest": 0.5, "lowest_at": "vgg16 at batch 1", "rows": 2
    }  # fmt: skip
    assert ort["8"]["geometric_mean"] == pytest.approx(8.0)
    assert ort["all"]["geometric_mean"] == pytest.approx(2.0)
    assert ort["all"]["lowest_at"] == "vgg16 at batch 1"
    assert not faults(rows[0])
    rows[0]["contenders"]["plait"] = {"ms": 1.0, "error": 1.5}
    assert "1.50 times the tolerance" in faults(rows[0])[0]
    rows[0]["contenders"]["plait"] = {"failure": "CompileError: no"}
    assert "CompileError" in faults(rows[0])[0]


def test_the_table_says_what_was_cut_and_what_failed() -> None:
    import tables

    rows = [
        row(
            "mlp", 1, 2.0, onnxruntime={"ms": 3.0}, tvm_default={"over_s": 240.0}, torch={"failure": "no g++"}
        ),
        row("mlp", 8, 123.4, onnxruntime={"ms": 1234.0}),
    ]
    text = tables.cpu_inference(record(rows))
    assert "| mlp | 1 | 2.00 | 3.00 (1.50x) | failed |  | cut after 240 s | 0.250 |" in text
    assert "| mlp | 8 | 123 | 1234 (10.00x) |  |  |  | 0.250 |" in text
    assert "| geometric mean | all |  | 3.87x of 2 |" in text
    assert "lowest ratio against ONNX Runtime is 1.50x, mlp at batch 1." in text
    assert "Failed: mlp at batch 1, torch eager: no g++." in text
    assert "Not measured yet: vgg16." in text
    assert "Other jobs" not in text
    rows[0]["load_before"] = 1.8
    assert "Other jobs ran beside it (load average 1.8 at the start)" in tables.cpu_inference(record(rows))


def test_the_table_of_levers_shows_slowdowns() -> None:
    import tables

    variants = {"all on": {"ms": 1.0}, "again": {"ms": 4.0}, "winograd": {"ms": 3.0}}
    variants["layouts"] = {"failure": "E"}
    levers = {"winograd": {}, "layouts": {}}
    made = {**record([]), "levers": levers, "rows": [{"model": "mlp", "batch": 1, "variants": variants}]}
    assert "| mlp | 1 | 1.00 | 4.00 | 1.50x | failed |" in tables.cpu_levers(made)


def test_a_lever_names_fields_of_the_target_and_changes_them() -> None:
    from cpu_levers import LEVERS, without

    target = host_cpu()
    assert without(target, "few registers", {"registers": 7}) == replace(target, registers=7)
    with pytest.raises(InputError, match="no field of CpuTarget.*registers"):
        without(target, "few registers", {"register": 7})
    with pytest.raises(InputError, match="changes nothing"):
        without(target, "same", {"registers": target.registers})
    for label, overrides in LEVERS:
        without(target, label, overrides)


@pytest.mark.slow
def test_models_that_are_named_replace_their_rows(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    other = row("vgg16", 1, 5.0, onnxruntime={"ms": 6.0})
    path.write_text(json.dumps({"rows": [other, row("mlp", 1, 1e9)]}))
    command = [
        sys.executable, ROOT / "bench" / "cpu_inference.py", "--models", "mlp", "--batches", "1",
        "--peers", "onnxruntime", "torch", "--rounds", "2", "--turn", "0.05", "--json", path,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    vgg16, mlp = json.loads(path.read_text())["rows"]
    assert vgg16 == other
    assert list(mlp["contenders"]) == ["plait", "onnxruntime", "torch"]
    for found in mlp["contenders"].values():
        assert 0 < found["fastest_ms"] <= found["ms"] <= found["slowest_ms"] < 1e5
        assert found["error"] <= 1.0
    assert mlp["contenders"]["torch"]["error"] == 0.0


def test_kernel_times_cover_every_kernel_and_operator() -> None:
    from cpu_contenders import Case
    from cpu_kernels import onnxruntime_times, plait_times

    case = Case("small_cnn", 2, threads=2)
    executable = case.compile(host_cpu())
    rows = {found.name: found for found in plait_times(executable, case.inputs, 3)}
    for kernel in executable.kernels:
        found = rows[kernel.name]
        assert found.calls == kernel.calls
        assert found.us > 0
        assert found.gflop is not None
        assert found.gflops == pytest.approx(found.gflop / (found.us * 1e-6))
    convolutions = [found for found in rows.values() if "nn.conv2d" in found.opnames]
    # 3 -> 32 channels at 32 x 32, then 32 -> 64 at 8 x 8, of 3 x 3 pixels, two samples
    products = 2 * (32 * 3 * 9 * 32 * 32 + 64 * 32 * 9 * 8 * 8)
    assert 2 * products <= 1e9 * sum(found.gflop or 0.0 for found in convolutions) < 2.2 * products
    kinds = onnxruntime_times(case, 3)
    count, us = next(found for kind, found in kinds.items() if "Conv" in kind)
    assert count == 2
    assert us > 0
    assert list(kinds.values()) == sorted(kinds.values(), key=lambda found: -found[1])
