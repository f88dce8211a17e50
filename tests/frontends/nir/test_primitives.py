"""Each primitive against the simulator, in several forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

nir = pytest.importorskip("nir")

from plait.frontends.nir import lower_nir  # noqa: E402
from plait.frontends.nir.primitives import PRIMITIVES  # noqa: E402
from plait.ir.interpret import interpret  # noqa: E402

R = np.random.default_rng(3)


def normal(*shape: int) -> np.ndarray:
    return R.standard_normal(shape).astype(np.float32)


def times(*shape: int) -> np.ndarray:
    return R.uniform(1.5e-4, 2e-3, shape)


CASES: dict[str, tuple[tuple[int, ...], Any]] = {
    "affine": ((3,), nir.Affine(normal(4, 3), normal(4))),
    "affine of whole numbers": ((3,), nir.Affine(np.arange(6).reshape(2, 3), np.array([[1, -1]]))),
    "affine in three axes": ((2, 3), nir.Affine(normal(2, 4, 3), normal(2, 4))),
    "linear": ((3,), nir.Linear(normal(4, 3).astype(np.float64))),
    "linear in four axes": ((2, 5, 3), nir.Linear(normal(2, 5, 4, 3))),
    "scale": ((3, 2), nir.Scale(normal(3, 2))),
    "scale by one number": ((3, 2), nir.Scale(np.array(1.5))),
    "threshold": ((5,), nir.Threshold(normal(5))),
    "conv1d": ((2, 9), nir.Conv1d(9, normal(4, 2, 3), 2, 1, 2, 1, normal(4))),
    "conv1d same, even window": ((2, 9), nir.Conv1d(None, normal(4, 2, 4), 1, "same", 1, 1, normal(4))),
    "conv2d": ((2, 8, 8), nir.Conv2d((8, 8), normal(3, 2, 3, 3), (2, 1), (1, 2), (1, 2), 1, normal(3))),
    "conv2d valid": ((2, 8, 8), nir.Conv2d((8, 8), normal(3, 2, 3, 3), 1, "valid", 1, 1, normal(3))),
    "conv2d of arrays": (
        (2, 8, 8),
        nir.Conv2d(
            np.array([8, 8]),
            normal(3, 2, 3, 3),
            np.array([2, 2]),
            np.array([1, 1]),
            np.array([1, 1]),
            np.int64(1),
            normal(3),
        ),
    ),
    "sum_pool": ((2, 7, 8), nir.SumPool2d(np.array([2, 3]), np.array([2, 1]), np.array([1, 0]))),
    "avg_pool": ((2, 7, 8), nir.AvgPool2d(np.array([3, 3]), np.array([2, 2]), np.array([1, 1]))),
    "flatten": ((2, 3, 4), nir.Flatten(np.array([2, 3, 4]), 0, -1)),
    "flatten by default": ((2, 3, 4), nir.Flatten(np.array([2, 3, 4]))),
    "flatten two axes": ((2, 3, 4), nir.Flatten(np.array([2, 3, 4]), 0, 1)),
    "delay": ((4,), nir.Delay(np.array([0.0, 1e-4, 3e-4, 2e-4]))),
    "delay of all": ((2, 2), nir.Delay(np.array([[1e-4, 3e-4], [1e-4, 2e-4]], np.float32))),
    "delay by one": ((3,), nir.Delay(np.full(3, 2e-4))),
    "delay by none": ((3,), nir.Delay(np.zeros(3))),
    "i": ((4,), nir.I(r=normal(4) * 1e4)),
    "if": ((4,), nir.IF(r=np.full(4, 1e4), v_threshold=times(4) * 500, v_reset=-times(4) * 300)),
    "if in three axes": ((2, 3, 3), nir.IF(r=np.full((2, 3, 3), 8e3), v_threshold=np.ones((2, 3, 3)))),
    "li": ((4,), nir.LI(tau=times(4), r=normal(4), v_leak=normal(4))),
    "lif": (
        (4,),
        nir.LIF(tau=times(4), r=np.full(4, 2.0), v_leak=normal(4) * 0.1, v_threshold=np.full(4, 0.2)),
    ),
    "lif of one number each": (
        (4,),
        nir.LIF(tau=np.array(4e-4), r=np.array(2.0), v_leak=np.array(0.0), v_threshold=np.array(0.3)),
    ),
    "lif with dt = tau": (
        (4,),
        nir.LIF(tau=np.full(4, 1e-4), r=np.ones(4), v_leak=np.zeros(4), v_threshold=np.full(4, 0.3)),
    ),
    "cuba_li": (
        (4,),
        nir.CubaLI(tau_syn=times(4), tau_mem=times(4), r=normal(4), v_leak=normal(4), w_in=normal(4)),
    ),
    "cuba_lif": (
        (4,),
        nir.CubaLIF(
            tau_syn=times(4),
            tau_mem=times(4),
            r=np.full(4, 3.0),
            v_leak=normal(4) * 0.1,
            v_threshold=np.full(4, 0.2),
            v_reset=-times(4) * 300,
        ),
    ),
}


def graph_of(shape: tuple[int, ...], node: Any, out: tuple[int, ...] | None = None) -> Any:
    graph = nir.NIRGraph(
        {"x": nir.Input(np.array(shape)), "node": node, "y": nir.Output(np.array(out or shape))},
        [("x", "node"), ("node", "y")],
        type_check=False,
    )
    if out is None:
        try:
            return nir.NIRGraph.from_list(nir.Input(np.array(shape)), node)
        except ValueError:
            pass  # NIR's own check knows no parameters that stretch
    return graph


@pytest.mark.parametrize("name", CASES)
def test_primitive(check: Any, name: str) -> None:
    shape, node = CASES[name]
    x = np.random.default_rng(4).standard_normal((20, 2, *shape)).astype(np.float32)
    source = graph_of(shape, node)
    inputs = next(key for key, value in source.nodes.items() if isinstance(value, nir.Input))
    _, found = check(source, {inputs: x})
    assert np.unique(next(iter(found.values()))).size > 1


def test_every_primitive_has_a_case() -> None:
    covered = {type(node).__name__ for _, node in CASES.values()} | {"Input", "Output"}
    defined = {n for n in nir.ir.__all__ if isinstance(getattr(nir, n), type)} - {"NIRGraph", "NIRNode"}
    assert covered == set(PRIMITIVES) == defined


def test_grouped_and_oblong_convolutions(check: Any) -> None:
    """Forms that NIR's own shape inference gets wrong, with shapes stated by hand."""
    x = np.random.default_rng(1).standard_normal((3, 2, 4, 8, 8)).astype(np.float32)
    grouped = nir.Conv2d(None, normal(6, 2, 3, 3), 1, 1, 1, 2, normal(6))
    check(graph_of((4, 8, 8), grouped, (6, 8, 8)), {"x": x})
    oblong = nir.Conv2d(None, normal(6, 4, 3, 5), 1, "same", 1, 1, normal(6))
    check(graph_of((4, 8, 8), oblong, (6, 8, 8)), {"x": x})


def test_sums_of_spikes_are_exact() -> None:
    """Sums over windows of 9 are whole numbers, so that thresholds at whole numbers are met exactly."""
    source = nir.NIRGraph.from_list(
        nir.Input(np.array([3, 30, 30])), nir.SumPool2d(np.array([3, 3]), np.array([3, 3]), np.array([0, 0]))
    )
    x = (np.random.default_rng(2).random((2, 1, 3, 30, 30)) < 0.5).astype(np.float32)
    (found,) = interpret(lower_nir(source), {"input": x})
    wanted = x.reshape(2, 1, 3, 10, 3, 10, 3).sum((4, 6))
    assert np.array_equal(found.numpy(), wanted)


def test_thresholds_are_strict() -> None:
    """NIR: z = 1 where v > v_threshold, not where they are equal."""
    source = nir.NIRGraph.from_list(
        nir.IF(r=np.full(1, 4.0), v_threshold=np.ones(1), v_reset=np.full(1, 0.5))
    )
    graph = lower_nir(source, dt=0.25, batch=1)
    x = np.array([0.5, 0.5, 0.25, 0.5, 0.25], np.float32).reshape(5, 1, 1)
    found, last = interpret(graph, {"input": x, "if.v": np.zeros((1, 1), np.float32)})
    assert found.flatten().tolist() == [0.0, 0.0, 1.0, 0.0, 1.0]
    assert last.item() == 0.5


def test_dt_is_the_step() -> None:
    """A membrane under a constant current nears R I as 1 - (1 - dt/tau)^n, whatever dt is."""
    source = nir.NIRGraph.from_list(nir.LI(tau=np.full(1, 0.02), r=np.full(1, 3.0), v_leak=np.zeros(1)))
    for dt, steps in ((1e-4, 200), (1e-3, 20), (0.02, 1)):
        graph = lower_nir(source, dt=dt, steps=steps, batch=1)
        _, last = interpret(
            graph, {"input": np.ones((steps, 1, 1), np.float32), "li.v": np.zeros((1, 1), np.float32)}
        )
        assert last.item() == pytest.approx(3 * (1 - (1 - dt / 0.02) ** steps), rel=1e-5)
