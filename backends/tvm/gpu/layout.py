"""Which values lie in memory with their channels innermost.

The IR has channels in front of the pixels.  Tensor cores want the channels of a pixel together,
so what passes between convolutions is kept as [batch, pixels..., channels].  Inputs, outputs,
and what views, regions or functions of the host read, stay as the IR says.
"""

from __future__ import annotations

from plait.backends.targets import GpuTarget, Target
from plait.backends.tvm.emit import EMISSIONS, Kind
from plait.backends.tvm.layouts import Layout
from plait.backends.tvm.partition import Group, Partition
from plait.ir import Op, QuantType, TensorType, Value
from plait.ir.ops import core, nn

_CONVOLUTIONS = (nn.Conv2d,)
_WINDOWS = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
_READERS = (Kind.ELEMENTWISE, Kind.INJECTIVE, Kind.REDUCTION, Kind.CONTRACTION)


def channels_last_values(parts: Partition, target: Target) -> dict[Value, Layout]:
    """The layouts of the results of groups of the main region that have their channels innermost."""
    if not isinstance(target, GpuTarget):
        return {}
    inside = {op for group in parts.groups for op in group.ops}
    found: set[Value] = set()
    for group in parts.groups:
        results = group.sink.results
        if len(results) == 1 and _may(results[0], target, inside) and _wanted(group, found):
            found.add(results[0])
    return dict.fromkeys(found, (0, 2, 3, 1))


def _may(value: Value, target: GpuTarget, inside: set[Op]) -> bool:
    kind = value.type
    if not isinstance(kind, (TensorType, QuantType)) or kind.rank != 4 or not value.users:
        return False
    if (
        not isinstance(kind, QuantType)
        and kind.dtype.name not in ("f16", "bf16")
        and not (kind.dtype.name == "f32" and target.tf32)
    ):
        return False
    return all(
        isinstance(user, Op) and user in inside and EMISSIONS[type(user)].kind in _READERS
        for user in value.users
    )


def _wanted(group: Group, found: set[Value]) -> bool:
    if isinstance(group.anchor, _WINDOWS):
        return True
    result = group.sink.results[0]
    if any(isinstance(user, _CONVOLUTIONS) and user.operands[0] is result for user in result.users):
        return True
    if group.anchor is not None:
        return False
    if isinstance(group.sink, core.Transpose):
        return tuple(group.sink.permutation) == (0, 3, 1, 2)
    return any(value in found for op in group.ops for value in op.operands)


__all__ = ["channels_last_values"]
