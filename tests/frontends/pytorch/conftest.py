"""Fixtures: lower a small module or function and compare the interpreter with torch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

import plait
from plait.frontends.pytorch import initial_state, lower_torch
from plait.ir import Graph, parse
from plait.ir.interpret import interpret

Check = Callable[..., Graph]


class Calls(torch.nn.Module):
    """A module around a function of tensors x, y, z."""

    def __init__(self, function: Callable[..., Any], count: int) -> None:
        super().__init__()
        self.function = function
        self.forward = (self.one, self.two, self.three)[count - 1]  # type: ignore[method-assign]

    def one(self, x: torch.Tensor) -> Any:
        return self.function(x)

    def two(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        return self.function(x, y)

    def three(self, x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> Any:
        return self.function(x, y, z)


def first(values: Any) -> tuple[Any, ...]:
    """Results of a call as a tuple."""
    return tuple(values) if isinstance(values, (tuple, list)) else (values,)


def example(shape: Sequence[Any], batch: int, seed: int) -> torch.Tensor:
    """A random tensor; `shape` starts with "B" where the batch goes and ends with a dtype where not f32."""
    generator = torch.Generator().manual_seed(seed)
    dims = [batch if d == "B" else d for d in shape if not isinstance(d, torch.dtype)]
    dtype = next((d for d in shape if isinstance(d, torch.dtype)), torch.float32)
    if dtype == torch.bool:
        return torch.rand(dims, generator=generator) > 0.5
    if dtype.is_floating_point:
        return torch.randn(dims, generator=generator).to(dtype)
    return torch.randint(0, 4, dims, generator=generator, dtype=dtype)


@pytest.fixture
def check() -> Check:
    """check(module or function, *shapes): lowers at batch 2 with symbolic "B", compares at 1, 2 and 5."""

    def run(
        source: Any, *shapes: Sequence[Any], rtol: float = 1e-4, atol: float = 1e-5, inputs: Any = None
    ) -> Graph:
        module = source if isinstance(source, torch.nn.Module) else Calls(source, len(shapes))
        module.eval()
        names = ("x", "y", "z")[: len(shapes)]
        dynamic = {
            name: {i: "B" for i, d in enumerate(shape) if d == "B"}
            for name, shape in zip(names, shapes)
            if "B" in shape
        }

        def call(batch: int) -> tuple[torch.Tensor, ...]:
            made = inputs(batch) if inputs else None
            return made or tuple(example(shape, batch, 7 + i) for i, shape in enumerate(shapes))

        graph = lower_torch(module, call(2), dynamic=dynamic)
        graph.verify()
        assert parse(str(graph)) == graph
        for batch in (1, 2, 5):
            feeds = call(batch)
            wanted = first(module(*feeds))
            found = interpret(graph, dict(zip(names, feeds)))
            assert len(found) == len(wanted)
            for a, b in zip(found, wanted):
                assert a.dtype == b.dtype
                torch.testing.assert_close(a, b, rtol=rtol, atol=atol, equal_nan=True)
        return graph

    return run


Same = Callable[..., Graph]


@pytest.fixture
def same() -> Same:
    """same(module, inputs, dynamic=..., others=...): interpreter and cpu executable against torch.

    `inputs` is a tuple or a dict of positional leaves; `others` are further tuples of inputs
    with other sizes or values.  State inputs take their initial values.
    """

    def run(
        module: torch.nn.Module,
        inputs: Sequence[Any],
        *,
        dynamic: Any = None,
        others: Sequence[Sequence[Any]] = (),
        tolerance: float = 1e-5,
        cpu: bool = True,
    ) -> Graph:
        graph = lower_torch(module, tuple(inputs), dynamic=dynamic)
        graph.verify()
        assert parse(str(graph)) == graph
        state = [torch.from_numpy(array.copy()) for array in initial_state(graph).values()]
        executable = plait.compile(graph, threads=1, isolate=False, cache=False) if cpu else None
        for given in (inputs, *others):
            feeds = [leaf for leaf in pytree.tree_leaves(tuple(given)) if isinstance(leaf, torch.Tensor)]
            feeds = [leaf.clone() for leaf in feeds] + state
            wanted = pytree.tree_leaves(copy.deepcopy(module)(*copy.deepcopy(tuple(given))))
            wanted = [torch.as_tensor(leaf) for leaf in wanted if leaf is not None]
            runs = [interpret(graph, feeds)]
            if executable is not None:
                found = executable(*feeds)
                runs.append(found if isinstance(found, tuple) else (found,))
            for results in runs:
                assert len(results) >= len(wanted)
                for a, b in zip(results, wanted, strict=False):
                    assert a.dtype == b.dtype
                    torch.testing.assert_close(a, b.detach(), rtol=tolerance, atol=tolerance)
        return graph

    return run
