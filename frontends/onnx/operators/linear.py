"""Matrix products and attention."""

from __future__ import annotations

from plait.frontends.nodes.einsum import einsum
from plait.frontends.onnx.call import Call
from plait.frontends.onnx.registry import lowers
from plait.ir import IntLike, TensorType, Value
from plait.ir import types as t
from plait.ir.ops import core, linalg, nn


@lowers("MatMul")
def matmul(call: Call) -> Value:
    return product(call, call.value(0), call.value(1))


def product(call: Call, left: Value, right: Value) -> Value:
    """numpy.matmul: a vector is a row on the left and a column on the right, and that axis goes again."""
    a, b = left.shaped.shape, right.shaped.shape
    if len(a) >= 2 and len(b) >= 2:
        return call.emit(linalg.Matmul(left, right))
    wide_left = call.reshape(left, (1, *a)) if len(a) == 1 else left
    wide_right = call.reshape(right, (*b, 1)) if len(b) == 1 else right
    y = call.step(linalg.Matmul(wide_left, wide_right))
    shape = list(y.shaped.shape)
    if len(b) == 1:
        del shape[-1]
    if len(a) == 1:
        del shape[len(shape) - (2 if len(b) > 1 else 1)]
    return call.emit(core.Reshape(y, out=y.shaped.with_shape(tuple(shape))))


@lowers("Einsum", since=12)
def contraction(call: Call) -> Value:
    return einsum(call)


@lowers("Gemm", since=7)
def general_matrix_product(call: Call) -> Value:
    """alpha * A' @ B' + beta * C; a plain dense layer becomes one op."""
    a, b, c = call.value(0), call.value(1), call.optional(2)
    alpha, beta = call.number_attribute("alpha", 1.0), call.number_attribute("beta", 1.0)
    if call.integer("transA", 0):
        a = call.transpose(a, (1, 0))
    weight = b if call.integer("transB", 0) else call.transpose(b, (1, 0))
    outputs = weight.shaped.shape[0]
    if c is not None and c.shaped.shape == (1, outputs):
        c = call.reshape(c, (outputs,))
    plain_bias = c is None or (c.shaped.shape == (outputs,) and beta == 1.0)
    if alpha == 1.0 and plain_bias:
        return call.emit(nn.Linear(a, weight, c))
    y = call.step(nn.Linear(a, weight))
    if alpha != 1.0:
        y = call.step(core.Mul(y, call.scalar_like(alpha, y)))
    if c is None:
        return y
    if beta != 1.0:
        c = call.step(core.Mul(c, call.scalar_like(beta, c)))
    return call.emit(core.Add(y, c))


@lowers("Det", since=11)
def determinant(call: Call) -> Value:
    """The product of the diagonal of U, with the sign of the order of the rows."""
    x = call.value(0)
    element, rank, size = x.shaped.dtype, x.shaped.rank, x.shaped.shape[-1]
    factors, order, _ = call.builder.add(linalg.LU(x), f"{call.name}.lu").results
    row = call.step(core.Iota(axis=0, out=TensorType(t.i64, (size, 1))))
    column = call.step(core.Iota(axis=1, out=TensorType(t.i64, (1, size))))
    on = call.step(core.Eq(row, column))
    masked = call.step(core.Where(on, factors, call.full(1.0, element)))
    product = call.step(core.Prod(masked, axes=(rank - 2, rank - 1)))
    # each pair of rows that stands in the other order changes the sign
    shape = order.shaped.shape
    pairs = core.Gt(call.reshape(order, (*shape, 1)), call.reshape(order, (*shape[:-1], 1, size)))
    changed = call.step(core.And(call.step(pairs), call.step(core.Lt(row, column))))
    signs = call.step(core.Where(changed, call.full(-1.0, element), call.full(1.0, element)))
    sign = call.step(core.Prod(signs, axes=(rank - 2, rank - 1)))
    return call.emit(core.Mul(product, sign))


#: Attributes of the form of Attention that nn.attention computes.
_ATTENTION = {"is_causal", "scale", "q_num_heads", "kv_num_heads", "softmax_precision"}


@lowers("Attention", since=23)
def attention(call: Call) -> Value | None:
    """Scaled dot-product attention on [B, heads, T, D], or on [B, T, heads * D] with head counts.

    Grouped-query attention repeats key and value heads.  Caches, padding lengths,
    windows, soft caps and score outputs are left to the function body.
    """
    more_inputs = any(call.has(i) for i in range(4, len(call.inputs)))
    more_outputs = any(call.wants(i) for i in range(1, len(call.outputs)))
    if more_inputs or more_outputs or not set(call.attributes) <= _ATTENTION:
        return None
    if call.has(3) and call.integer("is_causal", 0):
        return None  # rows without any key are defined there
    q, k, v = (call.value(i) for i in range(3))
    heads, key_heads = call.integer("q_num_heads", 0), call.integer("kv_num_heads", 0)
    packed = q.shaped.rank == 3
    if packed:
        q = split_heads(call, q, heads)
        k, v = split_heads(call, k, key_heads), split_heads(call, v, key_heads)
    k, v = repeat_heads(call, k, q.shaped.shape[1]), repeat_heads(call, v, q.shaped.shape[1])
    scale = call.number_attribute("scale", 0.0) if "scale" in call.attributes else None
    op = nn.Attention(q, k, v, call.optional(3), causal=bool(call.integer("is_causal", 0)), scale=scale)
    if not packed:
        return call.emit(op)
    return join_heads(call, call.step(op))


def split_heads(call: Call, x: Value, heads: int) -> Value:
    """[B, T, heads * D] -> [B, heads, T, D]."""
    batch, length, width = x.shaped.shape
    if heads < 1:
        raise call.error("the number of heads is not given", why="inputs of rank 3 need it")
    return call.transpose(call.reshape(x, (batch, length, heads, width // heads)), (0, 2, 1, 3))


def join_heads(call: Call, x: Value) -> Value:
    """[B, heads, T, D] -> [B, T, heads * D], as the result of the node."""
    batch, heads, length, width = x.shaped.shape
    y = call.transpose(x, (0, 2, 1, 3))
    return call.emit(core.Reshape(y, out=y.shaped.with_shape((batch, length, heads * width))))


def repeat_heads(call: Call, x: Value, heads: IntLike) -> Value:
    """[B, G, S, D] -> [B, heads, S, D], each head as often as `heads` is a multiple of G."""
    batch, groups, length, width = x.shaped.shape
    if groups == heads:
        return x
    apart = call.reshape(x, (batch, groups, 1, length, width))
    wide = call.broadcast(apart, (batch, groups, heads // groups, length, width))
    return call.reshape(wide, (batch, heads, length, width))
