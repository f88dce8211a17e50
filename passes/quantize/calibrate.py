"""Calibration: a graph runs on the user's batches, observers see its values, grids come out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch

from plait.ir import Graph, InputError, TensorType, Value
from plait.ir.errors import did_you_mean
from plait.ir.interpret import Array, interpret
from plait.ir.reference.tensors import from_numpy, torch_dtype
from plait.passes.quantize.observers import Observer, make_observer
from plait.passes.quantize.scheme import Grid, Scheme

#: One batch of calibration data: by input, by position, or the sole input.
Item = Any
#: Called with the name of a value and a tensor that it took.
Visit = Callable[[str, torch.Tensor], None]


class Batch(dict[str, Any]):
    """The inputs of one run by name, checked; `index` counts batches from 0."""

    index: int = 0


class _Enough(Exception):
    """All wanted values of a run were seen."""


def batches_of(graph: Graph, data: Iterable[Item], limit: int | None = None) -> list[Batch]:
    """Calibration data as checked batches.

    Args:
        data: an iterable of batches, each a mapping by input name, a sequence in the order
            of the inputs, or an array where there is one input.  Batches that were
            checked before pass as they are.
        limit: batches to read at most.

    Raises:
        InputError: no batch; an item that is no batch; an input that is missing, has
            another element type or rank, or holds NaN or infinities.  The message names
            batch and input.
    """
    if isinstance(data, (torch.Tensor, np.ndarray, Mapping)):
        raise InputError(
            f"calibration data is one {type(data).__name__}",
            where=f"graph @{graph.name}",
            why="an iterable of batches is wanted",
            remedy="wrap it in a list: [batch]",
        )
    if not isinstance(data, Iterable):
        raise InputError(
            f"calibration data is a {type(data).__name__}",
            where=f"graph @{graph.name}",
            why="an iterable of batches is wanted",
            remedy="give a list of inputs, or a loader that yields them",
        )
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}", where="calibration", why="at least one batch is wanted")
    found: list[Batch] = []
    for index, item in enumerate(data):
        if limit is not None and index >= limit:
            break
        found.append(item if isinstance(item, Batch) else _batch(graph, index, item))
    if not found:
        raise InputError(
            "calibration data is empty",
            where=f"graph @{graph.name}",
            why="it gave no batch; a generator that was read before has none left",
            remedy="give at least one batch of representative inputs",
        )
    return found


def _batch(graph: Graph, index: int, item: Item) -> Batch:
    names = [value.name for value in graph.inputs]
    signature = ", ".join(f"{value.name}: {value.type}" for value in graph.inputs)
    where = f"batch {index} of the calibration data"
    if isinstance(item, (torch.Tensor, np.ndarray)):
        item = (item,)
    if isinstance(item, Mapping):
        given = {name.lstrip("%"): tensor for name, tensor in item.items()}
        for name in given:
            if name not in names:
                raise InputError(
                    f"the graph has no input {name}{did_you_mean(name, names)}",
                    where=where,
                    why=f"it takes {signature}",
                )
    elif isinstance(item, (tuple, list)):
        if len(item) > len(names):
            raise InputError(
                f"{len(item)} inputs were given",
                where=where,
                why=f"the graph takes {len(names)}: {signature}",
                remedy="leave out labels and the like",
            )
        given = dict(zip(names, item))
    else:
        raise InputError(
            f"it is a {type(item).__name__}", where=where, why="a batch is an array, a mapping or a sequence"
        )
    batch = Batch()
    batch.index = index
    for value in graph.inputs:
        if value.name not in given:
            raise InputError(
                f"input {value.name} is missing", where=where, why=f"the graph takes {signature}"
            )
        batch[value.name] = _checked(value, given[value.name], f"{where}, input {value.name}")
    return batch


def _checked(value: Value, given: Array, where: str) -> Any:
    """An input as a tensor of the right element type and rank, without NaN."""
    kind = value.type
    if not isinstance(kind, TensorType) or not isinstance(given, (torch.Tensor, np.ndarray)):
        return given  # the interpreter judges graphs, spikes and what is no tensor
    try:
        tensor = from_numpy(given) if isinstance(given, np.ndarray) else given
    except TypeError as error:
        raise InputError(f"numpy {given.dtype} has no torch type", where=where, why=str(error)) from None
    wanted = torch_dtype(kind)
    if tensor.dtype != wanted:
        short = str(wanted).removeprefix("torch.")
        cast = f".astype('{short}')" if isinstance(given, np.ndarray) else f".to({wanted})"
        raise InputError(
            f"its element type is {str(tensor.dtype).removeprefix('torch.')}",
            where=where,
            why=f"the graph declares {kind}, and data is not converted unasked",
            remedy=f"convert it with {cast}",
        )
    if tensor.dim() != kind.rank:
        raise InputError(
            f"shape {list(tensor.shape)} has {tensor.dim()} axes", where=where, why=f"its type is {kind}"
        )
    if tensor.is_floating_point():
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            raise InputError(
                f"{bad} of {tensor.numel()} elements are NaN or infinite",
                where=where,
                why="ranges cannot be measured on them",
                remedy="clean the data, or leave the batch out",
            )
    return tensor


def observe_values(
    graph: Graph,
    batches: Iterable[Batch],
    names: Iterable[str],
    visit: Visit,
    *,
    constants: Mapping[str, torch.Tensor] | None = None,
    dims: Mapping[str, int] | None = None,
) -> None:
    """Run a graph on each batch and show the tensors that the named values take, inputs included.

    A run stops as soon as all of them were seen.

    Args:
        visit: called with name and tensor, for a value inside a loop once an iteration.
        constants: tensors to use in place of constants, as for `interpret`.

    Raises:
        InputError: a name that no input or result has, or that is no floating-point tensor;
            sizes that do not fit (names the batch); a value that is NaN or infinite (names
            the batch and the first op that computes NaN).
    """
    wanted = _observable(graph, names)
    outside = {value.name for op in graph.ops for value in op.results}
    may_stop = wanted <= outside | {value.name for value in graph.inputs}
    for batch in batches:
        pending = set(wanted)
        for value in graph.inputs:
            if value.name in wanted:
                visit(value.name, batch[value.name])
                pending.discard(value.name)
        if not pending and may_stop:
            continue

        def see(value: Value, tensor: Any, batch: Batch = batch, pending: set[str] = pending) -> None:
            if value.name not in wanted:
                return
            if not bool(torch.isfinite(tensor).all()):
                raise _not_finite(graph, batch, value, constants, dims)
            visit(value.name, tensor)
            pending.discard(value.name)
            if not pending and may_stop:
                raise _Enough

        try:
            run(graph, batch, see, constants=constants, dims=dims)
        except _Enough:
            continue


def run(
    graph: Graph,
    batch: Batch,
    observe: Callable[[Value, Any], None] | None = None,
    *,
    constants: Mapping[str, torch.Tensor] | None = None,
    dims: Mapping[str, int] | None = None,
) -> tuple[Any, ...]:
    """The outputs of a graph on one batch, without gradients.  Raises InputError naming the batch."""
    try:
        with torch.no_grad():
            return interpret(graph, batch, observe=observe, constants=constants, dims=dims)
    except InputError as error:
        place = f"batch {batch.index} of the calibration data"
        if error.where and error.where.startswith(place):
            raise
        where = f"{place}, {error.where}" if error.where else place
        raise InputError(error.what, where=where, why=error.why, remedy=error.remedy) from error


def _observable(graph: Graph, names: Iterable[str]) -> set[str]:
    """Names of values to observe.  Raises InputError for those that cannot be."""
    known = {value.name: value for value in graph.inputs}
    known |= {value.name: value for op in graph.walk() for value in op.results}
    found = {name.lstrip("%") for name in names}
    for name in sorted(found):
        if name not in known:
            raise InputError(
                f"the graph has no value %{name}{did_you_mean(name, known)}",
                where=f"graph @{graph.name}",
                why="an input, or the result of an op, can be observed",
                remedy="name a value of the dump",
            )
        kind = known[name].type
        if not isinstance(kind, TensorType) or not kind.dtype.is_float:
            raise InputError(
                f"%{name} is {kind}", where=f"graph @{graph.name}", why="floating-point tensors are observed"
            )
    return found


def _not_finite(
    graph: Graph,
    batch: Batch,
    value: Value,
    constants: Mapping[str, torch.Tensor] | None,
    dims: Mapping[str, int] | None,
) -> InputError:
    """The error for a value that is not finite, from a second run that looks for where it begins."""
    first: list[Value] = []

    def look(seen: Value, tensor: Any) -> None:
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and bool(tensor.isnan().any()):
            first.append(seen)
        if first or seen is value:
            raise _Enough

    with contextlib.suppress(_Enough):
        run(graph, batch, look, constants=constants, dims=dims)
    start = first[0] if first else value
    assert start.producer is not None  # only results are observed
    word = "NaN" if first else "infinite"
    return InputError(
        f"%{value.name} is {'NaN' if first else 'infinite'}",
        where=f"batch {batch.index} of the calibration data",
        why=f"the first op whose result is {word} is {start.producer.opname} %{start.name} "
        f"({start.producer.loc.readable()})",
        remedy="check its weights, or give data on which it is finite",
    )


def observe(
    graph: Graph,
    data: Iterable[Item],
    names: Iterable[str],
    observer: str | Callable[[], Observer] = "mse",
    *,
    dims: Mapping[str, int] | None = None,
    limit: int | None = None,
) -> dict[str, Observer]:
    """An observer for each named value that has seen all calibration data.

    Raises InputError as `batches_of`, `observe_values` and `make_observer` do.
    """
    observers = {name: make_observer(observer) for name in sorted(_observable(graph, names))}
    batches = batches_of(graph, data, limit)
    observe_values(graph, batches, observers, lambda name, x: observers[name].update(x), dims=dims)
    return observers


def calibrate(
    graph: Graph,
    data: Iterable[Item],
    values: Mapping[str, Scheme],
    observer: str | Callable[[], Observer] = "mse",
    dims: Mapping[str, int] | None = None,
    limit: int | None = None,
) -> dict[str, Grid]:
    """The grids of values, from what they are on calibration data.

    Args:
        graph: the float graph.
        data: see `batches_of`.
        values: the scheme of each value, inputs included, by name.
        observer: a name in `OBSERVERS`, or a function that makes an observer.
        dims: values of dims that no input shows.
        limit: batches to read at most.

    Raises InputError as `observe` does, and for a value that no batch reaches.
    """
    observers = observe(graph, data, values, observer, dims=dims, limit=limit)
    found = {}
    for name, scheme in values.items():
        try:
            found[name] = observers[name.lstrip("%")].grid(scheme)
        except InputError as error:
            raise InputError(error.what, where=f"%{name}", why=error.why, remedy=error.remedy) from error
    return found


def channel_maxima(
    graph: Graph,
    data: Iterable[Item],
    names: Iterable[str],
    *,
    axis: int = -1,
    dims: Mapping[str, int] | None = None,
    limit: int | None = None,
) -> dict[str, np.ndarray]:
    """Largest magnitude of each channel of the named values over calibration data: [channels] by name.

    Raises InputError as `batches_of` and `observe_values` do.
    """
    maxima: dict[str, torch.Tensor] = {}

    def visit(name: str, x: torch.Tensor) -> None:
        if not x.numel():
            return
        found = x.abs().movedim(axis, -1).reshape(-1, x.shape[axis]).amax(0).to(torch.float64)
        maxima[name] = torch.maximum(maxima[name], found) if name in maxima else found

    observe_values(graph, batches_of(graph, data, limit), names, visit, dims=dims)
    return {name: found.cpu().numpy() for name, found in maxima.items()}
