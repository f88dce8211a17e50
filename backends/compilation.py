"""Compiling a graph: from the cache, in a worker process, or here."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import plait.ir
from plait.backends import artifact
from plait.backends.cache import Cache
from plait.backends.isolation import (
    DEFAULT_SECONDS,
    can_isolate,
    compile_in_worker,
    compile_worker,
    extension_modules,
    tune_in_worker,
)
from plait.backends.targets import CpuTarget, Target, resolve_target
from plait.backends.tuning import digest as tuning_digest
from plait.ir import CompileError, Graph, InputError, print_graph
from plait.ir.bind import bind_dims

if TYPE_CHECKING:
    from plait.backends.executable import Executable
    from plait.backends.tvm.compile import Progress

#: Rooms whose code decides what a compilation gives.
_ROOMS = ("ir", "passes", "backends")


def compile_graph(
    graph: Graph,
    target: str | Target = "cpu",
    *,
    dims: Mapping[str, int] | None = None,
    threads: int | None = None,
    prepare: Callable[[Graph], Graph] | None = None,
    recipe: str = "",
    isolate: bool | None = False,
    cache: bool | str | Path = False,
    timeout_s: float | None = DEFAULT_SECONDS,
    bundle_dir: str | Path | None = ".",
    progress: Progress | None = None,
    tune_s: float | None = None,
) -> Executable:
    """Compile a graph.

    Args:
        target: "cpu", "a100", or a target.
        dims: values of dims to fix; the others stay symbolic.
        threads: of a CPU target; by default one for each processor.
        prepare: rewrites the graph once its dims are fixed.
        recipe: names what `prepare` does, for the cache.
        isolate: compile in a worker process, so that a crash of the code generator is an error
            and not the end of this process; None where that is possible.
        cache: whether to use the cache of executables, or the folder of another one.
        timeout_s: seconds after which the worker process is stopped; None for never.
        bundle_dir: folder in which a crash of the worker leaves a bundle that repeats it; None for none.
        progress: see `plait.backends.tvm.compile.Progress`.
        tune_s: seconds to search for faster kernels first, which the user's tuning database keeps.

    Raises:
        CompileError: an unknown target, ops that cannot be compiled (all at once), a
            TVM that cannot be used, an error of TVM with the ops at fault, or a crash of it.
        InputError: `dims` names no dim of the graph, or leaves its range.
    """
    started = time.perf_counter()
    found = resolve_target(target, threads=threads)

    @lru_cache(maxsize=1)
    def final() -> Graph:
        bound = bind_dims(graph, dims) if dims else graph
        return bound if prepare is None else prepare(bound)

    if tune_s is not None:
        tuned = _tunable(found, tune_s)
        if can_isolate(graph) if isolate is None else isolate:
            folder = None if bundle_dir is None else Path(bundle_dir)
            tune_in_worker(final(), tuned, tune_s, progress=progress, seconds=timeout_s, bundle_dir=folder)
        else:
            _tune_here(final(), tuned, tune_s, progress)
    store = None if cache is False else Cache("compile", None if cache is True else cache)
    key = None if store is None else compile_key(graph, found, dims or {}, recipe)
    if store is not None and key is not None:
        executable = _cached(store, key)
        if executable is not None:
            executable.seconds = {"cache": time.perf_counter() - started}
            return executable
    isolated = can_isolate(graph) if isolate is None else isolate
    if isolated:
        compile_worker().start()  # it imports TVM while this process rewrites the graph
    if isolated:
        return _from_worker(final(), found, store, key, progress, timeout_s, bundle_dir)
    return _from_here(final(), found, store, key, progress)


def _tunable(target: Target, tune_s: float) -> CpuTarget:
    """The target of a search.  Raises CompileError for one that runs elsewhere, or without time for it."""
    if not isinstance(target, CpuTarget):
        raise CompileError(
            f"there is nothing to tune for {target.name}",
            why="choices are measured on the processor that runs them",
            remedy="tune for the target cpu",
        )
    if tune_s <= 0:
        raise CompileError(f"tuning for {tune_s:g} seconds is no search", remedy="give a number above 0")
    return target


def _tune_here(graph: Graph, target: CpuTarget, tune_s: float, progress: Progress | None) -> None:
    from plait.backends.tvm.toolchain import require_tvm

    require_tvm()
    from plait.backends.tvm.search import tune_for_user

    tune_for_user(graph, target, tune_s, progress)


def _from_here(
    graph: Graph, target: Target, store: Cache | None, key: str | None, progress: Progress | None
) -> Executable:
    from plait.backends.tvm.toolchain import require_tvm

    require_tvm()
    from plait.backends.executable import Executable
    from plait.backends.tvm.compile import compile_code

    code = compile_code(graph, target, progress)
    if store is not None and key is not None:
        with suppress(InputError, CompileError, OSError), store.writing(key) as stream:
            artifact.write(graph, target, code, stream)
    return Executable(graph, target, code)


def _from_worker(
    graph: Graph,
    target: Target,
    store: Cache | None,
    key: str | None,
    progress: Progress | None,
    timeout_s: float | None,
    bundle_dir: str | Path | None,
) -> Executable:
    kept = store.path(key) if store is not None and key is not None else None
    try:
        output = _temporary(store.create() if store is not None and kept is not None else None)
    except (InputError, OSError):  # a cache that cannot be written only costs time
        kept, output = None, _temporary(None)
    try:
        seconds = compile_in_worker(
            graph,
            target,
            output,
            progress=progress,
            seconds=timeout_s,
            bundle_dir=None if bundle_dir is None else Path(bundle_dir),
        )
        executable = artifact.map_executable(output, graph)
        if kept is not None and store is not None:
            os.replace(output, kept)
            store.trim(keep=kept.name)
    finally:
        output.unlink(missing_ok=True)
    executable.seconds = seconds
    return executable


def _temporary(folder: Path | None) -> Path:
    """A new empty file in a folder, or where the system keeps such files."""
    handle, name = tempfile.mkstemp(prefix=".compile.", suffix=".tmp", dir=folder)
    os.close(handle)
    return Path(name)


def _cached(store: Cache, key: str) -> Executable | None:
    """An executable of the cache; None when there is none, or it is damaged: it is then made anew."""
    path = store.find(key)
    if path is None:
        return None
    try:
        return artifact.map_executable(path)
    except InputError:
        store.remove(key)
        return None


# -- keys -----------------------------------------------------------------------------
def compile_key(graph: Graph, target: Target, dims: Mapping[str, int], recipe: str) -> str | None:
    """The name of a compilation in the cache; None where what it depends on cannot be told.

    It covers the tuning databases and the text of the graph with the hashes of its constants and with its
    locations, which kernel tables and CUDA text show; dims, target and recipe; the
    sources of plait and of extensions; and the versions of the packages at work.
    """
    sources = [_sources_digest()]
    for module in extension_modules(graph):
        text = _source_of(module)
        if text is None:
            return None
        sources.append(hashlib.sha256(text).hexdigest())
    facts = {
        "graph": print_graph(graph),
        "dims": dict(dims),
        "recipe": recipe,
        "target": target.to_dict(),
        "machine": platform.machine(),
        "sources": sources,
        "versions": artifact.package_versions(),
        "tuning": tuning_digest(target) if isinstance(target, CpuTarget) else None,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest() + ".plait"


@lru_cache(maxsize=1)
def _sources_digest() -> str:
    """SHA-256 over the files of the rooms that compile."""
    root = Path(plait.ir.__file__).parent.parent
    digest = hashlib.sha256()
    for room in _ROOMS:
        for path in sorted((root / room).rglob("*")):
            if path.suffix in (".py", ".h", ".cc"):
                digest.update(str(path.relative_to(root)).encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()


def _source_of(module: str) -> bytes | None:
    """The file of a module; None for one without, such as that of an interactive session."""
    with suppress(ImportError, ValueError, OSError):
        spec = importlib.util.find_spec(module)
        if spec is not None and spec.origin is not None:
            return Path(spec.origin).read_bytes()
    return None
