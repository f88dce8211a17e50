"""Which kernels plait writes itself: rules that give the function of a stage, or None."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx

from plait.backends.targets import GpuTarget
from plait.backends.tvm.emit.table import Stage
from plait.backends.tvm.gpu.rows import find_rows, row_function
from plait.backends.tvm.gpu.tensor_core import tensor_core_function
from plait.backends.tvm.gpu.tiles import choose_tile

Rule = Callable[[Stage, GpuTarget], "tirx.PrimFunc | None"]


def tensor_cores(stage: Stage, target: GpuTarget) -> tirx.PrimFunc | None:
    """A product that tensor cores can compute, with what follows it element by element."""
    if len(stage.products) != 1 or len(stage.outputs) != 1:
        return None
    (product,) = stage.products
    return tensor_core_function(stage, product, choose_tile(product, target))


def rows(stage: Stage, target: GpuTarget) -> tirx.PrimFunc | None:
    """Reductions over the last axes of one shape, with what goes before and behind element by element."""
    if stage.products:
        return None
    found = find_rows(stage)
    return None if found is None else row_function(stage, found)


#: In the order they are tried.
RULES: tuple[Rule, ...] = (tensor_cores, rows)

__all__ = ["RULES", "Rule"]
