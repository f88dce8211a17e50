"""The small examples lower with a symbolic batch and compute what torch does; the large families in test_main_job."""

from __future__ import annotations

import pytest
import torch

from plait.frontends.families import example
from plait.frontends.pytorch import lower_torch
from plait.ir import parse
from plait.ir.interpret import interpret

SMALL = ("small_cnn", "small_transformer")


def compare(name: str) -> None:
    chosen = example(name)
    model = chosen.build(0)
    graph = lower_torch(model, chosen.inputs(1, 0), dynamic=chosen.dynamic, name=name)
    graph.verify()
    assert parse(str(graph)) == graph
    assert set(graph.dims) == {"B"}
    assert all(op.loc.origins and op.loc.origins[0].file for op in graph.ops)
    for batch in (1, 3):
        feeds = chosen.inputs(batch, batch)
        with torch.no_grad():
            wanted = model(**feeds)
            (found,) = interpret(graph, feeds)
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", SMALL)
def test_small_family(name: str) -> None:
    compare(name)
