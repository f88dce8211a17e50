"""Pooling, resampling, windows as columns and batch statistics against torch, many forms at once."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

aten = torch.ops.aten
LINE, IMAGE, VOLUME = ["B", 2, 11], ["B", 2, 9, 10], ["B", 2, 5, 6, 7]
POOLS: dict[int, tuple[list[Any], Callable[..., Any], Callable[..., Any]]] = {
    1: (LINE, F.max_pool1d, F.avg_pool1d),
    2: (IMAGE, F.max_pool2d, F.avg_pool2d),
    3: (VOLUME, F.max_pool3d, F.avg_pool3d),
}


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_max_pool_with_places(check: Any, axes: int) -> None:
    shape, pool, _ = POOLS[axes]

    def run(x: torch.Tensor) -> list[torch.Tensor]:
        found = [
            *pool(x, 3, 2, 1, return_indices=True),
            *pool(x, 2, 1, 0, 2, return_indices=True),
            *pool(x, 2, 2, 1, ceil_mode=True, return_indices=True),
        ]
        if axes > 1:
            found += pool(x[0], 2, return_indices=True)
        return found

    check(run, shape)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_avg_pool(check: Any, axes: int) -> None:
    shape, _, pool = POOLS[axes]

    def run(x: torch.Tensor) -> list[torch.Tensor]:
        forms = itertools.product((False, True), (False, True))
        found = [pool(x, 3, 2, 1, ceil, count) for ceil, count in forms]
        if axes > 1:
            found += [pool(x, 3, 2, 1, ceil, divisor_override=5) for ceil in (False, True)]
        return [*found, pool(x, 2)]

    check(run, shape)


def test_avg_pool_of_integers(check: Any) -> None:
    def run(x: torch.Tensor) -> list[torch.Tensor]:
        return [aten.avg_pool2d(x * 7 - 10, 3, 2, 1, ceil, count) for ceil in (0, 1) for count in (0, 1)]

    check(run, [*IMAGE, torch.int64])


def test_adaptive_pools_and_places(check: Any) -> None:
    def run(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> list[torch.Tensor]:
        return [
            F.adaptive_avg_pool1d(x, 4),
            F.adaptive_avg_pool2d(y, (4, 3)),
            F.adaptive_avg_pool3d(z, (2, 4, 3)),
            F.adaptive_avg_pool3d(z, 1),
            *F.adaptive_max_pool1d(x, 4, return_indices=True),
            *F.adaptive_max_pool2d(y, (4, 5), return_indices=True),
            *F.adaptive_max_pool2d(y[0], (3, 1), return_indices=True),
            *F.adaptive_max_pool3d(z, (2, 4, 3), return_indices=True),
        ]

    check(run, LINE, IMAGE, VOLUME)


def test_unpooling(check: Any) -> None:
    def run(x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
        image, volume = F.max_pool2d(x, 2, return_indices=True), F.max_pool3d(y, 2, return_indices=True)
        return [
            F.max_unpool2d(*image, 2, output_size=x.shape[2:]),
            F.max_unpool3d(*volume, 2, output_size=y.shape[2:]),
        ]

    check(run, IMAGE, VOLUME)


def test_columns(check: Any) -> None:
    def run(x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
        return [
            F.unfold(x, (2, 3)),
            F.unfold(x, (3, 2), dilation=(2, 1), padding=(1, 2), stride=(1, 2)),
            F.unfold(x[0], 2),
            F.fold(y, (5, 6), (2, 3), padding=(0, 1)),
            F.fold(y[0], (5, 6), (2, 3), padding=(0, 1)),
            F.fold(y, (10, 13), (2, 3), stride=2, dilation=(2, 1)),
        ]

    check(run, IMAGE, ["B", 12, 24])


def test_upsampling(check: Any) -> None:
    def run(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> list[torch.Tensor]:
        return [
            *(F.interpolate(v, scale_factor=s, mode="nearest") for v in (x, y, z) for s in (2, 1.7, 0.6)),
            *(F.interpolate(v, scale_factor=1.7, mode="nearest-exact") for v in (x, y, z)),
            *(
                F.interpolate(v, scale_factor=1.7, mode=mode, align_corners=corners)
                for v, mode in ((x, "linear"), (y, "bilinear"), (y, "bicubic"), (z, "trilinear"))
                for corners in (False, True)
            ),
            F.interpolate(z, size=(4, 9, 3), mode="trilinear"),
            F.interpolate(z, size=(10, 3, 9)),
        ]

    check(run, LINE, IMAGE, VOLUME)


def test_antialiased_and_integer_resampling(check: Any) -> None:
    def run(x: torch.Tensor) -> list[torch.Tensor]:
        forms = itertools.product(("bilinear", "bicubic"), ((4, 7), (13, 5)), (False, True))
        smooth = [F.interpolate(x, size, None, mode, c, antialias=True) for mode, size, c in forms]
        scaled = F.interpolate(x, None, 0.45, "bilinear", antialias=True)
        whole = F.interpolate((x * 50).abs().to(torch.uint8), (5, 13))
        return [*smooth, scaled, whole]

    check(run, IMAGE)


def test_grid_sampling(check: Any) -> None:
    def run(x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
        forms = itertools.product(("bilinear", "nearest", "bicubic"), ("zeros", "border", "reflection"))
        flat = [F.grid_sample(x, y, mode, padding, align_corners=False) for mode, padding in forms]
        theta = torch.cat([y[:, 0, :3, 0], y[:, 0, :3, 1]], 1).view(-1, 2, 3)
        grid = F.affine_grid(theta, [x.shape[0], 2, 4, 5], align_corners=True)
        return [
            *flat,
            F.grid_sample(x, y, align_corners=True),
            grid,
            F.grid_sample(x, grid, align_corners=True),
        ]

    check(run, IMAGE, ["B", 4, 3, 2])


def test_grid_sampling_of_volumes(check: Any) -> None:
    def run(x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
        forms = itertools.product(("bilinear", "nearest"), ("zeros", "border", "reflection"), (False, True))
        return [F.grid_sample(x, y, *form) for form in forms]

    check(run, VOLUME, ["B", 3, 4, 2, 3])


def test_statistics_of_the_batch(check: Any) -> None:
    def run(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> list[torch.Tensor]:
        return [
            *aten.native_batch_norm(x, y, z, None, None, True, 0.1, 1e-5),
            *aten._native_batch_norm_legit.no_stats(x, None, z, True, 0.1, 1e-5),
            *aten._native_batch_norm_legit_functional(x, y, z, y, z.abs(), True, 0.1, 1e-5),
            *aten._native_batch_norm_legit_no_training(x, y, z, y, z.abs(), 0.1, 1e-5),
            *aten.native_group_norm(x, y, z, x.shape[0], 6, 20, 3, 1e-5),
            *aten.native_layer_norm(x, (5, 4), None, None, 1e-5),
        ]

    check(run, ["B", 6, 5, 4], [6], [6])


def test_convolutions_of_volumes_and_integers(check: Any) -> None:
    weight, odd = torch.randn(4, 3, 2, 3, 2), torch.randint(-3, 4, (4, 2, 3))

    class Both(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.odd = torch.nn.Buffer(weight), torch.nn.Buffer(odd)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
            return [
                F.conv_transpose3d(x, self.weight, None, (2, 1, 2), (1, 0, 1), (1, 0, 0), 2),
                F.conv_transpose3d(x[0], self.weight, dilation=2),
                F.conv1d(y, self.odd, padding=1),
                F.conv_transpose1d(y, self.odd[:2], stride=2),
            ]

    check(Both(), ["B", 4, 3, 4, 5], ["B", 2, 7, torch.int64])


@pytest.mark.slow
def test_compiled(same: Any) -> None:
    class Windows(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            pooled, places = F.max_pool2d(x, 2, return_indices=True)
            statistics = aten.native_batch_norm(x, None, None, None, None, True, 0.1, 1e-5)
            return [
                *F.adaptive_max_pool2d(x, (4, 5), return_indices=True),
                F.max_unpool2d(pooled, places, 2, output_size=x.shape[2:]),
                F.fold(F.unfold(x, 2, stride=2, padding=1), (9, 10), 2, stride=2, padding=1),
                F.interpolate(x, scale_factor=1.7, mode="bilinear"),
                F.interpolate(x, (4, 7), mode="bicubic", antialias=True),
                *statistics,
            ]

    images = torch.randn(3, 2, 9, 10, generator=torch.Generator().manual_seed(3))
    same(Windows(), (images[:2],), dynamic={"x": {0: "B"}}, others=[(images,)], tolerance=1e-4)
