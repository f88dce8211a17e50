"""ResNet: residual learning with convolutions.

He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", CVPR
2016, arXiv:1512.03385: table 1 for the sizes, figure 5 for the two blocks,
projection shortcuts (option B) where the shape changes.  As in common practice
the stride of a bottleneck sits in its 3 x 3 convolution.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from plait.frontends.families.initialization import damp_branch
from plait.frontends.families.layers import ConvNormAct


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut, [B, C, H, W] -> [B, width, H/stride, W/stride]."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            ConvNormAct(in_channels, width, 3, stride=stride),
            ConvNormAct(width, width, 3, activation=None),
        )
        self.shortcut = _shortcut(in_channels, width, stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.branch(x) + self.shortcut(x))

    def initialize(self, generator: torch.Generator) -> None:
        damp_branch(self.branch)


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions beside a shortcut.

    [B, C, H, W] -> [B, 4*width, H/stride, W/stride].
    """

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        out_channels = width * self.expansion
        self.branch = nn.Sequential(
            ConvNormAct(in_channels, width, 1),
            ConvNormAct(width, width, 3, stride=stride),
            ConvNormAct(width, out_channels, 1, activation=None),
        )
        self.shortcut = _shortcut(in_channels, out_channels, stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.branch(x) + self.shortcut(x))

    def initialize(self, generator: torch.Generator) -> None:
        damp_branch(self.branch)


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """The identity where the shape is kept, a strided 1 x 1 projection where it is not."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return ConvNormAct(in_channels, out_channels, 1, stride=stride, activation=None)


class ResNet(nn.Module):
    """A residual network of four stages and a linear classifier, [B, 3, H, W] -> [B, num_classes].

    Args:
        block: `BasicBlock` or `Bottleneck`.
        depths: the number of blocks in each stage.
        num_classes: the number of logits.
        width: the block width of the first stage; each later stage doubles it.
        in_channels: the channels of the image.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        *,
        num_classes: int = 1000,
        width: int = 64,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            ConvNormAct(in_channels, width, 7, stride=2),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        )
        channels = width
        stages: list[nn.Module] = []
        for index, depth in enumerate(depths):
            stage_width = width * 2**index
            blocks: list[nn.Module] = []
            for position in range(depth):
                stride = 2 if index > 0 and position == 0 else 1
                blocks.append(block(channels, stage_width, stride))
                channels = stage_width * block.expansion
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        features = self.stages(self.stem(image))
        return self.classifier(torch.flatten(self.pool(features), 1))


def resnet18(num_classes: int = 1000) -> ResNet:
    """ResNet-18: 11,689,512 parameters with 1000 classes."""
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes=num_classes)


def resnet50(num_classes: int = 1000) -> ResNet:
    """ResNet-50: 25,557,032 parameters with 1000 classes."""
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes=num_classes)
