"""Fixtures: lower a small module or function and compare the interpreter with torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from plait.frontends.pytorch import lower_torch
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
