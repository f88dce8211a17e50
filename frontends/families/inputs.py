"""Seeded example inputs: images, token ids and features."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def images(batch: int, size: int, seed: int, *, channels: int = 3) -> Tensor:
    """Random images, float32 [batch, channels, size, size], of mean 0 and standard deviation about 1.

    A coarse 4 x 4 pattern under fine noise, as in a normalised photograph.
    White noise alone would not do: a network that ends in a global average
    maps all of it to nearly the same output.
    """
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(batch, channels, 4, 4, generator=generator)
    fine = torch.randn(batch, channels, size, size, generator=generator)
    return F.interpolate(coarse, size=(size, size), mode="bilinear") + 0.5 * fine


def token_ids(batch: int, length: int, vocabulary: int, seed: int) -> Tensor:
    """Uniform random token ids, int64 [batch, length], in 0..vocabulary-1."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, vocabulary, (batch, length), generator=generator)


def features(batch: int, width: int, seed: int) -> Tensor:
    """Standard normal features, float32 [batch, width]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, width, generator=generator)


def token_features(batch: int, length: int, width: int, seed: int) -> Tensor:
    """Standard normal token features, float32 [batch, length, width]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, width, generator=generator)
