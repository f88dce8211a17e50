"""GPU schedules, one kernel at a time: plait's own kernels, then TVM's rules for NVIDIA devices."""

from __future__ import annotations

from typing import Any

from plait.backends.targets import GpuTarget
from plait.backends.tvm.build import KernelFunction
from plait.backends.tvm.gpu.elements import ShortSums, sums_stay_apart
from plait.backends.tvm.gpu.rules import RULES
from plait.backends.tvm.toolchain import compile_error, tvm_target
from plait.backends.tvm.tvmscript import load_cuda_intrinsics


def schedule(kernel: KernelFunction, target: GpuTarget) -> tuple[Any, list[str]]:
    """A kernel's function with blocks and threads, and a note for each rule that failed on it.

    First the kernels that plait writes itself (`gpu/rules.py`), then TVM's rules: Matmul (tiles
    through shared memory), GEMV, Reduction, GeneralReduction (softmax, norms), Fallback (one
    thread an element).  Sums that are not to be shared out among threads are `gpu/elements.py`'s.

    Raises CompileError naming the ops when even the fallback fails.
    """
    from tvm.s_tir.dlight import gpu

    notes: list[str] = []
    names = ", ".join(f"%{op.name}" for op in kernel.sites[0])
    for own in RULES:
        try:
            written = own(kernel.stage, target)
        except Exception as error:  # NotInlined, or TVM's, which share no base class
            notes.append(_note(names, own.__name__, error))
            continue
        if written is not None:
            kernel.method = own.__name__.replace("_", " ")
            return written, notes
    if any(str(tensor.dtype) in ("float16", "int8") for tensor in kernel.stage.inputs):
        load_cuda_intrinsics()
    place = tvm_target(target)
    failure: Exception | None = None
    across = (gpu.GEMV(), gpu.Reduction(), gpu.GeneralReduction())
    sums = (ShortSums(),) if sums_stay_apart(kernel.stage.outputs) else across
    with place:
        for rule in (gpu.Matmul(), *sums, gpu.Fallback()):
            try:
                found = rule.apply(kernel.function, place, False)
            except Exception as error:  # of TVM's schedule, which share no base class
                failure = error
                notes.append(_note(names, type(rule).__name__, error))
                continue
            if found is None:
                continue
            name = type(rule).__name__
            kernel.method = "one thread each" if isinstance(rule, ShortSums) else f"TVM's rule {name}"
            schedules = found if isinstance(found, list) else [found]
            return schedules[0].mod["main"].with_attr("tirx.is_scheduled", True), notes
    raise compile_error(failure or RuntimeError("no rule fits"), kernel.sites[0], "schedule") from failure


def _note(names: str, rule: str, error: Exception) -> str:
    """One line that says which rule failed on which ops, and why."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{names}: {rule} failed: {lines[0][:120] if lines else type(error).__name__}"
