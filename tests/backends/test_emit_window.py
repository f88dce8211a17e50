"""Windows over any number of axes, and sampling at positions that are data, against the interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from plait.ir import types as t
from plait.ir.ops import nn
from plait.ir.types import TensorType

from .emission import B, Case, check, f32, weights


def windows_case() -> Case:
    """Places of largest elements over 1 to 3 axes."""
    return Case(
        "places",
        {
            "l": f32(B, 2, 11),
            "i": f32(B, 2, 9, 10),
            "v": f32(2, 2, 5, B + 4, 5),
            "n": TensorType(t.i8, (B, 2, 7)),
        },
        lambda g, v: [
            nn.MaxPoolIndices(v["l"], kernel=(3,), stride=(2,), pad=(1, 0), dilation=(2,)),
            nn.MaxPoolIndices(v["i"], kernel=(3, 2), stride=(2, 2), pad=(1, 0, 0, 1), dilation=(1, 2)),
            nn.MaxPoolIndices(v["i"], kernel=(2, 2), stride=(2, 2), pad=(0, 0), dilation=(1, 1), ceil=True),
            nn.MaxPoolIndices(v["v"], kernel=(3, 2, 2), stride=(2, 2, 2), pad=(1, 0, 0), dilation=(1, 1, 1)),
            nn.MaxPoolIndices(v["n"], kernel=(2,), stride=(1,), pad=(0,), dilation=(1,)),
        ],
    )


def sampling_case(mode: Any, paddings: tuple[Any, ...] = ("zeros", "border", "reflection")) -> Case:
    """Reading between elements, inside and outside."""
    return Case(
        "sampling",
        {"x": f32(B, 2, 5, 6), "g": f32(B, 3, 4, 2)},
        lambda g, v: [
            nn.GridSample(v["x"], v["g"], mode=mode, padding=padding, coordinates=coordinates)
            for padding in paddings
            for coordinates in ("half_pixel", "align_corners")
        ],
        tolerance=1e-4,
    )


def fold_case() -> Case:
    """Blocks summed over one, two and three axes."""

    def fold(x: Any, *size: Any, kernel: Any, **options: Any) -> nn.Fold:
        ones = (1,) * len(kernel)
        return nn.Fold(
            x,
            size=size,
            kernel=kernel,
            **{"stride": ones, "pad": (0,) * len(kernel), "dilation": ones, **options},
        )

    return Case(
        "fold",
        {"l": f32(2, 6, B), "i": f32(B, 12, 20), "d": f32(B, 4, 6), "v": f32(B, 8, 8)},
        lambda g, v: [
            fold(v["l"], 2 * B + 1, kernel=(3,), stride=(2,)),
            fold(v["i"], 6, 5, kernel=(2, 3), pad=(0, 1, 0, 0)),
            fold(v["d"], 6, 5, kernel=(2, 2), dilation=(2, 3), stride=(2, 1), pad=(1, 0)),
            fold(v["v"], 4, 3, 3, kernel=(2, 2, 2), stride=(2, 1, 1)),
        ],
    )


def test_places_of_largest_elements() -> None:
    check(windows_case())


def test_places_with_infinities_and_equals() -> None:
    rows = np.array([[[-np.inf, -np.inf, 1, 1, -np.inf, 2, -3]]], np.float32)
    check(
        Case(
            "edges",
            {"x": f32(1, 1, 7)},
            lambda g, v: nn.MaxPoolIndices(v["x"], kernel=(2,), stride=(1,), pad=(1,), dilation=(1,)),
            values=lambda batch: {"x": rows},
        )
    )


def test_fold() -> None:
    check(fold_case())


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_grid_sample(mode: str) -> None:
    check(sampling_case(mode))


def test_grid_sample_of_volumes_and_pixels() -> None:
    check(
        Case(
            "volumes",
            {"v": f32(2, 2, 3, B, 4), "g": f32(2, 2, 3, 4, 3), "i": f32(B, 2, 6, 7), "p": f32(B, 5, 2, 2)},
            lambda g, v: [
                *(
                    nn.GridSample(v["v"], v["g"], mode=mode, padding=padding)
                    for mode in ("nearest", "linear")
                    for padding in ("zeros", "border", "reflection")
                ),
                nn.GridSample(v["i"], v["p"], coordinates="pixels"),
                nn.GridSample(v["i"], v["p"], coordinates="pixels", padding="border", mode="cubic"),
            ],
            ranges={"p": (-3.0, 9.0)},
            tolerance=1e-4,
        ),
        batches=(1, 4),
    )


def volumes_case() -> Case:
    """Dilated means and a transposed convolution of volumes."""
    return Case(
        "volumes",
        {"x": f32(B, 3, 11, 10), "v": f32(B, 4, 3, 4, 5)},
        lambda g, v: [
            nn.AvgPool2d(v["x"], kernel=(3, 2), pad=(2, 1), dilation=(2, 3)),
            nn.AvgPool2d(v["x"], kernel=(3, 3), stride=(2, 3), pad=(2, 1), dilation=(3, 2), ceil=True),
            nn.AvgPool2d(
                v["x"],
                kernel=(3, 3),
                stride=(3, 2),
                pad=(0, 1),
                dilation=(2, 2),
                ceil=True,
                count_pad=True,
            ),
            nn.ConvTranspose3d(
                v["v"],
                v["w"],
                v["b"],
                stride=(2, 1, 3),
                pad=(1, 0, 0, 0, 1, 1),
                output_pad=(1, 0, 0),
                dilation=(1, 2, 1),
                groups=2,
                act="relu",
            ),
        ],
        constants={"w": weights(4, 3, 2, 3, 2), "b": weights(6)},
        tolerance=1e-4,
    )


def test_dilated_means_and_transposed_volumes() -> None:
    check(volumes_case())


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [windows_case(), sampling_case("linear", ("reflection",)), fold_case(), volumes_case()],
    ids=lambda c: c.name,
)
def test_on_a100(case: Case) -> None:
    check(case, "a100", batches=(2,))
