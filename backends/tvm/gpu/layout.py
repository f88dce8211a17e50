"""Which values lie in memory in another order than the logical one.

The IR has channels in front of the pixels.  Tensor cores want the channels of a pixel together,
so what passes between convolutions is kept as [batch, pixels..., channels].  They want the
depth of a matrix product together as well, so that a transposed right operand stays as it was
before.  Inputs, outputs, and what views, regions or functions of the host read, stay as the IR says.
"""

from __future__ import annotations

from plait.backends.targets import GpuTarget, Target
from plait.backends.tvm.emit import EMISSIONS, Kind
from plait.backends.tvm.gpu.contraction import swapped_axes
from plait.backends.tvm.layouts import Layout
from plait.backends.tvm.partition import Group, Partition
from plait.ir import Op, QuantType, TensorType, Value
from plait.ir.ops import core, linalg, nn

_CONVOLUTIONS = (nn.Conv2d,)
_WINDOWS = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
_READERS = (Kind.ELEMENTWISE, Kind.INJECTIVE, Kind.REDUCTION, Kind.CONTRACTION)


def channels_last_values(parts: Partition, target: Target) -> dict[Value, Layout]:
    """The layouts of the results of groups of the main region that do not lie in the logical order."""
    if not isinstance(target, GpuTarget):
        return {}
    inside = {op for group in parts.groups for op in group.ops}
    found: dict[Value, Layout] = {}
    for group in parts.groups:
        results = group.sink.results
        if len(results) != 1 or not _multiplied(results[0], target):
            continue
        if _is_turned(group, inside):
            found[results[0]] = swapped_axes(results[0].shaped.rank)
        elif _may(results[0], inside) and _wanted(group, found):
            found[results[0]] = (0, 2, 3, 1)
    return found


def _multiplied(value: Value, target: GpuTarget) -> bool:
    """Whether tensor cores take the elements of a value, which has readers."""
    kind = value.type
    if isinstance(kind, QuantType):
        return bool(value.users)
    if not isinstance(kind, TensorType) or not value.users:
        return False
    return kind.dtype.name in ("f16", "bf16") or (kind.dtype.name == "f32" and target.tf32)


def _is_turned(group: Group, inside: set[Op]) -> bool:
    """Whether a group makes right operands of matrix products, from what has their depth innermost."""
    value = group.sink.results[0]
    last = value.shaped.rank - 1
    if group.anchor is not None or last < 1:
        return False
    reads_it = all(
        isinstance(user, linalg.Matmul) and user in inside and user.right is value and user.left is not value
        for user in value.users
    )
    return reads_it and any(
        isinstance(op, core.Transpose) and op.result.shaped.rank - 1 == last and op.permutation[-2] == last
        for op in group.ops
    )


def _may(value: Value, inside: set[Op]) -> bool:
    return value.shaped.rank == 4 and all(
        isinstance(user, Op) and user in inside and EMISSIONS[type(user)].kind in _READERS
        for user in value.users
    )


def _wanted(group: Group, found: dict[Value, Layout]) -> bool:
    if isinstance(group.anchor, _WINDOWS):
        return True
    result = group.sink.results[0]
    if any(isinstance(user, _CONVOLUTIONS) and user.operands[0] is result for user in result.users):
        return True
    if group.anchor is not None:
        return False
    if isinstance(group.sink, core.Transpose):
        return tuple(group.sink.permutation) == (0, 3, 1, 2)
    return any(found.get(value) == (0, 2, 3, 1) for op in group.ops for value in op.operands)


__all__ = ["channels_last_values"]
