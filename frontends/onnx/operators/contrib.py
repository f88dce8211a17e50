"""Fused operators of the com.microsoft domain, which ONNX Runtime's tools write."""

from __future__ import annotations

from plait.frontends.onnx.call import Call
from plait.frontends.onnx.operators.linear import join_heads, split_heads
from plait.frontends.onnx.operators.norm import normalised
from plait.frontends.onnx.registry import lowers
from plait.ir import Value
from plait.ir.ops import core, linalg, nn

DOMAIN = "com.microsoft"


@lowers("Gelu", "FastGelu", "BiasGelu", "QuickGelu", domain=DOMAIN)
def gelu(call: Call) -> Value:
    """Gelu by erf; FastGelu by tanh; both with an optional bias; QuickGelu is x * sigmoid(alpha x)."""
    x = call.value(0)
    if call.has(1):
        x = call.step(core.Add(x, call.value(1)))
    if call.op_type == "QuickGelu":
        scaled = call.step(core.Mul(x, call.scalar_like(call.number_attribute("alpha", 1.702), x)))
        return call.emit(core.Mul(x, call.step(nn.Sigmoid(scaled))))
    return call.emit(nn.Gelu(x, approximate="tanh" if call.op_type == "FastGelu" else "none"))


@lowers("SkipLayerNormalization", domain=DOMAIN)
def skip_layer_norm(call: Call) -> list[Value | None]:
    """Layer norm of input + skip + bias; the sum is the fourth output."""
    total = call.step(core.Add(call.value(0), call.value(1)))
    if call.has(4):
        total = call.step(core.Add(total, call.value(4)))
    return [normalised(call, total, call.optional(2), call.optional(3)), None, None, total]


@lowers("FusedMatMul", domain=DOMAIN)
def fused_matmul(call: Call) -> Value:
    left, right = call.value(0), call.value(1)
    if call.integer("transBatchA", 0) or call.integer("transBatchB", 0):
        raise call.unsupported("FusedMatMul with transposed batches")
    left = _swap(call, left) if call.integer("transA", 0) else left
    right = _swap(call, right) if call.integer("transB", 0) else right
    alpha = call.number_attribute("alpha", 1.0)
    if alpha == 1.0:
        return call.emit(linalg.Matmul(left, right))
    y = call.step(linalg.Matmul(left, right))
    return call.emit(core.Mul(y, call.scalar_like(alpha, y)))


def _swap(call: Call, x: Value) -> Value:
    rank = x.shaped.rank
    return call.transpose(x, (*range(rank - 2), rank - 1, rank - 2))


@lowers("Attention", domain=DOMAIN)
def self_attention(call: Call) -> Value:
    """Self attention with packed weights: x [B, T, W], weights [W, 3 V], bias [3 V] -> [B, T, V]."""
    if any(call.has(i) for i in range(3, len(call.inputs))) or call.wants(1):
        raise call.unsupported("com.microsoft.Attention with a mask, a cache or a bias of the scores")
    heads = call.integer("num_heads", 0)
    packed = call.step(linalg.Matmul(call.value(0), call.value(1)))
    if call.has(2):
        packed = call.step(core.Add(packed, call.value(2)))
    width = call.shape(1)[1] // 3
    sizes = call.integers("qkv_hidden_sizes") or (width,) * 3
    parts, start = [], 0
    for size in sizes:
        stop = start + int(size)
        part = call.step(core.Slice(packed, axes=(2,), starts=(start,), stops=(stop,)))
        parts.append(split_heads(call, part, heads))
        start = stop
    scale = call.number_attribute("scale", 0.0) if "scale" in call.attributes else None
    causal = bool(call.integer("unidirectional", 0))
    y = call.step(nn.Attention(parts[0], parts[1], parts[2], causal=causal, scale=scale))
    return join_heads(call, y)
