"""Buffers and inputs that a module writes: explicit state in, explicit state out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import plait
from plait.frontends.pytorch import initial_state, lower_torch
from plait.ir import Graph
from plait.ir.interpret import interpret

Same = Callable[..., Graph]


class Counter(nn.Module):
    count: torch.Tensor
    last: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("last", torch.ones(2, 3), persistent=False)
        self.register_buffer("scale", torch.full((3,), 2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        y = x * self.scale + self.last * self.count
        self.last.copy_(x)
        return y


def test_written_buffers_are_inputs_and_outputs(same: Same) -> None:
    graph = same(Counter(), (torch.randn(2, 3),), cpu=False)
    assert [v.name for v in graph.inputs] == ["x", "count", "last"]
    assert [str(v.type) for v in graph.outputs] == ["f32[2,3]", "i64[]", "f32[2,3]"]
    assert graph.outputs[1].name == "count.next"
    assert "scale" in graph.constants
    state = initial_state(graph)
    assert list(state) == ["count", "last"]
    assert state["count"] == 0
    assert (state["last"] == 1).all()


def test_steps_of_a_stateful_module_follow_torch() -> None:
    module = Counter()
    graph = lower_torch(module, (torch.randn(2, 3),))
    executable = plait.compile(graph, threads=1, isolate=False, cache=False)
    state: list[Any] = [torch.from_numpy(a.copy()) for a in initial_state(graph).values()]
    reference = copy.deepcopy(module)
    generator = torch.Generator().manual_seed(1)
    interpreted = list(state)
    for _ in range(3):
        x = torch.randn(2, 3, generator=generator)
        wanted = reference(x)
        y, *state = executable(x, *state)
        z, *interpreted = interpret(graph, [x, *interpreted])
        torch.testing.assert_close(y, wanted)
        torch.testing.assert_close(z, wanted)
    assert int(state[0]) == int(interpreted[0]) == 3
    torch.testing.assert_close(state[1], reference.last)


def test_batch_norm_in_training_mode_updates_its_statistics(same: Same) -> None:
    module = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)).train()
    x = torch.randn(4, 2, 5, 5)
    graph = same(module, (x,), dynamic={"input": {0: ("B", 2, 64)}}, others=[(x[:3],)])
    assert {"1.running_mean", "1.running_var", "1.num_batches_tracked"} <= {v.name for v in graph.inputs}
    found = dict(zip((v.name for v in graph.outputs), interpret(graph, [x, *_initial(graph)]), strict=True))
    module(x)
    torch.testing.assert_close(found["1.running_mean.next"], module[1].running_mean)
    torch.testing.assert_close(found["1.running_var.next"], module[1].running_var)


def _initial(graph: Graph) -> list[torch.Tensor]:
    return [torch.from_numpy(array.copy()) for array in initial_state(graph).values()]


class Cache(nn.Module):
    """A key cache of fixed size that is written at a position."""

    keys: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("keys", torch.zeros(1, 8, 4))
        self.project = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        self.keys.index_copy_(1, position, self.project(x))
        mask = torch.arange(8) <= position
        scores = (x @ self.keys.transpose(1, 2)).masked_fill(~mask, -1e9).softmax(-1)
        return scores @ self.keys


def test_a_cache_that_is_written_at_a_position() -> None:
    module = Cache().eval()
    graph = lower_torch(module, (torch.randn(1, 1, 4), torch.tensor([0])))
    assert [v.name for v in graph.inputs] == ["x", "position", "keys"]
    executable = plait.compile(graph, threads=1, isolate=False, cache=False)
    keys = _initial(graph)[0]
    reference = copy.deepcopy(module)
    for step in range(3):
        x = torch.randn(1, 1, 4, generator=torch.Generator().manual_seed(step))
        y, keys = executable(x, torch.tensor([step]), keys)
        torch.testing.assert_close(y, reference(x, torch.tensor([step])).detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(keys, reference.keys, rtol=1e-5, atol=1e-5)


class WritesInput(nn.Module):
    def forward(self, x: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        state[:, 0] = x.sum(1)
        state.mul_(2)
        return state + x


def test_inputs_that_are_written_are_outputs_too(same: Same) -> None:
    graph = same(WritesInput(), (torch.randn(2, 3), torch.ones(2, 3)), cpu=False)
    assert [v.name for v in graph.inputs] == ["x", "state"]
    assert graph.outputs[1].name == "state.next"
    x, state = torch.randn(2, 3), torch.ones(2, 3)
    found = interpret(graph, [x, state.clone()])[1]
    WritesInput()(x, state)
    torch.testing.assert_close(found, state)


def test_a_recurrent_cell_that_keeps_its_state(same: Same) -> None:
    class Recurrent(nn.Module):
        hidden: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.GRUCell(3, 4)
            self.register_buffer("hidden", torch.zeros(2, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.hidden.copy_(self.cell(x, self.hidden))
            return self.hidden.clone()

    graph = same(Recurrent().eval(), (torch.randn(2, 3),), cpu=False)
    assert len(graph.outputs) == 2


def test_a_state_that_is_returned_as_it_was(same: Same) -> None:
    class Swap(nn.Module):
        kept: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("kept", torch.zeros(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            old = self.kept.clone()
            self.kept.copy_(x)
            return old

    graph = same(Swap(), (torch.randn(3),), cpu=False)
    x, kept = torch.randn(3), torch.randn(3)
    first, after = interpret(graph, [x, kept])
    torch.testing.assert_close(first, kept)
    torch.testing.assert_close(after, x)
