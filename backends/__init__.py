"""Backends: what turns a verified graph into something that runs."""

from plait.backends.artifact import load_executable
from plait.backends.compilation import compile_graph
from plait.backends.targets import A100, CpuTarget, GpuTarget, Target, resolve_target

__all__ = [
    "A100",
    "CpuTarget",
    "GpuTarget",
    "Target",
    "compile_graph",
    "load_executable",
    "resolve_target",
]
