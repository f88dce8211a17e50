"""Rules: elements by their place in memory.

The IR has no memory layout; the place is taken in the order of the elements, which holds for
a tensor that lies in memory row after row.  Capture refuses others.
"""

from __future__ import annotations

from collections.abc import Sequence

from plait.frontends.pytorch.builder import Builder
from plait.frontends.pytorch.registry import register
from plait.ir import types as t
from plait.ir.dims import IntLike, product
from plait.ir.ops import core
from plait.ir.value import Value

#: Operators whose first argument has to lie in memory in the order of its elements.
READS_STORAGE = frozenset(("aten.as_strided.default", "aten.as_strided_copy.default"))


@register(*READS_STORAGE)
def as_strided(
    build: Builder,
    x: Value,
    size: Sequence[IntLike],
    stride: Sequence[IntLike],
    storage_offset: IntLike | None = None,
) -> Value:
    """Element [i, j, ...] is the one at place offset + i * stride[0] + j * stride[1] + ..."""
    shape = build.out.shape
    rank = len(shape)
    if product(shape) == 0:
        return build.full(0, build.out.dtype, shape)
    start = storage_offset or 0
    last = start + sum((count - 1) * step for count, step in zip(shape, stride, strict=True))
    total = product(build.kind(x).shape)
    if isinstance(last, int) and isinstance(total, int) and last >= total:
        build.refuse(f"element {last} in the memory of a tensor of {total} elements")
    place = build.size(start, t.i64)
    for axis, (count, step) in enumerate(zip(shape, stride, strict=True)):
        if count == 1:
            continue
        steps = build.mul(build.iota(count, t.i64), step)
        line = build.reshape(steps, tuple(count if i == axis else 1 for i in range(rank)))
        place = build.add(line, place)
    return build.emit(core.Take(build.flatten(x), build.broadcast(place, shape)))
