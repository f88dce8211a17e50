"""Functions of the host that compiled graphs call: the drivers of loops, and ops of unknown result size.

They are found by name, so that this module must be imported before code that
calls them runs.  All take and return arrays on the device of their operands.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
import tvm_ffi

from plait.ir import InputError

WHILE = "plait.runtime.while"
SCAN = "plait.runtime.scan"
IN_RANGE = "plait.runtime.in_range"
BIND_DIM = "plait.runtime.bind_dim"
NONZERO = "plait.runtime.nonzero"
UNIQUE = "plait.runtime.unique"
NON_MAX_SUPPRESSION = "plait.runtime.non_max_suppression"

# An InputError that a function here raises reaches the caller of the graph as one.
tvm_ffi.register_error("InputError", InputError)

_invoke = tvm.get_global_func("vm.builtin.invoke_closure")


def _register(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def enter(function: Callable[..., Any]) -> Callable[..., Any]:
        tvm.register_global_func(name, function, override=True)
        return function

    return enter


# -- loops ---------------------------------------------------------------------------
@_register(WHILE)
def _while(machine: Any, condition: Any, body: Any, stacked: int, *rest: Any) -> Any:
    """Run `body` while `condition` holds: the number of rounds, the stacked slices and the last state."""
    rows, state = _split_rows(stacked, rest)
    collected: list[list[Any]] = [[] for _ in rows]
    rounds = 0
    while _invoke(machine, condition, *state)[0].numpy():
        found = _invoke(machine, body, *state)
        for slices, array in zip(collected, found, strict=False):
            slices.append(array)
        state = tuple(found)[stacked:]
        rounds += 1
    sequences = [_empty((rounds, *shape), dtype, state) for shape, dtype in rows]
    for sequence, slices in zip(sequences, collected, strict=True):
        writer = _RowWriter(sequence)
        for number, array in enumerate(slices):
            writer.write(number, array)
    return [tvm_ffi.Shape([rounds]), *sequences, *state]


@_register(SCAN)
def _scan(machine: Any, body: Any, length: Any, read: int, stacked: int, *rest: Any) -> Any:
    """Run `body` for each slice of `read` sequences: the stacked slices and the last state."""
    rows, arrays = _split_rows(stacked, rest)
    sequences, state = arrays[:read], arrays[read:]
    (rounds,) = length
    results = [_empty((rounds, *shape), dtype, arrays) for shape, dtype in rows]
    writers = [_RowWriter(result) for result in results]
    for number in range(rounds):
        given = (_scalar(number, sequences[0]), *sequences) if read else ()
        found = tuple(_invoke(machine, body, *given, *state))
        for writer, array in zip(writers, found, strict=False):
            writer.write(number, array)
        state = found[stacked:]
    return [*results, *state]


def _split_rows(stacked: int, rest: tuple[Any, ...]) -> tuple[list[tuple[Any, str]], tuple[Any, ...]]:
    """Shape and element type of the rows that a loop stacks, and the arguments behind them."""
    rows = [(tuple(rest[2 * k]), str(rest[2 * k + 1])) for k in range(stacked)]
    return rows, rest[2 * stacked :]


def _scalar(number: int, like: Any) -> Any:
    return tvm.runtime.tensor(np.asarray(number, "int64"), like.device)


def _empty(shape: tuple[int, ...], dtype: str, beside: tuple[Any, ...]) -> Any:
    """An array on the device of others, which is the host where there is none."""
    return tvm.runtime.empty(shape, dtype, beside[0].device if beside else tvm.cpu())


class _RowWriter:
    """Writes rows of a stacked array in place."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self._shape = tuple(array.shape[1:])
        self._bytes = int(np.prod(self._shape, dtype=np.int64)) * (
            tvm.runtime.DataType(array.dtype).bits // 8
        )

    def write(self, number: int, row: Any) -> None:
        if self._bytes:
            place = self._array._create_view(self._shape, None, number * self._bytes)
            place.copyfrom(row)


@_register(IN_RANGE)
def _in_range(size: Any, low: int, high: int, message: str) -> Any:
    """The shape of one dim that is handed in; with high < low it has no upper bound.

    Raises InputError outside of the range.
    """
    (found,) = size
    if found < low or low <= high < found:
        raise InputError(
            f"{message}{found}",
            why="the size that it finds in the data is out of the range",
            remedy="declare the dim with a wider range, from 0 on",
        )
    return size


# -- results of unknown size ---------------------------------------------------------
def _host(array: Any) -> np.ndarray:
    """The elements of an array; brain floats, which numpy cannot order, as 32-bit floats."""
    found = array.numpy()
    return found.astype(np.float32) if found.dtype.name == "bfloat16" else found


def _device(array: np.ndarray, like: Any, dtype: str = "int64") -> Any:
    return tvm.runtime.tensor(np.ascontiguousarray(array.astype(dtype, copy=False)), like.device)


@_register(NONZERO)
def _nonzero(x: Any) -> Any:
    """Indices of the elements that are not zero, in row-major order."""
    found = np.argwhere(_host(x))
    return [tvm_ffi.Shape([len(found)]), _device(found, x)]


@_register(BIND_DIM)
def _bind_dim(x: Any) -> Any:
    """A number as a size.  Raises InputError below 0."""
    size = int(x.numpy())
    if size < 0:
        raise InputError(
            f"core.bind_dim makes {size} a dim",
            why="the graph computes this size, and a size is 0 or more",
            remedy="check the inputs that it is computed from",
        )
    return [tvm_ffi.Shape([size]), x]


@_register(UNIQUE)
def _unique(x: Any, axis: int, ordered: int, consecutive: int) -> Any:
    """Distinct elements (axis -1) or slices, where each is first, the place of each, how many there are."""
    values = _host(x)
    rows = values.reshape(values.size, 1) if axis < 0 else np.moveaxis(values, axis, 0)
    slices = rows.shape[1:]
    rows = rows.reshape(rows.shape[0], int(np.prod(slices, dtype=np.int64)))
    order = np.arange(len(rows))
    if not consecutive and rows.shape[1]:
        order = np.lexsort(rows.T[::-1])
    arranged = rows[order]
    starts = np.ones(len(rows), dtype=bool)
    starts[1:] = (arranged[1:] != arranged[:-1]).any(axis=1)
    groups = np.cumsum(starts) - 1
    first, counts = order[starts], np.bincount(groups, minlength=int(starts.sum()))
    place: np.ndarray = np.empty(len(rows), dtype=np.int64)
    place[order] = groups
    if not ordered and not consecutive:
        by_place = np.argsort(first, kind="stable")
        rank = np.empty_like(by_place)
        rank[by_place] = np.arange(len(by_place))
        first, counts, place = first[by_place], counts[by_place], rank[place]
    distinct = rows[first].reshape(len(first), *slices)
    if axis >= 0:
        distinct = np.moveaxis(distinct, 0, axis)
    else:
        distinct, place = distinct.reshape(-1), place.reshape(values.shape)
    return [
        tvm_ffi.Shape([len(first)]),
        _device(distinct, x, x.numpy().dtype.name if values.dtype == np.float32 else values.dtype.name),
        *(_device(array, x) for array in (first, place, counts)),
    ]


@_register(NON_MAX_SUPPRESSION)
def _non_max_suppression(
    boxes: Any, scores: Any, limit: int, overlap: float, threshold: float, centred: int
) -> Any:
    """The boxes that no better one of their image and class overlaps by more than `overlap`."""
    places, points = _host(boxes), _host(scores)
    first, second = places[..., :2], places[..., 2:]
    if centred:
        first, second = first - second / 2, first + second / 2
    low, high = np.minimum(first, second), np.maximum(first, second)
    areas = (high - low).prod(axis=-1)
    kept: list[np.ndarray] = []
    for image, label in np.ndindex(*points.shape[:2]):
        found = points[image, label]
        left = np.argsort(-found, kind="stable")
        left = left[found[left] > threshold] if threshold > -np.inf else left
        best: list[int] = []
        while left.size and len(best) < limit:
            box, left = left[0], left[1:]
            best.append(box)
            upper, lower = high[image], low[image]
            sides = np.minimum(upper[box], upper[left]) - np.maximum(lower[box], lower[left])
            shared = np.maximum(sides, 0).prod(axis=-1)
            union = areas[image][box] + areas[image][left] - shared
            share = np.divide(shared, union, out=np.zeros_like(union), where=union > 0)
            left = left[share <= overlap]
        kept.append(np.array([(image, label, box) for box in best], dtype=np.int64).reshape(-1, 3))
    rows = np.concatenate(kept) if kept else np.zeros((0, 3), dtype=np.int64)
    return [tvm_ffi.Shape([len(rows)]), _device(rows, boxes)]


__all__ = ["BIND_DIM", "IN_RANGE", "NONZERO", "NON_MAX_SUPPRESSION", "SCAN", "UNIQUE", "WHILE"]
