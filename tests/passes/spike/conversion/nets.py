"""Digits, and small networks that are trained on them within seconds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

SEED = 0
HELD_OUT = 400


@dataclass(frozen=True)
class Digits:
    """Images f32 [N,1,8,8] in 0..1 and labels; the last 400 are the test set."""

    images: np.ndarray
    labels: np.ndarray

    @property
    def calibration(self) -> np.ndarray:
        return self.images[:100]

    @property
    def held_out(self) -> tuple[np.ndarray, np.ndarray]:
        return self.images[-HELD_OUT:], self.labels[-HELD_OUT:]


class Plain(nn.Module):
    """Convolutions with batch norm and average pooling, and dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.first_norm = nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.second, self.second_norm = nn.Conv2d(12, 24, 3, padding=1), nn.BatchNorm2d(24)
        self.third = nn.Linear(96, 32)
        self.last = nn.Linear(32, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = nn.functional.avg_pool2d(torch.relu(self.first_norm(self.first(image))), 2)
        x = nn.functional.avg_pool2d(torch.relu(self.second_norm(self.second(x))), 2)
        found: torch.Tensor = self.last(torch.relu(self.third(x.flatten(1))))
        return found


class Residual(nn.Module):
    """Batch norm, a residual branch and max pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.inner, self.inner_norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.outer, self.outer_norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.down = nn.Conv2d(8, 16, 3, padding=1, stride=2)
        self.last = nn.Linear(64, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem_norm(self.stem(image)))
        branch = torch.relu(self.inner_norm(self.inner(x)))
        x = torch.relu(x + self.outer_norm(self.outer(branch)))
        x = torch.relu(self.down(nn.functional.max_pool2d(x, 2)))
        found: torch.Tensor = self.last(x.flatten(1))
        return found


def trained(net: nn.Module, digits: Digits, epochs: int) -> nn.Module:
    """A network after some rounds over all images but those of the test set."""
    images = torch.as_tensor(digits.images[:-HELD_OUT])
    labels = torch.as_tensor(digits.labels[:-HELD_OUT])
    optimizer = torch.optim.Adam(net.parameters(), 8e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, epochs)
    for _ in range(epochs):
        for start in range(0, len(images), 32):
            optimizer.zero_grad()
            found = net(images[start : start + 32])
            nn.functional.cross_entropy(found, labels[start : start + 32]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        schedule.step()
    return net.eval()
