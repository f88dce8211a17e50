"""Canny edges of drawn shapes, against a plain loop, scikit-image and the Spyker package."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from plait.frontends.families.spiking.canny import canny, grow, sobel


def random_image(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_loops(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """Steps 2 to 4 of the algorithm, pixel by pixel, on an image [H, W]; the border stays 0."""
    height, width = image.shape
    rows, columns = np.zeros_like(image), np.zeros_like(image)
    wide = np.pad(image, 1, mode="edge")
    for y in range(height):
        for x in range(width):
            for d, weight in ((0, 1), (1, 2), (2, 1)):
                rows[y, x] += weight * (wide[y + 2, x + d] - wide[y, x + d])
                columns[y, x] += weight * (wide[y + d, x + 2] - wide[y + d, x])
    magnitude = np.hypot(rows, columns)

    def between(y: float, x: float) -> float:
        top, left = math.floor(y), math.floor(x)
        down, right = y - top, x - left
        value = 0.0
        for part, row in ((1 - down, top), (down, top + 1)):
            for share, column in ((1 - right, left), (right, left + 1)):
                if part * share:
                    value += part * share * magnitude[row, column]
        return value

    kept = np.zeros(image.shape, dtype=bool)
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            longer = max(abs(rows[y, x]), abs(columns[y, x]))
            if longer == 0:
                continue
            dy, dx = rows[y, x] / longer, columns[y, x] / longer
            kept[y, x] = magnitude[y, x] >= max(between(y + dy, x + dx), between(y - dy, x - dx))
    edges = np.zeros(image.shape, dtype=np.uint8)
    waiting = [(y, x) for y, x in np.argwhere(kept & (magnitude >= high))]
    while waiting:
        y, x = waiting.pop()
        if edges[y, x]:
            continue
        edges[y, x] = 1
        around = [(ny, nx) for ny in range(y - 1, y + 2) for nx in range(x - 1, x + 2)]
        waiting.extend(place for place in around if kept[place] and magnitude[place] >= low)
    return edges


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.5), (0.8, 1.5), (1.5, 2.5)])
def test_against_plain_loops(low: float, high: float) -> None:
    image = random_image(0, 2, 3, 12, 15)
    edges = canny(image, low, high, deviation=0)
    for sample in range(2):
        for channel in range(3):
            expected = by_loops(image[sample, channel].numpy(), low, high)
            assert 0 < expected.sum() < expected.size
            np.testing.assert_array_equal(edges[sample, channel].numpy(), expected)


def test_a_step_gives_one_thin_line_unless_it_is_too_low() -> None:
    image = torch.zeros(1, 1, 16, 17)
    # A row of 0.5 between the two levels makes the crest of the gradient one pixel wide.
    image[..., 8] = 0.5
    image[..., 9:] = 1.0
    expected = torch.zeros(16, 17, dtype=torch.uint8)
    expected[1:-1, 8] = 1
    for deviation in (0.0, 1.0):
        assert torch.equal(canny(image, 0.1, 1.0, deviation=deviation)[0, 0], expected)
    assert torch.equal(canny(image.transpose(2, 3), 0.1, 1.0)[0, 0], expected.T)
    # The gradient of the step is 4 before smoothing.
    assert int(canny(image, 0.1, 4.0, deviation=0).sum()) == 14
    assert int(canny(image, 0.1, 4.01, deviation=0).sum()) == 0
    assert torch.equal(canny(image * 200, 20, 200), canny(image, 0.1, 1.0))
    assert torch.equal(canny((image * 200).to(torch.uint8), 20, 200), canny(image, 0.1, 1.0))


def test_the_edge_of_a_disc_is_its_circle() -> None:
    line = torch.arange(41, dtype=torch.float64) - 20
    distance = torch.hypot(line.unsqueeze(1), line.unsqueeze(0))
    # The rim is blurred over a pixel, as a camera would.
    image = (12.5 - distance).clamp(0, 1)[None, None]
    edges = canny(image, 0.5, 1.0, deviation=1.0)[0, 0].bool()
    assert float((distance[edges] - 12).abs().max()) < 1.2
    angles = torch.atan2(line.unsqueeze(1).expand(41, 41)[edges], line.unsqueeze(0).expand(41, 41)[edges])
    gaps = angles.sort().values.diff()
    assert float(gaps.max()) < math.radians(8)


def test_a_flat_image_has_no_edges() -> None:
    assert int(canny(torch.full((2, 1, 9, 9), 0.7), 0.0, 0.0, deviation=0).sum()) == 0
    # Smoothing leaves gradients of the size of rounding.
    assert int(canny(torch.full((2, 1, 9, 9), 0.7), 1e-3, 1e-3, deviation=2.0).sum()) == 0
    assert int(canny(random_image(3, 1, 1, 2, 9), 0.0, 0.0).sum()) == 0


def test_hysteresis_follows_weak_pixels_from_strong_ones_only() -> None:
    allowed = torch.zeros(1, 1, 6, 30, dtype=torch.bool)
    allowed[..., 1, 1:28] = True
    allowed[..., 2, 28] = True
    allowed[..., 4, 5:9] = True
    seeds = torch.zeros_like(allowed)
    seeds[..., 1, 1] = seeds[..., 3, 3] = True
    expected = allowed.clone()
    expected[..., 4, :] = False
    assert torch.equal(grow(seeds, allowed), expected)


def test_gradient_of_a_plane() -> None:
    y, x = torch.meshgrid(torch.arange(5.0), torch.arange(6.0), indexing="ij")
    rows, columns = sobel((2 * y - 3 * x)[None, None])
    assert torch.equal(rows[0, 0, 1:-1, 1:-1], torch.full((3, 4), 16.0))
    assert torch.equal(columns[0, 0, 1:-1, 1:-1], torch.full((3, 4), -24.0))


def test_wrong_input_is_refused_and_results_reproduce() -> None:
    image = random_image(1, 1, 1, 10, 10)
    with pytest.raises(ValueError, match="thresholds"):
        canny(image, 2.0, 1.0)
    with pytest.raises(ValueError, match="3 dimensions"):
        canny(image[0], 1.0, 2.0)
    assert torch.equal(canny(image, 0.2, 0.4), canny(image.clone(), 0.2, 0.4))


@pytest.mark.parametrize("deviation", [1.0, 2.0])
def test_against_skimage(deviation: float) -> None:
    feature: Any = pytest.importorskip("skimage.feature")
    image = random_image(2, 3, 1, 40, 37)
    edges = canny(image, 0.1, 0.3, deviation=deviation)
    for sample in range(3):
        expected = feature.canny(
            image[sample, 0].numpy(), sigma=deviation, low_threshold=0.1, high_threshold=0.3
        )
        assert 0.01 < expected.mean() < 0.5
        np.testing.assert_array_equal(edges[sample, 0].numpy(), expected.astype(np.uint8))


def test_against_spyker() -> None:
    spyker: Any = pytest.importorskip("spyker")
    flat = torch.full((1, 1, 16, 16), 90, dtype=torch.uint8)
    step = flat.clone()
    step[..., 8:] = 255
    answers = [(spyker.canny(flat, t, t), spyker.canny(step, t, t)) for t in (0.5, 5, 50, 150)]
    if all(torch.equal(a, b) for a, b in answers):
        pytest.skip("this Spyker finds the same edges in a flat image and in a step")
    found = spyker.canny(step, 20, 60)[0, 0, 4:12].bool().any(dim=0).nonzero().flatten()
    mine = canny(step, 20, 60)[0, 0, 4:12].bool().any(dim=0).nonzero().flatten()
    assert float((found.float().mean() - mine.float().mean()).abs()) <= 1
