"""Real models through the default pipeline: what is left, and the same outputs."""

from __future__ import annotations

from collections import Counter

import pytest

from plait.frontends.families import example
from plait.frontends.pytorch import lower_torch
from plait.passes import first_divergence, optimize


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "gone", "kept"),
    [
        ("small_cnn", {"nn.batch_norm", "nn.relu"}, {"nn.conv2d": 2}),
        ("small_transformer", {"nn.gelu"}, {"nn.attention": 2}),
        ("resnet18", {"nn.batch_norm", "nn.relu"}, {"nn.conv2d": 20, "core.add": 8, "nn.linear": 1}),
        ("mobilenet_v2", {"nn.batch_norm", "nn.relu6", "core.clamp"}, {"nn.conv2d": 52}),
        ("densenet121", {"nn.batch_norm", "nn.relu"}, {"nn.conv2d": 120}),
    ],
)
def test_model(name: str, gone: set[str], kept: dict[str, int]) -> None:
    model = example(name)
    feeds = model.inputs(2, 0)
    graph = lower_torch(model.build(0), feeds, dynamic=model.dynamic)
    after, _ = optimize(graph, bundle_dir=None)
    counts = Counter(op.opname for op in after.walk())
    assert not gone & counts.keys()
    assert {opname: counts[opname] for opname in kept} == kept
    assert all(op.loc.origins for op in after.walk())
    assert first_divergence(graph, after, feeds, rtol=1e-3, atol=1e-3) is None
    assert after.dims == graph.dims
