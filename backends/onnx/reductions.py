"""Exports of reductions, running reductions and sorting."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import helper

from plait.backends.onnx.table import exports
from plait.backends.onnx.writer import Operand, Writer
from plait.ir import Op
from plait.ir import types as t
from plait.ir.ops import core, prob

_REDUCTIONS: dict[type[Op], str] = {
    core.Sum: "ReduceSum",
    core.Mean: "ReduceMean",
    core.Max: "ReduceMax",
    core.Min: "ReduceMin",
    core.Prod: "ReduceProd",
    prob.LogSumExp: "ReduceLogSumExp",
}


@exports(*_REDUCTIONS)
def _reduction(op: Any, writer: Writer) -> str:
    return _reduced(writer, _REDUCTIONS[type(op)], op.x, op)


def _reduced(writer: Writer, op_type: str, x: Operand, op: Any) -> str:
    if not op.axes:
        return writer.name(x)
    return writer.node(op_type, x, writer.ints(op.axes), keepdims=int(op.keepdims))


@exports(core.Any, core.All)
def _logical(op: Any, writer: Writer) -> str:
    """Over 0 and 1: the largest is whether any is true, the smallest whether all are."""
    whole = writer.cast(op.x, t.i32)
    kept = _reduced(writer, "ReduceMax" if isinstance(op, core.Any) else "ReduceMin", whole, op)
    return writer.cast(kept, t.boolean)


@exports(core.ArgMax, core.ArgMin)
def _index(op: Any, writer: Writer) -> str:
    name = "ArgMax" if isinstance(op, core.ArgMax) else "ArgMin"
    return writer.node(name, op.x, axis=op.axis, keepdims=int(op.keepdims))


@exports(core.CumSum)
def _cumsum(op: Any, writer: Writer) -> str:
    return writer.node("CumSum", op.x, writer.number(op.axis % op.x.shaped.rank, t.i64))


@exports(core.CumProd)
def _cumprod(op: Any, writer: Writer) -> str:
    """A Scan that carries the product, as operator sets before 26 have no operator for it."""
    kind = op.x.shaped
    axis = op.axis % kind.rank
    slice_shape = (*kind.shape[:axis], *kind.shape[axis + 1 :])
    ones = writer.node("Expand", writer.number(1, kind.dtype), writer.vector(slice_shape))
    state, element = writer.fresh(f"{op.name}.product"), writer.fresh(f"{op.name}.element")
    writer.open()
    product = writer.node("Mul", state, element)
    copy = writer.node("Identity", product)

    def information(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, writer.code(op.x), [None] * len(slice_shape))

    body = helper.make_graph(
        writer.close(),
        f"{op.name}.body",
        [information(state), information(element)],
        [information(product), information(copy)],
    )
    return writer.nodes(
        "Scan",
        ones,
        op.x,
        count=2,
        num_scan_inputs=1,
        scan_input_axes=[axis],
        scan_output_axes=[axis],
        body=body,
    )[1]


@exports(core.TopK)
def _top_k(op: Any, writer: Writer) -> tuple[str, ...]:
    return writer.nodes(
        "TopK", op.x, writer.vector([op.k]), count=2, axis=op.axis, largest=int(op.largest), sorted=1
    )


@exports(core.Sort)
def _sort(op: Any, writer: Writer) -> tuple[str, ...]:
    size = writer.vector([op.x.shaped.shape[op.axis]])
    return writer.nodes("TopK", op.x, size, count=2, axis=op.axis, largest=int(op.descending), sorted=1)
