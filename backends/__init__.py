"""Backends: what turns a verified graph into something that runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from plait.backends.artifact import load_executable
from plait.backends.targets import A100, CpuTarget, GpuTarget, Target, resolve_target
from plait.ir import Graph

if TYPE_CHECKING:
    from plait.backends.executable import Executable
    from plait.backends.tvm.compile import Progress

__all__ = [
    "A100",
    "CpuTarget",
    "GpuTarget",
    "Target",
    "compile_graph",
    "load_executable",
    "resolve_target",
]


def compile_graph(
    graph: Graph,
    target: str | Target = "cpu",
    *,
    dims: Mapping[str, int] | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Executable:
    """Compile a graph.

    Args:
        target: "cpu", "a100", "a100-tf32", or a target.
        dims: values of dims to fix; the others stay symbolic.
        threads: of a CPU target; by default one for each processor.
        progress: called with the name of a stage, the steps done and the steps in all.

    Raises:
        CompileError: an unknown target, ops that cannot be compiled (all at once), a
            TVM that cannot be used, or an error of TVM with the ops at fault.
        InputError: `dims` names no dim of the graph, or leaves its range.
    """
    found = resolve_target(target, threads=threads)
    from plait.backends.tvm.toolchain import require_tvm

    require_tvm()
    from plait.backends.executable import Executable
    from plait.backends.tvm.compile import compile_code
    from plait.ir.bind import bind_dims

    bound = bind_dims(graph, dims) if dims else graph
    return Executable(bound, found, compile_code(bound, found, progress))
