"""Inputs and dim values of a graph from command lines and files, or made up from a seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from plait.ir.bind import default_dims
from plait.ir.dims import evaluate, symbols_of
from plait.ir.errors import InputError, did_you_mean
from plait.ir.graph import Graph
from plait.ir.signature import shape_facts, solve_dims

Arrays = dict[str, np.ndarray]


def random_inputs(graph: Graph, dims: Mapping[str, int], seed: int) -> Arrays:
    """Seeded inputs of the declared types: normal floats, small non-negative integers."""
    values = default_dims(graph, {**{name: r.low for name, r in graph.dims.items()}, **dims})
    generator = np.random.default_rng(seed)
    found = {}
    for value in graph.inputs:
        kind = value.shaped
        shape = tuple(evaluate(dim, values) for dim in kind.shape)
        if kind.dtype.is_float:
            found[value.name] = generator.standard_normal(shape).astype(kind.dtype.numpy)
        else:
            found[value.name] = generator.integers(0, 2, shape).astype(kind.dtype.numpy)
    return found


def read_inputs(graph: Graph, files: list[str] | None, dims: Mapping[str, int], seed: int) -> Arrays:
    """Inputs from NAME=FILE.npy entries; those not named are random.

    Raises InputError for an entry that names no input or no readable file.
    """
    given = {}
    names = [value.name for value in graph.inputs]
    for entry in files or []:
        name, equals, path = entry.partition("=")
        if not equals or name not in names:
            raise InputError(
                f"--input {entry} is not understood",
                why=f"the inputs are {', '.join(names)}",
                remedy="write NAME=FILE.npy",
            )
        if not Path(path).is_file():
            raise InputError(f"input file {path} does not exist", remedy="check the path")
        try:
            given[name] = np.load(path, allow_pickle=False)
        except (ValueError, EOFError, OSError) as problem:
            raise InputError(
                f"cannot read {path}", why=str(problem), remedy="write it with numpy.save"
            ) from None
    if len(given) == len(names):
        return given
    facts = [shape_facts(n, graph.value(f"%{n}").shaped, array.shape) for n, array in given.items()]
    known = solve_dims(graph, [fact for found in facts for fact in found])
    return {**random_inputs(graph, {**known, **dims}, seed), **given}


def dim_values(entries: list[str] | None) -> dict[str, int]:
    """`["B=8"]` as `{"B": 8}`.  Raises InputError for an entry that is not NAME=SIZE."""
    found = {}
    for entry in entries or []:
        name, equals, size = entry.partition("=")
        if not equals or not size.isdigit():
            raise InputError(
                f"--dim {entry} is not understood", remedy="write --dim NAME=SIZE, for instance B=8"
            )
        found[name] = int(size)
    return found


# -- batches ----------------------------------------------------------------------
def batch_size(graph: Graph, wanted: int) -> int:
    """Samples of one call: the first size of the inputs, or `wanted` where it is a dim (within its range).

    Raises InputError where inputs disagree or have no axes.
    """
    firsts = {value.shaped.shape[0] for value in graph.inputs if value.shaped.shape}
    if len(firsts) != 1:
        raise InputError(
            f"the first axes of the inputs are {', '.join(map(str, firsts)) or 'missing'}",
            where=f"graph @{graph.name}",
            why="samples lie along the first axis of each input",
            remedy="calibrate in Python with batches of your own",
        )
    (first,) = firsts
    if isinstance(first, int):
        return first
    (symbol,) = symbols_of(first)
    allowed = graph.dims[symbol]
    return max(allowed.low, min(wanted, wanted if allowed.high is None else allowed.high))


def read_batches(graph: Graph, path: Path, samples: int, batch: int) -> list[Arrays]:
    """Batches from a .npz file with one array of samples for each input; a rest that fills no batch is left.

    Raises InputError for a file that cannot be read, lacks an input, or holds less than one batch.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            if isinstance(file, np.ndarray):
                raise ValueError("it holds one array without a name")
            held = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError) as problem:
        raise InputError(
            f"cannot read {path}", why=str(problem), remedy="write it with numpy.savez(path, INPUT=array)"
        ) from None
    names = [value.name for value in graph.inputs]
    for name in names:
        if name not in held:
            raise InputError(
                f"{path} has no array '{name}'{did_you_mean(name, held)}",
                why=f"the inputs are {', '.join(names)}, the file has {', '.join(held) or 'nothing'}",
                remedy="name the arrays as the inputs",
            )
    count = min(samples, *(len(held[name]) for name in names))
    size = batch_size(graph, batch)
    if count < size:
        raise InputError(
            f"{path} holds {count} samples", why=f"one batch has {size}", remedy="give more samples"
        )
    return [
        {name: held[name][start : start + size] for name in names}
        for start in range(0, count - size + 1, size)
    ]


def random_batches(graph: Graph, samples: int, batch: int) -> list[Arrays]:
    """Batches of seeded random inputs (see `random_inputs`)."""

    def made() -> Iterator[Arrays]:
        size = batch_size(graph, batch)
        firsts = {d for v in graph.inputs for d in v.shaped.shape[:1] if not isinstance(d, int)}
        dims = {symbol: size for first in firsts for symbol in symbols_of(first)}
        for seed in range(max(1, samples // size)):
            yield random_inputs(graph, dims, seed)

    return list(made())
