"""The benchmarks of quantisation: data and training, integers compared, ratios, and a run of each."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import plait
from plait.ir import Graph, QuantType, TensorType
from plait.ir import types as t
from plait.ir.ops import nn, quant

ROOT = Path(__file__).resolve().parents[2]


def integer_graph() -> Graph:
    """A quantised dense layer, its 32-bit sums, and a float layer."""
    g = Graph("net")
    random = np.random.default_rng(0)
    x = g.add_input("x", TensorType(t.f32, (4, 8)))
    w = g.add_constant(
        "w", random.integers(-90, 90, (6, 8)).astype(np.int8), QuantType(8, True, 0.02, (6, 8))
    )
    v = g.add_constant("v", random.normal(size=(3, 6)).astype(np.float32))
    loc = plait.ir.Loc.at("net")
    q = g.emit(quant.Quantize(x, out=QuantType(8, True, 0.03, (4, 8))), name="q", loc=loc)
    total = g.emit(nn.Linear(q, w), name="total", loc=loc)
    z = g.emit(quant.Requantize(total, scale=0.0006, out=QuantType(8, True, 0.1, (4, 6))), name="z", loc=loc)
    real = g.emit(quant.Dequantize(z), name="real", loc=loc)
    g.set_outputs([g.emit(nn.Linear(real, v), name="y", loc=loc)])
    return g


def test_integers_are_compared_value_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    import quantized_accuracy as bench

    graph = integer_graph()
    assert [value.name for value in bench.integers_of(graph)] == ["q", "total", "z"]
    assert bench.integer_share(graph) == pytest.approx(48 / (48 + 18))
    monkeypatch.setattr(bench, "executable_of", lambda g: lambda x: _interpreted(g, x))
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    assert [value.name for value in bench.roundings_of(graph)] == ["q"]
    rounded = {"elements": 32, "differing": 0, "largest": 0}
    same = {"values": 2, "elements": 24 + 24, "differing": 0, "first": None, "rounded": rounded}
    assert bench.compare_integers(graph, x) == same
    # A sum that is wrong; and a rounding, which the interpreter then takes as it is.
    monkeypatch.setattr(bench, "executable_of", lambda g: lambda x: _interpreted(g, x, wrong=1))
    assert bench.compare_integers(graph, x) == same | {"differing": 1, "first": "total"}
    monkeypatch.setattr(bench, "executable_of", lambda g: lambda x: _interpreted(g, x, wrong=0))
    found = bench.compare_integers(graph, x)
    assert found["rounded"] == rounded | {"differing": 1, "largest": 1}
    assert found["first"] == "total"


def _interpreted(graph: Graph, x: np.ndarray, wrong: int | None = None) -> tuple[np.ndarray, ...]:
    found = [tensor.numpy().copy() for tensor in plait.interpret(graph, [x])]
    if wrong is not None:
        found[wrong].flat[0] += 1
    return tuple(found)


def test_faults() -> None:
    from quantized_accuracy import faults

    fine = {"way": "int8", "loss": 0.5, "integers": {"differing": 0, "first": None}}
    assert faults([{"network": "a", "ways": [fine, {"way": "int4 weights", "loss": 3.0}]}]) == []
    bad = {"way": "int8", "loss": 0.75, "integers": {"differing": 2, "first": "z"}}
    assert faults([{"network": "a", "ways": [bad, {"way": "int8", "failure": "no data"}]}]) == [
        "a, int8: a loss of 0.75 points",
        "a, int8: 2 integers differ, first in %z",
        "a, int8: no data",
    ]


def test_mnist_is_read_and_split_the_same_way_each_time(tmp_path: Path) -> None:
    from trained_networks import mnist

    pixels = np.random.default_rng(0).integers(0, 256, (2100, 28, 28)).astype(np.uint8)
    labels = (np.arange(2100) % 10).astype(np.uint8)
    for name, array in (("images-idx3", pixels), ("labels-idx1", labels)):
        header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
        with gzip.open(tmp_path / f"t10k-{name}-ubyte.gz", "wb") as stream:
            stream.write(header + array.tobytes())
    first, second = mnist(tmp_path), mnist(tmp_path)
    assert first.train.shape == (100, 1, 28, 28)
    assert first.test.shape == (2000, 1, 28, 28)
    assert torch.equal(first.test, second.test)
    assert sorted([*first.train_labels.tolist(), *first.test_labels.tolist()]) == sorted(labels.tolist())
    index = int(np.flatnonzero((pixels == (first.train[0, 0] * 255).round().numpy()).all((1, 2)))[0])
    assert labels[index] == first.train_labels[0]


def test_training_is_repeatable_and_leaves_the_global_state() -> None:
    from trained_networks import Images, accuracy, eager, train

    generator = torch.Generator().manual_seed(0)
    x = torch.rand(128, 1, 8, 8, generator=generator)
    y = torch.randint(0, 10, (128,), generator=generator)
    images = Images("random", x, y, x[:32], y[:32])
    state = torch.get_rng_state()
    first, second = (train("convnet", images, 3, epochs=1).model for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not first.training
    assert 0.0 <= accuracy(eager(first), images) <= 100.0
    perfect = accuracy(lambda array: np.eye(10)[images.test_labels.numpy()[: len(array)]], images, batch=32)
    assert perfect == 100.0


def race_row(model: str, batch: int, **times: float) -> dict[str, Any]:
    return {
        "model": model,
        "batch": batch,
        "contenders": {name.replace("_", " "): {"ms": ms} for name, ms in times.items()},
    }


def test_ratios_and_losses_of_the_int8_race() -> None:
    from cpu_int8 import cells, headings, ratio, summary

    rows = [
        race_row("mlp", 1, plait=4.0, plait_int8=2.0, onnxruntime=4.0, onnxruntime_int8=1.0),
        race_row("mlp", 8, plait=4.0, plait_int8=1.0, onnxruntime=8.0, onnxruntime_int8=2.0),
    ]
    rows[1]["contenders"]["onnxruntime int8"] = {"failure": "none"}
    assert ratio(rows[0], ("plait int8", "onnxruntime int8")) == 0.5
    assert ratio(rows[1], ("plait int8", "onnxruntime int8")) is None
    found = summary(rows)
    assert found["plait int8 / plait"] == {
        "geometric_mean": pytest.approx(8**0.5, rel=1e-3),
        "losses": {},
        "rows": 2,
    }
    assert found["plait int8 / onnxruntime int8"]["losses"] == {"mlp at batch 1": 0.5}
    assert all(len(cells(row)) == len(headings()) for row in rows)
    assert "failed" in cells(rows[1])


def test_signal_to_noise() -> None:
    from cpu_int8 import snr_db

    signal = np.array([3.0, 4.0], np.float32)
    assert snr_db(signal, signal) is None
    assert snr_db(signal, signal + np.array([0.3, 0.4], np.float32)) == pytest.approx(20.0, abs=0.01)


@pytest.mark.slow
def test_the_int8_race_runs(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = tmp_path / "found.json"
    command = [sys.executable, str(ROOT / "bench/cpu_int8.py"), "--models", "mlp", "--batches", "2"]
    command += ["--threads", "1", "--rounds", "1", "--turn", "0.01", "--pause", "0", "--json", str(path)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    (row,) = json.loads(path.read_text())["rows"]
    assert row["disagreement"] < 4.0
    for name in ("plait int8", "onnxruntime int8"):
        assert row["contenders"][name]["snr_db"] > 20.0
    assert row["contenders"]["plait"]["snr_db"] > 80.0


@pytest.mark.slow
def test_the_accuracy_benchmark_runs(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    path = tmp_path / "found.json"
    command = [sys.executable, str(ROOT / "bench/quantized_accuracy.py"), "--networks", "convnet"]
    run = subprocess.run([*command, "--ways", "int8", "--json", str(path)], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    (row,) = json.loads(path.read_text())["rows"]
    assert row["f32_accuracy"] >= 97.0
    assert row["ways"][0]["integers"]["differing"] == 0
