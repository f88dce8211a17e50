"""Emissions of gathering, scattering and sorting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from tvm import te, tirx, topi
from tvm.ir import Expr

from plait.backends.tvm.emit.expressions import number
from plait.backends.tvm.emit.loops import item_loops, line, product, serial, when
from plait.backends.tvm.emit.table import Arguments, Emitter, Kind, emit
from plait.ir import IntLike
from plait.ir.ops import core

_SCATTER_MODES = {"none": "update", "add": "add", "mul": "mul", "max": "max", "min": "min"}


def wrapped(emitter: Emitter, index: Expr, size: IntLike) -> Expr:
    """A 64-bit index counted from the front; negative ones count from the end."""
    place = tirx.Cast("int64", index) if str(index.ty.dtype) != "int64" else index
    return tirx.Select(place < 0, place + emitter.read_dim(size), place)


@emit(core.Take, kind=Kind.INJECTIVE)
def _take(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    kind, picks = op.x.type, op.indices.type
    axis = op.axis % kind.rank

    def at(*i: Expr) -> Expr:
        chosen = args.indices(*i[axis : axis + picks.rank])
        return args.x(*i[:axis], wrapped(emitter, chosen, kind.shape[axis]), *i[axis + picks.rank :])

    return te.compute(emitter.shape(op.result.type.shape), at, name="take")


@emit(core.GatherElements, kind=Kind.INJECTIVE)
def _gather_elements(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    kind = op.x.type
    axis = op.axis % kind.rank

    def at(*i: Expr) -> Expr:
        return args.x(*i[:axis], wrapped(emitter, args.indices(*i), kind.shape[axis]), *i[axis + 1 :])

    return te.compute(emitter.shape(op.result.type.shape), at, name="gather_elements")


@emit(core.GatherND, kind=Kind.INJECTIVE)
def _gather_nd(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    kind, picks = op.x.type, op.indices.type
    depth = picks.shape[-1]

    def at(*i: Expr) -> Expr:
        lead, rest = i[: picks.rank - 1], i[picks.rank - 1 :]
        chosen = [
            wrapped(emitter, args.indices(*lead, tirx.IntImm("int64", k)), kind.shape[k])
            for k in range(depth)
        ]
        return args.x(*chosen, *rest)

    return te.compute(emitter.shape(op.result.type.shape), at, name="gather_nd")


def combined(mode: str, old: Expr, new: Expr) -> Expr:
    """What a written element becomes; NaN wins over any largest or smallest."""
    if mode == "none":
        return new
    if str(new.ty.dtype) == "bool":
        return tirx.And(old, new) if mode in ("mul", "min") else tirx.Or(old, new)
    if mode in ("add", "mul"):
        return old + new if mode == "add" else old * new
    chosen = te.max(old, new) if mode == "max" else te.min(old, new)
    if "float" not in str(new.ty.dtype):
        return chosen
    return tirx.Select(tirx.isnan(old), old, tirx.Select(tirx.isnan(new), new, chosen))


@emit(core.ScatterElements, kind=Kind.ALONE)
def _scatter_elements(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    """Each line along the axis is copied and then written in the order of its updates.

    The indices may cover a part of the other axes only.
    """
    kind, picks = op.x.type, op.indices.type
    axis = op.axis % kind.rank
    shape, covered = emitter.shape(kind.shape), emitter.shape(picks.shape)
    others = [i for i in range(kind.rank) if i != axis]

    def body(item: Expr, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        x, y = line(inputs[0], item, shape, axis), line(outputs[0], item, shape, axis)
        with serial(0, shape[axis]) as i:
            y[i] = x[i]
        indices, updates = (replace(y, buffer=buffer) for buffer in inputs[1:])
        places = (*y.lead, *y.trail)
        inside = [
            place < covered[i]
            for place, i in zip(places, others, strict=True)
            if picks.shape[i] != kind.shape[i]
        ]
        with ExitStack() as scope:
            for condition in inside:
                scope.enter_context(when(condition))
            with serial(0, covered[axis]) as k:
                place = wrapped(emitter, indices[k], kind.shape[axis])
                y[place] = combined(op.reduce, y[place], updates[k])

    lines = product([shape[i] for i in others])
    inputs = [args.x, args.indices, args.updates]
    return item_loops(emitter, lines, body, inputs, [(shape, emitter.dtype(kind))], "scatter_elements")[0]


@emit(core.ScatterND, kind=Kind.ALONE)
def _scatter_nd(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    """Indices are turned so that their components lead, as TVM wants them, and made non-negative."""
    kind, picks = op.x.type, op.indices.type
    depth = picks.shape[-1]
    lead = emitter.shape(picks.shape[:-1])

    def component(*i: Expr) -> Expr:
        found = args.indices(*i[1:], i[0])
        sizes = [emitter.read_dim(dim) for dim in kind.shape[:depth]]
        size = sizes[-1]
        for k in range(depth - 2, -1, -1):
            size = tirx.Select(i[0] == k, sizes[k], size)
        place = tirx.Cast("int64", found)
        return tirx.Select(place < 0, place + size, place)

    turned = te.compute([emitter.dim(depth), *lead], component, name="turned")
    turned = emitter.stage("indices", turned)
    return scatter_rows(emitter, args.x, turned, args.updates, _SCATTER_MODES[op.reduce])


def scatter_rows(
    emitter: Emitter, data: te.Tensor, indices: te.Tensor, updates: te.Tensor, mode: str
) -> te.Tensor:
    """A copy of `data` with slices at `indices` [depth, ...] combined with `updates`."""
    scatter = topi.scatter_nd if emitter.is_cpu else topi.gpu.scatter_nd
    with current_target(emitter):
        return scatter(data, indices, updates, mode)


def current_target(emitter: Emitter) -> Any:
    """The TVM target that library functions read their limits from."""
    from plait.backends.tvm.toolchain import tvm_target

    return tvm_target(emitter.target)


def _before(emitter: Emitter, descending: bool) -> Callable[[Expr, Expr, Expr, Expr], Expr]:
    """Whether element a at place i comes in front of element b at place j; NaN counts as the largest."""

    def function(a: Expr, i: Expr, b: Expr, j: Expr) -> Expr:
        ahead, same = (a > b if descending else a < b), a == b
        if "float" in str(a.ty.dtype):
            odd_a, odd_b = tirx.isnan(a), tirx.isnan(b)
            first, second = (odd_a, odd_b) if descending else (odd_b, odd_a)
            ahead = tirx.Or(ahead, tirx.And(first, tirx.Not(second)))
            same = tirx.Or(same, tirx.And(odd_a, odd_b))
        return tirx.Or(ahead, tirx.And(same, i < j))

    return function


def _sorted(
    op: Any, x: te.Tensor, emitter: Emitter, count: IntLike, descending: bool
) -> tuple[te.Tensor, te.Tensor]:
    """The first `count` elements in order and their places.

    Each element's rank is the number of elements in front of it; the result at a
    rank is then picked by a reduction.  Quadratic in the axis, but parallel and
    the same on every target.
    """
    kind = op.x.type
    axis = op.axis % kind.rank
    before = _before(emitter, descending)
    over = emitter.axis(kind.shape[axis], "other")

    def rank(*i: Expr) -> Expr:
        here = x(*i)
        other = x(*i[:axis], over, *i[axis + 1 :])
        ahead = before(other, over.var, here, i[axis])
        return te.sum(tirx.Select(ahead, number(1, "int32"), number(0, "int32")), axis=over)

    ranks = emitter.stage("ranks", te.compute(emitter.shape(kind.shape), rank, name="ranks"))
    shape = emitter.shape((*kind.shape[:axis], count, *kind.shape[axis + 1 :]))
    chosen = emitter.axis(kind.shape[axis], "chosen")

    def place(*i: Expr) -> Expr:
        found = ranks(*i[:axis], chosen, *i[axis + 1 :]) == tirx.Cast("int32", i[axis])
        return te.sum(tirx.Select(found, chosen.var, tirx.IntImm("int64", 0)), axis=chosen)

    places = te.compute(shape, place, name="places")
    picked = emitter.stage("places", places)

    values = te.compute(shape, lambda *i: x(*i[:axis], picked(*i), *i[axis + 1 :]), name="values")
    return values, picked


@emit(core.Sort, kind=Kind.ALONE)
def _sort(op: Any, args: Arguments, emitter: Emitter) -> tuple[te.Tensor, te.Tensor]:
    axis = op.axis % op.x.type.rank
    return _sorted(op, args.x, emitter, op.x.type.shape[axis], op.descending)


@emit(core.TopK, kind=Kind.ALONE)
def _top_k(op: Any, args: Arguments, emitter: Emitter) -> tuple[te.Tensor, te.Tensor]:
    return _sorted(op, args.x, emitter, op.k, op.largest)
