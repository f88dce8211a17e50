"""Whole networks: structure, recurrence, nesting, names, open sizes, compiled code."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

nir = pytest.importorskip("nir")

import plait  # noqa: E402
from plait.frontends.nir import initial_states, lower_nir  # noqa: E402
from plait.ir.interpret import interpret  # noqa: E402

SIZES = {"lif": (3,), "cuba": (3,), "convolutional": (2, 9, 10)}


def events(random: np.random.Generator, *shape: int) -> np.ndarray:
    return (random.random(shape) < 0.4).astype(np.float32)


@pytest.mark.parametrize("name", SIZES)
def test_compiled_networks(check: Any, networks: Any, random: Any, name: str) -> None:
    """Open and fixed sizes, interpreter and CPU code, against the simulator."""
    inputs = {"input": events(random, 25, 2, *SIZES[name])}
    graph, found = check(networks[name], inputs, target="cpu")
    assert list(graph.dims) == ["T", "B"]
    assert np.unique(found["output"]).size > 1
    fixed, _ = check(networks[name], inputs, steps=25, batch=2)
    assert not fixed.dims
    assert [op.opname for op in graph.ops].count("core.scan") == 1


def test_example_inputs_fix_sizes(networks: Any) -> None:
    x = np.zeros((7, 2, 3), np.float32)
    fixed = lower_nir(networks["lif"], steps=7, batch=2)
    assert lower_nir(networks["lif"], x) == fixed
    assert lower_nir(networks["lif"], (x,)) == fixed
    assert lower_nir(networks["lif"], {"input": x}) == fixed
    assert lower_nir(networks["lif"], x, steps=9).inputs[0].shaped.shape == (9, 2, 3)


def test_names_and_order(networks: Any) -> None:
    graph = lower_nir(networks["cuba"], name="net")
    assert graph.name == "net"
    assert [f"{v.name}: {v.type}" for v in graph.inputs] == [
        "input: f32[T,B,3]", "lif.i: f32[B,6]", "lif.v: f32[B,6]", "lif.z: f32[B,6]",
    ]  # fmt: skip
    assert [v.name for v in graph.outputs] == ["output", "lif.i.last", "lif.v.last", "lif.z.last"]
    assert {op.loc.origins[0].path for op in graph.walk()} == {"fc", "lif", "w_rec", "nir.NIRGraph"}


@pytest.mark.parametrize("name", SIZES)
def test_two_halves_are_the_whole(networks: Any, random: Any, name: str) -> None:
    graph = lower_nir(networks[name])
    x = events(random, 12, 2, *SIZES[name])
    whole = [value.numpy() for value in interpret(graph, {"input": x, **initial_states(graph, {"B": 2})})]
    first = [v.numpy() for v in interpret(graph, {"input": x[:5], **initial_states(graph, {"B": 2})})]
    states = dict(zip((value.name for value in graph.inputs[1:]), first[1:]))
    second = [v.numpy() for v in interpret(graph, {"input": x[5:], **states})]
    assert np.array_equal(np.concatenate([first[0], second[0]]), whole[0])
    assert all(np.array_equal(a, b) for a, b in zip(second[1:], whole[1:]))


def test_initial_states_take_part() -> None:
    leak = nir.LI(tau=np.full(2, 2e-4), r=np.ones(2), v_leak=np.zeros(2))
    graph = lower_nir(nir.NIRGraph.from_list(leak), batch=1)
    states = initial_states(graph, fill=8.0)
    found, last = interpret(graph, {"input": np.zeros((3, 1, 2), np.float32), **states})
    assert found[:, 0, 0].tolist() == [4.0, 2.0, 1.0]
    assert last.tolist() == [[1.0, 1.0]]


def test_last_spikes_are_a_state() -> None:
    """With weights of one and no input, a spike goes on for ever once it is put in."""
    source = nir.NIRGraph(
        nodes={
            "in": nir.Input(np.array([1])),
            "if": nir.IF(r=np.full(1, 2e4), v_threshold=np.ones(1)),
            "loop": nir.Linear(np.ones((1, 1))),
            "out": nir.Output(np.array([1])),
        },
        edges=[("in", "if"), ("if", "loop"), ("loop", "if"), ("if", "out")],
    )
    graph = lower_nir(source, steps=4, batch=1)
    quiet = {"in": np.zeros((4, 1, 1), np.float32), **initial_states(graph)}
    assert interpret(graph, quiet)[0].sum() == 0
    assert interpret(graph, {**quiet, "if.z": np.ones((1, 1), np.float32)})[0].sum() == 4


def dense(random: np.random.Generator, rows: int, columns: int) -> Any:
    return nir.Affine(random.standard_normal((rows, columns)), random.standard_normal(rows))


def lif(size: int) -> Any:
    return nir.LIF(
        tau=np.linspace(3e-4, 1e-3, size), r=np.full(size, 2), v_leak=np.zeros(size, int),
        v_threshold=np.linspace(0.1, 0.4, size),
    )  # fmt: skip


def structures(random: np.random.Generator) -> dict[str, Any]:
    """The shapes of graph that NIR's documentation names, most of them without Input and Output given."""
    integrator = nir.LI(tau=np.full(2, 4e-4), r=np.ones(2), v_leak=np.zeros(2))
    branch = [
        nir.NIRGraph.from_list(dense(random, 3, 2), nir.Delay(np.array([5e-4, 1e-4, 2e-4])), lif(3)),
        nir.NIRGraph.from_list(dense(random, 2, 2), lif(2), dense(random, 3, 2)),
    ]
    return {
        "sequence": nir.NIRGraph.from_list(
            dense(random, 3, 2), nir.Delay(np.array([3e-4, 1e-4, 2e-4])), lif(3), dense(random, 2, 3)
        ),
        "loop on the first node": nir.NIRGraph(
            {"in": nir.Input(np.array([2])), "a": dense(random, 2, 2), "v": integrator,
             "out": nir.Output(np.array([2]))},
            [("in", "a"), ("a", "v"), ("v", "a"), ("v", "out")],
        ),
        "loop on the second node": nir.NIRGraph(
            {"a": dense(random, 2, 2), "b": dense(random, 2, 2), "v": lif(2), "c": dense(random, 3, 2)},
            [("a", "b"), ("b", "v"), ("v", "b"), ("v", "c")],
        ),
        "loop of a neuron on itself": nir.NIRGraph(
            {"in": nir.Input(np.array([2])), "v": lif(2), "out": nir.Output(np.array([2]))},
            [("in", "v"), ("v", "v"), ("v", "out")],
        ),
        "loop over two neurons": nir.NIRGraph(
            {"a": dense(random, 2, 2), "v": lif(2), "b": dense(random, 3, 2), "w": lif(3),
             "c": dense(random, 2, 3), "out": nir.Output(np.array([3]))},
            [("a", "v"), ("v", "b"), ("b", "w"), ("w", "c"), ("c", "v"), ("w", "out")],
        ),
        "loop through a delay": nir.NIRGraph(
            {"in": nir.Input(np.array([2])), "a": dense(random, 2, 2),
             "d": nir.Delay(np.array([1e-4, 3e-4])), "out": nir.Output(np.array([2]))},
            [("in", "a"), ("a", "d"), ("d", "a"), ("a", "out")],
        ),
        "separate branches": nir.NIRGraph({"one": branch[0], "two": branch[1]}, []),
        "branches that meet": nir.NIRGraph(
            {"one": branch[0], "two": branch[1], "meet": lif(3)}, [("one", "meet"), ("two", "meet")]
        ),
        "residual": nir.NIRGraph(
            {"a": dense(random, 2, 2), "b": lif(2), "c": dense(random, 2, 2), "d": lif(2), "e": dense(random, 2, 2)},
            [("a", "b"), ("b", "c"), ("c", "d"), ("d", "e"), ("a", "e")],
        ),
        "fork and join": nir.NIRGraph(
            {"a": dense(random, 3, 1), "b": lif(3), "c": lif(3), "d": dense(random, 2, 3),
             "e": dense(random, 2, 3), "f": dense(random, 2, 2)},
            [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d"), ("c", "e"), ("d", "f"), ("e", "f")],
        ),
        "recurrent layer as a graph of its own": nir.NIRGraph(
            {"in": nir.Input(np.array([3])), "fc": dense(random, 4, 3),
             "layer": nir.NIRGraph(
                 {"in": nir.Input(np.array([4])), "lif": lif(4), "w": dense(random, 4, 4),
                  "out": nir.Output(np.array([4]))},
                 [("in", "lif"), ("lif", "w"), ("w", "lif"), ("lif", "out")]),
             "out": nir.Output(np.array([4]))},
            [("in", "fc"), ("fc", "layer"), ("layer", "out")],
        ),
        "nothing between": nir.NIRGraph(
            {"in": nir.Input(np.array([2])), "out": nir.Output(np.array([2]))}, [("in", "out")]
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", structures(np.random.default_rng(0)))
def test_structures(check: Any, name: str) -> None:
    random = np.random.default_rng(5)
    source = structures(random)[name]
    shapes = {k: tuple(n.input_type["input"]) for k, n in source.nodes.items() if isinstance(n, nir.Input)}
    inputs = {k: random.standard_normal((15, 2, *shape)).astype(np.float32) for k, shape in shapes.items()}
    _, found = check(source, inputs)
    assert any(np.unique(value).size > 1 for value in found.values())


def test_ports_of_a_nested_graph(random: Any) -> None:
    """A nested graph with several ports: edges name them after a dot."""
    inner = nir.NIRGraph(
        {"a": nir.Input(np.array([2])), "b": nir.Input(np.array([2])), "twice": nir.Scale(np.full(2, 2.0)),
         "x": nir.Output(np.array([2])), "y": nir.Output(np.array([2]))},
        [("a", "twice"), ("twice", "x"), ("b", "y")],
    )  # fmt: skip
    source = nir.NIRGraph(
        {"p": nir.Input(np.array([2])), "q": nir.Input(np.array([2])), "g": inner,
         "r": nir.Output(np.array([2])), "s": nir.Output(np.array([2]))},
        [("p", "g.a"), ("q", "g.b"), ("g.x", "r"), ("g.y", "s")],
        type_check=False,
    )  # fmt: skip
    graph = lower_nir(source)
    p, q = (random.standard_normal((3, 1, 2)).astype(np.float32) for _ in range(2))
    r, s = interpret(graph, {"p": p, "q": q})
    assert np.array_equal(r.numpy(), 2 * p)
    assert np.array_equal(s.numpy(), q)


def test_odd_names() -> None:
    """Names that the IR does not allow are spelt otherwise, and stay apart."""
    names = ["in put", "in_put", "näh", 'quo"te', "line\nbreak", "back\\slash"]
    nodes = {"0": nir.Input(np.array([1])), **{n: nir.Scale(np.full(1, 2.0)) for n in names}}
    chain = ["0", *names, "end"]
    source = nir.NIRGraph({**nodes, "end": nir.Output(np.array([1]))}, list(pairwise(chain)))
    graph = lower_nir(source)
    assert plait.parse(str(graph)) == graph
    (found,) = interpret(graph, {"0": np.ones((2, 1, 1), np.float32)})
    assert found.flatten().tolist() == [64.0, 64.0]
    again = plait.parse(str(graph), constants={c.name: c.data for c in graph.constants.values()})
    assert list(plait.frontends.nir.to_nir(again).nodes) == chain


def test_deep_network(random: Any) -> None:
    """Two thousand nodes in a row: no recursion over the depth."""
    layers = [nir.Scale(np.full(1, 1.0, np.float32)) for _ in range(2000)]
    graph = lower_nir(nir.NIRGraph.from_list(nir.Input(np.array([1])), *layers))
    (found,) = interpret(graph, {"input": np.full((1, 1, 1), 3.0, np.float32)})
    assert found.item() == 3.0
