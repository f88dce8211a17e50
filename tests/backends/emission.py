"""Graphs of single ops, and the check that a compiled one agrees with the reference interpreter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from plait.backends import compile_graph
from plait.ir import Dim, Graph, Op, TensorType, Type, Value
from plait.ir import types as t
from plait.ir.interpret import interpret

B = Dim.symbol("B")


@dataclass
class Case:
    """Ops to check: their inputs, how to build them, and where the inputs' values come from."""

    name: str
    inputs: dict[str, Type]
    build: Callable[[Graph, dict[str, Value]], Op | Sequence[Op]]
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    values: Callable[[int], dict[str, Any]] | None = None
    tolerance: float = 2e-5

    def graph(self) -> Graph:
        g = Graph(self.name)
        g.declare_dim("B", 1, 64)
        values: dict[str, Value] = {name: g.add_input(name, kind) for name, kind in self.inputs.items()}
        values |= {name: g.add_constant(name, array) for name, array in self.constants.items()}
        built = self.build(g, values)
        ops = [built] if isinstance(built, Op) else list(built)
        for op in ops:
            if op.parent is None:
                g.add(op)
        g.set_outputs([v for op in ops for v in op.results])
        g.verify()
        return g

    def arguments(self, batch: int, seed: int) -> dict[str, Any]:
        if self.values is not None:
            return self.values(batch)
        rng = np.random.default_rng(seed)
        found: dict[str, Any] = {}
        for name, kind in self.inputs.items():
            shape = tuple(d if isinstance(d, int) else d.evaluate({"B": batch}) for d in kind.shape)
            low, high = self.ranges.get(name, (-2.0, 2.0))
            dtype = kind.dtype
            if dtype.kind == "bool":
                found[name] = rng.integers(0, 2, shape).astype(bool)
            elif dtype.is_integer:
                bounds = (-5, 6) if name not in self.ranges else (int(low), int(high))
                found[name] = rng.integers(*bounds, size=shape).astype(dtype.numpy)
            else:
                found[name] = rng.uniform(low, high, shape).astype(dtype.numpy)
        return found


def check(case: Case, target: str = "cpu", batches: Sequence[int] = (1, 3)) -> None:
    """Compile once and compare with the interpreter at each batch size."""
    graph = case.graph()
    executable = compile_graph(graph, target)
    for seed, batch in enumerate(batches):
        arguments = case.arguments(batch, seed)
        expected = interpret(graph, arguments)
        run = executable if target == "cpu" else executable.emulate
        results = run(**arguments)
        results = results if isinstance(results, tuple) else (results,)
        assert len(results) == len(expected)
        for got, want in zip(results, expected, strict=True):
            compare(got, want, case.tolerance)


def compare(got: Any, want: torch.Tensor, tolerance: float) -> None:
    """Assert that a result has the type and, within `tolerance`, the values of the reference."""
    wanted = want.numpy()
    got = np.asarray(got)
    assert got.dtype == wanted.dtype
    assert got.shape == wanted.shape
    if wanted.dtype.kind in "fc":
        np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance)
    else:
        np.testing.assert_array_equal(got, wanted)


def f32(*shape: Any) -> TensorType:
    return TensorType(t.f32, shape)


def i64(*shape: Any) -> TensorType:
    return TensorType(t.i64, shape)


def boolean(*shape: Any) -> TensorType:
    return TensorType(t.boolean, shape)


def weights(*shape: int, seed: int = 7, scale: float = 0.3) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)
