"""GPT-2: a causal transformer language model.

Radford, Wu, Child, Luan, Amodei and Sutskever, "Language Models are
Unsupervised Multitask Learners", OpenAI 2019: section 2.3 and table 2.  Pre-norm
blocks with the tanh form of GELU (Hendrycks and Gimpel, arXiv:1606.08415), a
last layer norm, and an output layer that shares the token embedding.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plait.frontends.families.layers import TransformerBlock


class GPT2(nn.Module):
    """GPT-2, token ids int64 [B, T] -> hidden states float [B, T, width].

    With `language_head` the result is the logits of the next token, float [B, T,
    vocabulary], by the product with the token embedding; the head adds no parameters.

    Args:
        vocabulary: the number of tokens.
        context: the largest T.
        width: the width of a token.
        depth: the number of blocks.
        heads: the attention heads of each block.
        language_head: return logits instead of hidden states.
        dropout: probability in training, on the embeddings and inside the blocks.

    Raises:
        ValueError: `width` is not a multiple of `heads`.
    """

    def __init__(
        self,
        *,
        vocabulary: int = 50257,
        context: int = 1024,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        language_head: bool = False,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.language_head = language_head
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.position_embedding = nn.Embedding(context, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(
            *(TransformerBlock(width, heads, causal=True, gelu="tanh", dropout=dropout) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        embedded = self.token_embedding(tokens) + self.position_embedding(positions)
        hidden = self.norm(self.blocks(self.dropout(embedded)))
        return F.linear(hidden, self.token_embedding.weight) if self.language_head else hidden

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        """Small embeddings, and residual projections divided by the root of their number (section 2.3)."""
        self.token_embedding.weight.mul_(0.02)
        self.position_embedding.weight.mul_(0.01)
        factor = 1.0 / math.sqrt(2 * len(self.blocks))
        for block in self.blocks:
            assert isinstance(block, TransformerBlock)
            block.attention.projection.weight.mul_(factor)
            block.feed_forward.projection.weight.mul_(factor)


def gpt2_small(language_head: bool = False) -> GPT2:
    """GPT-2 small, the 117M of the paper: 124,439,808 parameters with 1024 positions and 50257 tokens."""
    return GPT2(language_head=language_head)
