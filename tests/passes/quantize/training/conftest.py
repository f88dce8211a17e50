"""Small graphs to train, with weights as nets have them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from plait.ir import Graph
from plait.passes.examples import complete
from plait.passes.quantize.training import GraphModule
from plait.passes.quantize.training.store import with_constants

CONVNET = """
@w1 : f32[6,3,3,3]
@mean1 : f32[6]
@variance1 : f32[6]
@gain1 : f32[6]
@shift1 : f32[6]
@w2 : f32[6,6,3,3]
@b2 : f32[6]
@mean2 : f32[6]
@variance2 : f32[6]
@gain2 : f32[6]
@shift2 : f32[6]
@w3 : f32[5,6]
@b3 : f32[5]
%x : f32[B,3,8,8]
%conv1 = nn.conv2d(%x, @w1) {pad=[1,1]} : f32[B,6,8,8]
%norm1 = nn.batch_norm(%conv1, @mean1, @variance1, @gain1, @shift1) : f32[B,6,8,8]
%relu1 = nn.relu(%norm1) : f32[B,6,8,8]
%pool1 = nn.max_pool2d(%relu1) {kernel=[2,2], stride=[2,2]} : f32[B,6,4,4]
%conv2 = nn.conv2d(%pool1, @w2, @b2) {pad=[1,1]} : f32[B,6,4,4]
%norm2 = nn.batch_norm(%conv2, @mean2, @variance2, @gain2, @shift2) : f32[B,6,4,4]
%sum = core.add(%norm2, %pool1) : f32[B,6,4,4]
%relu2 = nn.relu(%sum) : f32[B,6,4,4]
%mean = core.mean(%relu2) {axes=[2,3]} : f32[B,6]
%head = nn.linear(%mean, @w3, @b3) : f32[B,5]
return %head
"""

MLP = """
@w1 : f32[4,3]
@b1 : f32[4]
@w2 : f32[2,4]
%x : f32[B,3]
%hidden = nn.linear(%x, @w1, @b1) {act="tanh"} : f32[B,4]
%y = nn.linear(%hidden, @w2) : f32[B,2]
return %y
"""


def graph_of(text: str, seed: int = 0) -> Graph:
    """A graph with normal weights, gains of both signs and positive variances."""
    graph = complete(tuple(text.strip().splitlines()))
    random = torch.Generator().manual_seed(seed)
    arrays = {}
    for name, constant in graph.constants.items():
        shape = constant.shaped.shape
        drawn = torch.randn(shape, generator=random)
        fan_in = max(drawn[0].numel(), 1) if drawn.dim() > 1 else 1
        if name.startswith("variance"):
            arrays[name] = drawn.abs() + 0.5
        elif name.startswith("gain"):
            arrays[name] = drawn.sign() * (0.5 + drawn.abs())
        else:
            arrays[name] = drawn * (1.0 / fan_in) ** 0.5 * (1.0 if drawn.dim() > 1 else 0.2)
    return with_constants(graph, arrays)


@pytest.fixture
def convnet() -> Graph:
    """Two convolutions with batch norms, a shortcut, pooling and a dense layer: [B,3,8,8] -> [B,5]."""
    return graph_of(CONVNET)


@pytest.fixture
def mlp() -> Graph:
    """A smooth net: [B,3] -> [B,2]."""
    return graph_of(MLP)


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Images [16,3,8,8] in 0..1 and labels."""
    random = torch.Generator().manual_seed(1)
    return torch.rand(16, 3, 8, 8, generator=random), torch.randint(0, 5, (16,), generator=random)


@pytest.fixture
def closure_of() -> Callable[[GraphModule, Any], Callable[[], torch.Tensor]]:
    """From a module and a batch to a closure as optimisers take it."""

    def make(module: GraphModule, batch: Any) -> Callable[[], torch.Tensor]:
        x, labels = batch

        def closure() -> torch.Tensor:
            loss = F.cross_entropy(module(x), labels)
            loss.backward()
            return loss

        return closure

    return make
