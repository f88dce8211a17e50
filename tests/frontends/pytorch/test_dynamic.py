"""Operators whose result size depends on values: torch's unbacked sizes become dims that ops bind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from plait.frontends.pytorch import lower_torch
from plait.ir import Graph, LoweringError

Same = Callable[..., Graph]


class Rows(nn.Module):
    """A function of a matrix and a mask of its rows."""

    def __init__(self, function: Callable[[torch.Tensor, torch.Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> Any:
        return self.function(x, mask)


def whole(x: torch.Tensor) -> torch.Tensor:
    return (x * 2).round().to(torch.int64)


def leading(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    count = mask.sum().item()
    torch._check(count >= 0)
    torch._check(count <= x.shape[0])
    return x[:count].exp()


FUNCTIONS: dict[str, Callable[[torch.Tensor, torch.Tensor], Any]] = {
    "nonzero": lambda x, mask: torch.nonzero(x > 0),
    "rows": lambda x, mask: x[mask].exp().sum(1),
    "elements": lambda x, mask: x[x > 0] * 2,
    "part": lambda x, mask: x[mask, 1:] @ x[:, 1:].T,
    "columns": lambda x, mask: x[:, x.sum(0) > 0],
    "masked_select": lambda x, mask: x.masked_select(mask[:, None]),
    "unique": lambda x, mask: torch.unique(whole(x)),
    "unique_all": lambda x, mask: torch.unique(whole(x), return_inverse=True, return_counts=True),
    "unique_dim": lambda x, mask: torch.unique(whole(x), dim=1, return_inverse=True, return_counts=True),
    "consecutive": lambda x, mask: torch.unique_consecutive(
        x.round(), return_inverse=True, return_counts=True
    ),
    "leading": leading,
    "range": lambda x, mask: torch.arange(mask.sum().item()) * 2,
    "both": lambda x, mask: (x[mask].sum(), torch.nonzero(x > 1).shape[0] + x[mask].shape[0]),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_sizes_that_depend_on_data(same: Same, name: str) -> None:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(6, 4, generator=generator)
    others = [(torch.randn(3, 4, generator=generator), torch.tensor([keep] * 3)) for keep in (False, True)]
    same(
        Rows(FUNCTIONS[name]),
        (x, torch.tensor([True, False, True, True, False, False])),
        dynamic={"x": {0: "B"}, "mask": {0: "B"}},
        others=others,
        cpu=name in ("rows", "unique_all", "leading", "both"),
    )


def test_the_dim_keeps_the_symbol_of_torch() -> None:
    graph = lower_torch(Rows(FUNCTIONS["rows"]), (torch.zeros(6, 4), torch.zeros(6, dtype=torch.bool)))
    (dim,) = graph.outputs[0].shaped.shape
    assert str(dim) in graph.dims
    assert graph.dims[str(dim)].low == 0


def test_two_masks_are_refused() -> None:
    def corner(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return x[mask, mask[:4]]

    with pytest.raises(LoweringError):
        lower_torch(Rows(corner), (torch.zeros(6, 4), torch.zeros(6, dtype=torch.bool)))
