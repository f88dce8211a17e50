"""CPU schedules of what `emit.cpu` does not write as loops: vectors for maps and reductions, and threads.

A function from `emit` has at most these blocks, in order: borders ("pad"),
reductions, and one result.

 - Reductions whose last axis survives put a vector along it.
 - Reductions along the last axis run row by row, one thread a strip of rows.
 - Maps run in parallel with vectors along their last axis.

Where a rule does not fit, the block keeps its loops and runs in parallel only;
the returned notes say so.
"""

from __future__ import annotations

from typing import Any

from tvm import s_tir, tirx
from tvm.ir import IRModule

from plait.backends.targets import CpuTarget
from plait.backends.tvm.vector_math import vector_functions

#: A vectorised loop that no power of two divides may be this many vectors long.
_LONGEST_ODD_VECTOR = 8
#: Below this many elements, starting threads costs more than it saves.
_SMALL = 4096


def schedule(
    function: tirx.PrimFunc, target: CpuTarget, *, written: bool = False
) -> tuple[tirx.PrimFunc, list[str]]:
    """The function scheduled for a CPU, and notes on blocks that no rule fitted.

    Args:
        written: whether it was written as loops, with threads and vectors of its own.
    """
    notes: list[str] = []
    if written:
        function = function.with_attr("tirx.is_scheduled", True)
    else:
        try:
            function = _scheduled(function, target, notes)
        except Exception as error:  # TVM's schedule errors share no base class
            notes.append(f"unscheduled: {_first_line(error)}")
    return vector_functions(function) if target.polynomials else function, notes


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:160] if lines else ''}"


def _scheduled(function: tirx.PrimFunc, target: CpuTarget, notes: list[str]) -> tirx.PrimFunc:
    scheduler = s_tir.Schedule(IRModule({"main": function}), error_render_level="fast")
    _inline_maps(scheduler, target)
    blocks = _blocks(scheduler)
    if len(blocks) > 1 and _fuse_rows(scheduler, blocks, target):
        return scheduler.mod["main"]
    for block in blocks:
        checkpoint, name = scheduler.copy(), _name(scheduler, block)
        try:
            _spread(scheduler, block, target)
        except Exception as error:
            notes.append(f"{name}: {_first_line(error)}")
            scheduler = checkpoint
            loops = scheduler.get_loops(scheduler.get_sblock(name))
            if loops:
                scheduler.parallel(loops[0])
    return scheduler.mod["main"]


# -- blocks ------------------------------------------------------------------------
def _blocks(scheduler: Any) -> list[Any]:
    return list(scheduler.get_child_blocks(scheduler.get_sblock("root")))


def _name(scheduler: Any, block: Any) -> str:
    return str(scheduler.get(block).name_hint)


def _is_reduction(scheduler: Any, block: Any) -> bool:
    return scheduler.get(block).init is not None


def _extent(scheduler: Any, loop: Any) -> int | None:
    extent = scheduler.get(loop).extent
    return int(extent.value) if isinstance(extent, tirx.IntImm) else None


def _split_axes(scheduler: Any, block: Any) -> tuple[list[Any], list[Any]]:
    """Loops over result axes and loops over summed axes; the loops stand for the block's axes in order."""
    loops, axes = scheduler.get_loops(block), scheduler.get(block).iter_vars
    kept = [loop for loop, axis in zip(loops, axes, strict=True) if axis.iter_type == 0]
    return kept, [loop for loop, axis in zip(loops, axes, strict=True) if axis.iter_type != 0]


def _inline_maps(scheduler: Any, target: CpuTarget) -> None:
    """Inline intermediate maps into their readers, except borders.

    A map that a reduction reads and that calls a transcendental function is kept,
    since every term of the sum would call it again.
    """
    for block in _blocks(scheduler)[:-1]:
        name = _name(scheduler, block)
        if _is_reduction(scheduler, block) or name.startswith(("pad", "powers")):
            continue
        try:
            scheduler.compute_inline(block)
        except Exception:  # the block stays, and is scheduled on its own
            continue


# -- rows ------------------------------------------------------------------------------
def _fuse_rows(scheduler: Any, blocks: list[Any], target: CpuTarget) -> bool:
    """Softmax and normalisations: all steps of one row by one thread, so that the row stays in cache.

    Returns whether the rule fits: the steps before the last agree on their leading
    axes with the result, which only the last axes extend.
    """
    result = blocks[-1]
    if _is_reduction(scheduler, result) or any(_name(scheduler, b).startswith("pad") for b in blocks):
        return False
    loops = scheduler.get_loops(result)
    shared = len(loops)
    for block in blocks[:-1]:
        if _is_reduction(scheduler, block):
            axes = [axis.iter_type == 0 for axis in scheduler.get(block).iter_vars]
            kept = [axis for axis in axes if axis]
            if not kept or axes[: len(kept)] != kept:
                return False
            shared = min(shared, len(kept))
    lead = loops[:shared]
    if shared == len(loops) or shared == 0 or not _same_lead(scheduler, blocks, shared):
        return False
    checkpoint = lead[-1]
    for block in reversed(blocks[:-1]):
        scheduler.compute_at(block, checkpoint, preserve_unit_loops=True)
    _vectorise_last(scheduler, result, target)
    for block in blocks[:-1]:
        if not _is_reduction(scheduler, block):
            _vectorise_last(scheduler, block, target)
    scheduler.parallel(scheduler.fuse(*lead) if len(lead) > 1 else lead[0])
    return True


def _same_lead(scheduler: Any, blocks: list[Any], count: int) -> bool:
    wanted = [str(scheduler.get(loop).extent) for loop in scheduler.get_loops(blocks[-1])[:count]]
    return all(
        [str(scheduler.get(loop).extent) for loop in scheduler.get_loops(b)[:count]] == wanted for b in blocks
    )


def _vectorise_last(scheduler: Any, block: Any, target: CpuTarget) -> None:
    loop = scheduler.get_loops(block)[-1]
    extent = _extent(scheduler, loop)
    width = _vector_width(extent, target) if extent is not None else None
    if width is None or width == 1:
        return
    if width != extent:
        _, loop = scheduler.split(loop, [None, width])
    scheduler.vectorize(loop)


def _vector_width(extent: int, target: CpuTarget) -> int | None:
    """A vector length that divides `extent`, or a short odd extent as a whole; None where neither is."""
    for vectors in (4, 2, 1):
        if extent % (vectors * target.lanes) == 0:
            return vectors * target.lanes
    if 1 < extent <= _LONGEST_ODD_VECTOR * target.lanes:
        return extent
    halves = [w for w in range(target.lanes, 1, -1) if extent % w == 0]
    return halves[0] if halves and halves[0] * 2 >= target.lanes else None


# -- everything else -------------------------------------------------------------------
def _spread(scheduler: Any, block: Any, target: CpuTarget) -> None:
    """Parallel outer axes, a vector along the last result axis, summed axes just outside of it."""
    if not scheduler.get_loops(block):
        return
    kept, summed = _split_axes(scheduler, block)
    if not kept:
        # The start stands before the loop, which may have no round at all.
        scheduler.decompose_reduction(block, summed[0])
        return
    last = kept[-1]
    outer = kept[:-1]
    extent = _extent(scheduler, last)
    width = _vector_width(extent, target) if extent is not None else None
    if width is not None and width > 1:
        rest, vector = scheduler.split(last, [None, width])
        outer = [*outer, rest]
        scheduler.reorder(*outer, *summed, vector)
    else:
        vector, outer = None, kept
        scheduler.reorder(*outer, *summed)
    if vector is not None:
        scheduler.vectorize(vector)
    _parallel(scheduler, outer)
    if summed:
        # Last, since threads and vectors want the start and the sum in one block.
        start = scheduler.decompose_reduction(block, summed[0])
        if vector is not None:
            scheduler.vectorize(scheduler.get_loops(start)[-1])


def _parallel(scheduler: Any, loops: list[Any]) -> None:
    scheduler.parallel(scheduler.fuse(*loops) if len(loops) > 1 else loops[0])
