"""DenseNet: every layer reads the concatenated outputs of all layers before it.

Huang, Liu, van der Maaten and Weinberger, "Densely Connected Convolutional
Networks", CVPR 2017, arXiv:1608.06993: table 1 for the sizes; the variant with
bottleneck layers and compression 0.5 (DenseNet-BC).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DenseLayer(nn.Module):
    """Norm, ReLU, 1 x 1 convolution, norm, ReLU, 3 x 3 convolution, joined to the input.

    [B, C, H, W] -> [B, C + growth, H, W]; the 1 x 1 convolution has `bottleneck * growth` channels.
    """

    def __init__(self, in_channels: int, growth: int, *, bottleneck: int, dropout: float) -> None:
        super().__init__()
        hidden = bottleneck * growth
        self.new_features = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.ReLU(),
            nn.Conv2d(in_channels, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, growth, 3, padding=1, bias=False),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.new_features(x)], dim=1)


class Transition(nn.Sequential):
    """Compress the channels and halve the image, [B, C, H, W] -> [B, out_channels, H/2, W/2]."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.BatchNorm2d(in_channels),
            nn.ReLU(),
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
            nn.AvgPool2d(2),
        )


class DenseNet(nn.Module):
    """DenseNet-BC, [B, 3, H, W] -> [B, num_classes].

    Args:
        depths: the number of dense layers in each block.
        num_classes: the number of logits.
        growth: the channels that each layer adds, k in the paper.
        stem_channels: the channels before the first block.
        bottleneck: the width of a layer's 1 x 1 convolution, in units of `growth`.
        compression: the share of channels that a transition keeps, theta in the paper.
        dropout: probability after each layer, in training only.
    """

    def __init__(
        self,
        depths: Sequence[int],
        *,
        num_classes: int = 1000,
        growth: int = 32,
        stem_channels: int = 64,
        bottleneck: int = 4,
        compression: float = 0.5,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, stem_channels, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(stem_channels),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        )
        channels = stem_channels
        stages: list[nn.Module] = []
        for index, depth in enumerate(depths):
            for _ in range(depth):
                stages.append(DenseLayer(channels, growth, bottleneck=bottleneck, dropout=dropout))
                channels += growth
            if index < len(depths) - 1:
                compressed = int(channels * compression)
                stages.append(Transition(channels, compressed))
                channels = compressed
        self.stages = nn.Sequential(*stages)
        self.norm = nn.BatchNorm2d(channels)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        features = F.relu(self.norm(self.stages(self.stem(image))))
        return self.classifier(torch.flatten(self.pool(features), 1))


def densenet121(num_classes: int = 1000) -> DenseNet:
    """DenseNet-121: 7,978,856 parameters with 1000 classes."""
    return DenseNet((6, 12, 24, 16), num_classes=num_classes)
