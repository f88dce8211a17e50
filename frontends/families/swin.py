"""Swin: a hierarchical transformer with attention inside shifted windows.

Liu, Lin, Cao, Hu, Wei, Zhang, Lin and Guo, "Swin Transformer: Hierarchical
Vision Transformer using Shifted Windows", ICCV 2021, arXiv:2103.14030: equation
3 for the pair of blocks, equation 4 for the relative position bias, figure 4
for the cyclic shift and its mask, table 7 for the sizes.

Images are kept channels last, [B, H, W, C].  Windows stay an axis of their own
beside the batch, [B, windows, tokens, C], and attention sees windows and heads
as one axis: no axis is ever a product with the batch, so a symbolic batch stays
a plain symbol throughout.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plait.frontends.families.layers import FeedForward, StochasticDepth, linear_rates

MASKED_SCORE = -100.0
"""What the mask adds to the score of two pixels that the cyclic shift made neighbours."""


def partition_windows(x: Tensor, window: int) -> Tensor:
    """Cut an image into windows, [B, H, W, C] -> [B, H*W/window^2, window^2, C]."""
    batch, height, width, channels = x.shape
    tiles = x.reshape(batch, height // window, window, width // window, window, channels)
    windows = height * width // (window * window)
    return tiles.permute(0, 1, 3, 2, 4, 5).reshape(batch, windows, window * window, channels)


def merge_windows(windows: Tensor, window: int, height: int, width: int) -> Tensor:
    """Put the windows back in place, the inverse of `partition_windows`."""
    batch, channels = windows.shape[0], windows.shape[-1]
    tiles = windows.reshape(batch, height // window, width // window, window, window, channels)
    return tiles.permute(0, 1, 3, 2, 4, 5).reshape(batch, height, width, channels)


def relative_position_index(window: int) -> Tensor:
    """Which row of the bias table a pair of pixels of a window uses, int64 [window^2, window^2].

    The table has one row for each offset (dy, dx), both in -(window-1)..window-1.
    """
    axis = torch.arange(window)
    pixels = torch.stack(torch.meshgrid(axis, axis, indexing="ij")).flatten(1)
    offsets = pixels[:, :, None] - pixels[:, None, :] + window - 1
    return offsets[0] * (2 * window - 1) + offsets[1]


def shift_mask(height: int, width: int, window: int, shift: int) -> Tensor:
    """The mask that keeps attention inside the original image, float [windows, window^2, window^2].

    After the cyclic shift the last windows of a row or column hold pixels from
    opposite borders of the image; 0 where both pixels come from one region and
    `MASKED_SCORE` where they do not.
    """

    def regions(size: int) -> Tensor:
        position = torch.arange(size)
        return (position >= size - window).long() + (position >= size - shift).long()

    region = 3 * regions(height)[:, None] + regions(width)[None, :]
    of_pixel = partition_windows(region[None, :, :, None], window)[0, :, :, 0]
    together = of_pixel[:, :, None] == of_pixel[:, None, :]
    return torch.where(together, 0.0, MASKED_SCORE)


class WindowAttention(nn.Module):
    """Multi-head attention inside windows, with a learned bias for each relative position.

    [B, windows, window^2, channels] -> the same shape; softmax(Q K^T / sqrt(d) + bias + mask) V.

    Args:
        channels: the width of a token.
        heads: the number of heads.
        window: the side of a window in tokens.
        mask: None, or what is added to the scores of each window, float [windows, window^2, window^2].
        dropout: probability on the attention weights, in training only.

    Raises:
        ValueError: `channels` is not a multiple of `heads`.
    """

    index: Tensor
    mask: Tensor | None

    def __init__(self, channels: int, heads: int, window: int, mask: Tensor | None, dropout: float) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"the width {channels} is not a multiple of the number of heads {heads}")
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(channels, 3 * channels)
        self.projection = nn.Linear(channels, channels)
        self.bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("index", relative_position_index(window), persistent=False)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, windows, length, channels = x.shape
        qkv = self.qkv(x).reshape(batch, windows, length, 3, self.heads, channels // self.heads)
        query, key, value = qkv.permute(3, 0, 1, 4, 2, 5).flatten(2, 3).unbind(0)
        attended = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=self.score_bias(windows),
            dropout_p=self.dropout if self.training else 0.0,
        )
        attended = attended.reshape(batch, windows, self.heads, length, channels // self.heads)
        # Whether the transposed heads can be viewed as one axis depends on the layout that the attention
        # kernel chose; an explicit copy keeps that choice out of exported programs.
        merged = attended.transpose(2, 3).clone(memory_format=torch.contiguous_format)
        return self.projection(merged.reshape(batch, windows, length, channels))

    def score_bias(self, windows: int) -> Tensor:
        """What is added to the scores, float [1, windows * heads, window^2, window^2]."""
        bias = self.bias_table[self.index].permute(2, 0, 1)[None]
        bias = bias.expand(windows, -1, -1, -1) if self.mask is None else bias + self.mask[:, None]
        return bias.flatten(0, 1)[None]

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        self.bias_table.normal_(0.0, 0.5, generator=generator)


class SwinBlock(nn.Module):
    """Attention in windows, shifted or not, and a feed-forward layer; [B, H, W, C] -> [B, H, W, C].

    Args:
        channels: the width of a token.
        heads: the number of heads.
        resolution: H and W.
        window: the side of a window.
        shift: by how many tokens the windows are shifted, 0 for none.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        resolution: tuple[int, int],
        *,
        window: int,
        shift: int,
        dropout: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.resolution = resolution
        self.window = window
        self.shift = shift
        mask = shift_mask(*resolution, window, shift) if shift else None
        self.attention_norm = nn.LayerNorm(channels)
        self.attention = WindowAttention(channels, heads, window, mask, dropout)
        self.feed_forward_norm = nn.LayerNorm(channels)
        self.feed_forward = FeedForward(channels, 4 * channels, dropout=dropout)
        self.drop_path = StochasticDepth(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self._attend(self.attention_norm(x)))
        return x + self.drop_path(self.feed_forward(self.feed_forward_norm(x)))

    def _attend(self, x: Tensor) -> Tensor:
        if self.shift:
            x = torch.roll(x, shifts=(-self.shift, -self.shift), dims=(1, 2))
        x = self.attention(partition_windows(x, self.window))
        x = merge_windows(x, self.window, *self.resolution)
        if self.shift:
            x = torch.roll(x, shifts=(self.shift, self.shift), dims=(1, 2))
        return x


class PatchMerging(nn.Module):
    """Join each 2 x 2 tokens into one of twice the width, [B, H, W, C] -> [B, H/2, W/2, 2*C]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        squares = x.reshape(batch, height // 2, 2, width // 2, 2, channels).permute(0, 1, 3, 4, 2, 5)
        return self.reduction(self.norm(squares.flatten(3)))


class SwinTransformer(nn.Module):
    """Swin Transformer, [B, 3, image_size, image_size] -> [B, num_classes].

    Args:
        image_size: the height and width of the image in pixels.
        patch_size: the height and width of a patch in pixels.
        width: the channels of the first stage; each later stage doubles them.
        depths: the number of blocks in each stage; every second block is shifted.
        heads: the attention heads of each stage.
        window: the side of a window in tokens.
        num_classes: the number of logits.
        dropout: probability in training, on the tokens and inside the blocks.
        drop_path: stochastic depth rate of the last block; the others rise linearly to it.

    Raises:
        ValueError: patches, windows or merges do not tile the image evenly.
    """

    def __init__(
        self,
        *,
        image_size: int = 224,
        patch_size: int = 4,
        width: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        heads: Sequence[int] = (3, 6, 12, 24),
        window: int = 7,
        num_classes: int = 1000,
        dropout: float = 0.0,
        drop_path: float = 0.2,
    ) -> None:
        super().__init__()
        unit = patch_size * window * 2 ** (len(depths) - 1)
        if image_size % unit:
            raise ValueError(
                f"the image size {image_size} is not a multiple of {unit}, "
                f"which {len(depths)} stages of {window} x {window} windows over {patch_size} x {patch_size} "
                "patches need"
            )
        rates = iter(linear_rates(drop_path, sum(depths)))
        self.patch_embedding = nn.Conv2d(3, width, patch_size, stride=patch_size)
        self.patch_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        side = image_size // patch_size
        channels = width
        stages: list[nn.Module] = []
        for index, (depth, stage_heads) in enumerate(zip(depths, heads, strict=True)):
            if index > 0:
                stages.append(PatchMerging(channels))
                side, channels = side // 2, channels * 2
            for position in range(depth):
                # One window that covers the whole image has nothing to shift into.
                shift = window // 2 if position % 2 and side > window else 0
                stages.append(
                    SwinBlock(
                        channels,
                        stage_heads,
                        (side, side),
                        window=window,
                        shift=shift,
                        dropout=dropout,
                        drop_path=next(rates),
                    )
                )
        self.stages = nn.Sequential(*stages)
        self.norm = nn.LayerNorm(channels)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.patch_norm(self.patch_embedding(image).permute(0, 2, 3, 1))
        tokens = self.norm(self.stages(self.dropout(tokens)))
        return self.classifier(tokens.mean(dim=(1, 2)))


def swin_tiny(num_classes: int = 1000) -> SwinTransformer:
    """Swin-Tiny with 7 x 7 windows: 28,288,354 parameters with 1000 classes."""
    return SwinTransformer(num_classes=num_classes)
