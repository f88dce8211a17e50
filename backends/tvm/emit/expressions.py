"""Scalar expressions that several emissions share: activations, broadcasting, rounding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx
from tvm.ir import Expr


def number(value: float | int | bool, dtype: str) -> Expr:
    """A constant of an element type."""
    return tirx.const(value, dtype)


def size_of(dim: Expr) -> int | None:
    """The value of a constant expression, or None."""
    return int(dim.value) if isinstance(dim, tirx.IntImm) else None


def element(tensor: te.Tensor, indices: Sequence[Expr], result_shape: Sequence[Expr]) -> Expr:
    """The element of `tensor` that broadcasts to place `indices` of a result, aligned at the right."""
    offset = len(indices) - len(tensor.shape)
    places = []
    for axis, dim in enumerate(tensor.shape):
        stretched = size_of(dim) == 1 and size_of(result_shape[axis + offset]) != 1
        places.append(tirx.IntImm("int64", 0) if stretched else indices[axis + offset])
    return tensor(*places)


def pointwise(
    shape: Sequence[Expr], function: Callable[..., Expr], *tensors: te.Tensor, name: str
) -> te.Tensor:
    """`function` of the elements of some tensors that broadcast to `shape`."""
    return te.compute(
        shape, lambda *i: function(*(element(tensor, i, shape) for tensor in tensors)), name=name
    )


def clip(x: Expr, low: float, high: float) -> Expr:
    """min(max(x, low), high)."""
    return te.min(te.max(x, number(low, x.ty.dtype)), number(high, x.ty.dtype))


def sigmoid(x: Expr) -> Expr:
    one = number(1, x.ty.dtype)
    return one / (one + tirx.exp(-x))


def gelu(x: Expr) -> Expr:
    """x * Phi(x)."""
    dtype = x.ty.dtype
    return x * number(0.5, dtype) * (number(1, dtype) + tirx.erf(x * number(0.5**0.5, dtype)))


def gelu_tanh(x: Expr) -> Expr:
    """0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))."""
    dtype = x.ty.dtype
    inner = number(0.7978845608028654, dtype) * (x + number(0.044715, dtype) * x * x * x)
    return number(0.5, dtype) * x * (number(1, dtype) + tirx.tanh(inner))


def softplus(x: Expr, beta: float = 1.0) -> Expr:
    """log(1 + e^(beta x)) / beta, as max(x, 0) + log1p(e^-|beta x|) / beta so that no power overflows."""
    dtype = x.ty.dtype
    tail = tirx.log1p(tirx.exp(-tirx.abs(x * number(beta, dtype))))
    return te.max(x, number(0, dtype)) + tail * number(1.0 / beta, dtype)


def hardsigmoid(x: Expr, alpha: float = 1.0 / 6.0, beta: float = 0.5) -> Expr:
    return clip(x * number(alpha, x.ty.dtype) + number(beta, x.ty.dtype), 0.0, 1.0)


def leaky_relu(x: Expr, alpha: float) -> Expr:
    return tirx.Select(x > number(0, x.ty.dtype), x, x * number(alpha, x.ty.dtype))


ACTIVATIONS: dict[str, Callable[[Expr, float], Expr]] = {
    "none": lambda x, alpha: x,
    "relu": lambda x, alpha: te.max(x, number(0, x.ty.dtype)),
    "relu6": lambda x, alpha: clip(x, 0.0, 6.0),
    "leaky_relu": leaky_relu,
    "sigmoid": lambda x, alpha: sigmoid(x),
    "tanh": lambda x, alpha: tirx.tanh(x),
    "gelu": lambda x, alpha: gelu(x),
    "gelu_tanh": lambda x, alpha: gelu_tanh(x),
    "silu": lambda x, alpha: x * sigmoid(x),
    "hardswish": lambda x, alpha: x * hardsigmoid(x),
    "hardsigmoid": lambda x, alpha: hardsigmoid(x),
}


def activate(x: Expr, op: Any) -> Expr:
    """The activation that the attributes `act` and `act_alpha` of an op name."""
    return ACTIVATIONS[op.act](x, op.act_alpha)


def saturate(x: Expr, low: int, high: int, dtype: str) -> Expr:
    """A floating-point number rounded, halves to even, limited to a range, as an integer."""
    limited = clip(tirx.nearbyint(x), float(low), float(high))
    return tirx.Cast(dtype, limited)
