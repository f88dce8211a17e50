"""Gradient operators against torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

aten = torch.ops.aten
ALL = [True, True, True]
#: input, weight, stride, padding, dilation, transposed, output padding, groups
CONVOLUTIONS: dict[str, tuple[Any, ...]] = {
    "line": ((4, 11), (6, 2, 3), [2], [1], [2], False, [0], 2),
    "image": ((4, 9, 10), (6, 4, 3, 2), [2, 3], [1, 0], [1, 2], False, [0, 0], 1),
    "depthwise": ((4, 7, 8), (8, 1, 3, 3), [1, 2], [1, 1], [1, 1], False, [0, 0], 4),
    "volume": ((4, 4, 5, 6), (2, 2, 2, 3, 2), [1, 2, 2], [1, 0, 1], [1, 1, 1], False, [0, 0, 0], 2),
    "transposed": ((4, 5, 6), (4, 3, 3, 2), [2, 3], [1, 0], [1, 2], True, [1, 0], 2),
    "transposed line": ((4, 7), (4, 3, 3), [2], [1], [1], True, [1], 1),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution(check: Any, name: str) -> None:
    shape, weight, *options = CONVOLUTIONS[name]
    stride, padding, dilation, transposed, extra, groups = options
    outputs = weight[1] * groups if transposed else weight[0]

    def run(x: torch.Tensor, w: torch.Tensor) -> list[torch.Tensor]:
        y = aten.convolution(x, w, None, stride, padding, dilation, transposed, extra, groups)
        found = aten.convolution_backward(torch.sin(y), x, w, [outputs], *options, ALL)
        return [y, *found]

    check(run, ["B", *shape], [*weight], rtol=1e-3, atol=1e-4)


def test_pools(check: Any) -> None:
    def run(x: torch.Tensor) -> list[torch.Tensor]:
        found = []
        for ceil in (False, True):
            y, places = aten.max_pool2d_with_indices(x, 3, 2, 1, 1, ceil)
            window = ([3, 3], [2, 2], [1, 1])
            found.append(aten.max_pool2d_with_indices_backward(y * y, x, *window, [1, 1], ceil, places))
            for counted, divisor in ((False, None), (True, None), (False, 5)):
                mean = aten.avg_pool2d(x, *window, ceil, counted, divisor)
                found.append(aten.avg_pool2d_backward(mean * mean, x, *window, ceil, counted, divisor))
        for size in ((4, 3), (9, 1), (3, 5)):
            mean = aten._adaptive_avg_pool2d(x, size)
            found.append(aten._adaptive_avg_pool2d_backward(mean * mean, x))
        return found

    check(run, ["B", 2, 9, 10])


def test_norms(check: Any) -> None:
    def run(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> list[torch.Tensor]:
        _, mean, inverse = aten.native_layer_norm(x, (5, 4), y, None, 1e-5)
        _, middle, deviation = aten.native_group_norm(x, z, None, x.shape[0], 6, 20, 3, 1e-5)
        slope = torch.cos(x)
        return [
            *aten.native_layer_norm_backward(slope, x, (5, 4), mean, inverse, y, y, ALL),
            *aten.native_group_norm_backward(slope, x, middle, deviation, z, x.shape[0], 6, 20, 3, ALL),
        ]

    check(run, ["B", 6, 5, 4], [5, 4], [6], rtol=1e-3, atol=1e-4)


def test_embedding(check: Any) -> None:
    def run(x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
        return [
            aten.embedding_dense_backward(x, y, 5, padding, often)
            for padding, often in ((-1, False), (2, False), (-1, True), (1, True))
        ]

    check(run, ["B", 3, 4], ["B", 3, torch.int64])


@pytest.mark.slow
def test_compiled(same: Any) -> None:
    class Gradients(torch.nn.Module):
        def forward(self, x: torch.Tensor, w: torch.Tensor) -> list[torch.Tensor]:
            options = ([1, 2], [1, 1], [1, 1], False, [0, 0], 2)
            y = aten.convolution(x, w, None, *options)
            mean = aten.avg_pool2d(x, [3, 3], [2, 2], [1, 1], True, False)
            return [
                *aten.convolution_backward(y, x, w, [4], *options, ALL),
                aten.avg_pool2d_backward(mean, x, [3, 3], [2, 2], [1, 1], True, False, None),
            ]

    generator = torch.Generator().manual_seed(3)
    x, w = torch.randn(3, 4, 7, 8, generator=generator), torch.randn(4, 2, 3, 3, generator=generator)
    same(Gradients(), (x[:2], w), dynamic={"x": {0: "B"}}, others=[(x, w)], tolerance=1e-3)
