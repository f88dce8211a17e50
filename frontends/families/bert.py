"""BERT: a bidirectional transformer encoder.

Devlin, Chang, Lee and Toutanova, "BERT: Pre-training of Deep Bidirectional
Transformers for Language Understanding", NAACL 2019, arXiv:1810.04805: section 3.
The input is the sum of token, segment and position embeddings (figure 2); the
blocks are those of Vaswani et al., 2017, which normalise after each residual
sum, with GELU in the place of ReLU.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from plait.frontends.families.layers import FeedForward, SelfAttention

NORM_EPS = 1e-12


class PostNormBlock(nn.Module):
    """A post-norm transformer block, [B, T, width] -> [B, T, width].

    x = norm(x + attention(x)); x = norm(x + feed_forward(x)).
    """

    def __init__(
        self, width: int, heads: int, *, expansion: int = 4, norm_eps: float = NORM_EPS, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.attention = SelfAttention(width, heads, dropout=dropout)
        self.attention_dropout = nn.Dropout(dropout)
        self.attention_norm = nn.LayerNorm(width, eps=norm_eps)
        self.feed_forward = FeedForward(width, expansion * width, dropout=dropout)
        self.feed_forward_norm = nn.LayerNorm(width, eps=norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention_norm(x + self.attention_dropout(self.attention(x)))
        return self.feed_forward_norm(x + self.feed_forward(x))


class BERT(nn.Module):
    """The encoder of BERT, token ids int64 [B, T] -> hidden states float [B, T, width].

    Args:
        vocabulary: the number of tokens.
        context: the largest T.
        segments: the number of segments that a token can belong to.
        width: the width of a token.
        depth: the number of blocks.
        heads: the attention heads of each block.
        dropout: probability in training, on the embeddings and inside the blocks.

    Raises:
        ValueError: `width` is not a multiple of `heads`.
    """

    def __init__(
        self,
        *,
        vocabulary: int = 30522,
        context: int = 512,
        segments: int = 2,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.position_embedding = nn.Embedding(context, width)
        self.segment_embedding = nn.Embedding(segments, width)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(PostNormBlock(width, heads, dropout=dropout) for _ in range(depth)))

    def forward(self, tokens: Tensor, segment_ids: Tensor | None = None) -> Tensor:
        """Hidden states of the last block.

        Args:
            tokens: int64 [B, T].
            segment_ids: the segment of each token, int64 [B, T]; by default all are of segment 0.
        """
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        segment = (
            self.segment_embedding.weight[0] if segment_ids is None else self.segment_embedding(segment_ids)
        )
        embedded = self.token_embedding(tokens) + self.position_embedding(positions) + segment
        return self.blocks(self.dropout(self.norm(embedded)))


def bert_base() -> BERT:
    """The encoder of BERT-base: 108,891,648 parameters, of the 110M that the paper counts with its heads."""
    return BERT()
