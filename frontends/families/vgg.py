"""VGG: plain stacks of 3 x 3 convolutions.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
Recognition", ICLR 2015, arXiv:1409.1556: table 1, configuration D is VGG-16.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class VGG(nn.Module):
    """VGG, [B, 3, image_size, image_size] -> [B, num_classes].

    Args:
        depths: the number of convolutions in each stage; a 2 x 2 max pooling ends the stage.
        widths: the channels of each stage.
        num_classes: the number of logits.
        image_size: the height and width in pixels; the first linear layer depends on it.
        hidden: the width of the two hidden linear layers.
        dropout: probability after each hidden linear layer, in training only.

    Raises:
        ValueError: the stages cannot halve `image_size` evenly.
    """

    def __init__(
        self,
        depths: Sequence[int],
        *,
        widths: Sequence[int] = (64, 128, 256, 512, 512),
        num_classes: int = 1000,
        image_size: int = 224,
        hidden: int = 4096,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        reduction = 2 ** len(depths)
        if image_size % reduction:
            raise ValueError(f"the image size {image_size} is not a multiple of {reduction}")
        layers: list[nn.Module] = []
        channels = 3
        for depth, width in zip(depths, widths, strict=True):
            for _ in range(depth):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
        self.features = nn.Sequential(*layers)
        side = image_size // reduction
        self.classifier = nn.Sequential(
            nn.Linear(channels * side * side, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(image), 1))


def vgg16(num_classes: int = 1000, image_size: int = 224) -> VGG:
    """VGG-16: 138,357,544 parameters with 1000 classes at 224 x 224."""
    return VGG((2, 2, 3, 3, 3), num_classes=num_classes, image_size=image_size)
