"""The block of memory that holds intermediate arrays."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import plait
from plait.backends.arena import ALIGNMENT, Arena, Place


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    layers = [layer for _ in range(6) for layer in (nn.Linear(32, 32), nn.LayerNorm(32), nn.GELU())]
    return nn.Sequential(*layers, nn.Linear(32, 4)).eval()


def builtins(exe: Any, x: torch.Tensor) -> Counter[str]:
    """How often a call uses each function of the virtual machine."""
    exe(x)
    counts: Counter[str] = Counter()

    def count(function: Any, name: str, before: bool, result: Any, *arguments: Any) -> int:
        counts[name] += before
        return 0

    exe._machine.set_instrument(count)
    exe(x)
    return counts


def test_a_call_allocates_its_results_and_nothing_else(net: nn.Module) -> None:
    x = torch.randn(8, 32)
    counts = builtins(plait.compile(net, (x,), isolate=False, cache=False), x)
    assert counts["vm.builtin.alloc_storage"] == counts["vm.builtin.alloc_tensor"] == 1
    assert counts["vm.builtin.check_tensor_info"] == 1  # of the input


def test_arrays_share_bytes(net: nn.Module) -> None:
    x = torch.randn(8, 32)
    exe = plait.compile(net, (x,), isolate=False, cache=False)
    arena = exe._code.arena
    assert arena is not None
    together = sum(int(np.prod(place.shape)) * 4 for place in arena.places)
    assert 0 < arena.bytes < together


def test_results_outlive_later_calls(net: nn.Module) -> None:
    x = torch.randn(8, 32)
    exe = plait.compile(net, (x,), isolate=False, cache=False)
    first = exe(x)
    kept = first.clone()
    for _ in range(3):
        exe(torch.randn(8, 32))
    assert torch.equal(first, kept)


def test_a_result_that_is_another_value_under_a_new_shape() -> None:
    class Both(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y = torch.relu(x @ x.T)
            return y.reshape(-1), y.exp().sum(0)

    x = torch.randn(5, 7)
    exe = plait.compile(Both(), (x,), isolate=False, cache=False)
    first = [part.clone() for part in exe(x)]
    found = exe(x)
    exe(torch.randn(5, 7))
    for kept, part in zip(first, found, strict=True):
        assert torch.equal(kept, part)


def test_sizes_that_only_a_run_shows_stay_out_of_the_arena(net: nn.Module) -> None:
    graph = plait.lower(net, (torch.randn(2, 32),), dynamic={"input": {0: "B"}})
    exe = plait.compile(graph, isolate=False, cache=False)
    for batch in (1, 9, 3):
        x = torch.randn(batch, 32)
        torch.testing.assert_close(exe(x), net(x).detach(), rtol=1e-4, atol=1e-5)


def test_blocks_are_aligned() -> None:
    arena = Arena(192, (Place(0, (3,), "float32"), Place(64, (4, 2), "bfloat16"), Place(128, (), "bool")))
    for _ in range(5):
        arrays = arena.allocate()
        assert [array.shape for array in arrays] == [(3,), (4, 2), ()]
        assert all(array.ctypes.data % ALIGNMENT == 0 for array in arrays)
    assert Arena.from_dict(arena.to_dict()) == arena


@pytest.mark.parametrize("place", [[-64, [4], "float32"], [4, [4], "float32"], [128, [17], "float32"]])
def test_a_place_outside_of_the_block_is_refused(place: list[Any]) -> None:
    with pytest.raises(ValueError, match="leaves the block"):
        Arena.from_dict({"bytes": 192, "places": [place]})


def test_a_graph_that_returns_constants_only() -> None:
    class Fixed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.arange(6, dtype=torch.float32).reshape(2, 3) * 2.0

    exe = plait.compile(Fixed(), (torch.randn(2),), isolate=False, cache=False)
    assert torch.equal(exe(torch.randn(2)), torch.arange(6.0).reshape(2, 3) * 2)
