"""A GPU executable run on the host through the emulation of CUDA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from plait.backends.targets import Target
from plait.backends.tvm.build import build_module
from plait.backends.tvm.partition import partition
from plait.ir import CompileError, Graph

if TYPE_CHECKING:
    from plait.backends.cuda.emulator import KernelCounts, LaneOrder


class Emulation:
    """The kernels of a graph, generated as for the device and executed on the host.

    Args:
        graph: the final graph of an executable.
        target: the GPU it was compiled for.
        source: CUDA text of the executable; what is executed must be that.
        check: run the detectors.

    Attributes:
        counts: by kernel, what the last counted run did.

    Raises:
        CompileError: when this machine generates another text, as another version of TVM may.
    """

    def __init__(self, graph: Graph, target: Target, source: str, *, check: bool = False) -> None:
        from plait.backends.tvm.compile import lower, schedule_kernels
        from plait.backends.tvm.cuda_code import without_annotations
        from plait.backends.tvm.toolchain import require_tvm

        require_tvm()
        import tvm
        from tvm import relax

        from plait.backends.cuda.tvm_hook import emulated_cuda_device
        from plait.backends.tvm.device_memory import DeviceMemory

        self._module = build_module(graph, partition(graph), target)
        schedule_kernels(self._module, target)

        def annotated(generated: str) -> str:
            if without_annotations(source) != generated:
                raise CompileError(
                    f"the CUDA text of @{graph.name} is not what this machine generates from its graph",
                    why="the executable was compiled by other versions of plait or TVM",
                    remedy="compile its graph again",
                )
            return source

        with emulated_cuda_device(check=check, rewrite=annotated) as device:
            executable = lower(self._module, target)
            self._source, self._libraries = source, device.libraries
            self._machine = relax.VirtualMachine(executable, tvm.cuda(0))
            self._parameters = [tvm.runtime.tensor(a, tvm.cuda(0)) for a in self._module.parameters.values()]

        self.counts: dict[str, KernelCounts] = {}
        self._memory: DeviceMemory | None = None
        if check:
            kernels = [kernel.name for kernel in self._module.kernels]
            functions = [str(name.name_hint) for name in self._module.relax_module.get_global_vars()]
            self._memory = DeviceMemory(kernels, functions)
            self._machine.set_instrument(self._memory)

    def run(
        self, arrays: list[Any], dims: Mapping[str, int], lane_order: LaneOrder, *, count: bool = False
    ) -> list[Any]:
        """Results for inputs on the host; `count`, with the detectors, fills `counts`.

        Raises CompileError when a kernel breaks a rule of the CUDA execution model.
        """
        import tvm
        import tvm_ffi

        from plait.backends.cuda.emulator.build import load_runtime
        from plait.backends.cuda.emulator.counts import clear_counts, read_counts
        from plait.backends.cuda.emulator.findings import detection_error, read_findings
        from plait.backends.cuda.tvm_hook import emulated_cuda_device

        with emulated_cuda_device(lane_order=lane_order, check=self._memory is not None, count=count):
            arguments = [tvm.runtime.tensor(array.numpy(), tvm.cuda(0)) for array in arrays]
            sizes = tvm_ffi.Shape([dims[name] for name in self._module.dims])
            if self._memory is not None:
                self._memory.start([*arguments, *self._parameters])
            if count:
                clear_counts(load_runtime())
            try:
                results = self._machine["main"](sizes, *arguments, *self._parameters)
            except CompileError as error:
                if findings := read_findings(load_runtime(), self._libraries, self._source):
                    raise detection_error(findings) from error
                raise
            if count:
                names = [kernel.name for library in self._libraries for kernel in library.kernels]
                self.counts = read_counts(load_runtime(), names)
            return [tvm.runtime.tensor(result.numpy()) for result in results]
