"""Conditions on sizes: what torch.export cannot prove, and what must stay refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sympy  # type: ignore[import-untyped]
import torch
from torch import nn

from plait.frontends.pytorch import lower_torch
from plait.frontends.pytorch.conditions import always_holds
from plait.ir import Graph, LoweringError

Same = Callable[..., Graph]
S, R = sympy.Symbol("s", integer=True), sympy.Symbol("r", integer=True)


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        (sympy.Eq(sympy.Min(8 + 8 * S, 16 + 16 * S), 8 + 8 * S), True),
        (sympy.Ge(S * R, 4), True),
        (sympy.Ge(S, 3), False),
        (sympy.Ne(S + 1, 0), True),
        (sympy.Eq(sympy.Mod(S * (S + 1), 2), 0), True),  # by trial: the range of s is finite
        (sympy.Eq(sympy.Mod(R, 2), 0), False),
        (sympy.Lt(S, sympy.Symbol("u0")), False),
    ],
)
def test_proofs(condition: sympy.Basic, holds: bool) -> None:
    assert always_holds(condition, {"s": (2, 64), "r": (2, None)}) is holds


class Append(nn.Module):
    """Attention over a cache that grows: torch.export compares strides that depend on its length."""

    def forward(self, x: torch.Tensor, keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        keys = torch.cat([keys, x.view(x.shape[0], 1, 2, 8).transpose(1, 2)], 2)
        spread = keys[:, :, None].expand(-1, -1, 2, -1, -1).reshape(x.shape[0], 4, -1, 8)
        return (spread @ spread.transpose(2, 3)).softmax(-1), keys


def test_a_cache_of_dynamic_length(same: Same) -> None:
    dynamic = {"x": {0: "B"}, "keys": {0: "B", 2: ("P", 2, 64)}}
    others = [(torch.randn(3, 1, 16), torch.randn(3, 2, 9, 8))]
    graph = same(Append(), (torch.randn(2, 1, 16), torch.randn(2, 2, 6, 8)), dynamic=dynamic, others=others)
    assert str(graph.outputs[1].type) == "f32[B,2,P+1,8]"


def test_conditions_that_fail_for_some_size_are_refused() -> None:
    class Even(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.view(-1, 2, 3).sum(1) if x.shape[0] % 2 == 0 else x

    with pytest.raises(LoweringError, match="cannot take every value of its range"):
        lower_torch(Even(), (torch.randn(6, 3),), dynamic={"x": {0: ("B", 1, 64)}})
