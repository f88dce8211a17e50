"""A multilayer perceptron: linear layers with rectifiers between them.

Rumelhart, Hinton and Williams, "Learning representations by back-propagating
errors", Nature 323, 1986, with the rectified units of Glorot, Bordes and Bengio,
"Deep Sparse Rectifier Neural Networks", AISTATS 2011.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class MultilayerPerceptron(nn.Module):
    """Features float [B, widths[0]] -> logits float [B, widths[-1]].

    Args:
        widths: of the input, of each hidden layer, and of the output.

    Raises:
        ValueError: there are fewer than two widths.
    """

    def __init__(self, widths: Sequence[int] = (784, 4096, 4096, 4096, 10)) -> None:
        super().__init__()
        if len(widths) < 2:
            raise ValueError(f"a perceptron has at least two widths, input and output, not {list(widths)}")
        self.hidden = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths[:-1]))
        self.classifier = nn.Linear(widths[-2], widths[-1])

    def forward(self, features: Tensor) -> Tensor:
        for layer in self.hidden:
            features = torch.relu(layer(features))
        return self.classifier(features)

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        """A rectifier halves the second moment of what it is given; the layers before one make up for it."""
        for layer in self.hidden:
            assert isinstance(layer, nn.Linear)
            layer.weight.mul_(math.sqrt(2.0))


def mlp() -> MultilayerPerceptron:
    """Three hidden layers of 4096 over images of 28 x 28 pixels, 10 classes: 36,818,954 parameters."""
    return MultilayerPerceptron()
