"""The SAQ benchmark: its data, the choice of rho, the table, and runs of each method on few images."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plait.ir import InputError


def write_idx(path: Path, array: np.ndarray) -> None:
    head = b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(head + array.tobytes()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files like MNIST's t10k; pixel (0, 0) and (0, 1) of an image hold its number."""
    path = tmp_path_factory.mktemp("mnist")
    images = np.zeros((10_000, 28, 28), np.uint8)
    images[:, 10:20, 10:20] = 200
    images[:, 0:2, 0:2] = (np.arange(10_000) // 100)[:, None, None]
    images[:, 0:2, 2:4] = (np.arange(10_000) % 100)[:, None, None]
    write_idx(path / "t10k-images-idx3-ubyte.gz", images)
    write_idx(path / "t10k-labels-idx1-ubyte.gz", (np.arange(10_000) % 10).astype(np.uint8))
    return path


def test_the_split_has_every_image_once(folder: Path) -> None:
    from saq_data import load_mnist

    data = load_mnist(folder)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [7000, 1000, 2000]
    images = torch.cat([part.images for part in (data.train, data.validation, data.test)]) * 255
    assert images.shape == (10_000, 1, 14, 14)
    numbers = (images[:, 0, 0, 0] * 100 + images[:, 0, 0, 1]).round().long()
    assert torch.equal(numbers.sort().values, torch.arange(10_000))
    labels = torch.cat([part.labels for part in (data.train, data.validation, data.test)])
    assert torch.equal(labels, numbers % 10)
    assert torch.equal(load_mnist(folder).test.images, data.test.images)


def test_files_that_are_not_there_or_no_idx(tmp_path: Path) -> None:
    from saq_data import load_mnist, read_idx

    with pytest.raises(InputError, match="--mnist"):
        load_mnist(tmp_path)
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"not an array"))
    with pytest.raises(InputError, match="IDX"):
        read_idx(tmp_path / "x.gz")


def test_images_move_as_a_whole() -> None:
    from saq_data import shifted

    images = torch.zeros(400, 1, 14, 14)
    images[:, 0, 6:8, 6:8] = torch.arange(1, 401).float().reshape(-1, 1, 1)
    moved = shifted(images, 2, torch.Generator().manual_seed(0))
    assert torch.equal(moved.sum((1, 2, 3)), images.sum((1, 2, 3)))
    places = {tuple((image[0] > 0).nonzero()[0].tolist()) for image in moved}
    assert places == {(row, column) for row in range(4, 9) for column in range(4, 9)}
    assert shifted(images, 0, torch.Generator()) is images


def test_rho_is_chosen_by_validation(tmp_path: Path) -> None:
    from saq import Records, chosen_rho

    records = Records(tmp_path / "records.jsonl", resume=False)
    scores = {
        (0.1, 100): 0.90,
        (0.1, 101): 0.92,
        (0.3, 100): 0.95,
        (0.3, 101): 0.87,
        (1.0, 100): 0.80,
        (1.0, 101): 0.8,
    }
    for (rho, seed), score in scores.items():
        record: dict[str, Any] = {"purpose": "sweep", "method": "case3", "bits": 2, "rho": rho, "seed": seed}
        records.add({"key": f"{rho}/{seed}", **record, "validation": score})
    assert chosen_rho(records, "case3", 2, (0.1, 0.3, 1.0)) == 0.1  # as good as 0.3 on average, and smaller
    assert chosen_rho(records, "reuse", 2, (0.3, 1.0)) == 0.3
    assert Records(tmp_path / "records.jsonl", resume=True).held == records.held
    assert Records(tmp_path / "records.jsonl", resume=False).held == {}


def test_the_table_pairs_seeds_and_says_what_stands_out(tmp_path: Path) -> None:
    from saq import Records, Run, findings, show, summary

    records = Records(tmp_path / "records.jsonl", resume=False)
    runs = []
    same = {"train": 1.0, "loss": 0.1, "trace": 5.0, "random_sharpness": 0.0}
    for seed in range(4):
        for method, gain, top in (
            ("sgd", 0.0, 9.0),
            ("adamw", 0.001 * (-1) ** seed, 8.0),
            ("case3", 0.01, 4.0),
        ):
            run = Run(method, 2, 0.1, seed)  # type: ignore[arg-type]
            runs.append(run)
            accuracy = 0.9 + 0.02 * seed + gain + (0.0001 * seed if gain == 0.01 else 0.0)
            figures = {
                "seed": seed,
                "rho": 0.1,
                "test": accuracy,
                "cpu_s": 20.0 if method == "case3" else 10.0,
            }
            sharp = {"top_eigenvalue": top, "adversarial_sharpness": top / 10}
            records.add({"key": run.key(), **figures, **same, **sharp})
    rows = {row["method"]: row for row in summary(records, runs)}
    assert rows["case3"]["gain_over_sgd"] == pytest.approx(0.01015)
    assert rows["case3"]["time_ratio"] == pytest.approx(2.0)
    assert rows["adamw"]["gain_over_sgd"] == pytest.approx(0.0, abs=1e-9)
    said, tests, flatter = findings(list(rows.values()))
    assert "better SAQ case 3, SGD; worse none; smallest top eigenvalue: SAQ case 3" in said
    assert tests.startswith("of 2 such tests")
    assert flatter.startswith("1 of 1")
    assert len(show(list(rows.values())).splitlines()) == 4


def test_every_method_trains(folder: Path) -> None:
    from saq import LABELS
    from saq_data import Part, Split, load_mnist
    from saq_train import Run, Setting, train_float, train_quantised

    whole = load_mnist(folder)
    few = Part(whole.train.images[:64], whole.train.labels[:64])
    data = Split(few, few, few)
    setting = replace(Setting(), width=4, train=64, batch=32, float_epochs=1, epochs=1, measured=16)
    graph, record = train_float(data, setting, 0)
    assert record["train_loss"] > 0
    costs = {}
    for method in LABELS:
        found = train_quantised(graph, data, setting, Run(method, 2, 0.1, 0))  # type: ignore[arg-type]
        json.dumps(found)
        costs[method] = found
        assert np.isfinite(
            [found["train_loss"], found["top_eigenvalue"], found["adversarial_sharpness"]]
        ).all()
    again = train_quantised(graph, data, setting, Run("case3", 2, 0.1, 0))
    timed = ("cpu_s",)
    assert {k: v for k, v in again.items() if k not in timed} == {
        k: v for k, v in costs["case3"].items() if k not in timed
    }
