"""Questions that passes ask about constant values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from plait.ir import Constant, Op, QuantType, TensorType, Value
from plait.ir.ops.core import Full, Iota

#: Larger constants are never scanned for being uniform.
_SCAN_LIMIT = 1 << 16


def is_constant(value: Value) -> bool:
    """Whether a value is known at compile time: a constant, a fill or a count."""
    return isinstance(value, Constant) or isinstance(value.producer, (Full, Iota))


def dense_data(value: Value | None) -> np.ndarray | None:
    """The array of a dense constant; None for anything else, and where only the hash is known."""
    if isinstance(value, Constant) and value.has_data and isinstance(value.type, TensorType):
        return value.data
    return None


def uniform(value: Value) -> float | int | bool | None:
    """The number that every element of `value` is known to be, or None."""
    if isinstance(value.producer, Full):
        return value.producer.value
    array = dense_data(value)
    if array is None or not 0 < array.size <= _SCAN_LIMIT:
        return None
    first = array.reshape(-1)[0]
    if not (array == first).all():
        return None
    kind = value.shaped.dtype
    if kind.kind == "complex":
        return None
    return float(first) if kind.is_float else bool(first) if kind.kind == "bool" else int(first)


def axis_vector(value: Value, axis: int, rank: int, size: int, dtype: np.dtype) -> np.ndarray | None:
    """A constant that varies along one axis of a tensor only, as a float64 vector of `size`.

    Args:
        value: the candidate, broadcast against the tensor from the right.
        axis: the axis of the tensor, counted from the front.
        rank: rank of the tensor.
        size: its dim at `axis`.
        dtype: its element type, to which a fill is rounded first.

    Returns:
        The vector, or None where the value is unknown or varies along another axis.
    """
    if not isinstance(value.type, TensorType):
        return None
    shape = value.type.shape
    padded = (1,) * (rank - len(shape)) + shape
    if len(padded) != rank or any(dim != 1 for i, dim in enumerate(padded) if i != axis):
        return None
    if padded[axis] not in (1, size):
        return None
    if isinstance(value.producer, Full):
        return np.full(size, np.asarray(value.producer.value, dtype=dtype).astype(np.float64))
    array = dense_data(value)
    if array is None:
        return None
    return np.broadcast_to(array.reshape(-1).astype(np.float64), (size,))


@dataclass(frozen=True)
class ChannelScale:
    """Weights of a convolution or dense layer, scaled along the output channels.

    y = conv(x, w) * factor  equals  conv(x, scaled(w)), and `axis` is the axis of
    the result that holds the channels.
    """

    op: Op
    channels: int
    axis: int

    def scaled(self, weight: np.ndarray, factor: np.ndarray) -> np.ndarray:
        """`weight` in float64 with each output channel times `factor` [channels]."""
        wide = weight.astype(np.float64)
        if self.op.opname != "nn.conv_transpose2d":
            return wide * factor.reshape(-1, *(1,) * (wide.ndim - 1))
        # Weights are [in, out/groups, kh, kw]: group g of the inputs feeds group g of the outputs.
        groups = self.op.groups  # type: ignore[attr-defined]  # every convolution has groups
        grouped = wide.reshape(groups, wide.shape[0] // groups, *wide.shape[1:])
        return (grouped * factor.reshape(groups, 1, -1, 1, 1)).reshape(wide.shape)


def references(types_of: list[Value]) -> set[str]:
    """Names of the constants that quantised types among `types_of` refer to."""
    found: set[str] = set()
    for value in types_of:
        if isinstance(value.type, QuantType):
            found.update(value.type.references)
    return found
