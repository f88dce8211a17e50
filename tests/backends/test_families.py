"""The model families on both targets against their PyTorch source."""

from __future__ import annotations

import pytest
import torch

from plait.backends import compile_graph
from plait.frontends.families import example, examples
from plait.frontends.pytorch import lower_torch

LARGE = [name for name in examples() if not name.startswith("small")]


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_cpu_agrees_with_torch(name: str) -> None:
    found = example(name)
    model = found.build(0)
    graph = lower_torch(model, found.inputs(2, 0), dynamic=found.dynamic)
    exe = compile_graph(graph, "cpu")
    assert not [kernel.name for kernel in exe.kernels if any("unscheduled" in note for note in kernel.notes)]
    for batch in (1, 3):
        given = found.inputs(batch, batch)
        with torch.no_grad():
            wanted = model(**given)
        torch.testing.assert_close(exe(**given), wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_every_kernel_assembles_for_the_a100(name: str) -> None:
    found = example(name)
    graph = lower_torch(found.build(0), found.inputs(2, 0), dynamic=found.dynamic)
    exe = compile_graph(graph, "a100")
    known = {value.name for value in graph.values()}
    assert exe.kernels
    for kernel in exe.kernels:
        assert kernel.registers
        assert kernel.ops
        assert set(kernel.ops) <= known
