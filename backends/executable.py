"""Compiled graphs: calling, looking into and saving them."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plait.backends.arena import Arena
from plait.backends.artifact import StoredLibrary, save
from plait.backends.binding import bind_arguments, finish_rows, from_tensors, signature, to_tensor
from plait.backends.images import KernelImage
from plait.backends.kernels import Kernel, kernel_table
from plait.backends.targets import CpuTarget, GpuTarget, Target
from plait.ir import Graph, InputError
from plait.ir.bind import bound_dims
from plait.ir.memory import MemoryPlan, plan_memory

if TYPE_CHECKING:
    from plait.backends.cuda.emulator import KernelCounts, LaneOrder
    from plait.backends.cuda.report import MemoryCounts, QualityReport
    from plait.backends.tvm.measure import KernelCall

_threads_in_use: list[int] = []


@dataclass
class Code:
    """What a compiler hands to an executable.

    Attributes:
        module: a Relax executable or a loaded library.
        parameters: constants in the order and layout that the code takes them.
        dims: names of the dims that the code takes first.
        kernels: the kernel table.
        cuda_source: text of all kernels together, on a GPU.
        arena: on a CPU, the memory of intermediate arrays; the code takes it, and the constants, as a list.
        images: machine code of each kernel by its name, on a GPU.
        seconds: what the compilation took, by stage.
    """

    module: Any
    parameters: dict[str, np.ndarray]
    dims: list[str]
    kernels: tuple[Kernel, ...]
    cuda_source: str | None = None
    images: dict[str, KernelImage] = field(default_factory=dict)
    arena: Arena | None = None
    seconds: dict[str, float] = field(default_factory=dict)


class Executable:
    """A graph compiled for one target.

    Calls take numpy arrays or torch tensors by place or name and give back what
    they were given; memory is shared both ways where it is dense and aligned.

    Attributes:
        graph: the graph as it was compiled.
        target: what it was compiled for.
        kernels: the kernel table; every kernel names the ops it computes.
        seconds: what the compilation took, by stage; empty after loading.
    """

    def __init__(self, graph: Graph, target: Target, code: Code) -> None:
        self.graph = graph
        self.target = target
        self.kernels = code.kernels
        self.seconds = code.seconds
        self._code = code
        self._lock = threading.Lock()
        self._machine: Any = None
        self._root: Any = None
        self._parameters: list[Any] = []
        self._emulated: dict[bool, Any] = {}  # by whether the detectors run
        self.threads = target.threads if isinstance(target, CpuTarget) else 1

    # -- running --------------------------------------------------------------------
    def __call__(self, *args: Any, **named: Any) -> Any:
        """Run on inputs; one result, or a tuple of several.

        Raises:
            InputError: wrong inputs, or a GPU executable without a GPU.
        """
        bound = bind_arguments(self.graph, args, named)
        with self._lock:
            if self._machine is None:
                self._start()
            if isinstance(self.target, CpuTarget):
                use_threads(self.threads)
            results = self._run(self._machine, self._parameters, bound.arrays, bound.dims)
        return _unpacked(from_tensors(results, self.graph, as_torch=bound.torch_results))

    def measure_kernels(self, *args: Any, repeats: int = 20, **named: Any) -> list[KernelCall]:
        """Run on inputs and measure each kernel, on the device itself: its time, and what it computed.

        Args:
            repeats: how often the clock is read for each kernel.

        Raises:
            InputError: wrong inputs, or a GPU executable without a GPU.
        """
        bound = bind_arguments(self.graph, args, named)
        with self._lock:
            if self._machine is None:
                self._start()
            import tvm

            from plait.backends.tvm.measure import KernelMeter

            device = tvm.cpu() if isinstance(self.target, CpuTarget) else tvm.cuda(0)
            counts = {op.name: len(op.results) for op in self.graph.walk()}
            meter = KernelMeter(self._root, device, self.kernels, counts, repeats)
            self._run(meter.machine(), self._parameters, bound.arrays, bound.dims)
        return meter.calls

    def emulate(
        self,
        *args: Any,
        lane_order: LaneOrder = "forward",
        check: bool = False,
        count: bool = False,
        **named: Any,
    ) -> Any:
        """Run the CUDA text of every kernel on the host, thread by thread, with its barriers and shuffles.

        Args:
            lane_order: "forward", "reversed" or a seed: the order in which threads run.
            check: run the detectors (data races, conflicts between blocks, accesses outside a buffer,
                reads of what nobody wrote, misaligned accesses); several times slower.
            count: count memory traffic for `emulation_counts`; runs the detectors too.

        Raises:
            InputError: wrong inputs, or an executable for a CPU.
            CompileError: a kernel breaks a rule of the CUDA execution model; with `check`, its attribute
                `findings` lists where.
        """
        if isinstance(self.target, CpuTarget):
            raise InputError(
                "there is nothing to emulate",
                where=f"@{self.graph.name}",
                why="it was compiled for a CPU",
                remedy="call it",
            )
        from plait.backends.tvm.emulation import Emulation

        bound = bind_arguments(self.graph, args, named)
        check = check or count
        with self._lock:
            if check not in self._emulated:
                self._emulated[check] = Emulation(self.graph, self.target, self.cuda_source, check=check)
            arrays = finish_rows(bound.arrays, self.graph, bound.dims)
            results = self._emulated[check].run(arrays, bound.dims, lane_order, count=count)
        return _unpacked(from_tensors(results, self.graph, as_torch=bound.torch_results))

    @property
    def emulation_counts(self) -> dict[str, KernelCounts]:
        """By kernel, the memory traffic of the last `emulate(..., count=True)`.

        Raises InputError before there was one.
        """
        from plait.backends.cuda.emulator.counts import nothing_counted

        if True not in self._emulated or not self._emulated[True].counts:
            raise nothing_counted()
        return dict(self._emulated[True].counts)

    def _start(self) -> None:
        """Load code and weights.  Raises InputError naming what a GPU executable lacks to run here."""
        from plait.backends.tvm.toolchain import require_tvm

        require_tvm()
        import tvm
        import tvm_ffi
        from tvm import relax

        import plait.backends.tvm.runtime  # noqa: F401  # registers what the code calls by name

        stored = self._code.module
        if isinstance(self.target, GpuTarget):
            from plait.backends.tvm.device import load_machine, require_device

            found = require_device(self.target)
            module = stored.load() if isinstance(stored, StoredLibrary) else stored
            machine = load_machine(module, self._code.images, self.target, found)
        else:
            module = stored.load() if isinstance(stored, StoredLibrary) else stored
            machine = relax.VirtualMachine(module, tvm.cpu())
        tensors = [to_tensor(array) for array in self._code.parameters.values()]
        if isinstance(self.target, GpuTarget):
            self._parameters = [tensor.copyto(tvm.cuda(0)) for tensor in tensors]
        else:
            arena = self._code.arena
            tensors += [to_tensor(array) for array in arena.allocate()] if arena is not None else []
            self._parameters = tensors if arena is None else [tvm_ffi.convert(tensors)]
        self._root, self._machine = module, machine

    def _run(
        self, machine: Any, parameters: list[Any], arrays: list[Any], dims: Mapping[str, int]
    ) -> list[Any]:
        import tvm_ffi

        arguments = finish_rows(arrays, self.graph, dims)
        if not isinstance(self.target, CpuTarget):
            import tvm

            arguments = [a.copyto(tvm.cuda(0)) for a in arguments]
        sizes = tvm_ffi.Shape([dims[name] for name in self._code.dims])
        results = list(machine["main"](sizes, *arguments, *parameters))
        if not isinstance(self.target, CpuTarget):
            import tvm

            results = [r.copyto(tvm.cpu()) for r in results]
        return results

    @property
    def threads(self) -> int:
        """How many threads the parallel loops of a CPU executable use; may be assigned."""
        return self._threads

    @threads.setter
    def threads(self, count: int) -> None:
        if count < 1:
            raise InputError(f"threads={count} is below 1", remedy="give 1 or more")
        self._threads = count

    # -- looking --------------------------------------------------------------------
    @property
    def memory(self) -> MemoryPlan:
        """The memory plan at the upper bound of each dim, or its lower one where it has no upper.

        A dim that an op binds has the largest size that the op can give it.
        """
        return self.memory_at({})

    def memory_at(self, dims: Mapping[str, int]) -> MemoryPlan:
        """The memory plan at given dims; others as in `memory`."""
        bound = bound_dims(self.graph)
        values = {
            name: allowed.high if allowed.high is not None else max(allowed.low, 1)
            for name, allowed in self.graph.dims.items()
            if name not in bound or bound[name].bound_limit() is None
        }
        return plan_memory(self.graph, {**values, **dims})

    @property
    def cuda_source(self) -> str:
        """The whole CUDA text.  Raises InputError on a CPU executable."""
        if self._code.cuda_source is None:
            raise InputError("there is no CUDA text", why=f"the target is {self.target.name}")
        return self._code.cuda_source

    @property
    def images(self) -> Mapping[str, KernelImage]:
        """Machine code and PTX text of each kernel by its name.  Raises InputError on a CPU executable."""
        if not isinstance(self.target, GpuTarget):
            raise InputError("there is no machine code to show", why=f"the target is {self.target.name}")
        return self._code.images

    def kernel_table(self, *, width: int = 120) -> str:
        """The kernel table as plain text."""
        return kernel_table(self.kernels, width=width)

    def report(
        self, dims: Mapping[str, int] | None = None, *, counts: Mapping[str, MemoryCounts] | None = None
    ) -> QualityReport:
        """The quality of its kernels, from their machine code; see `plait.backends.cuda.report`.

        Raises InputError on a CPU executable, or when a dim has no value.
        """
        from plait.backends.cuda.report import quality_report

        return quality_report(self.graph, self.kernels, self.images, dims, counts=counts)

    def to_dict(self) -> dict[str, Any]:
        """Target, signature, kernels and compile times, as JSON can hold them."""
        return {
            "graph": self.graph.name,
            "target": self.target.to_dict(),
            "inputs": {value.name: str(value.type) for value in self.graph.inputs},
            "outputs": [str(value.type) for value in self.graph.outputs],
            "kernels": [kernel.to_dict() for kernel in self.kernels],
            "seconds": dict(self.seconds),
        }

    def __repr__(self) -> str:
        return (
            f"<Executable @{self.graph.name}({signature(self.graph)}) for {self.target.name}, "
            f"{len(self.kernels)} kernels>"
        )

    # -- saving ---------------------------------------------------------------------
    def save(self, path: str | Path) -> None:
        """Write one file that `load_executable` reads.

        Raises InputError when the path is not writable, CompileError when there is no linker.
        """
        save(self, self._code, path)


def _unpacked(results: Sequence[Any]) -> Any:
    return results[0] if len(results) == 1 else tuple(results)


def use_threads(count: int) -> None:
    """Set the size of TVM's thread pool, which all executables share."""
    if _threads_in_use != [count]:
        import tvm

        fast_cores = 1
        tvm.get_global_func("runtime.config_threadpool")(fast_cores, count)
        _threads_in_use[:] = [count]
