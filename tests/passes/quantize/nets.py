"""Small networks that the tests of quantisation share."""

from __future__ import annotations

import torch
from torch import nn

from plait.api import lower, optimize
from plait.ir import Graph


class Residual(nn.Module):
    """Convolutions, a residual sum, pooling, and two dense layers, one of them depthwise in front."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.pointwise = nn.Conv2d(8, 8, 1)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(8, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(image)))
        x = torch.relu(x + self.pointwise(torch.relu(self.depthwise(x))))
        found: torch.Tensor = self.head(self.pool(x).mean((2, 3)))
        return found


class Block(nn.Module):
    """One transformer block on [B, T, 16] and a head on the mean of the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(
            16, 2, 32, activation="gelu", batch_first=True, norm_first=True
        )
        self.head = nn.Linear(16, 5)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.layer(tokens).mean(1))
        return found


def residual(seed: int = 0) -> Graph:
    """`Residual` with statistics of batch norm that are not the initial ones, any batch."""
    torch.manual_seed(seed)
    net = Residual().train()
    for _ in range(4):
        net(torch.randn(16, 3, 8, 8))
    example = (torch.randn(2, 3, 8, 8),)
    return optimize(lower(net.eval(), example, dynamic={"image": {0: ("B", 1, 64)}}))


def block(seed: int = 0) -> Graph:
    """`Block` on six tokens, batches of 4."""
    torch.manual_seed(seed)
    return optimize(lower(Block().eval(), (torch.randn(4, 6, 16),)))


def images(batches: int = 4, size: int = 8, seed: int = 1) -> list[dict[str, torch.Tensor]]:
    """Seeded batches for `residual`."""
    torch.manual_seed(seed)
    return [{"image": torch.randn(size, 3, 8, 8)} for _ in range(batches)]


def tokens(batches: int = 4, seed: int = 1) -> list[dict[str, torch.Tensor]]:
    """Seeded batches for `block`."""
    torch.manual_seed(seed)
    return [{"tokens": torch.randn(4, 6, 16)} for _ in range(batches)]
