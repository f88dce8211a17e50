"""MobileNetV2: inverted residuals with linear bottlenecks.

Sandler, Howard, Zhu, Zhmoginov and Chen, "MobileNetV2: Inverted Residuals and
Linear Bottlenecks", CVPR 2018, arXiv:1801.04381: table 2 for the sizes, figure
4d for the block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from plait.frontends.families.initialization import damp_branch
from plait.frontends.families.layers import ConvNormAct, round_channels


class Stage(NamedTuple):
    """One row of table 2: t, c, n and s of the paper."""

    expansion: int
    channels: int
    depth: int
    stride: int


STAGES = (
    Stage(1, 16, 1, 1),
    Stage(6, 24, 2, 2),
    Stage(6, 32, 3, 2),
    Stage(6, 64, 4, 2),
    Stage(6, 96, 3, 1),
    Stage(6, 160, 3, 2),
    Stage(6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """Expand, filter each channel by itself, project linearly; a shortcut where the shape is kept.

    [B, C, H, W] -> [B, out_channels, H/stride, W/stride].
    """

    def __init__(self, in_channels: int, out_channels: int, *, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(ConvNormAct(in_channels, hidden, 1, activation=nn.ReLU6))
        layers += [
            ConvNormAct(hidden, hidden, 3, stride=stride, groups=hidden, activation=nn.ReLU6),
            ConvNormAct(hidden, out_channels, 1, activation=None),
        ]
        self.branch = nn.Sequential(*layers)
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x) if self.has_shortcut else self.branch(x)

    def initialize(self, generator: torch.Generator) -> None:
        if self.has_shortcut:
            damp_branch(self.branch)


class MobileNetV2(nn.Module):
    """MobileNetV2, [B, 3, H, W] -> [B, num_classes].

    Args:
        num_classes: the number of logits.
        width_multiplier: factor on the channels of every layer (section 4, "Trade-off hyper parameters").
        stages: the rows of table 2.
        dropout: probability before the classifier, in training only.
    """

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        width_multiplier: float = 1.0,
        stages: Sequence[Stage] = STAGES,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        channels = round_channels(32 * width_multiplier)
        self.stem = ConvNormAct(3, channels, 3, stride=2, activation=nn.ReLU6)
        blocks: list[nn.Module] = []
        for stage in stages:
            out_channels = round_channels(stage.channels * width_multiplier)
            for position in range(stage.depth):
                stride = stage.stride if position == 0 else 1
                blocks.append(
                    InvertedResidual(channels, out_channels, expansion=stage.expansion, stride=stride)
                )
                channels = out_channels
        self.blocks = nn.Sequential(*blocks)
        # The last layer is not thinned below the size in the table (section 5).
        features = round_channels(1280 * max(1.0, width_multiplier))
        self.head = ConvNormAct(channels, features, 1, activation=nn.ReLU6)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(features, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        features = self.pool(self.head(self.blocks(self.stem(image))))
        return self.classifier(self.dropout(torch.flatten(features, 1)))


def mobilenet_v2(num_classes: int = 1000) -> MobileNetV2:
    """MobileNetV2 at width 1.0: 3,504,872 parameters with 1000 classes."""
    return MobileNetV2(num_classes=num_classes)
