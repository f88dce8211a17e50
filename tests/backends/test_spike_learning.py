"""The rank-order code, winners and STDP against the interpreter, on both targets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from plait.backends import compile_graph
from plait.ir import Graph, TensorType
from plait.ir import types as t
from plait.ir.interpret import interpret
from plait.ir.ops import spike

from .emission import B

STEPS = 6
TARGETS = pytest.mark.parametrize("target", ["cpu", "a100"])


def check(g: Graph, target: str, given: dict[str, np.ndarray], tolerance: float = 0.0) -> list[np.ndarray]:
    exe = compile_graph(g, target)
    found = exe(**given) if target == "cpu" else exe.emulate(**given, check=True)
    results = list(found) if isinstance(found, tuple) else [found]
    for got, want in zip(results, interpret(g, given), strict=True):
        np.testing.assert_allclose(got, want.numpy(), rtol=0, atol=tolerance)
    return results


def code(shape: tuple[Any, ...]) -> Graph:
    g = Graph("code")
    g.declare_dim("B", 1, 8)
    x = g.add_input("x", TensorType(t.f32, (B, *shape)))
    g.set_outputs([g.emit(spike.RankOrderCode(x, steps=STEPS))])
    g.verify()
    return g


@TARGETS
@pytest.mark.parametrize("shape", [(3, 5, 4), (17,), (2, 9)])
def test_rank_order_code(shape: tuple[int, ...], target: str) -> None:
    """Signed values, equal values, both zeros, a constant sample, and one with a single larger value."""
    random = np.random.default_rng(3)
    x = random.normal(size=(5, *shape)).astype(np.float32)
    x[1] = np.round(x[1] * 2) / 2
    x[1].flat[0] = -0.0
    x[2] = 0.25
    x[3] = 0.0
    x[3].flat[-1] = 1e-30
    x[4] = np.maximum(x[4], 0)
    (found,) = check(code(shape), target, {"x": x})
    assert (found[2] == 0).all()
    assert sorted(found[3].flatten())[:2] == [0, STEPS]
    assert len(np.unique(found[0])) == STEPS + 1


def test_rank_order_code_behind_a_convolution() -> None:
    """Where the values lie with channels last, equal ones still keep their order by channel."""
    from plait.ir.ops import nn

    g = Graph("code")
    x = g.add_input("x", TensorType(t.f32, (2, 1, 6, 6)))
    w = g.add_constant("w", np.asarray([1, 2, 1], np.float32).reshape(3, 1, 1, 1))
    g.set_outputs([g.emit(spike.RankOrderCode(g.emit(nn.Conv2d(x, w)), steps=STEPS))])
    values = np.random.default_rng(0).integers(0, 3, (2, 1, 6, 6)).astype(np.float32)
    check(g, "cpu", {"x": values})


def winners(radius: int, count: int, shape: tuple[int, ...] = (4, 5, 6)) -> Graph:
    g = Graph("winners")
    g.declare_dim("B", 1, 8)
    times = g.add_input("times", TensorType(t.u8, (B, *shape)))
    level = g.add_input("level", TensorType(t.f32, (B, *shape)))
    g.set_outputs([g.emit(spike.Winners(times, level, steps=STEPS, radius=radius, count=count))])
    g.verify()
    return g


@TARGETS
@pytest.mark.parametrize(("radius", "count"), [(0, 1), (1, 3), (2, 5)])
def test_winners(radius: int, count: int, target: str) -> None:
    """Few different times and potentials, so that there are ties; and a sample where nobody fires."""
    random = np.random.default_rng(1)
    times = np.where(random.random((6, 4, 5, 6)) < 0.5, random.integers(0, STEPS, (6, 4, 5, 6)), STEPS + 1)
    times[3] = STEPS
    level = random.integers(0, 3, (6, 4, 5, 6)).astype(np.float32)
    (found,) = check(winners(radius, count), target, {"times": times.astype(np.uint8), "level": level})
    assert (found[3, :, 0] == -1).all()
    assert (found[0, 0, 0] == 0).all()
    taken = found[0][found[0, :, 0] == 0]
    assert len(set(taken[:, 2].tolist())) == len(taken), "a channel wins once"


def plasticity(options: dict[str, Any]) -> Graph:
    g = Graph("stdp")
    g.declare_dim("B", 1, 8)
    w = g.add_input("w", TensorType(t.f32, (5, 3, 3, 2)))
    times = g.add_input("times", TensorType(t.u8, (B, 3, 6, 7)))
    table = g.add_input("winners", TensorType(t.i32, (B, 2, 5)))
    rates = g.add_input("rates", TensorType(t.f32, (2, 2)))
    g.set_outputs([g.emit(spike.Stdp(w, times, table, rates, steps=STEPS, **options))])
    g.verify()
    return g


@TARGETS
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pad": (1, 1), "lower": 0.2, "upper": 0.8, "stabilize": False},
        {"pad": (1, 0, 1, 1), "stride": (2, 1)},
    ],
)
def test_stdp(options: dict[str, Any], target: str) -> None:
    random = np.random.default_rng(2)
    rows, columns = 2, 4
    table = np.stack(
        [
            random.integers(-1, 2, (6, 2)),
            random.integers(0, STEPS, (6, 2)),
            np.stack([random.permutation(5)[:2] for _ in range(6)]),
            random.integers(0, rows, (6, 2)),
            random.integers(0, columns, (6, 2)),
        ],
        axis=2,
    ).astype(np.int32)
    given = {
        "w": random.uniform(0.2, 0.8, (5, 3, 3, 2)).astype(np.float32),
        "times": random.integers(0, STEPS + 3, (6, 3, 6, 7)).astype(np.uint8),
        "winners": table,
        "rates": np.asarray([[0.4, -0.3], [-0.4, 0.05]], np.float32),
    }
    (found,) = check(plasticity(options), target, given, 1e-6)
    assert np.abs(found - given["w"]).max() > 0.01


def test_learning_step_is_one_graph() -> None:
    """Convolution with weights as state, competition and plasticity, compiled together."""
    g = Graph("step")
    times = g.add_input("times", TensorType(t.u8, (4, 2, 8, 8)))
    w = g.add_input("w", TensorType(t.f32, (6, 2, 3, 3)))
    rates = g.add_constant("rates", np.asarray([[0.1, -0.05]], np.float32))
    layer = spike.FirstSpikeConv2d(times, w, steps=STEPS, v_th=2.0, pad=(1, 1), inhibit=True, potential=True)
    g.add(layer)
    table = g.emit(spike.Winners(*layer.results, steps=STEPS, radius=1, count=2))
    new = g.emit(spike.Stdp(w, times, table, rates, steps=STEPS, pad=(1, 1)))
    g.set_outputs([new, table])
    g.verify()
    random = np.random.default_rng(4)
    given = {
        "times": random.integers(0, STEPS + 4, (4, 2, 8, 8)).astype(np.uint8),
        "w": (random.integers(1, 8, (6, 2, 3, 3)) / 8).astype(np.float32),
    }
    new_weights, _ = check(g, "cpu", given, 1e-6)
    assert np.abs(new_weights - given["w"]).max() > 1e-3
