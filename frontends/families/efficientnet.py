"""EfficientNet: compound scaling of inverted residuals with squeeze-and-excitation.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural
Networks", ICML 2019, arXiv:1905.11946: table 1 for the B0 sizes, equation 3 for
the compound scaling.  The squeeze-and-excitation gate is that of Hu et al.,
CVPR 2018, arXiv:1709.01507.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from plait.frontends.families.initialization import damp_branch
from plait.frontends.families.layers import ConvNormAct, StochasticDepth, linear_rates, round_channels

NORM_EPS = 1e-3
"""The epsilon of every batch norm in the authors' networks."""


class Stage(NamedTuple):
    """One MBConv row of table 1."""

    expansion: int
    kernel_size: int
    channels: int
    depth: int
    stride: int


STAGES = (
    Stage(1, 3, 16, 1, 1),
    Stage(6, 3, 24, 2, 2),
    Stage(6, 5, 40, 2, 2),
    Stage(6, 3, 80, 3, 2),
    Stage(6, 5, 112, 3, 1),
    Stage(6, 5, 192, 4, 2),
    Stage(6, 3, 320, 1, 1),
)


class SqueezeExcitation(nn.Module):
    """Gate each channel by a function of the averages of all channels, [B, C, H, W] -> [B, C, H, W]."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.squeeze = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.activation = nn.SiLU()
        self.expand = nn.Conv2d(squeezed, channels, 1)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.expand(self.activation(self.reduce(self.squeeze(x)))))

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        """Start from gates that are more open than shut: at one half, depth makes the signal vanish."""
        assert self.expand.bias is not None
        self.expand.bias += 1.5


class MBConv(nn.Module):
    """Expand, depthwise filter, gate, project; a shortcut where the shape is kept.

    [B, C, H, W] -> [B, out_channels, H/stride, W/stride].  The gate squeezes to
    a quarter of the block's input channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        expansion: int,
        kernel_size: int,
        stride: int,
        drop_path: float,
    ) -> None:
        super().__init__()
        hidden = in_channels * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(ConvNormAct(in_channels, hidden, 1, norm_eps=NORM_EPS, activation=nn.SiLU))
        layers += [
            ConvNormAct(
                hidden,
                hidden,
                kernel_size,
                stride=stride,
                groups=hidden,
                norm_eps=NORM_EPS,
                activation=nn.SiLU,
            ),
            SqueezeExcitation(hidden, max(1, in_channels // 4)),
            ConvNormAct(hidden, out_channels, 1, norm_eps=NORM_EPS, activation=None),
        ]
        self.branch = nn.Sequential(*layers)
        self.has_shortcut = stride == 1 and in_channels == out_channels
        self.drop_path = StochasticDepth(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.branch(x)) if self.has_shortcut else self.branch(x)

    def initialize(self, generator: torch.Generator) -> None:
        if self.has_shortcut:
            damp_branch(self.branch)


class EfficientNet(nn.Module):
    """EfficientNet, [B, 3, H, W] -> [B, num_classes].

    Args:
        num_classes: the number of logits.
        width_multiplier: factor on the channels of every stage (beta^phi of equation 3).
        depth_multiplier: factor on the depth of every stage (alpha^phi of equation 3).
        stages: the MBConv rows of table 1.
        dropout: probability before the classifier, in training only.
        drop_path: stochastic depth rate of the last block; the others rise linearly to it.
    """

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        width_multiplier: float = 1.0,
        depth_multiplier: float = 1.0,
        stages: Sequence[Stage] = STAGES,
        dropout: float = 0.2,
        drop_path: float = 0.2,
    ) -> None:
        super().__init__()
        depths = [math.ceil(stage.depth * depth_multiplier) for stage in stages]
        rates = iter(linear_rates(drop_path, sum(depths)))
        channels = round_channels(32 * width_multiplier)
        self.stem = ConvNormAct(3, channels, 3, stride=2, norm_eps=NORM_EPS, activation=nn.SiLU)
        blocks: list[nn.Module] = []
        for stage, depth in zip(stages, depths, strict=True):
            out_channels = round_channels(stage.channels * width_multiplier)
            for position in range(depth):
                blocks.append(
                    MBConv(
                        channels,
                        out_channels,
                        expansion=stage.expansion,
                        kernel_size=stage.kernel_size,
                        stride=stage.stride if position == 0 else 1,
                        drop_path=next(rates),
                    )
                )
                channels = out_channels
        self.blocks = nn.Sequential(*blocks)
        features = round_channels(1280 * width_multiplier)
        self.head = ConvNormAct(channels, features, 1, norm_eps=NORM_EPS, activation=nn.SiLU)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(features, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        features = self.pool(self.head(self.blocks(self.stem(image))))
        return self.classifier(self.dropout(torch.flatten(features, 1)))


def efficientnet_b0(num_classes: int = 1000) -> EfficientNet:
    """EfficientNet-B0: 5,288,548 parameters with 1000 classes."""
    return EfficientNet(num_classes=num_classes)
