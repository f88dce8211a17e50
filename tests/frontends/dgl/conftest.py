"""Fixtures: lower a model on one graph and compare with DGL on others."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import dgl
import pytest
import torch

import plait
from plait.frontends.dgl import graph_arguments, lower_dgl
from plait.ir import Graph, parse
from plait.ir.interpret import interpret

Check = Callable[..., Graph]
Inputs = Callable[[dgl.DGLGraph], tuple[Any, ...]]


def looped(nodes: int, edges: int) -> dgl.DGLGraph:
    """A random graph in which every node has an edge to itself."""
    return dgl.add_self_loop(dgl.rand_graph(nodes, edges - nodes))


def batched(nodes: int, edges: int) -> dgl.DGLGraph:
    """A batch of nodes // 4 graphs of 2, 3, ... nodes."""
    return dgl.batch([looped(2 + k, 2 * k + 4 + edges % 3) for k in range(nodes // 4)])


def by_name(lowered: Graph, model: torch.nn.Module, inputs: Sequence[Any]) -> dict[str, Any]:
    """The arguments of a call of a lowered model, by name."""
    given: dict[str, Any] = {}
    for name, value in inspect.signature(model.forward).bind(*inputs).arguments.items():
        if isinstance(value, dgl.DGLGraph):
            given |= graph_arguments(value, lowered, name=name)
        elif isinstance(value, dict):
            given |= {f"{name}.{key}": item for key, item in value.items()}
        elif isinstance(value, (list, tuple)):
            for position, item in enumerate(value):
                inner = f"{name}.{position}"
                tensor = isinstance(item, torch.Tensor)
                given |= {inner: item} if tensor else graph_arguments(item, lowered, name=inner)
        else:
            given[name] = value
    return {value.name: given[value.name] for value in lowered.inputs}


@pytest.fixture
def check() -> Check:
    """check(model, inputs of a graph, graph of (nodes, edges), target): lowers once, compares on two graphs."""

    def run(
        model: torch.nn.Module,
        inputs: Inputs,
        graphs: Callable[[int, int], dgl.DGLGraph] = looped,
        target: str | None = None,
        **options: Any,
    ) -> Graph:
        torch.manual_seed(0)
        dgl.seed(0)
        model.eval()
        lowered = lower_dgl(model, inputs(graphs(11, 37)), **options)
        assert parse(str(lowered)) == lowered
        executable = (
            None if target is None else plait.compile(lowered, target=target, isolate=False, cache=False)
        )
        for sizes in ((17, 60), (29, 83)):
            call = inputs(graphs(*sizes))
            with torch.no_grad():
                wanted = model(*call)
            given = by_name(lowered, model, call)
            runs = [interpret(lowered, given)]
            if executable is not None:
                found = executable(**given) if target == "cpu" else executable.emulate(**given)
                runs.append(found if isinstance(found, tuple) else (found,))
            for results in runs:
                wants = wanted if isinstance(wanted, tuple) else (wanted,)
                for got, want in zip(results, wants, strict=True):
                    torch.testing.assert_close(torch.as_tensor(got), want, rtol=1e-4, atol=1e-4)
        return lowered

    return run
