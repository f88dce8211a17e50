"""From a graph to machine code: partition, emission, schedules, and the lowering of the Relax module."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import tvm
from tvm import relax

from plait.backends.targets import CpuTarget, Target
from plait.backends.tvm.build import KernelFunction, Module
from plait.backends.tvm.schedule_cpu import schedule
from plait.backends.tvm.toolchain import compile_error, tvm_target
from plait.ir import Op

Progress = Callable[[str, int, int], None]

_LOWERING = (
    relax.transform.ToNonDataflow,
    relax.transform.RemovePurityChecking,
    relax.transform.CallTIRRewrite,
    relax.transform.StaticPlanBlockMemory,
    relax.transform.LowerAllocTensor,
    relax.transform.KillAfterLastUse,
    relax.transform.LowerRuntimeBuiltin,
    relax.transform.ComputePrimValue,
    relax.transform.VMShapeLower,
    relax.transform.AttachGlobalSymbol,
)


def schedule_kernels(module: Module, target: CpuTarget, progress: Progress | None = None) -> dict[str, list[str]]:
    """Schedule every kernel of a module for a CPU; notes by kernel where no rule fitted."""
    notes: dict[str, list[str]] = {}
    for number, kernel in enumerate(module.kernels):
        if progress is not None:
            progress("schedule", number, len(module.kernels))
        function, found = schedule(kernel.function, target)
        kernel.function = function
        if found:
            notes[kernel.name] = found
        replace_kernel(module, kernel)
    return notes


def replace_kernel(module: Module, kernel: KernelFunction) -> None:
    """Put the present function of a kernel into the module."""
    old = module.relax_module[kernel.name]
    function = kernel.function.with_attrs({k: v for k, v in old.attrs.items()} if old.attrs else {})
    module.relax_module.update_func(module.relax_module.get_global_var(kernel.name), function)


def lower(module: Module, target: Target) -> Any:
    """Machine code for the module: a Relax executable.  Raises CompileError naming the kernels at fault."""
    place = tvm_target(target)
    passes = tvm.transform.Sequential([make() for make in _LOWERING])
    try:
        with place:
            return relax.build(module.relax_module, place, relax_pipeline=passes)
    except Exception as error:
        raise compile_error(error, _blamed(module, error), "compile") from error


def _blamed(module: Module, error: Exception) -> list[Op]:
    """Ops of the kernels that an error mentions; of all where it mentions none."""
    text = str(error)
    named = [kernel for kernel in module.kernels if kernel.name in text]
    return [op for kernel in (named or module.kernels[:1]) for op in (kernel.sites[0] if kernel.sites else [])]


__all__ = ["Progress", "ThreadPoolExecutor", "lower", "replace_kernel", "schedule_kernels"]
