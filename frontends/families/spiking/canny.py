"""Canny's edge detector, an edge image as the input of a spiking network.

Canny, IEEE TPAMI 8(6), 1986, in four steps on each image:

1. smooth with a Gaussian of standard deviation s; near the border the weights
   that fall inside the image are scaled to a sum of 1;
2. gradient (g_y, g_x) by the 3x3 Sobel kernels, not divided by 8 (a step of
   height 1 gives at most 4), and its magnitude m = sqrt(g_y^2 + g_x^2);
3. keep the pixels where m is not below the two magnitudes one pixel up and
   down the gradient; such a point lies between two neighbours, and its
   magnitude is interpolated linearly between theirs;
4. hysteresis: of the kept pixels with m >= low, those that are joined, over 8
   neighbours, to a kept pixel with m >= high.

The outermost row and column on each side hold no edge.  (The canny of Spyker
0.1.0 marks all pixels or none, whatever the image, so it is no reference.)
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from plait.frontends.families.spiking.filters import gaussian_kernel


def canny(image: Tensor, low: float, high: float, *, deviation: float = 1.0) -> Tensor:
    """Edges uint8 [B, C, H, W], 1 on an edge, of each channel of an image [B, C, H, W] of any real type.

    Thresholds are magnitudes of the gradient, in units of the image (0..255
    for a uint8 image); the deviation is in pixels, 0 for no smoothing.
    A pixel of zero gradient is never an edge.
    Raises ValueError for another number of dimensions or unless 0 <= low <= high.
    """
    if image.dim() != 4:
        raise ValueError(f"canny: the image is [B, C, H, W], got {image.dim()} dimensions")
    if not 0 <= low <= high:
        raise ValueError(f"canny: thresholds are 0 <= low <= high, got low {low} and high {high}")
    values = image if image.is_floating_point() else image.to(torch.float32)
    flat = values.reshape(-1, 1, *values.shape[2:])
    rows, columns = sobel(smooth(flat, deviation) if deviation > 0 else flat)
    magnitude = torch.sqrt(rows**2 + columns**2)
    crest = ridges(magnitude, rows, columns)
    # Half of the gradient of an outermost pixel is made up, so none is an edge.
    crest[..., [0, -1], :] = False
    crest[..., [0, -1]] = False
    edges = grow(crest & (magnitude >= high), crest & (magnitude >= low))
    return edges.to(torch.uint8).reshape(image.shape)


def smooth(image: Tensor, deviation: float) -> Tensor:
    """Gaussian mean of [N, 1, H, W] over the pixels inside the image, cut off at four deviations."""
    radius = int(4 * deviation + 0.5)
    kernel = gaussian_kernel(radius, deviation).to(image)[None, None]
    inside = F.conv2d(torch.ones_like(image[:1]), kernel, padding=radius)
    return F.conv2d(image, kernel, padding=radius) / inside


def sobel(image: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients down the rows and along the columns of [N, 1, H, W]; the border is continued outwards."""
    wide = F.pad(image, (1, 1, 1, 1), mode="replicate")
    # Differences first, so that a flat region has exactly no gradient.
    down = wide[..., 2:, :] - wide[..., :-2, :]
    right = wide[..., 2:] - wide[..., :-2]
    rows = down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]
    columns = right[..., :-2, :] + 2 * right[..., 1:-1, :] + right[..., 2:, :]
    return rows, columns


def ridges(magnitude: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Where the magnitude [N, 1, H, W] is above 0 and a maximum along the gradient; bool."""
    height, width = magnitude.shape[2:]
    padded = F.pad(magnitude, (1, 1, 1, 1))
    row = torch.arange(1, height + 1, device=magnitude.device).reshape(1, 1, -1, 1)
    column = torch.arange(1, width + 1, device=magnitude.device).reshape(1, 1, 1, -1)
    step_row, step_column = rows.sign().long(), columns.sign().long()
    steep = rows.abs() >= columns.abs()
    # The point one pixel along the larger component lies between the neighbour
    # straight ahead and the diagonal one, nearer to the latter as the two
    # components come closer.
    longer = torch.maximum(rows.abs(), columns.abs())
    shorter = torch.minimum(rows.abs(), columns.abs())
    share = shorter / torch.where(longer > 0, longer, 1.0)
    sample = torch.arange(magnitude.shape[0], device=magnitude.device).reshape(-1, 1, 1, 1)
    highest = magnitude > 0
    for side in (1, -1):
        ahead_row = row + side * torch.where(steep, step_row, 0)
        ahead_column = column + side * torch.where(steep, 0, step_column)
        straight = padded[sample, 0, ahead_row, ahead_column]
        diagonal = padded[sample, 0, row + side * step_row, column + side * step_column]
        highest = highest & (share * diagonal + (1 - share) * straight <= magnitude)
    return highest


def grow(seeds: Tensor, allowed: Tensor) -> Tensor:
    """The allowed pixels [N, 1, H, W] joined to a seed over 8 neighbours through allowed ones; bool."""
    reached = seeds & allowed
    while True:
        wider = (F.max_pool2d(reached.to(torch.float32), 3, stride=1, padding=1) > 0) & allowed
        if torch.equal(wider, reached):
            return reached
        reached = wider
