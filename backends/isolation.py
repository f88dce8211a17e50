"""Compiling in a worker process: a crash or hang of the code generator ends there, and says where it was."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plait.backends.artifact import PACKAGES
from plait.backends.cache import cache_root
from plait.backends.targets import Target
from plait.backends.worker import compiling
from plait.backends.worker.process import Worker, WorkerDied
from plait.ir import CompileError, Graph, InputError, Op, VerifyError
from plait.ir.bundle import versions, write_bundle

if TYPE_CHECKING:
    from plait.backends.tvm.compile import Progress

#: Compiling stops after so long unless told otherwise: many times what the largest model took.
DEFAULT_SECONDS = 1800.0
_KINDS = {kind.__name__: kind for kind in (CompileError, InputError, VerifyError)}
_DOING = {
    "emit": "expressed",
    "schedule": "scheduled",
    "lower": "generated code for",
    "assemble": "assembled the CUDA text of",
    "link": "generated machine code for",
    "tune": "measured",
}
_SCRIPT = '''\
"""Compiles the graph as it was compiled when that failed, in this process."""

import importlib
from pathlib import Path

from plait.backends import Target, compile_graph
from plait.ir.archive import load

for module in {modules!r}:
    importlib.import_module(module)
graph = load(Path(__file__).with_name("graph.plait"))
print(compile_graph(graph, Target.from_dict({target!r}), isolate=False, cache=False))
'''


@lru_cache(maxsize=1)
def compile_worker() -> Worker:
    """The worker that all compilations of this process share."""
    return Worker(compiling.FUNCTION)


def can_isolate(graph: Graph) -> bool:
    """Whether a worker can compile a graph: there is a linker, and it can import what defines the ops."""
    from plait.backends.cuda.emulator.build import find_compiler

    try:
        find_compiler()
    except CompileError:
        return False
    packages = {name.partition(".")[0] for name in extension_modules(graph)}
    found = all(name != "__main__" and PathFinder.find_spec(name) is not None for name in packages)
    return bool(sys.executable) and found


def extension_modules(graph: Graph) -> list[str]:
    """Modules outside plait that define ops of the graph or, as far as known here, how they are computed."""
    kinds = {type(op) for op in graph.walk()}
    found = {kind.__module__ for kind in kinds}
    table = sys.modules.get("plait.backends.tvm.emit.table")
    if table is not None:
        found |= {table.EMISSIONS[kind].function.__module__ for kind in kinds if kind in table.EMISSIONS}
    return sorted(name for name in found if name.partition(".")[0] != "plait")


def compile_in_worker(
    graph: Graph,
    target: Target,
    output: Path,
    *,
    progress: Progress | None = None,
    seconds: float | None = DEFAULT_SECONDS,
    bundle_dir: Path | None = None,
    modules: Sequence[str] | None = None,
) -> dict[str, float]:
    """Compile a graph into the file of an executable.

    Args:
        output: path of the file.
        progress: see `plait.backends.tvm.compile`.
        seconds: after which the worker is stopped; None for never.
        bundle_dir: folder for the bundle of a failure; None for none.
        modules: for the worker to import first; by default `extension_modules`.

    Returns:
        What the compilation took, by stage, in seconds.

    Raises:
        CompileError: what the compiler says, or that it crashed or hung and on which ops; with the
            path of the bundle where it was not a fault of the graph.
    """
    wanted = extension_modules(graph) if modules is None else list(modules)
    job = {"output": str(output)}
    return _in_worker(graph, target, job, wanted, progress=progress, seconds=seconds, bundle_dir=bundle_dir)


def tune_in_worker(
    graph: Graph,
    target: Target,
    tune_s: float,
    *,
    progress: Progress | None = None,
    seconds: float | None = DEFAULT_SECONDS,
    bundle_dir: Path | None = None,
) -> dict[str, Any]:
    """Search for choices for `tune_s` seconds; see `compile_in_worker` and `TuningReport`."""
    wanted = extension_modules(graph)
    limit = None if seconds is None else seconds + tune_s
    job = {"output": None, "tune": tune_s}
    return _in_worker(graph, target, job, wanted, progress=progress, seconds=limit, bundle_dir=bundle_dir)


def _in_worker(
    graph: Graph,
    target: Target,
    task: Mapping[str, Any],
    wanted: list[str],
    *,
    progress: Progress | None,
    seconds: float | None,
    bundle_dir: Path | None,
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "graph.plait"
        graph.save(saved)
        job = {
            "graph": str(saved),
            "target": target.to_dict(),
            "modules": wanted,
            "cache_root": str(cache_root()),
            **task,
        }
        last = _Last(graph, progress)
        try:
            answer = compile_worker().run(job, report=last, seconds=seconds)
        except WorkerDied as death:
            if not last.ops:
                _find_ops(job, last, seconds)
            raise _failure(graph, target, wanted, _death(death, last), death.output, bundle_dir) from None
    if "seconds" in answer:
        return dict(answer["seconds"])
    if answer["error"] is not None:
        kept = dict(answer["error"])
        kind = _KINDS.get(kept.pop("error"), CompileError)
        raise kind(kept.pop("what"), **kept)
    error = CompileError(f"the compiler failed while it {last.doing}", where=last.where, why=answer["why"])
    raise _failure(graph, target, wanted, error, answer["traceback"], bundle_dir)


class _Last:
    """The step that the worker began last, as it reports them."""

    def __init__(self, graph: Graph, progress: Progress | None) -> None:
        self._names = {op.name: op for op in graph.walk()}
        self._graph, self._progress = graph, progress
        self.stage = ""
        self.ops: list[Op] = []

    def __call__(self, event: dict[str, Any]) -> None:
        self.stage = event["stage"]
        self.ops = [self._names[name] for name in event["ops"] if name in self._names]
        if self._progress is not None:
            self._progress(self.stage, event["done"], event["total"], self.ops)

    @property
    def doing(self) -> str:
        """`expressed %conv1 (nn.conv2d)`."""
        names = ", ".join(f"%{op.name} ({op.opname})" for op in self.ops[:4])
        return f"{_DOING.get(self.stage, 'prepared')} {names or f'@{self._graph.name}'}"

    @property
    def where(self) -> str | None:
        return self.ops[0].loc.readable() if self.ops and self.ops[0].loc else None


def _find_ops(job: dict[str, Any], last: _Last, seconds: float | None) -> None:
    """Compile each kernel on its own, so that the one which kills the worker again is the last in `last`."""
    stage = last.stage
    with suppress(WorkerDied, CompileError):
        compile_worker().run({**job, "output": None}, report=last, seconds=seconds)
        last.stage, last.ops = stage, []  # all went well: no single kernel is at fault


def _death(death: WorkerDied, last: _Last) -> CompileError:
    return CompileError(
        f"the compiler {death.reason} while it {last.doing}", where=last.where, why=death.cause
    )


def _failure(
    graph: Graph,
    target: Target,
    modules: list[str],
    error: CompileError,
    output: str,
    bundle_dir: Path | None,
) -> CompileError:
    """The error with the path of a bundle that holds graph, target, versions and the worker's last output."""
    advice = "report it with the text of the graph (print(graph))"
    if bundle_dir is not None:
        bundle = write_bundle(
            bundle_dir,
            graph,
            "graph.plait",
            script=_SCRIPT.format(modules=modules, target=target.to_dict()),
            facts={"target": target.to_dict(), "modules": modules, "versions": versions(PACKAGES)},
            error=error,
            texts={"output.txt": output},
        )
        advice = f"python {bundle}/rerun.py repeats it in a process of its own; report it with that folder"
    return CompileError(error.what, where=error.where, why=error.why, remedy=advice)
