"""Archives: round trips of every element type, and damaged files."""

import os
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from plait.ir import Graph, InputError, VerifyError, archive
from plait.ir.types import DTYPES, QuantType, TensorType
from plait.ir.value import hash_content


def graph_of_all_dtypes() -> Graph:
    """A constant of every element type, quantised ones too; none is read."""
    g = Graph()
    rng = np.random.default_rng(0)
    for name, dtype in DTYPES.items():
        data = rng.integers(0, 2, (3, 5)).astype(dtype.numpy)
        g.add_constant(name, data, TensorType(dtype, (3, 5)))
    g.add_constant("scale", np.full(3, 0.5, np.float32))
    g.add_constant(
        "q", rng.integers(-8, 8, (3, 5)).astype(np.int8), QuantType(4, True, "scale", (3, 5), axis=0)
    )
    g.add_constant("scalar", np.array(2.5, np.float32))
    g.add_constant("empty", np.zeros((0, 4), np.float32))
    return g


@pytest.mark.parametrize("sidecar", [False, True])
def test_round_trip(tmp_path: Path, sidecar: bool) -> None:
    graph = graph_of_all_dtypes()
    path = tmp_path / "net.plait"
    archive.save(graph, path, sidecar=sidecar)
    loaded = archive.load(path)
    assert loaded == graph
    for name, constant in graph.constants.items():
        assert loaded.constants[name].data.dtype == constant.data.dtype
        assert hash_content(loaded.constants[name].data) == constant.content_hash
    assert sorted(p.name for p in tmp_path.iterdir()) == (
        ["net.plait", "net.plait.safetensors"] if sidecar else ["net.plait"]
    )


def test_bfloat16_is_kept() -> None:
    g = Graph()
    data = np.array([1.5, -2.0], ml_dtypes.bfloat16)
    assert str(g.add_constant("b", data).type) == "bf16[2]"


def test_missing_file() -> None:
    with pytest.raises(InputError, match=r"graph nowhere.plait does not exist"):
        archive.load("nowhere.plait")


def test_truncated_archive(tmp_path: Path) -> None:
    path = tmp_path / "net.plait"
    graph_of_all_dtypes().save(path)
    content = path.read_bytes()
    for share in (0.1, 0.5, 0.9):
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(InputError, match="is no complete plait archive"):
            archive.load(path)


def test_binary_file(tmp_path: Path) -> None:
    path = tmp_path / "net.plait"
    path.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(InputError, match="neither IR text nor a plait archive"):
        archive.load(path)


def test_data_that_does_not_fit_its_hash(tmp_path: Path) -> None:
    g = Graph()
    g.add_constant("w", np.ones(4, np.float32))
    path = tmp_path / "net.plait"
    archive.save(g, path, sidecar=True)
    other = Graph()
    other.add_constant("w", np.zeros(4, np.float32))
    (tmp_path / "net.plait.safetensors").write_bytes(archive.pack_constants(other))
    with pytest.raises(InputError, match="data of constant @w does not fit its hash"):
        archive.load(path)


def test_missing_constant(tmp_path: Path) -> None:
    path = tmp_path / "net.plait"
    graph_of_all_dtypes().save(path)
    with zipfile.ZipFile(path) as source:
        text = source.read(archive.TEXT)
    with zipfile.ZipFile(path, "w") as target:
        target.writestr(archive.TEXT, text)
        target.writestr(archive.CONSTANTS, archive.pack_constants(Graph()))
    with pytest.raises(InputError, match="constant @f64 is missing"):
        archive.load(path)


def test_wrong_text_in_an_archive_has_a_place(tmp_path: Path) -> None:
    path = tmp_path / "net.plait"
    path.write_text("plait.ir 1.0\nfunc @main() -> {\n  %x = core.foo() : f32[]\n  return\n}\n")
    with pytest.raises(VerifyError, match=r"net.plait:3:8: error\[I4\]: unknown op 'core.foo'"):
        archive.load(path)


def test_failed_write_leaves_nothing(tmp_path: Path) -> None:
    g = Graph()
    g.add_constant("w", None, TensorType(DTYPES["f32"], (2,)), content_hash="00")
    path = tmp_path / "net.plait"
    path.write_text("old")
    with pytest.raises(InputError, match="constant @w has no data"):
        g.save(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["net.plait"]


def test_unwritable_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot write"):
        Graph().save(tmp_path / "no" / "net.plait")
