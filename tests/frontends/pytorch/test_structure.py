"""Nested inputs and outputs, constants among the arguments, and whole `.pt2` files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from plait.frontends.pytorch import initial_state, lower_torch, read_exported_program
from plait.ir import Graph, LoweringError
from plait.ir.interpret import interpret

Same = Callable[..., Graph]


@dataclass
class State:
    hidden: torch.Tensor
    cell: torch.Tensor | None = None


class Pair(NamedTuple):
    left: torch.Tensor
    right: list[torch.Tensor]


class Nested(nn.Module):
    def forward(
        self,
        state: State,
        pair: Pair,
        scale: float = 2.0,
        mode: str = "sum",
        bias: torch.Tensor | None = None,
        **extras: torch.Tensor,
    ) -> dict[str, Any]:
        y = state.hidden * scale + pair.left
        if mode == "sum":
            y = y + pair.right[0]
        if bias is not None:
            y = y + bias
        for extra in extras.values():
            y = y - extra
        return {"y": y, "state": State(y.tanh(), state.hidden + 1), "pair": Pair(y * 2, [y * 3, y * 4])}


def inputs(batch: int) -> dict[str, Any]:
    def made(seed: int) -> torch.Tensor:
        return torch.randn(batch, 3, generator=torch.Generator().manual_seed(seed))

    return {
        "state": State(made(0)),
        "pair": Pair(made(1), [made(2), made(3)]),
        "scale": 3.0,
        "mode": "sum",
        "bias": None,
        "extra": made(4),
    }


LEAVES = ["state.hidden", "pair.left", "pair.right.0", "pair.right.1", "extra"]


def test_nested_inputs_and_outputs_carry_the_paths_of_their_leaves() -> None:
    graph = lower_torch(Nested(), inputs(2), dynamic={leaf: {0: ("B", 1, 64)} for leaf in LEAVES})
    assert [v.name for v in graph.inputs] == LEAVES
    assert {str(v.type) for v in graph.inputs} == {"f32[B,3]"}
    names = [v.name for v in graph.outputs]
    taken = "with a number behind it where an input has the name"
    assert names == [
        "y",
        "state.hidden_1",
        "state.cell",
        "pair.left_1",
        "pair.right.0_1",
        "pair.right.1_1",
    ], taken
    given = inputs(5)
    feeds = [given["state"].hidden, given["pair"].left, *given["pair"].right, given["extra"]]
    wanted = Nested()(**given)
    found = interpret(graph, feeds)
    leaves = [
        wanted["y"],
        wanted["state"].hidden,
        wanted["state"].cell,
        wanted["pair"].left,
        *wanted["pair"].right,
    ]
    for a, b in zip(found, leaves, strict=True):
        torch.testing.assert_close(a, b)


def test_dynamic_names_of_nested_inputs_are_checked() -> None:
    with pytest.raises(LoweringError, match=r"dynamic= names 'state'") as caught:
        lower_torch(Nested(), inputs(2), dynamic={"state": {0: "B"}})
    assert "state.hidden" in str(caught.value)


def test_results_that_are_numbers_inputs_and_constants(same: Same) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, x: torch.Tensor) -> tuple[Any, ...]:
            y = x + 1
            return x, self.weight, y, y, 3, True, 0.5, None, x.shape[0]

    graph = same(Odd(), (torch.randn(2, 3),), dynamic={"x": {0: "B"}}, others=[(torch.randn(5, 3),)])
    assert [str(v.type) for v in graph.outputs] == [
        "f32[B,3]", "f32[3]", "f32[B,3]", "f32[B,3]", "i64[]", "bool[]", "f32[]", "i64[]",
    ]  # fmt: skip


def test_a_number_read_from_a_tensor_stays_a_scalar(same: Same) -> None:
    class Reads(nn.Module):
        def forward(self, x: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
            k = n.item()
            return x * (2 * k + 1) - x.sum().item()

    same(Reads(), (torch.randn(3), torch.tensor(4)), others=[(torch.randn(3), torch.tensor(-2))])


def test_a_size_read_from_a_tensor_is_a_dim(same: Same) -> None:
    class Prefix(nn.Module):
        def forward(self, x: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
            k = n.item()
            torch._check(k >= 0)
            torch._check(k <= x.shape[0])
            return x[:k] * 2

    others = [(torch.randn(5), torch.tensor(n)) for n in (0, 2, 5)]
    same(Prefix(), (torch.randn(5), torch.tensor(4)), others=others)


def test_no_results() -> None:
    class Nothing(nn.Module):
        def forward(self, x: torch.Tensor) -> None:
            return None

    graph = lower_torch(Nothing(), (torch.ones(2),))
    assert graph.outputs == ()
    assert interpret(graph, [torch.ones(2)]) == ()


def test_text_results_are_refused() -> None:
    class Named(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, str]:
            return x + 1, "name"

    with pytest.raises(LoweringError, match="returns 'name'"):
        lower_torch(Named(), (torch.ones(2),))


def test_one_tensor_given_twice_stays_two_inputs() -> None:
    class Difference(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x - y

    x = torch.ones(2, 3)
    graph = lower_torch(Difference(), (x, x))
    torch.testing.assert_close(interpret(graph, [x, 3 * x])[0], -2 * x)


def test_variadic_inputs(same: Same) -> None:
    class Sum(nn.Module):
        def forward(self, *parts: torch.Tensor) -> torch.Tensor:
            return torch.stack(parts).sum(0)

    graph = same(Sum(), (torch.randn(2), torch.randn(2)), cpu=False)
    assert [v.name for v in graph.inputs] == ["parts.0", "parts.1"]


# -- files -----------------------------------------------------------------------------------
class Tied(nn.Module):
    """State, a buffer that is not persistent, tied weights, nested inputs and a lifted constant."""

    steps: torch.Tensor
    mask: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embedding = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("steps", torch.tensor(5))
        self.register_buffer("mask", torch.tensor([1.0, 0.0, 1.0, 1.0]), persistent=False)

    def forward(self, tokens: torch.Tensor, extra: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        self.steps.add_(1)
        hidden = self.embedding(tokens) * self.mask + extra["shift"] + torch.tensor([1.0, 2.0, 3.0, 4.0])
        return {"logits": self.head(hidden), "steps": self.steps * 2}


def exported() -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1, max=16)
    shapes = {"tokens": {0: batch}, "extra": {"shift": {0: batch}}}
    given = (torch.tensor([[1, 2, 3], [4, 5, 6]]), {"shift": torch.ones(2, 1, 4)})
    return torch.export.export(Tied(), given, dynamic_shapes=shapes)


def test_a_file_holds_dims_constants_state_and_tied_weights(tmp_path: Path) -> None:
    torch.export.save(exported(), tmp_path / "tied.pt2")
    graph = lower_torch(read_exported_program(tmp_path / "tied.pt2"))
    assert [v.name for v in graph.inputs] == ["tokens", "extra.shift", "steps"]
    assert graph.outputs[0].name == "logits"
    assert graph.outputs[-1].name == "steps.next"
    (dim,) = graph.dims
    assert graph.dims[dim].high == 16
    assert sum(constant.type.shape == (7, 4) for constant in graph.constants.values()) == 1
    assert initial_state(graph) == {"steps": np.array(5)}
    tokens, shift = torch.tensor([[6, 0, 1]] * 3), torch.randn(3, 1, 4)
    found = interpret(graph, [tokens, shift, torch.tensor(9)])
    module = Tied()
    module.steps.fill_(9)
    wanted = module(tokens, {"shift": shift})
    torch.testing.assert_close(found[0], wanted["logits"].detach())
    assert int(found[1]) == 20
    assert int(found[2]) == 10


def test_dims_of_a_program_can_be_named_by_path() -> None:
    graph = lower_torch(exported(), dynamic={"extra.shift": {0: "N"}})
    assert set(graph.dims) == {"N"}
    assert str(graph.inputs[0].type) == "i64[N,3]"


def test_a_derived_dim_of_a_file(tmp_path: Path) -> None:
    class Halves(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x + y.unflatten(0, (2, -1)).sum(0)

    half = torch.export.Dim("half", min=2, max=8)
    program = torch.export.export(
        Halves(), (torch.ones(3, 2), torch.ones(6, 2)), dynamic_shapes=({0: half}, {0: 2 * half})
    )
    torch.export.save(program, tmp_path / "halves.pt2")
    graph = lower_torch(read_exported_program(tmp_path / "halves.pt2"), dynamic={"x": {0: "H"}})
    assert [str(v.type) for v in graph.inputs] == ["f32[H,2]", "f32[2*H,2]"]
    assert str(graph.dims["H"]) == "in 1..8"
