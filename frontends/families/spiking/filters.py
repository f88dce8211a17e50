"""Retina-like filters in front of a spiking network: DoG, LoG and Gabor banks.

Each is a module of image [B, 1, H, W] -> [B, maps, H', W'] with a kernel of
side 2 * radius + 1; with several image channels C the maps of each channel
follow one another, [B, C * maps, H', W'].
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _grid(radius: int) -> tuple[Tensor, Tensor]:
    line = torch.arange(-radius, radius + 1, dtype=torch.float64)
    rows, columns = torch.meshgrid(line, line, indexing="ij")
    return rows, columns


def gaussian_kernel(radius: int, deviation: float) -> Tensor:
    """Gaussian of sum 1, float64 [2r+1, 2r+1]; deviation in pixels."""
    rows, columns = _grid(radius)
    kernel = torch.exp(-(rows**2 + columns**2) / (2 * deviation**2))
    return kernel / kernel.sum()


def laplacian_of_gaussian_kernel(radius: int, deviation: float) -> Tensor:
    """Laplacian as Spyker takes it: G(s / sqrt 2) - G(s sqrt 2), float64 [2r+1, 2r+1]."""
    return gaussian_kernel(radius, deviation / math.sqrt(2)) - gaussian_kernel(
        radius, deviation * math.sqrt(2)
    )


def gabor_kernel(
    radius: int, deviation: float, angle: float, aspect: float, wavelength: float, phase: float
) -> Tensor:
    """Gabor patch divided by its sum, float64 [2r+1, 2r+1]; angle in degrees, phase in radians."""
    rows, columns = _grid(radius)
    angle = math.radians(angle)
    along = rows * math.cos(angle) + columns * math.sin(angle)
    across = -rows * math.sin(angle) + columns * math.cos(angle)
    envelope = torch.exp(-(along**2 + aspect**2 * across**2) / (2 * deviation**2))
    kernel = envelope * torch.cos(2 * math.pi * along / wavelength + phase)
    return kernel / kernel.sum()


class FilterBank(nn.Module):
    """Convolve every image channel with each kernel; [B, C, H, W] -> [B, C * maps, H', W']."""

    kernel: Tensor

    def __init__(self, kernels: Sequence[Tensor], padding: int) -> None:
        super().__init__()
        if not kernels:
            raise ValueError("filter bank: no kernel was given; pass at least one filter")
        self.padding = padding
        self.register_buffer("kernel", torch.stack(list(kernels)).unsqueeze(1).to(torch.float32))

    def response(self, image: Tensor) -> Tensor:
        """Signed responses [B, C, maps, H', W']."""
        batch, channels, height, width = image.shape
        flat = image.reshape(batch * channels, 1, height, width)
        out = F.conv2d(flat, self.kernel, padding=self.padding)
        return out.reshape(batch, channels, *out.shape[1:])

    def forward(self, image: Tensor) -> Tensor:
        return self.response(image).flatten(1, 2)


class DifferenceOfGaussians(FilterBank):
    """max(G(a) * x - G(b) * x, 0) for each pair (a, b) of standard deviations in pixels."""

    def __init__(self, radius: int, deviations: Sequence[tuple[float, float]], *, padding: int = 0) -> None:
        super().__init__(
            [gaussian_kernel(radius, a) - gaussian_kernel(radius, b) for a, b in deviations], padding
        )

    def forward(self, image: Tensor) -> Tensor:
        return torch.relu(super().forward(image))


class LaplacianOfGaussian(FilterBank):
    """Two maps a standard deviation: max(r, 0) of all deviations first, then max(-r, 0) of all."""

    def __init__(self, radius: int, deviations: Sequence[float], *, padding: int = 0) -> None:
        super().__init__([laplacian_of_gaussian_kernel(radius, s) for s in deviations], padding)

    def forward(self, image: Tensor) -> Tensor:
        response = self.response(image)
        return torch.relu(torch.cat([response, -response], dim=2)).flatten(1, 2)


class Gabor(FilterBank):
    """Signed Gabor responses; each filter is (deviation, angle, aspect, wavelength, phase)."""

    def __init__(
        self,
        radius: int,
        filters: Sequence[tuple[float, float, float, float, float]],
        *,
        padding: int = 0,
    ) -> None:
        super().__init__([gabor_kernel(radius, *parameters) for parameters in filters], padding)


def suppress(image: Tensor, threshold: float) -> Tensor:
    """Zero the values that do not exceed the threshold."""
    return torch.where(image > threshold, image, torch.zeros_like(image))
