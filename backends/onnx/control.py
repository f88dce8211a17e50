"""Exports of control flow: regions become subgraphs, which read outer values by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import onnx
from onnx import helper

from plait.backends.onnx.table import exports
from plait.ir import Region, Value
from plait.ir import types as t
from plait.ir.ops import core

if TYPE_CHECKING:
    from plait.backends.onnx.writer import Writer


def _information(writer: Writer, value: Value, name: str, lead: int = 0) -> onnx.ValueInfoProto:
    """Name, element type and rank of a value of a subgraph."""
    return helper.make_tensor_value_info(name, writer.code(value), [None] * (value.shaped.rank + lead))


def _results(writer: Writer, values: Sequence[Value], types: Sequence[Value]) -> list[onnx.ValueInfoProto]:
    """Outputs of a subgraph: copies, as a result may be an outer value or be given twice."""
    return [
        _information(writer, kind, writer.node("Identity", value))
        for value, kind in zip(values, types, strict=True)
    ]


def _graph(
    nodes: list[onnx.NodeProto],
    name: str,
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
) -> onnx.GraphProto:
    return helper.make_graph(nodes, name, inputs, outputs)


def _parameters(writer: Writer, values: Sequence[Value]) -> list[onnx.ValueInfoProto]:
    return [_information(writer, value, writer.name(value)) for value in values]


@exports(core.Cond)
def _cond(op: core.Cond, writer: Writer) -> tuple[str, ...]:
    branches = []
    for region in (op.then, op.otherwise):
        writer.open()
        writer.write(region, [writer.name(value) for value in op.inputs])
        writer.hint = op.name
        outputs = _results(writer, region.results, region.results)
        branches.append(_graph(writer.close(), f"{op.name}.branch", [], outputs))
    return writer.nodes(
        "If", op.condition, count=len(op.results), then_branch=branches[0], else_branch=branches[1]
    )


@exports(core.While)
def _while(op: core.While, writer: Writer) -> tuple[str, ...]:
    """A Loop without a trip count.  Its condition is asked once in front and at the end of each round."""
    split = 0 if op.count is None else len(op.body.results) - len(op.inputs)
    writer.write(op.condition, [writer.name(value) for value in op.inputs])
    writer.hint = op.name
    first = writer.name(op.condition.results[0])
    body = _loop_body(writer, op.body, split, op.name, op.condition)
    results = writer.nodes("Loop", "", first, *op.inputs, count=len(op.results), body=body)
    states = len(op.inputs)
    return (*results[states:], *results[:states])


@exports(core.Scan)
def _scan(op: core.Scan, writer: Writer) -> tuple[str, ...]:
    """A Scan over the sequences; where there are none, a Loop of as many rounds."""
    split = len(op.inputs) - op.carries
    yields = len(op.body.results) - op.carries
    state = op.inputs[split:]
    if not split:
        assert op.length is not None  # infer demands it
        body = _loop_body(writer, op.body, yields, op.name, None)
        results = writer.nodes("Loop", writer.scalar(op.length), "", *state, count=len(op.results), body=body)
    else:
        writer.open()
        writer.write(op.body, None)
        writer.hint = op.name
        params = op.body.params
        inputs = _parameters(writer, (*params[split:], *params[:split]))
        order = (*op.body.results[yields:], *op.body.results[:yields])
        outputs = _results(writer, order, order)
        body = _graph(writer.close(), f"{op.name}.body", inputs, outputs)
        results = writer.nodes(
            "Scan", *state, *op.inputs[:split], count=len(op.results), num_scan_inputs=split, body=body
        )
    return (*results[op.carries :], *results[: op.carries])


def _loop_body(
    writer: Writer, region: Region, split: int, name: str, condition: Region | None
) -> onnx.GraphProto:
    """The body of a Loop: round number, condition and state to condition, state and slices."""
    writer.open()
    writer.write(region, None)
    writer.hint = name
    state = region.results[split:]
    inputs = [
        helper.make_tensor_value_info(writer.fresh(f"{name}.round"), onnx.TensorProto.INT64, []),
        helper.make_tensor_value_info(writer.fresh(f"{name}.going"), onnx.TensorProto.BOOL, []),
        *_parameters(writer, region.params),
    ]
    if condition is None:
        going = writer.node("Identity", writer.number(True, t.boolean))
    else:
        writer.write(condition, [writer.name(value) for value in state])
        writer.hint = name
        going = writer.node("Identity", condition.results[0])
    outputs = [
        helper.make_tensor_value_info(going, onnx.TensorProto.BOOL, []),
        *_results(writer, state, region.params),
        *_results(writer, region.results[:split], region.results[:split]),
    ]
    return _graph(writer.close(), f"{name}.body", inputs, outputs)
