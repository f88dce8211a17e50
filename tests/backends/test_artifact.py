"""Executables on disk: round trips, and files that are refused."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from plait.backends import compile_graph, load_executable
from plait.backends.executable import Executable
from plait.ir import InputError

from .test_executable import arguments, network


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Executable, Path]:
    exe = compile_graph(network(), "cpu")
    path = tmp_path_factory.mktemp("exe") / "net.so.plait"
    exe.save(path)
    return exe, path


def rewrite(path: Path, target: Path, **changes: bytes | None) -> Path:
    """A copy of a zip file with some entries changed, or left out for None."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as archive:
        for name in source.namelist():
            content = changes.get(name, source.read(name))
            if content is not None:
                archive.writestr(name, content)
    return target


def test_round_trip(saved: tuple[Executable, Path], tmp_path: Path) -> None:
    exe, path = saved
    loaded = load_executable(path)
    assert loaded.graph == exe.graph
    assert loaded.kernels == exe.kernels
    assert loaded.target == exe.target
    for batch in (1, 3):
        for got, want in zip(loaded(*arguments(batch)), exe(*arguments(batch)), strict=True):
            np.testing.assert_array_equal(got, want)
    loaded.save(tmp_path / "again.plait")
    again = load_executable(tmp_path / "again.plait")
    np.testing.assert_array_equal(again(*arguments())[0], exe(*arguments())[0])
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no temporary file is left


def test_files_that_are_no_executables_are_refused(saved: tuple[Executable, Path], tmp_path: Path) -> None:
    exe, path = saved
    with pytest.raises(InputError, match="does not exist"):
        load_executable(tmp_path / "none.plait")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(InputError, match="no plait executable"):
        load_executable(tmp_path / "text")
    (tmp_path / "cut").write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match="damaged"):
        load_executable(tmp_path / "cut")
    exe.graph.save(tmp_path / "graph.plait")
    with pytest.raises(InputError, match=r"use plait\.load"):
        load_executable(tmp_path / "graph.plait")


def test_changed_files_are_refused(saved: tuple[Executable, Path], tmp_path: Path) -> None:
    _, path = saved
    with zipfile.ZipFile(path) as archive:
        manifest = json.loads(archive.read("manifest.json"))
    newer = json.dumps({**manifest, "format": 99}).encode()
    with pytest.raises(InputError, match="newer plait"):
        load_executable(rewrite(path, tmp_path / "a", **{"manifest.json": newer}))
    foreign = json.dumps({**manifest, "magic": "other"}).encode()
    with pytest.raises(InputError, match="another program"):
        load_executable(rewrite(path, tmp_path / "b", **{"manifest.json": foreign}))
    with pytest.raises(InputError, match="parameters.safetensors does not fit its hash"):
        load_executable(rewrite(path, tmp_path / "c", **{"parameters.safetensors": b"x"}))
    with pytest.raises(InputError, match=r"library\.so is missing"):
        load_executable(rewrite(path, tmp_path / "d", **{"library.so": None}))
    wide = {**manifest, "target": {**manifest["target"], "vector_bits": 4096, "processor": "future"}}
    with pytest.raises(InputError, match="compiled for future"):
        load_executable(rewrite(path, tmp_path / "e", **{"manifest.json": json.dumps(wide).encode()}))
