"""ZCA whitening in front of a spiking network: decorrelate the pixels, stay close to the image.

With n samples x_i, flattened to F values, and the mean m over them (Bell and
Sejnowski, Vision Research 37(23), 1997; Krizhevsky, 2009, for epsilon):

    C = sum_i (x_i - m)(x_i - m)^T / (n - 1)        covariance, [F, F]
    C = V diag(l) V^T                               eigenvalues l, eigenvectors V
    W = V diag(1 / sqrt(max(l, 0) + epsilon)) V^T   symmetric, [F, F]
    z = W (x - m)

With epsilon = 0 the covariance of z is the identity; epsilon > 0 damps the
directions of little variance, each to l / (l + epsilon).  It is the whitening
that Spyker offers (Shirsavar and Dehaqani, 2023).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Whitening(nn.Module):
    """ZCA whitening of samples of one shape, e.g. (1, 28, 28); [B, *shape] -> the same shape.

    `mean` [F], `transform` [F, F] and `fitted` are buffers, so state_dict and
    load_state_dict keep and restore what `fit` has found.
    """

    mean: Tensor
    transform: Tensor
    fitted: Tensor

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)
        features = math.prod(self.shape)
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("transform", torch.eye(features))
        self.register_buffer("fitted", torch.tensor(False))

    def _flatten(self, samples: Tensor, where: str) -> Tensor:
        if tuple(samples.shape[1:]) != self.shape:
            raise ValueError(
                f"whitening.{where}: samples are {tuple(samples.shape[1:])}, this module is for "
                f"{self.shape}; pass [B, *shape] or make a module of that shape"
            )
        return samples.flatten(1)

    @torch.no_grad()
    def fit(self, samples: Tensor, epsilon: float) -> Whitening:
        """Learn mean and transform from samples [n, *shape], n >= 2, in float64; returns the module.

        epsilon is in squared units of the samples.  Raises ValueError for fewer
        than two samples, a negative epsilon, or an epsilon of 0 where the
        covariance is singular (always when n <= F).
        """
        flat = self._flatten(samples, "fit").to(torch.float64)
        if flat.shape[0] < 2:
            raise ValueError(
                f"whitening.fit: {flat.shape[0]} sample has no covariance; pass two samples or more"
            )
        if epsilon < 0:
            raise ValueError(f"whitening.fit: epsilon is 0 or above, got {epsilon}")
        mean = flat.mean(dim=0)
        centred = flat - mean
        values, vectors = torch.linalg.eigh(centred.T @ centred / (flat.shape[0] - 1))
        # Rounding leaves the zero eigenvalues of a singular covariance at about this size.
        rounding = values.abs().amax() * flat.shape[1] * torch.finfo(torch.float64).eps
        if epsilon == 0 and bool((values <= rounding).any()):
            raise ValueError(
                f"whitening.fit: the covariance of {flat.shape[0]} samples of {flat.shape[1]} values "
                "is singular and epsilon is 0; pass an epsilon above 0 or more samples"
            )
        transform = (vectors / torch.sqrt(values.clamp(min=0) + epsilon)) @ vectors.T
        self.mean.copy_(mean)
        self.transform.copy_(transform)
        self.fitted.fill_(True)
        return self

    def forward(self, samples: Tensor) -> Tensor:
        """Whitened samples [B, *shape].  Raises ValueError before `fit` or for another shape."""
        flat = self._flatten(samples, "forward")
        # While torch.export records, the flag has no value to read.
        if not torch.compiler.is_compiling() and not self.fitted:
            raise ValueError(
                "whitening.forward: nothing was learned yet; call fit or load a state_dict first"
            )
        return ((flat - self.mean) @ self.transform).reshape(samples.shape)


def split(whitened: Tensor) -> Tensor:
    """Signed values as two channels that are not negative: [B, C, ...] -> [B, 2 C, ...].

    The channels of max(x, 0) come first, then those of max(-x, 0), as in
    LaplacianOfGaussian.  A spike code needs it: it has no negative spikes.
    """
    return torch.relu(torch.cat([whitened, -whitened], dim=1))
