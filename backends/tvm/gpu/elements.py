"""One thread for each element of the result, which computes the short sums that it needs by itself.

For windows of pooling and of depthwise convolution: too few terms to share out among threads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tvm import s_tir, te, tirx
from tvm.ir import IRModule

from plait.backends.tvm.emit.cpu.writer import element_bits
from plait.backends.tvm.emit.table import operations_below
from plait.backends.tvm.gpu.product import extent

_THREADS = 256
#: Elements that lanes of a warp can exchange have at least so many bits.
_SHUFFLED_BITS = 16
#: Sums of fewer elements are left to one thread each.
_SHORT = 64


def sums_stay_apart(outputs: Sequence[te.Tensor]) -> bool:
    """Whether each sum of a kernel is to be computed by one thread.

    TVM adds up bytes across threads through shared memory without a barrier within a warp, which
    is a data race since Volta; and sums of a few elements are no work for several threads.
    """
    sums = [
        tensor
        for tensor in operations_below(outputs)
        if isinstance(tensor.op, te.ComputeOp) and tensor.op.reduce_axis
    ]
    return any(
        element_bits(str(tensor.dtype)) < _SHUFFLED_BITS
        or (_is_short(tensor) and all(_owns_its_sum(output, tensor) for output in outputs))
        for tensor in sums
    )


def _is_short(tensor: te.Tensor) -> bool:
    extents = [extent(axis.dom.extent) for axis in tensor.op.reduce_axis]
    return None not in extents and math.prod(e for e in extents if e is not None) < _SHORT


def _owns_its_sum(output: te.Tensor, tensor: te.Tensor) -> bool:
    """Whether each element of a result has a sum to itself; in a softmax, those of a row share one."""
    return _sizes(output) == _sizes(tensor)


def _sizes(tensor: te.Tensor) -> list[str]:
    """Extents other than 1, in an order that does not depend on that of the axes."""
    return sorted(str(size) for size in tensor.shape if extent(size) != 1)


class ShortSums:
    """The schedule in the form of TVM's rules."""

    def apply(self, function: tirx.PrimFunc, _target: Any, _tunable: bool) -> Any:
        """A schedule with a thread for each element.  Raises errors of TVM where that does not fit."""
        return _one_thread_each(function)


def _one_thread_each(function: tirx.PrimFunc) -> Any:
    scheduler = s_tir.Schedule(IRModule({"main": function}), error_render_level="fast")
    for block in _blocks(scheduler)[:-1]:
        if scheduler.get(block).init is None:
            scheduler.compute_inline(block)
    *sums, result = _blocks(scheduler)
    loops, axes = scheduler.get_loops(result), scheduler.get(result).iter_vars
    kept = [loop for loop, axis in zip(loops, axes, strict=True) if axis.iter_type == 0]
    rest = [loop for loop, axis in zip(loops, axes, strict=True) if axis.iter_type != 0]
    scheduler.reorder(*kept, *rest)
    block_loop, thread_loop = scheduler.split(scheduler.fuse(*kept), [None, _THREADS])
    scheduler.bind(block_loop, "blockIdx.x")
    scheduler.bind(thread_loop, "threadIdx.x")
    for block in reversed(sums):
        scheduler.compute_at(block, thread_loop, preserve_unit_loops=True)
        scheduler.set_scope(block, 0, "local")
    if rest:
        scheduler.decompose_reduction(result, rest[0])
    return scheduler


def _blocks(scheduler: Any) -> list[Any]:
    return list(scheduler.get_child_blocks(scheduler.get_sblock("root")))


__all__ = ["ShortSums", "sums_stay_apart"]
