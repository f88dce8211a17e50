"""Control flow and host functions in Relax.

A branch is a Relax `If` of two calls.  A loop is a driver of
`plait.backends.tvm.runtime`, which is handed closures of the condition and the body:
a recursive function would be as deep as the loop is long.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import relax, tirx
from tvm.ir import StringImm

from plait.backends.tvm.emit.host import host_call
from plait.backends.tvm.frame import Frame, Plan
from plait.backends.tvm.partition import Group
from plait.backends.tvm.runtime import IN_RANGE, SCAN, WHILE
from plait.backends.tvm.shapes import components
from plait.ir import Graph, Op, TensorType, Type, Value
from plait.ir import types as t
from plait.ir.ops import core
from plait.ir.types import SpikeType


def write_control(frame: Frame, op: Op, regions: tuple[Plan, ...]) -> None:
    """Compute the results of a control-flow op whose regions are functions of the module."""
    if isinstance(op, core.Cond):
        _cond(frame, op, *regions)
    elif isinstance(op, core.While):
        _while(frame, op, *regions)
    else:
        assert isinstance(op, core.Scan)
        _scan(frame, op, *regions)


def _cond(frame: Frame, op: core.Cond, then: Plan, otherwise: Plan) -> None:
    inputs = frame.read_all(op.inputs)
    branches = [relax.Call(plan.pointer, [*inputs, *_outside(frame, plan)]) for plan in (then, otherwise)]
    result = frame.emit(relax.If(frame.read(op.condition), *branches))
    types = frame.types([value.type for value in op.results])
    arrays = frame.items(result, 0, len(types))
    frame.write_all(op.results, [frame.builder.match_cast(a, k) for a, k in zip(arrays, types, strict=True)])


def _while(frame: Frame, op: core.While, condition: Plan, body: Plan) -> None:
    state = frame.read_all(op.inputs)
    slices = op.body.results[: len(op.body.results) - len(op.inputs)]
    arguments = [_closure(frame, condition), _closure(frame, body), *_rows(frame, slices), *state]
    types = frame.types([value.type for value in op.results[len(slices) :]])
    stacked = [relax.TensorType(dtype=d, ndim=len(s) + 1) for v in slices for s, d in components(v.type)]
    result = frame.emit(
        relax.op.call_builtin_with_ctx(
            WHILE, arguments, ty_args=relax.TupleType([relax.ShapeType(ndim=1), *stacked, *types])
        )
    )
    if op.bound_dim is not None:
        (rounds,) = frame.items(result, 0, 1)
        bind(frame, op, rounds)
    arrays = frame.items(result, 1, len(stacked) + len(types))
    known = frame.types([value.type for value in op.results[: len(slices)]])
    sequences = [frame.builder.match_cast(array, kind) for array, kind in zip(arrays, known, strict=False)]
    frame.write_all(op.results, [*sequences, *arrays[len(stacked) :]])


def _scan(frame: Frame, op: core.Scan, body: Plan) -> None:
    split = len(op.inputs) - op.carries
    slices = op.body.results[: len(op.body.results) - op.carries]
    length = op.inputs[0].shaped.shape[0] if split else op.length
    assert length is not None  # core.Scan.infer
    arguments = [
        _closure(frame, body),
        frame.shape([length]),
        relax.prim_value(sum(len(components(value.type)) for value in op.inputs[:split])),
        *_rows(frame, slices),
        *frame.read_all(op.inputs),
    ]
    types = frame.types([value.type for value in op.results])
    result = frame.emit(relax.op.call_builtin_with_ctx(SCAN, arguments, ty_args=relax.TupleType(types)))
    frame.write_all(op.results, frame.items(result, 0, len(types)))


def bind(frame: Frame, op: Op, shape: Any) -> None:
    """Give the dim that an op binds the value that the shape of one dim has."""
    name = op.bound_dim
    assert name is not None
    allowed = frame.ranges[name]
    if allowed.low > 0 or allowed.high is not None:
        high = allowed.low - 1 if allowed.high is None else allowed.high  # below `low`: no upper bound
        message = StringImm(f"{op.opname} %{op.name} gives dim {name}, declared {allowed}, the value ")
        arguments = [shape, relax.prim_value(allowed.low), relax.prim_value(high), message]
        shape = frame.emit(relax.call_pure_packed(IN_RANGE, *arguments, ty_args=relax.ShapeType(ndim=1)))
    frame.dims[name] = tirx.Var(name, "int64")
    frame.builder.match_cast(shape, relax.ShapeType(values=[frame.dims[name]]))


def _outside(frame: Frame, plan: Plan) -> list[Any]:
    """What the function of a region takes beside the region's parameters."""
    dims = relax.ShapeExpr([frame.dims[name] for name in plan.dims])
    constants = [frame.read(value, 0, layout) for value, layout in plan.parameters]
    return [dims, *frame.read_all(plan.captured), *constants]


def _closure(frame: Frame, plan: Plan) -> Any:
    return frame.emit(relax.op.make_closure(plan.pointer, relax.Tuple(_outside(frame, plan))))


def _rows(frame: Frame, slices: Sequence[Value]) -> list[Any]:
    """How many sequences a loop stacks, and the shape and element type of the rows of each."""
    rows = [part for value in slices for part in components(value.type)]
    return [
        relax.prim_value(len(rows)),
        *(item for shape, dtype in rows for item in (frame.shape(shape), StringImm(dtype))),
    ]


def scan_slices(op: core.Scan) -> list[Group]:
    """For each sequence of a scan a group that reads one slice, given the number of the round.

    The groups are in no graph; their operands are the sequence and the number.
    """
    found = []
    for sequence in op.inputs[: len(op.inputs) - op.carries]:
        scratch = Graph(op.name)
        kind = sequence.type
        if isinstance(kind, SpikeType):  # bytes of 0 and 1, as booleans are
            kind = TensorType(t.boolean, kind.shape)
        whole = scratch.add_input(f"{sequence.name}.sequence", kind)
        number = scratch.add_input("round", TensorType(t.i64, ()))
        take = core.Take(whole, number, axis=0)
        scratch.add(take, name=f"{op.name}.slice", loc=op.loc)
        found.append(Group([take]))
    return found


# -- host functions ------------------------------------------------------------------
def write_host_call(frame: Frame, op: Op) -> None:
    """Compute the results of an op by a function of the host, which shows the size that the op binds."""
    call = host_call(op)
    types: list[Type] = [value.type for value in op.results]
    parts = [part for kind in types for part in components(kind)]
    shape = relax.ShapeType(ndim=1)
    arrays = [relax.TensorType(dtype=dtype, ndim=len(shape)) for shape, dtype in parts]
    attributes = [relax.prim_value(number) for number in call.attributes]
    result = frame.emit(
        relax.call_pure_packed(
            call.name, *frame.read_all(op.operands), *attributes, ty_args=relax.TupleType([shape, *arrays])
        )
    )
    (size,) = frame.items(result, 0, 1)
    bind(frame, op, size)
    found = frame.items(result, 1, len(arrays))
    known = frame.types(types)
    frame.write_all(op.results, [frame.builder.match_cast(a, k) for a, k in zip(found, known, strict=True)])


__all__ = ["bind", "scan_slices", "write_control", "write_host_call"]
