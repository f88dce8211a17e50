"""Two small networks that run in milliseconds and still use the operators of the large ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from plait.frontends.families.layers import ConvNormAct, TransformerBlock


class SmallCNN(nn.Module):
    """Two convolutions with batch norm, one pooled and one strided, and a classifier.

    [B, 3, H, W] -> [B, num_classes].
    """

    def __init__(self, *, num_classes: int = 10, width: int = 32) -> None:
        super().__init__()
        self.features = nn.Sequential(
            ConvNormAct(3, width, 3),
            nn.MaxPool2d(kernel_size=2, stride=2),
            ConvNormAct(width, 2 * width, 3, stride=2),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(2 * width, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.pool(self.features(image)), 1))


class SmallTransformer(nn.Module):
    """Pre-norm blocks over given token features, averaged and classified.

    [B, T, width] -> class probabilities [B, num_classes].
    """

    def __init__(self, *, width: int = 64, depth: int = 2, heads: int = 4, num_classes: int = 10) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        pooled = self.norm(self.blocks(tokens)).mean(dim=1)
        return torch.softmax(self.classifier(pooled), dim=-1)


def small_cnn(num_classes: int = 10) -> SmallCNN:
    """The small convolutional network: 20,138 parameters with 10 classes."""
    return SmallCNN(num_classes=num_classes)


def small_transformer(num_classes: int = 10) -> SmallTransformer:
    """The small transformer: 100,746 parameters with 10 classes."""
    return SmallTransformer(num_classes=num_classes)
