"""Reference semantics of nn's dense layers, attention and embedding."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from plait.ir.ops import nn
from plait.ir.reference.quantised import contract
from plait.ir.reference.table import Context, MixedArgs, reference


@reference(nn.Linear)
def linear(op: nn.Linear, args: MixedArgs, ctx: Context) -> torch.Tensor:
    """x @ w.T with bias and activation."""
    x, w, b = args
    types = (op.x.shaped, op.w.shaped)
    return contract(op, (x, w, b), types, ctx, F.linear, output_axis=0, result_axis=-1)


@reference(nn.Attention)
def attention(op: nn.Attention, args: MixedArgs, ctx: Context) -> torch.Tensor:
    """Scaled dot-product attention; `causal` lets query i see keys 0..i."""
    q, k, v, mask = args
    lead = q.shape[:-2]
    k, v = k.expand(*lead, *k.shape[-2:]), v.expand(*lead, *v.shape[-2:])
    if mask is not None and op.causal:
        order = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
        mask = mask & order if mask.dtype == torch.bool else torch.where(order, mask, -math.inf)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=op.causal and mask is None, scale=op.scale
    )


@reference(nn.Embedding)
def embedding(op: nn.Embedding, args: MixedArgs, ctx: Context) -> torch.Tensor:
    """Rows of a table."""
    indices, table = args
    return F.embedding(indices, table)
