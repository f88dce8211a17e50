"""A GPU executable run on the host through the emulation of CUDA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plait.backends.targets import Target
from plait.backends.tvm.build import build_module
from plait.backends.tvm.partition import partition
from plait.ir import CompileError, Graph


class Emulation:
    """The kernels of a graph, generated as for the device and executed on the host.

    Args:
        graph: the final graph of an executable.
        target: the GPU it was compiled for.
        source: CUDA text of the executable; what is executed must be that, comments of plait aside.

    Raises:
        CompileError: when this machine generates another text, as another version of TVM may.
    """

    def __init__(self, graph: Graph, target: Target, source: str) -> None:
        from plait.backends.tvm.compile import lower, schedule_kernels
        from plait.backends.tvm.cuda_code import without_annotations
        from plait.backends.tvm.toolchain import require_tvm

        require_tvm()
        import tvm
        from tvm import relax

        from plait.backends.cuda.tvm_hook import emulated_cuda_device

        self._module = build_module(graph, partition(graph), target)
        schedule_kernels(self._module, target)
        with emulated_cuda_device() as device:
            executable = lower(self._module, target)
            if without_annotations(source) != device.source:
                raise CompileError(
                    f"the CUDA text of @{graph.name} is not what this machine generates from its graph",
                    why="the executable was compiled by other versions of plait or TVM",
                    remedy="compile its graph again",
                )
            self._machine = relax.VirtualMachine(executable, tvm.cuda(0))
            self._parameters = [tvm.runtime.tensor(a, tvm.cuda(0)) for a in self._module.parameters.values()]

    def run(self, arrays: list[Any], dims: Mapping[str, int], lane_order: Any) -> list[Any]:
        """Results for inputs on the host."""
        import tvm
        import tvm_ffi

        from plait.backends.cuda.tvm_hook import emulated_cuda_device

        with emulated_cuda_device(lane_order=lane_order):
            arguments = [tvm.runtime.tensor(array.numpy(), tvm.cuda(0)) for array in arrays]
            sizes = tvm_ffi.Shape([dims[name] for name in self._module.dims])
            results = self._machine["main"](sizes, *arguments, *self._parameters)
            return [tvm.runtime.tensor(result.numpy()) for result in results]
