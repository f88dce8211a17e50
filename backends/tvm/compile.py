"""From a graph to machine code: partition, emission, schedules, and the lowering of the Relax module."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tvm
from tvm import relax

from plait.backends.executable import Code
from plait.backends.kernels import Kernel
from plait.backends.targets import CpuTarget, GpuTarget, Target
from plait.backends.tvm.arena import ArenaLayout, arena_pass
from plait.backends.tvm.bool_vectors import unroll_bool_vectors
from plait.backends.tvm.build import KernelFunction, Module, build_module
from plait.backends.tvm.layouts import assign_layouts
from plait.backends.tvm.partition import partition
from plait.backends.tvm.schedule_cpu import schedule as schedule_for_cpu
from plait.backends.tvm.toolchain import compile_error, tvm_target
from plait.ir import Graph, Op

#: Called with the name of a stage, the steps done, the steps in all (0: not known), and the ops of the next.
Progress = Callable[[str, int, int, Sequence[Op]], None]

_PLANNING = (
    relax.transform.ToNonDataflow,
    relax.transform.RemovePurityChecking,
    relax.transform.CallTIRRewrite,
    relax.transform.StaticPlanBlockMemory,
)
_LOWERING = (
    relax.transform.LowerAllocTensor,
    relax.transform.KillAfterLastUse,
    relax.transform.LowerRuntimeBuiltin,
    relax.transform.ComputePrimValue,
    relax.transform.VMShapeLower,
    relax.transform.AttachGlobalSymbol,
)


def compile_code(graph: Graph, target: Target, progress: Progress | None = None) -> Code:
    """Compile a graph for a target.  Raises CompileError."""
    seconds: dict[str, float] = {}
    with _timed(seconds, "emit"):
        module = build_module(graph, partition(graph, assign_layouts(graph, target)), target, progress)
    with _timed(seconds, "schedule"):
        notes = schedule_kernels(module, target, progress)
    if progress is not None:
        progress("lower", 0, 1, [])
    if isinstance(target, GpuTarget):
        from plait.backends.tvm.cuda_code import device_code

        with _timed(seconds, "lower"), device_code() as device:
            executable = lower(module, target)
        with _timed(seconds, "assemble"):
            kernels, source, images = device.assemble(module, target, notes, progress)
        for host in executable.mod.imports:
            host.clear_imports()  # TVM's own copy of the CUDA text, to be compiled where it is loaded
        return Code(executable, module.parameters, module.dims, kernels, source, images, seconds=seconds)
    arena = ArenaLayout()
    with _timed(seconds, "lower"):
        executable = lower(module, target, arena)
    kernels = tuple(kernel_row(kernel, notes.get(kernel.name, [])) for kernel in module.kernels)
    return Code(executable, module.parameters, module.dims, kernels, arena=arena.arena(), seconds=seconds)


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - started


def schedule_kernels(
    module: Module, target: Target, progress: Progress | None = None
) -> dict[str, list[str]]:
    """Schedule every kernel of a module; notes by kernel where no rule fitted."""
    notes: dict[str, list[str]] = {}
    for number, kernel in enumerate(module.kernels):
        if progress is not None:
            progress("schedule", number, len(module.kernels), kernel.sites[0])
        if isinstance(target, CpuTarget):
            kernel.method = _cpu_method(kernel)
            function, found = schedule_for_cpu(kernel.function, target, written=kernel.is_extern)
        elif kernel.is_extern:  # written as loops, with threads of its own
            found = []
            kernel.method = "loops"
            function = kernel.function.with_attr("tirx.is_scheduled", True)
        else:
            from plait.backends.tvm.schedule_gpu import schedule as schedule_for_gpu

            assert isinstance(target, GpuTarget)
            function, found = schedule_for_gpu(kernel, target)
            function = unroll_bool_vectors(function)
        if isinstance(target, GpuTarget) and module.empty_dims:
            from plait.backends.tvm.guard import skip_empty_launches

            function = skip_empty_launches(function, module.empty_dims)
        kernel.function = function
        if found:
            notes[kernel.name] = found
        _replace(module, kernel)
    return notes


def _cpu_method(kernel: KernelFunction) -> str:
    """How a kernel of a CPU is computed; see `Kernel.method`."""
    if not kernel.is_extern:
        return "schedule"
    return "; ".join(loops.method for loops in kernel.stage.products) or "loops"


def _replace(module: Module, kernel: KernelFunction) -> None:
    """Put the present function of a kernel into the module."""
    pointer = module.relax_module.get_global_var(kernel.name)
    module.relax_module.update_func(pointer, kernel.function.with_attr("global_symbol", kernel.name))


def lower(module: Module, target: Target, arena: ArenaLayout | None = None) -> Any:
    """Machine code for the module: a Relax executable.

    Args:
        arena: where constants and intermediate arrays of `main` are to be items of a list, see
            `plait.backends.tvm.arena`; gets their places.

    Raises CompileError naming the ops at fault.
    """
    place = tvm_target(target)
    middle = [] if arena is None else [arena_pass(arena, len(module.parameters))]
    passes = tvm.transform.Sequential(
        [*(make() for make in _PLANNING), *middle, *(make() for make in _LOWERING)]
    )
    try:
        # Shared subexpressions would hide launch extents behind names of their own.
        with place, tvm.transform.PassContext(config={"tirx.disable_cse_tir": isinstance(target, GpuTarget)}):
            return relax.build(module.relax_module, place, relax_pipeline=passes)
    except Exception as error:
        raise compile_error(error, _blamed(module, place), "compile") from error


def _blamed(module: Module, place: Any) -> list[Op]:
    """Ops of the first kernel that TVM cannot compile on its own; none where each of them compiles."""
    for kernel in module.kernels:
        try:
            _compile_alone(module, kernel, place)
        except Exception:  # whatever TVM raises: the first failure has been kept
            return kernel.sites[0]
    return []


def _compile_alone(module: Module, kernel: KernelFunction, place: Any) -> Any:
    with place:
        return tvm.compile(tvm.IRModule({kernel.name: module.relax_module[kernel.name]}), target=place)


def compile_each(graph: Graph, target: Target, progress: Progress) -> None:
    """Compile each kernel of a graph on its own, down to machine code of the host, and keep nothing.

    Where the code generator crashes, the last call of `progress` names the ops of the kernel at fault.
    """
    module = build_module(graph, partition(graph, assign_layouts(graph, target)), target, progress)
    schedule_kernels(module, target, progress)
    with tempfile.TemporaryDirectory() as folder:
        for number, kernel in enumerate(module.kernels):
            progress("lower", number, len(module.kernels), kernel.sites[0])
            built = _compile_alone(module, kernel, tvm_target(target))
            built.mod.write_to_file(str(Path(folder) / f"{number}.o"), "o")


def kernel_row(kernel: KernelFunction, notes: list[str], **resources: Any) -> Kernel:
    """The row of the kernel table for a function; `resources` are the fields that a GPU fills."""
    ops = dict.fromkeys(op.name for site in kernel.sites for op in site)
    places = dict.fromkeys(op.loc.readable() for site in kernel.sites for op in site if op.loc)
    given = {"name": kernel.name, "source": kernel.text, "notes": tuple(notes), **resources}
    return Kernel(
        ops=tuple(ops),
        opnames=tuple(op.opname for op in kernel.sites[0]),
        locations=tuple(places),
        calls=len(kernel.sites),
        method=kernel.method,
        **given,
    )


__all__ = ["Progress", "compile_code", "compile_each", "kernel_row", "lower", "schedule_kernels"]
