"""ConvNeXt: a convolutional network with the proportions of a transformer.

Liu, Mao, Wu, Feichtenhofer, Darrell and Xie, "A ConvNet for the 2020s", CVPR
2022, arXiv:2201.03545: figure 4 for the block, table 9 for the sizes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from plait.frontends.families.layers import StochasticDepth, linear_rates

NORM_EPS = 1e-6


class ChannelNorm(nn.Module):
    """Layer norm over the channels of an image, [B, C, H, W] -> [B, C, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    """A 7 x 7 depthwise filter, then an inverted bottleneck at each pixel; [B, C, H, W] -> [B, C, H, W].

    `layer_scale` is a learned factor for each channel of the branch (Touvron et
    al., Going Deeper with Image Transformers, ICCV 2021, arXiv:2103.17239).
    """

    def __init__(self, channels: int, *, layer_scale: float, drop_path: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=NORM_EPS)
        self.expand = nn.Linear(channels, 4 * channels)
        self.activation = nn.GELU()
        self.project = nn.Linear(4 * channels, channels)
        self.layer_scale = nn.Parameter(torch.full((channels,), layer_scale))
        self.drop_path = StochasticDepth(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        branch = self.layer_scale * self.project(self.activation(self.expand(branch)))
        return x + self.drop_path(branch.permute(0, 3, 1, 2))

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        """Scales as large as after training; at the initial 1e-6 of the paper a block does nothing."""
        self.layer_scale.uniform_(0.2, 1.0, generator=generator)


class ConvNeXt(nn.Module):
    """ConvNeXt, [B, 3, H, W] -> [B, num_classes].

    Args:
        depths: the number of blocks in each stage.
        widths: the channels of each stage.
        num_classes: the number of logits.
        layer_scale: the initial value of every block's layer scale.
        drop_path: stochastic depth rate of the last block; the others rise linearly to it.
    """

    def __init__(
        self,
        depths: Sequence[int] = (3, 3, 9, 3),
        widths: Sequence[int] = (96, 192, 384, 768),
        *,
        num_classes: int = 1000,
        layer_scale: float = 1e-6,
        drop_path: float = 0.1,
    ) -> None:
        super().__init__()
        rates = iter(linear_rates(drop_path, sum(depths)))
        stages: list[nn.Module] = []
        channels = 3
        for index, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            if index == 0:
                stages += [nn.Conv2d(channels, width, 4, stride=4), ChannelNorm(width)]
            else:
                stages += [ChannelNorm(channels), nn.Conv2d(channels, width, 2, stride=2)]
            stages += [
                ConvNeXtBlock(width, layer_scale=layer_scale, drop_path=next(rates)) for _ in range(depth)
            ]
            channels = width
        self.stages = nn.Sequential(*stages)
        self.norm = nn.LayerNorm(channels, eps=NORM_EPS)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        pooled = self.stages(image).mean(dim=(2, 3))
        return self.classifier(self.norm(pooled))


def convnext_tiny(num_classes: int = 1000) -> ConvNeXt:
    """ConvNeXt-Tiny: 28,589,128 parameters with 1000 classes."""
    return ConvNeXt(num_classes=num_classes)
