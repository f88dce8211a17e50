"""Files, arguments and states: what surrounds lowering."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from plait.frontends.nir.record import read_records
from plait.ir import Graph, InputError, LoweringError
from plait.ir.dims import evaluate


def require_nir(caller: str) -> Any:
    """The package `nir`.  Raises LoweringError where it is not installed."""
    try:
        import nir  # type: ignore[import-untyped,unused-ignore]
    except ImportError as error:
        raise LoweringError(
            "nir is not installed", where=caller, why=str(error), remedy="pip install 'plait[nir]'"
        ) from error
    return nir


def read_source(source: Any) -> tuple[Any, str]:
    """The `nir.NIRGraph` of what `lower_nir` takes, and what to call it in messages."""
    nir = require_nir("lower_nir")
    if isinstance(source, nir.NIRGraph):
        return source, "<NIRGraph>"
    if not isinstance(source, (str, Path)):
        raise LoweringError(
            f"cannot lower a {type(source).__module__}.{type(source).__qualname__}",
            where="lower_nir",
            why="a nir.NIRGraph or the path of a .nir file is wanted",
            remedy="wrap a single node by nir.NIRGraph.from_list(node)",
        )
    path = Path(source)
    if not path.is_file():
        raise InputError(f"file {path} does not exist", remedy="check the path")
    try:
        try:
            found = nir.read(path)
        except ValueError:
            found = nir.read(path, type_check=False)  # lowering checks sizes itself, and says where
    except Exception as problem:  # h5py and nir raise many kinds for damaged files
        raise InputError(
            f"{path} cannot be read",
            why=f"{type(problem).__name__}: {problem}",
            remedy="write the file again with nir.write",
        ) from problem
    if not isinstance(found, nir.NIRGraph):
        raise InputError(
            f"{path} holds a single {type(found).__name__}",
            why="a graph is wanted",
            remedy="write nir.NIRGraph.from_list(node) instead",
        )
    return found, path.name


def sizes_of(inputs: Any, steps: int | None, batch: int | None) -> tuple[int | None, int | None]:
    """Steps and batch of example sequences, where they are not given.

    Raises InputError where the sequences differ, or one has fewer than two axes.
    """
    if isinstance(inputs, Mapping):
        inputs = tuple(inputs.values())
    arrays = inputs if isinstance(inputs, (tuple, list)) else (inputs,)
    shapes = [tuple(int(size) for size in np.shape(array)) for array in arrays]
    if len({shape[:2] for shape in shapes}) != 1 or len(shapes[0]) < 2:
        raise InputError(
            f"example inputs have the shapes {', '.join(map(str, map(list, shapes))) or 'of nothing'}",
            where="lower_nir",
            why="sequences are [T, B, ...], with one T and B for all",
            remedy="pass the sequences of the Input nodes, without states, or steps= and batch=",
        )
    return steps or shapes[0][0], batch or shapes[0][1]


def check_sizes(steps: int | None, batch: int | None, dt: float) -> None:
    """Raise InputError unless all are positive."""
    for word, size in (("steps", steps), ("batch", batch)):
        if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
            raise InputError(
                f"{word} is {size!r}", where="lower_nir", why="it is a whole number of 1 or more, or None"
            )
    if not (math.isfinite(dt) and dt > 0):
        raise InputError(f"dt is {dt!r}", where="lower_nir", why="it is a positive number of seconds")


def write_file(nir_graph: Any, path: str | Path) -> None:
    """Write a NIR graph.  Raises InputError where the path is not writable."""
    try:
        require_nir("write_nir").write(str(path), nir_graph)
    except OSError as problem:
        raise InputError(
            f"cannot write {path}", why=str(problem), remedy="check the folder and its rights"
        ) from None


def filled_states(graph: Graph, dims: Mapping[str, int], fill: float) -> dict[str, np.ndarray]:
    """See `plait.frontends.nir.initial_states`."""
    loop, _ = read_records(graph)
    found = {}
    for value in graph.inputs[len(graph.inputs) - loop.carries :]:
        shape = value.shaped.shape
        try:
            sizes = tuple(evaluate(size, dims) for size in shape)
        except (KeyError, InputError):
            raise InputError(
                f"state {value} is {value.type}, whose batch is open",
                where="initial_states",
                remedy='pass its size, as in initial_states(graph, {"B": 8})',
            ) from None
        found[value.name] = np.full(sizes, fill, dtype=np.float32)
    return found
