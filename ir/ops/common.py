"""Checks and shape rules that several op families share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from plait.ir.dims import Dim, IntLike, minimum
from plait.ir.op import Op, shaped
from plait.ir.types import DType, Shape, ShapedType, TensorType
from plait.ir.value import Value

#: Activations that an op may apply to its result before writing it.
Activation = Literal[
    "none",
    "relu",
    "relu6",
    "leaky_relu",
    "sigmoid",
    "tanh",
    "gelu",
    "gelu_tanh",
    "silu",
    "hardswish",
    "hardsigmoid",
]


def dense(op: Op, value: Value, name: str) -> TensorType:
    """The dense tensor type of an operand.  Raises VerifyError for other types."""
    kind = shaped(op, value, name)
    if not isinstance(kind, TensorType):
        raise op.error(
            f"operand {name} ({value}) is {kind}",
            why="a dense tensor is wanted",
            remedy="insert quant.dequantize or core.cast",
        )
    return kind


def floating(op: Op, value: Value, name: str) -> TensorType:
    """The type of a floating-point operand.  Raises VerifyError for integers and booleans."""
    kind = dense(op, value, name)
    if not kind.dtype.is_float:
        raise op.error(f"operand {name} ({value}) is {kind}", why="a floating-point tensor is wanted")
    return computable(op, value, kind, name)


def computable(op: Op, value: Value, kind: TensorType, name: str) -> TensorType:
    """The type of an operand that is computed with.  Raises VerifyError for minifloats."""
    if kind.dtype.is_minifloat:
        raise op.error(
            f"operand {name} ({value}) is {kind}",
            why=f"{kind.dtype} is a storage type: it can be moved and cast, not computed with",
            remedy="insert core.cast to f32",
        )
    return kind


def numeric(op: Op, value: Value, name: str) -> TensorType:
    """The type of an operand that is no boolean."""
    kind = dense(op, value, name)
    if kind.dtype.kind == "bool":
        raise op.error(f"operand {name} ({value}) is {kind}", why="a numeric tensor is wanted")
    return computable(op, value, kind, name)


def integral(op: Op, value: Value, name: str) -> TensorType:
    """The type of an index operand (i32 or i64)."""
    kind = dense(op, value, name)
    if kind.dtype.name not in ("i32", "i64"):
        raise op.error(f"operand {name} ({value}) is {kind}", why="indices are i32 or i64")
    return kind


def same_dtype(op: Op, left: Value, right: Value) -> DType:
    """The common element type of two operands.  Raises VerifyError when they differ."""
    a, b = shaped(op, left, "left").dtype, shaped(op, right, "right").dtype
    if a != b:
        raise op.error(
            f"{left} is {left.type} but {right} is {right.type}",
            why="operands share one element type",
            remedy="insert core.cast",
        )
    return a


def broadcast(op: Op, left: ShapedType, right: ShapedType, names: tuple[Value, Value]) -> Shape:
    """The common shape of two operands, aligned at the right, 1 stretching to any size."""
    if left.shape == right.shape:
        return left.shape
    short, long = sorted((left.shape, right.shape), key=len)
    result = list(long)
    for index, dim in enumerate(short, start=len(long) - len(short)):
        other = long[index]
        if dim == other or dim == 1:
            continue
        if other == 1:
            result[index] = dim
        else:
            raise op.error(
                f"{names[0]} is {names[0].type} but {names[1]} is {names[1].type}",
                why=f"dims {dim} and {other} at axis {index} neither agree nor is one of them 1",
            )
    return tuple(result)


def symbol_of(op: Op, count: IntLike) -> str:
    """Name of the dim that `op` binds through its attribute `count`.

    Raises VerifyError unless it is a dim symbol and nothing else.
    """
    if isinstance(count, Dim) and count.symbols() == {str(count)}:
        return str(count)
    raise op.error(
        f"count={count} is no dim symbol",
        why="the op gives the dim its value when it runs",
        remedy="declare one with graph.declare_dim('K', 0) and pass it",
    )


def normalise_axis(op: Op, axis: int, rank: int, name: str = "axis") -> int:
    """`axis` counted from the front.  Raises VerifyError when out of range."""
    if not -rank <= axis < max(rank, 1):
        raise op.error(f"{name} {axis} is out of range for rank {rank}")
    return axis + rank if axis < 0 else axis


def normalise_axes(op: Op, axes: Sequence[int], rank: int) -> tuple[int, ...]:
    """Axes counted from the front, ascending.  Raises VerifyError when one repeats or is out of range."""
    found = tuple(sorted(normalise_axis(op, axis, rank) for axis in axes))
    if len(set(found)) != len(found):
        raise op.error(f"axes {list(axes)} name an axis twice")
    return found


def conv_output(
    op: Op,
    size: IntLike,
    kernel: IntLike,
    stride: int,
    pads: tuple[int, int],
    dilation: int,
    ceil: bool = False,
) -> IntLike:
    """(size + pads - dilation*(kernel-1) - 1) // stride + 1, or rounded up with `ceil`.

    With `ceil`, the last window must start inside the input or its leading pad,
    as in PyTorch, which drops it otherwise.
    """
    if stride < 1 or dilation < 1:
        raise op.error(f"stride {stride} and dilation {dilation} must be at least 1")
    span = size + sum(pads) - dilation * (kernel - 1) - 1
    if isinstance(span, int) and span < 0:
        raise op.error(
            f"window of {dilation * (kernel - 1) + 1} exceeds the input of {size} + pads {list(pads)}"
        )
    if not ceil:
        return span // stride + 1
    return minimum((span + stride - 1) // stride + 1, (size + pads[0] - 1) // stride + 1)


def pads_of(op: Op, pad: Sequence[int], spatial: int) -> tuple[tuple[int, int], ...]:
    """(before, after) per spatial axis from `pad`: one number per axis, or all befores then all afters."""
    if len(pad) not in (spatial, 2 * spatial):
        raise op.error(f"pad has {len(pad)} values", why=f"it has {spatial} or {2 * spatial}")
    if any(p < 0 for p in pad):
        raise op.error(f"pad {list(pad)} is negative", remedy="use core.slice to crop")
    before = tuple(pad[:spatial])
    after = tuple(pad[spatial:]) or before
    return tuple(zip(before, after, strict=True))
