"""Back to NIR: equal graphs, through text and files, and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

nir = pytest.importorskip("nir")

import plait  # noqa: E402
from plait.frontends.nir import initial_states, lower_nir, to_nir, write_nir  # noqa: E402
from plait.ir import Graph, InputError, Loc, parse  # noqa: E402
from plait.ir.value import hash_content  # noqa: E402

NAMES = ["lif", "cuba", "convolutional"]


def constants(graph: Graph) -> dict[str, np.ndarray]:
    return {constant.name: constant.data for constant in graph.constants.values()}


@pytest.mark.parametrize("name", NAMES)
def test_files(networks: Any, assert_same_nir: Any, tmp_path: Path, name: str) -> None:
    """.nir -> IR -> .plait -> IR -> .nir: the file is read again as the same graph."""
    nir.write(tmp_path / "first.nir", networks[name])
    first = nir.read(tmp_path / "first.nir")
    graph = lower_nir(tmp_path / "first.nir", steps=5)
    assert graph == lower_nir(str(tmp_path / "first.nir"), steps=5)
    graph.save(tmp_path / "net.plait")
    write_nir(plait.load(tmp_path / "net.plait"), tmp_path / "second.nir")
    second = nir.read(tmp_path / "second.nir")
    assert_same_nir(first, second)
    assert lower_nir(second, steps=5) == graph


def test_order_of_nodes_and_edges(assert_same_nir: Any) -> None:
    """Neither sorted nor in the order of the signal."""
    source = nir.NIRGraph(
        {"z": nir.Output(np.array([2])), "b": nir.Scale(np.full(2, 2.0)), "c": nir.Scale(np.full(2, 3.0)),
         "a": nir.Input(np.array([2]))},
        [("c", "z"), ("a", "b"), ("b", "c")],
    )  # fmt: skip
    assert_same_nir(source, to_nir(lower_nir(source)))


def test_metadata_and_settings(assert_same_nir: Any) -> None:
    metadata = {
        "note": 'quoted "text"\nsecond line \\ ü',
        "rate": 0.1, "bound": float("inf"), "count": 3, "on": True, "nothing": None, "raw": b"\x00\xff",
        "array": np.linspace(0, 1, 5, dtype=np.float32).reshape(5, 1), "flags": np.array([True, False]),
        "words": np.array(["a", "bc"]), "list": [1, (2, "x")], "inner": {"deep": {"er": 0.3}},
    }  # fmt: skip
    inner = nir.NIRGraph.from_list(nir.Scale(np.ones(2), metadata={"of": "scale"}))
    inner.metadata = {"of": "inner"}
    source = nir.NIRGraph.from_list(nir.Input(np.array([2])), inner, nir.I(r=np.ones(2, np.float16)))
    source.metadata = metadata
    graph = lower_nir(source, dt=0.001)
    text = str(graph)
    again = parse(text, constants=constants(graph))
    assert str(again) == text
    found = to_nir(again)
    assert_same_nir(source, found)
    assert found.metadata["bound"] == float("inf")
    assert found.metadata["raw"] == b"\x00\xff"
    assert found.metadata["array"].dtype == np.float32
    assert np.array_equal(found.metadata["array"], metadata["array"])
    assert found.metadata["list"] == [1, (2, "x")]
    assert lower_nir(found, dt=0.001) == graph


def test_other_numbers_in_the_constants(networks: Any, random: Any) -> None:
    """What is written is what the graph holds: a weight that was changed is written changed."""
    graph = lower_nir(networks["lif"])
    weight = random.standard_normal((5, 3)).astype(np.float32)
    text = str(graph).replace(graph.constants["affine.weight"].content_hash, hash_content(weight))
    found = to_nir(parse(text, constants={**constants(graph), "affine.weight": weight}))
    assert np.array_equal(found.nodes["affine"].weight, weight)
    assert np.array_equal(found.nodes["lif"].tau, networks["lif"].nodes["lif"].tau)
    with pytest.raises(InputError, match="has no data"):
        to_nir(parse(text))


def test_the_source_is_left_alone(networks: Any) -> None:
    source = networks["convolutional"]
    before = str(source.to_dict())
    graph = lower_nir(source)
    found = to_nir(graph)
    assert str(source.to_dict()) == before
    found.nodes["if"].r[:] = 0
    assert graph.constants["if.r"].data.min() > 0


def test_what_nir_leaves_open_is_filled_in(tmp_path: Path) -> None:
    """Without type_check, NIR knows no shapes behind a convolution, and cannot write it."""
    source = nir.NIRGraph(
        {"in": nir.Input(np.array([1, 6, 6])),
         "conv": nir.Conv2d(None, np.ones((2, 1, 3, 3)), 1, 0, 1, 1, np.zeros(2)),
         "pool": nir.AvgPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
         "flat": nir.Flatten(None, 0), "out": nir.Output(np.array([8]))},
        [("in", "conv"), ("conv", "pool"), ("pool", "flat"), ("flat", "out")],
        type_check=False,
    )  # fmt: skip
    graph = lower_nir(source)
    write_nir(graph, tmp_path / "net.nir")
    found = nir.read(tmp_path / "net.nir")
    assert tuple(found.nodes["conv"].input_shape) == (6, 6)
    assert found.nodes["pool"].output_type["output"].tolist() == [2, 2, 2]
    assert lower_nir(found).id != ""


def test_rewritten_graphs_are_refused(networks: Any) -> None:
    graph = lower_nir(networks["cuba"])
    with pytest.raises(InputError, match="rewritten|no constant"):
        to_nir(plait.optimize(graph))
    clone = graph.clone()
    for op in clone.walk():
        op.loc = Loc()
    with pytest.raises(InputError, match="does not come from NIR"):
        to_nir(clone)
    with pytest.raises(InputError, match="does not come from NIR"):
        initial_states(Graph("empty"))
    text = str(graph).replace("{value=0.0001}", "{value=0.0002}", 1)
    with pytest.raises(InputError, match="no longer what lower_nir made"):
        to_nir(parse(text, constants=constants(graph)))
    text = str(graph).replace("'kind': 'CubaLIF'", "'kind': 'CubaLI'")
    with pytest.raises(InputError, match="not whole"):
        to_nir(parse(text, constants=constants(graph)))
    text = str(graph).replace("{'dt': 0.0001}", "{'dt': __import__}")
    with pytest.raises(InputError, match="cannot be read"):
        to_nir(parse(text, constants=constants(graph)))


def test_paths_that_cannot_be_written(networks: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot write"):
        write_nir(lower_nir(networks["lif"]), tmp_path / "missing" / "net.nir")
