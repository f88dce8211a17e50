"""Emissions of reductions and running sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx
from tvm.ir import Expr

from plait.backends.tvm.emit.expressions import number
from plait.backends.tvm.emit.loops import item_loops, line, local, product, serial
from plait.backends.tvm.emit.table import Arguments, Emitter, Kind, emit
from plait.ir import Op, TensorType
from plait.ir.ops import core, prob
from plait.ir.types import ShapedType

Reducer = Callable[..., Expr]
_all = te.comm_reducer(lambda a, b: tirx.And(a, b), lambda dtype: tirx.const(True, dtype), name="all")
_any = te.comm_reducer(lambda a, b: tirx.Or(a, b), lambda dtype: tirx.const(False, dtype), name="any")


def _limit(dtype: str, sign: int) -> Expr:
    """The neutral element of max (sign -1) or min: infinity, or the end of the range of integers."""
    if "float" in dtype:
        return tirx.const(sign * float("inf"), dtype)
    return tirx.max_value(dtype) if sign > 0 else tirx.min_value(dtype)


def _keeping_nan(choose: Callable[[Expr, Expr], Expr]) -> Callable[[Expr, Expr], Expr]:
    """max or min of two numbers; NaN where one of them is, as in PyTorch."""

    def function(a: Expr, b: Expr) -> Expr:
        if "float" not in str(a.ty.dtype):
            return choose(a, b)
        return tirx.Select(tirx.isnan(a), a, tirx.Select(tirx.isnan(b), b, choose(a, b)))

    return function


_largest = te.comm_reducer(_keeping_nan(tirx.max), lambda dtype: _limit(dtype, -1), name="max")
_smallest = te.comm_reducer(_keeping_nan(tirx.min), lambda dtype: _limit(dtype, 1), name="min")
_product = te.comm_reducer(lambda a, b: a * b, lambda dtype: tirx.const(1, dtype), name="product")

_REDUCERS: dict[type[Op], Reducer] = {
    core.Sum: te.sum,
    core.Mean: te.sum,
    core.Max: _largest,
    core.Min: _smallest,
    core.Prod: _product,
    core.Any: _any,
    core.All: _all,
}


def reduce_axes(
    emitter: Emitter,
    kind: ShapedType,
    axes: Sequence[int],
    read: Callable[..., Expr],
    reducer: Reducer,
    name: str,
    *,
    keepdims: bool = False,
) -> te.Tensor:
    """`reducer` over some axes of the elements that `read` gives at places of a tensor of `kind`."""
    gone = sorted(axis % kind.rank for axis in axes)
    over = {axis: emitter.axis(kind.shape[axis], f"r{axis}") for axis in gone}
    shape = [dim for axis, dim in enumerate(kind.shape) if axis not in over or keepdims]
    if keepdims:
        shape = [1 if axis in over else dim for axis, dim in enumerate(kind.shape)]

    def at(*i: Expr) -> Expr:
        kept = iter(i)
        places = []
        for axis in range(kind.rank):
            if axis in over:
                places.append(over[axis])
                if keepdims:
                    next(kept)
            else:
                places.append(next(kept))
        return reducer(read(*places), axis=[over[axis] for axis in gone])

    return te.compute(emitter.shape(shape), at, name=name)


def count_of(emitter: Emitter, kind: ShapedType, axes: Sequence[int], dtype: str) -> Expr:
    """Number of elements along some axes, in an element type."""
    total: Any = 1
    for axis in axes:
        total = total * kind.shape[axis]
    if isinstance(total, int):
        return number(total, dtype)
    return tirx.Cast(dtype, emitter.read_dim(total))


@emit(*_REDUCERS, kind=Kind.REDUCTION)
def _reduction(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    kind: TensorType = op.x.type
    name = op.opname.rpartition(".")[2]
    if not op.axes:
        return te.compute(emitter.shape(kind.shape), lambda *i: args.x(*i), name=name)
    reduced = reduce_axes(
        emitter, kind, op.axes, lambda *i: args.x(*i), _REDUCERS[type(op)], name, keepdims=op.keepdims
    )
    if not isinstance(op, core.Mean):
        return reduced
    count = count_of(emitter, kind, op.axes, emitter.dtype(kind))
    return te.compute(reduced.shape, lambda *i: reduced(*i) / count, name="mean")


@emit(core.ArgMax, core.ArgMin, kind=Kind.ALONE)
def _arg_reduction(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    """The extreme first, then the smallest index that holds it; reductions of one number each."""
    kind: TensorType = op.x.type
    largest = isinstance(op, core.ArgMax)
    extreme = reduce_axes(
        emitter,
        kind,
        (op.axis,),
        lambda *i: args.x(*i),
        _largest if largest else _smallest,
        "extreme",
        keepdims=True,
    )
    extreme = emitter.stage("extreme", extreme)
    axis = op.axis % kind.rank
    none = emitter.read_dim(kind.shape[axis])

    def candidate(*i: Expr) -> Expr:
        best = extreme(*(tirx.IntImm("int64", 0) if a == axis else index for a, index in enumerate(i)))
        here = args.x(*i)
        found = here == best
        if "float" in str(here.ty.dtype):
            found = tirx.Or(here == best, tirx.isnan(here))
        place = i[axis]
        place = place.var if isinstance(place, tirx.IterVar) else place
        return tirx.Select(found, tirx.Cast("int64", place), none)

    return reduce_axes(
        emitter, kind, (op.axis,), candidate, te.min, op.opname.rpartition(".")[2], keepdims=op.keepdims
    )


@emit(core.CumSum, core.CumProd, kind=Kind.ALONE)
def _scan(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    """Line by line along the axis; half precision accumulates in f32, as its sums do in PyTorch."""
    kind: TensorType = op.x.type
    axis = op.axis % kind.rank
    shape, dtype = emitter.shape(kind.shape), emitter.dtype(kind)
    wide = "float32" if dtype in ("float16", "bfloat16") else dtype
    sums = isinstance(op, core.CumSum)
    size = shape[axis]

    def body(item: Expr, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        x, y = line(inputs[0], item, shape, axis), line(outputs[0], item, shape, axis)
        total = local(wide)
        total[0] = number(0 if sums else 1, wide)
        with serial(0, size) as i:
            here = tirx.Cast(wide, x[i]) if wide != dtype else x[i]
            total[0] = total[0] + here if sums else total[0] * here
            y[i] = tirx.Cast(dtype, total[0]) if wide != dtype else total[0]

    lines = product([extent for i, extent in enumerate(shape) if i != axis])
    return item_loops(emitter, lines, body, [args.x], [(shape, dtype)], op.opname.rpartition(".")[2])[0]


@emit(prob.LogSumExp, kind=Kind.ALONE)
def _log_sum_exp(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    kind: TensorType = op.x.type
    dtype = emitter.dtype(kind)
    gone = {axis % kind.rank for axis in op.axes}
    largest = reduce_axes(emitter, kind, op.axes, lambda *i: args.x(*i), te.max, "largest", keepdims=True)
    largest = emitter.stage("largest", largest)

    def at_largest(i: Sequence[Expr]) -> Expr:
        found = largest(*(tirx.IntImm("int64", 0) if axis in gone else index for axis, index in enumerate(i)))
        # An infinite largest element is not taken out: inf - inf is no number.
        finite = tirx.abs(found) < tirx.max_value(dtype)
        return tirx.Select(finite, found, number(0, dtype))

    total = reduce_axes(
        emitter,
        kind,
        op.axes,
        lambda *i: tirx.exp(args.x(*i) - at_largest(i)),
        te.sum,
        "total",
        keepdims=True,
    )
    total = emitter.stage("total", total)

    def at(*i: Expr) -> Expr:
        kept = iter(i)
        full = [
            tirx.IntImm("int64", 0) if axis in gone and not op.keepdims else next(kept)
            for axis in range(kind.rank)
        ]
        return tirx.log(total(*full)) + at_largest(full)

    return te.compute(emitter.shape(op.result.type.shape), at, name="log_sum_exp")
