"""Calibration runs the graph on the user's batches, and says which one is at fault."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from plait.ir import Graph, InputError, Loc, TensorType, parse
from plait.ir import types as t
from plait.ir.interpret import interpret
from plait.ir.ops import core, nn
from plait.passes.quantize.calibrate import batches_of, calibrate, channel_maxima, observe, observe_values
from plait.passes.quantize.observers import MinMax, MovingAverage
from plait.passes.quantize.scheme import Scheme

AFFINE = Scheme(8, symmetric=False)


def small() -> Graph:
    """Two inputs, a sum, a logarithm and a relu."""
    graph = Graph()
    batch = graph.declare_dim("B", 1, 64)
    x = graph.add_input("x", TensorType(t.f32, (batch, 4)))
    y = graph.add_input("y", TensorType(t.f32, (batch, 4)))
    total = graph.emit(core.Add(x, y), name="total", loc=Loc.at("net.sum", "net.py", 3))
    logarithm = graph.emit(core.Log(total), name="logarithm", loc=Loc.at("net.log", "net.py", 4))
    graph.set_outputs([graph.emit(nn.Relu(logarithm), name="out", loc=Loc.at("net.relu", "net.py", 5))])
    return graph


def sole() -> Graph:
    graph = Graph()
    batch = graph.declare_dim("B", 1, 64)
    x = graph.add_input("x", TensorType(t.f32, (batch, 4)))
    graph.set_outputs([graph.emit(nn.Relu(x), name="out")])
    return graph


def pair(seed: int, size: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(size, 4, generator=generator) + 0.5 for name in ("x", "y")}


def test_inputs_and_results_are_measured() -> None:
    graph, data = small(), [pair(k, size=k + 1) for k in range(4)]
    grids = calibrate(graph, data, dict.fromkeys(("x", "total", "%out"), AFFINE), "min-max")
    assert set(grids) == {"x", "total", "%out"}
    seen = {"x": [b["x"] for b in data], "total": [b["x"] + b["y"] for b in data]}
    seen["%out"] = [interpret(graph, b)[0] for b in data]
    for name, tensors in seen.items():
        expected = MinMax()
        for tensor in tensors:
            expected.update(tensor)
        assert grids[name].scale == expected.grid(AFFINE).scale
        assert grids[name].zero_point == expected.grid(AFFINE).zero_point


def test_items_of_every_kind() -> None:
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    wanted = calibrate(sole(), [x], {"out": AFFINE})["out"].scale
    for item in (torch.from_numpy(x), [x], (x,), {"x": x}, {"%x": torch.from_numpy(x)}):
        assert calibrate(sole(), [item], {"out": AFFINE})["out"].scale == wanted

    def generator() -> Iterator[np.ndarray]:
        yield x

    assert calibrate(sole(), generator(), {"out": AFFINE})["out"].scale == wanted


def test_checked_batches_are_taken_again() -> None:
    batches = batches_of(small(), [pair(0), pair(1)])
    assert [b.index for b in batches] == [0, 1]
    assert batches_of(small(), batches) == batches
    assert batches_of(small(), batches)[0] is batches[0]


def test_limit_reads_no_further() -> None:
    read = []

    def endless() -> Iterator[dict[str, torch.Tensor]]:
        for k in range(1000):
            read.append(k)
            yield pair(k)

    calibrate(small(), endless(), {"x": AFFINE}, limit=2)
    assert len(read) <= 3


def test_a_factory_makes_one_observer_a_value() -> None:
    found = observe(small(), [pair(0), pair(1)], ["x", "y"], lambda: MovingAverage(0.5))
    assert found["x"] is not found["y"]
    x = [pair(k)["x"].max() for k in (0, 1)]
    assert isinstance(found["x"], MovingAverage)
    assert found["x"].high == pytest.approx(float(0.5 * x[0] + 0.5 * x[1]))


def test_values_in_loops_are_seen_each_time() -> None:
    graph = parse(
        """plait.ir 1.0
func @main(%x: f32[5,3], %s: f32[3]) -> f32[3] {
  %last = core.scan(%x, %s) : f32[3] do (%row: f32[3], %sum: f32[3]) {
    %next = core.add(%row, %sum) : f32[3]
    yield %next
  }
  return %last
}
"""
    )
    x = torch.ones(5, 3)
    found = observe(graph, [[x, torch.zeros(3)]], ["next"], "min-max")["next"]
    assert isinstance(found, MinMax)
    assert (found.low, found.high) == (1.0, 5.0)


def test_a_run_stops_after_what_is_wanted() -> None:
    graph = small()
    batch = pair(0)
    batch["x"] -= 5.0  # the logarithm, which nobody asks for, is NaN
    seen: list[str] = []
    observe_values(graph, batches_of(graph, [batch]), ["total"], lambda name, _: seen.append(name))
    assert seen == ["total"]


def test_channel_maxima() -> None:
    graph, data = small(), [pair(0), pair(1, size=7)]
    found = channel_maxima(graph, data, ["x", "total"])
    x = torch.cat([b["x"] for b in data])
    np.testing.assert_allclose(found["x"], x.abs().amax(0))
    assert found["total"].shape == (4,)
    rows = channel_maxima(graph, data[:1], ["x"], axis=0)["x"]
    np.testing.assert_allclose(rows, data[0]["x"].abs().amax(1))


# -- bad input -----------------------------------------------------------------------
def message(
    data: object, graph: Graph | None = None, values: tuple[str, ...] = ("x",), **options: object
) -> str:
    with pytest.raises(InputError) as caught:
        calibrate(graph or small(), data, dict.fromkeys(values, AFFINE), **options)  # type: ignore[arg-type]
    return str(caught.value)


def test_no_data() -> None:
    assert "calibration data is empty" in message([])
    spent = iter([pair(0)])
    list(spent)
    assert "a generator that was read before has none left" in message(spent)
    assert "limit is 0" in message([pair(0)], limit=0)


def test_data_that_is_no_iterable_of_batches() -> None:
    assert "wrap it in a list" in message(torch.ones(3, 4))
    assert "wrap it in a list" in message(pair(0))
    assert "an iterable of batches is wanted" in message(7)
    assert "batch 1 of the calibration data: it is a int" in message([pair(0), 3])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_data_that_is_not_finite(bad: float) -> None:
    batch = pair(1)
    batch["y"][2, 1] = bad
    found = message([pair(0), batch])
    assert "batch 1 of the calibration data, input y: 1 of 12 elements are NaN or infinite" in found


def test_data_of_the_wrong_type() -> None:
    batch = pair(0)
    found = message([pair(0), {**batch, "x": batch["x"].double().numpy()}])
    assert "batch 1 of the calibration data, input x: its element type is float64" in found
    assert "convert it with .astype('float32')" in found
    found = message([{**batch, "x": batch["x"].double()}])
    assert "convert it with .to(torch.float32)" in found
    assert "no torch type" in message([{**batch, "x": np.array([["a"] * 4])}])


def test_data_of_the_wrong_shape() -> None:
    batch = pair(0)
    assert "batch 0 of the calibration data, input y: shape [12] has 1 axes" in message(
        [{**batch, "y": batch["y"].reshape(-1)}]
    )
    found = message([batch, {**batch, "y": torch.ones(3, 5)}], values=("total",))
    assert "batch 1 of the calibration data, input y: axis 1 is 5" in found
    found = message([{**batch, "y": torch.ones(2, 4)}], values=("total",))
    assert "B is 3 from axis 0 of input x" in found


def test_inputs_that_are_missing_or_too_many() -> None:
    batch = pair(0)
    assert "input y is missing" in message([{"x": batch["x"]}])
    assert "input y is missing" in message([batch["x"]])
    assert "did you mean 'x'" not in message([{**batch, "label": batch["x"]}])
    assert "no input label" in message([{**batch, "label": batch["x"]}])
    assert "leave out labels" in message([[batch["x"], batch["y"], torch.zeros(3)]])


def test_nan_inside_the_graph_names_the_first_op() -> None:
    batch = pair(1)
    batch["x"] -= 5.0
    found = message([pair(0), batch], values=("out",))
    assert "batch 1 of the calibration data: %out is NaN" in found
    assert "core.log %logarithm (net.log at net.py:4)" in found
    batch["x"] = -batch["y"]
    assert "the first op whose result is infinite is core.log" in message([batch], values=("logarithm",))


def test_values_that_cannot_be_observed() -> None:
    assert "did you mean 'total'" in message([pair(0)], values=("totl",))
    graph = small()
    graph.emit(core.Gt(graph.value("x"), graph.value("y")), name="greater")
    assert "%greater is bool" in message([pair(0)], graph, values=("greater",))
    assert "no observer is called 'max-min'" in message([pair(0)], observer="max-min")


def test_a_value_without_elements() -> None:
    graph = Graph()
    rows = graph.declare_dim("N", 0, 8)
    x = graph.add_input("x", TensorType(t.f32, (rows, 4)))
    graph.set_outputs([graph.emit(nn.Relu(x), name="out")])
    assert "%out: no element was observed" in message([torch.zeros(0, 4)], graph, values=("out",))
