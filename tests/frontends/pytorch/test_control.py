"""torch.cond, while_loop, scan, map and associative_scan."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch._higher_order_ops.associative_scan import associative_scan
from torch._higher_order_ops.map import map as torch_map
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop

from plait.frontends.pytorch import lower_torch
from plait.ir import Graph, LoweringError
from plait.ir.ops import core

Same = Callable[..., Graph]


def kinds(graph: Graph) -> list[str]:
    return [op.opname for op in graph.ops]


class Choice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        def then(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.layer(x) + y

        return torch.cond(x.sum() > 0, then, lambda x, y: x * 2 - y, (x, y))


def test_cond(same: Same) -> None:
    x, y = torch.ones(2, 3), torch.full((2, 3), 0.5)
    others = [(-x, y), (x[:1], y[:1]), (-torch.ones(4, 3), torch.ones(4, 3))]
    graph = same(Choice(), (x, y), dynamic={"x": {0: "B"}, "y": {0: "B"}}, others=others)
    (found,) = (op for op in graph.ops if isinstance(op, core.Cond))
    assert len(found.inputs) == 2  # the weights are read from outside
    assert {"layer.weight", "layer.bias"} == set(graph.constants)
    assert str(found.results[0].type) == "f32[B,3]"


def test_cond_of_two_results_and_nested(same: Same) -> None:
    class Nested(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            def outer(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                inner = torch.cond(x.max() > 2, lambda x: x.sin(), lambda x: x.cos(), (x,))
                return inner, x + 1

            return torch.cond(x.sum() > 0, outer, lambda x: (x * 2, x - 1), (x,))

    x = torch.tensor([1.0, 0.5])
    same(Nested(), (x,), others=[(x * 3,), (-x,)], cpu=False)


def test_cond_on_a_size(same: Same) -> None:
    class BySize(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cond(x.shape[0] > 4, lambda x: x + 1, lambda x: x - 1, (x,))

    same(BySize(), (torch.randn(3, 2),), dynamic={"x": {0: "B"}}, others=[(torch.randn(7, 2),)], cpu=False)


class Loop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor, limit: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        shift = x.mean()

        def test(i: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            return i < limit

        def body(i: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return i + 1, self.layer(x).tanh() + shift

        return while_loop(test, body, (torch.tensor(0), x))


def test_while_loop(same: Same) -> None:
    x = torch.randn(2, 3)
    others = [(x, torch.tensor(0)), (torch.randn(4, 3), torch.tensor(7))]
    graph = same(Loop(), (x, torch.tensor(3)), dynamic={"x": {0: "B"}}, others=others)
    (found,) = (op for op in graph.ops if isinstance(op, core.While))
    assert len(found.inputs) == 2  # what does not change is read from outside


class Recurrence(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        def step(h: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            h = torch.tanh(self.layer(h) + x)
            return h, h * 2

        return scan(step, h, x)


def test_scan(same: Same) -> None:
    x, h = torch.randn(5, 2, 4), torch.zeros(2, 4)
    dynamic = {"x": {0: "T", 1: "B"}, "h": {0: "B"}}
    graph = same(Recurrence(), (x, h), dynamic=dynamic, others=[(torch.randn(3, 4, 4), torch.randn(4, 4))])
    (found,) = (op for op in graph.ops if isinstance(op, core.Scan))
    assert found.carries == 1
    assert [str(v.type) for v in found.results] == ["f32[T,B,4]", "f32[B,4]"]


def test_scan_backwards_over_two_sequences(same: Same) -> None:
    class Two(nn.Module):
        def forward(self, xs: torch.Tensor, ys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            def step(
                carry: torch.Tensor, pair: tuple[torch.Tensor, torch.Tensor]
            ) -> tuple[torch.Tensor, ...]:
                carry = carry + pair[0] * pair[1]
                return carry, carry.clone()

            return scan(step, torch.zeros(3), (xs, ys), reverse=True)

    same(Two(), (torch.randn(4, 3), torch.randn(4, 3)), cpu=False)


def test_map(same: Same) -> None:
    class Mapped(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return torch_map(lambda row, y: row.cumsum(0) * y, x, y)

    graph = same(
        Mapped(),
        (torch.randn(3, 4), torch.randn(4)),
        dynamic={"x": {0: "B"}},
        others=[(torch.randn(6, 4), torch.ones(4))],
    )
    assert "core.scan" in kinds(graph)


def test_associative_scan(same: Same) -> None:
    class Products(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return associative_scan(torch.mul, x, 0, combine_mode="generic")

    same(Products(), (torch.randn(5, 3),), cpu=False)


def test_checkpointed_parts_are_inlined(same: Same) -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.utils.checkpoint.checkpoint(self.layer, x, use_reentrant=False) * 2

    graph = same(Checkpointed().eval(), (torch.randn(2, 3),), cpu=False)
    assert "core.cond" not in kinds(graph)


def test_unsupported_operators_inside_a_branch_are_reported() -> None:
    class Inside(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cond(x.sum() > 0, lambda x: torch.linalg.matrix_exp(x), lambda x: x + 1, (x,))

    with pytest.raises(LoweringError, match=r"aten\.linalg_matrix_exp\.default x1"):
        lower_torch(Inside(), (torch.randn(3, 3),))
