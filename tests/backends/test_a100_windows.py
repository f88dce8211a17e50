"""Windows on a GPU: one thread for each element, under the detectors, in f32, half precision and bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import plait
from plait.backends import compile_graph
from plait.ir import Graph, QuantType
from plait.ir.interpret import interpret
from plait.ir.ops import nn as nn_ops
from plait.ir.ops import quant


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_depthwise_convolution_and_pooling(dtype: Any) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    ).eval()
    x = torch.randn(2, 8, 13, 13)
    exe = plait.compile(net.to(dtype), (x.to(dtype),), target="a100", isolate=False, cache=False)
    assert [kernel.method for kernel in exe.kernels] == ["one thread each"] * 3
    assert not any(kernel.spills for kernel in exe.kernels)
    for order in ("forward", 3):
        found = exe.emulate(x.to(dtype), check=True, lane_order=order)
        expected = net.float()(x.to(dtype).float()).detach()
        tolerance = 1e-4 if dtype is torch.float32 else 2e-2
        torch.testing.assert_close(found.float(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("window", [2, 7])
def test_pooling_of_bytes_does_not_race(window: int) -> None:
    """Even where a window is long enough to be shared out, bytes are not."""
    graph = Graph("pool")
    kind = QuantType(8, True, 0.05, (2, 5, 14, 14), zero_point=-3)
    x = graph.add_input("x", kind)
    pooled = graph.emit(nn_ops.MaxPool2d(x, kernel=(window, window), stride=(window, window)))
    graph.set_outputs([graph.emit(quant.Dequantize(pooled))])
    graph.verify()
    given = np.random.default_rng(0).integers(-128, 128, (2, 5, 14, 14)).astype(np.int8)
    exe = compile_graph(graph, "a100")
    (expected,) = interpret(graph, {"x": given})
    for order in ("forward", "reversed", 5):
        found = exe.emulate(given, check=True, lane_order=order)
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-6)
