"""Rules: scaled dot-product attention."""

from __future__ import annotations

from plait.frontends.pytorch.builder import Builder
from plait.frontends.pytorch.registry import register
from plait.ir import types as t
from plait.ir.ops import nn
from plait.ir.value import Value


@register("aten.scaled_dot_product_attention.default")
def attention(
    build: Builder,
    query: Value,
    key: Value,
    value: Value,
    attn_mask: Value | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    if dropout_p:
        build.refuse(f"dropout_p={dropout_p} in training mode")
    if enable_gqa:
        heads = build.kind(query).shape[-3]
        key, value = _repeat_heads(build, key, heads), _repeat_heads(build, value, heads)
    lead = build.out.shape[:-2]
    if build.kind(query).shape[:-2] != lead:
        query = build.broadcast(query, (*lead, *build.kind(query).shape[-2:]))
    if attn_mask is not None and build.kind(attn_mask).dtype != t.boolean:
        attn_mask = build.cast(attn_mask, build.kind(query).dtype)
    return build.emit(nn.Attention(query, key, value, attn_mask, causal=is_causal, scale=scale))


def _repeat_heads(build: Builder, x: Value, heads: object) -> Value:
    """Each head of a grouped key or value as often as there are query heads for it."""
    *lead, groups, length, width = build.kind(x).shape
    if not isinstance(heads, int) or not isinstance(groups, int):
        build.refuse("grouped attention with a symbolic number of heads")
    repeats = heads // groups
    spread = build.broadcast(
        build.reshape(x, (*lead, groups, 1, length, width)), (*lead, groups, repeats, length, width)
    )
    return build.reshape(spread, (*lead, heads, length, width))


@register("aten._scaled_dot_product_flash_attention_for_cpu.default")
def flash_attention_for_cpu(
    build: Builder,
    query: Value,
    key: Value,
    value: Value,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: Value | None = None,
    scale: float | None = None,
) -> tuple[Value, None]:
    # the second result serves the gradient only
    return attention(build, query, key, value, attn_mask, dropout_p, is_causal, scale=scale), None
