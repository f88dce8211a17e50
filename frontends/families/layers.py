"""Layers that more than one family uses."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvNormAct(nn.Sequential):
    """Convolution with "same" padding for odd kernels, batch norm, and an activation if one is given.

    [B, in_channels, H, W] -> [B, out_channels, ceil(H/stride), ceil(W/stride)].
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        groups: int = 1,
        norm_eps: float = 1e-5,
        activation: type[nn.Module] | None = nn.ReLU,
    ) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(
                in_channels,
                out_channels,
                kernel_size,
                stride=stride,
                padding=kernel_size // 2,
                groups=groups,
                bias=False,
            ),
            nn.BatchNorm2d(out_channels, eps=norm_eps),
        ]
        if activation is not None:
            layers.append(activation())
        super().__init__(*layers)


class StochasticDepth(nn.Module):
    """Drop a residual branch for whole samples in training; the identity in evaluation.

    x [B, ...] -> [B, ...]: each sample is zeroed with probability `rate` and the
    others are divided by 1 - rate, which keeps the expectation (Huang et al.,
    Deep Networks with Stochastic Depth, ECCV 2016, arXiv:1603.09382).

    Raises:
        ValueError: `rate` is outside [0, 1).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"the rate of stochastic depth is a probability below 1, not {rate}")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        kept = torch.rand([x.shape[0]] + [1] * (x.dim() - 1), device=x.device) >= self.rate
        return x * kept.to(x.dtype) / (1.0 - self.rate)

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}"


def linear_rates(last: float, depth: int) -> list[float]:
    """Stochastic depth rates that rise linearly from 0 at the first of `depth` blocks to `last`."""
    return [last * index / max(depth - 1, 1) for index in range(depth)]


def round_channels(channels: float, divisor: int = 8) -> int:
    """The multiple of `divisor` nearest to `channels`, never more than 10 % below it.

    >>> [round_channels(c) for c in (3, 24.0, 33.6, 44.8)]
    [8, 24, 32, 48]
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * channels else rounded + divisor


class SelfAttention(nn.Module):
    """Multi-head scaled dot-product self-attention, [B, T, width] -> [B, T, width].

    softmax(Q K^T / sqrt(width / heads)) V for each head (Vaswani et al., 2017,
    eq. 1), with one projection for the queries, keys and values together.  With
    `causal`, position t attends to positions 0..t only.

    Raises:
        ValueError: `width` is not a multiple of `heads`.
    """

    def __init__(self, width: int, heads: int, *, causal: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"the width {width} is not a multiple of the number of heads {heads}")
        self.heads = heads
        self.causal = causal
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(
            query, key, value, dropout_p=self.dropout if self.training else 0.0, is_causal=self.causal
        )
        return self.projection(attended.transpose(1, 2).reshape(batch, length, width))


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them, applied at each position: [..., width] -> [..., width]."""

    def __init__(self, width: int, hidden: int, *, approximate: str = "none", dropout: float = 0.0) -> None:
        super().__init__()
        self.expansion = nn.Linear(width, hidden)
        self.activation = nn.GELU(approximate=approximate)
        self.projection = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.projection(self.activation(self.expansion(x))))


class TransformerBlock(nn.Module):
    """A pre-norm transformer block, [B, T, width] -> [B, T, width].

    x = x + attention(norm(x)); x = x + feed_forward(norm(x)).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        expansion: int = 4,
        causal: bool = False,
        gelu: str = "none",
        norm_eps: float = 1e-5,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=norm_eps)
        self.attention = SelfAttention(width, heads, causal=causal, dropout=dropout)
        self.attention_dropout = nn.Dropout(dropout)
        self.feed_forward_norm = nn.LayerNorm(width, eps=norm_eps)
        self.feed_forward = FeedForward(width, expansion * width, approximate=gelu, dropout=dropout)
        self.drop_path = StochasticDepth(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attention_dropout(self.attention(self.attention_norm(x))))
        return x + self.drop_path(self.feed_forward(self.feed_forward_norm(x)))
