"""ViT: a transformer over image patches.

Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image
Recognition at Scale", ICLR 2021, arXiv:2010.11929: equations 1 to 4.  The Tiny
size (width 192, 12 blocks, 3 heads) is that of Touvron et al., "Training
data-efficient image transformers", ICML 2021, arXiv:2012.12877, table 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from plait.frontends.families.layers import TransformerBlock, linear_rates

NORM_EPS = 1e-6


class VisionTransformer(nn.Module):
    """ViT with a class token, [B, 3, image_size, image_size] -> [B, num_classes].

    Args:
        image_size: the height and width of the image in pixels.
        patch_size: the height and width of a patch in pixels.
        width: the width of a token.
        depth: the number of blocks.
        heads: the attention heads of each block.
        num_classes: the number of logits.
        dropout: probability in training, on the tokens and inside the blocks.
        drop_path: stochastic depth rate of the last block; the others rise linearly to it.

    Raises:
        ValueError: the patches do not tile the image, or the heads do not split the width.
    """

    def __init__(
        self,
        *,
        image_size: int = 224,
        patch_size: int = 16,
        width: int = 192,
        depth: int = 12,
        heads: int = 3,
        num_classes: int = 1000,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"the image size {image_size} is not a multiple of the patch size {patch_size}")
        patches = (image_size // patch_size) ** 2
        self.patch_embedding = nn.Conv2d(3, width, patch_size, stride=patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position_embedding = nn.Parameter(torch.zeros(1, patches + 1, width))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(
            *(
                TransformerBlock(width, heads, norm_eps=NORM_EPS, dropout=dropout, drop_path=rate)
                for rate in linear_rates(drop_path, depth)
            )
        )
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        patches = self.patch_embedding(image).flatten(2).transpose(1, 2)
        class_token = self.class_token.expand(image.shape[0], -1, -1)
        tokens = torch.cat([class_token, patches], dim=1) + self.position_embedding
        tokens = self.norm(self.blocks(self.dropout(tokens)))
        return self.classifier(tokens[:, 0])

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        self.class_token.normal_(0.0, 0.5, generator=generator)
        self.position_embedding.normal_(0.0, 0.5, generator=generator)


def vit_tiny(num_classes: int = 1000, image_size: int = 224) -> VisionTransformer:
    """ViT-Tiny/16: 5,717,416 parameters with 1000 classes at 224 x 224."""
    return VisionTransformer(num_classes=num_classes, image_size=image_size)
