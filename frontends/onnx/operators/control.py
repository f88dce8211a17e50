"""If, Loop and Scan: to core.cond, core.while and core.scan.

A branch or body sees the values around it and reads them directly.  A loop whose
trip count is known and that never stops early is a scan; another one is a while
loop, whose scan outputs have a dim of their own.  Where a body needs the number
of the round at compile time, or changes the shape of its state, a loop of few
known rounds is unrolled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from plait.frontends.onnx.call import Call
from plait.frontends.onnx.operand import Operand
from plait.frontends.onnx.registry import lowers
from plait.ir import IntLike, LoweringError, PlaitError, TensorType, Type, Value
from plait.ir import types as t
from plait.ir.ops import core
from plait.ir.region import Region

#: A loop is unrolled up to this many rounds times nodes of its body.
UNROLL_LIMIT = 4096
#: Trip counts from here on stand for "until the condition fails".
_ENDLESS = 1 << 62
_FLAG = TensorType(t.boolean, ())
_COUNTER = TensorType(t.i64, ())


def _scalar(call: Call, operand: Operand, element: t.DType) -> Value:
    """An operand of one element as a scalar."""
    return call.cast(call.reshape(call.builder.value(operand, call.name), ()), element)


def _check_state(call: Call, given: Sequence[Type], made: Sequence[Value], word: str) -> None:
    """Raise LoweringError where a body changes the type of its state."""
    for index, (before, after) in enumerate(zip(given, made, strict=True)):
        if before != after.type:
            raise call.error(
                f"{word} {index} enters the body as {before} and leaves it as {after.type}",
                why="the state of a loop keeps its type in every round",
                remedy="fix the shape in the source model, or make the number of rounds a constant",
            )


# -- If ---------------------------------------------------------------------------
@lowers("If")
def branch(call: Call) -> list[Value | Operand | None]:
    """One branch where the condition is known at compile time, else both as a core.cond."""
    condition = call.operand(0).array
    graphs = [call.attributes["then_branch"], call.attributes["else_branch"]]
    if condition is not None:
        return [*call.enter(graphs[0 if bool(condition.reshape(())) else 1], ())]
    flag = _scalar(call, call.operand(0), t.boolean)
    builder, regions, made = call.builder, [], []
    for graph in graphs:
        region = builder.region((), call.name)
        with builder.inside(region):
            made.append(call.enter(graph, ()))
        regions.append(region)
    results: list[Value | Operand | None] = [None] * len(call.outputs)
    open_outputs = []
    for index, (then, otherwise) in enumerate(zip(*made, strict=True)):
        if _same_numbers(then, otherwise):
            results[index] = Operand(call.outputs[index], then.element, then.numbers)
        else:
            open_outputs.append(index)
    for region, operands in zip(regions, made, strict=True):
        with builder.inside(region):
            region.set_results([builder.value(operands[i], call.outputs[i]) for i in open_outputs])
    for index, then, otherwise in zip(open_outputs, regions[0].results, regions[1].results, strict=True):
        if then.type != otherwise.type:
            raise call.error(
                f"output {index} is {then.type} in the then branch and {otherwise.type} in the other",
                why=f"the condition '{call.operand(0).name}' is computed at run time, "
                "so both branches must give one type",
                remedy="fix with inputs= the shapes that it reads, or export the model for one branch",
            )
    op = builder.add(core.Cond(flag, then=regions[0], otherwise=regions[1]), call.name)
    for index, value in zip(open_outputs, op.results, strict=True):
        results[index] = value
    return results


def _same_numbers(left: Operand, right: Operand) -> bool:
    if left.numbers is None or right.numbers is None or left.element != right.element:
        return False
    return left.numbers.shape == right.numbers.shape and bool(np.all(left.numbers == right.numbers))


# -- Loop -------------------------------------------------------------------------
@lowers("Loop")
def loop(call: Call) -> list[Value | Operand | None]:
    """Inputs: trip count, condition, state; outputs: state, scan outputs."""
    body = call.attributes["body"]
    state = [call.operand(i) for i in range(2, len(call.inputs))]
    rounds = _rounds(call)
    starts = call.operand(1).array if call.has(1) else np.asarray(True)
    if starts is not None and not bool(starts.reshape(())):
        rounds = 0
    try:
        if starts is not None and rounds is not None:
            found = _as_scan(call, body, state, rounds)
            if found is not None:
                return found
        return _as_while(call, body, state)
    except PlaitError as error:
        limit = UNROLL_LIMIT // max(1, len(body.node))
        if starts is None or not isinstance(rounds, int) or rounds > limit:
            raise
        try:
            return _unrolled(call, body, state, rounds)
        except LoweringError:
            raise error from None


def _rounds(call: Call) -> IntLike | None:
    """The trip count where it is known; None where it is computed or endless."""
    if not call.has(0):
        return None
    found = call.operand(0).dims()
    if found is None or (isinstance(found[0], int) and found[0] >= _ENDLESS):
        return None
    return max(found[0], 0) if isinstance(found[0], int) else found[0]


def _as_scan(
    call: Call, body: Any, state: list[Operand], rounds: IntLike
) -> list[Value | Operand | None] | None:
    """The loop as a core.scan over the numbers of its rounds; None where it may stop early."""
    builder = call.builder
    initial = [builder.value(operand, call.name) for operand in state]
    types = [value.type for value in initial]
    region = builder.region([_COUNTER, *types], call.name)
    with builder.inside(region):
        number, *carried = [Operand.of(value) for value in region.params]
        made = call.enter(body, [number, call.known(np.asarray(True), t.boolean), *carried])
        stays = made[0].array
        if stays is None or not bool(stays.reshape(())):
            builder.discard(region)
            return None
        values = [builder.value(operand, call.name) for operand in made[1:]]
        after, slices = values[: len(state)], values[len(state) :]
        _check_state(call, types, after, "loop-carried value")
        region.set_results([*slices, *after])
    inputs = initial
    if region.params[0].users:
        counter = core.Iota(out=TensorType(t.i64, (rounds,)))
        inputs = [builder.emit(counter, f"{call.name}.round"), *initial]
    else:
        region.params.pop(0)
    op = builder.add(core.Scan(tuple(inputs), carries=len(state), length=rounds, body=region), call.name)
    return [*op.results[len(slices) :], *op.results[: len(slices)]]


def _as_while(call: Call, body: Any, state: list[Operand]) -> list[Value | Operand | None]:
    """The loop as a core.while over (number of the round, condition, state)."""
    builder = call.builder
    limit = _scalar(call, call.operand(0), t.i64) if call.has(0) else None
    go = _scalar(call, call.operand(1), t.boolean) if call.has(1) else call.full(True, t.boolean)
    initial = [call.full(0, t.i64), go, *(builder.value(operand, call.name) for operand in state)]
    types = [value.type for value in initial]
    test = builder.region(types, f"{call.name}.test")
    with builder.inside(test):
        goes: Value = test.params[1]
        if limit is not None:
            goes = call.step(core.And(goes, call.step(core.Lt(test.params[0], limit))))
        test.set_results([goes])
    try:
        region = builder.region(types, call.name)
        with builder.inside(region):
            made = call.enter(body, [Operand.of(value) for value in region.params])
            number = call.step(core.Add(region.params[0], call.full(1, t.i64)))
            after = [number, _scalar(call, made[0], t.boolean)]
            values = [builder.value(operand, call.name) for operand in made[1:]]
            after += values[: len(state)]
            slices = values[len(state) :]
            _check_state(call, types, after, "loop-carried value")
            region.set_results([*slices, *after])
    except BaseException:
        builder.discard(test)
        raise
    count = builder.declare_count(call.name) if slices else None
    op = builder.add(core.While(tuple(initial), count=count, condition=test, body=region), call.name)
    return [*op.results[len(slices) + 2 :], *op.results[: len(slices)]]


def _unrolled(call: Call, body: Any, state: list[Operand], rounds: int) -> list[Value | Operand | None]:
    """The body once for each round, with the number of the round known."""
    collected: list[list[Operand]] = [[] for _ in range(len(call.outputs) - len(state))]
    for number in range(rounds):
        entered = [call.known(np.asarray(number), t.i64), call.known(np.asarray(True), t.boolean), *state]
        goes, *made = call.enter(body, entered)
        state, slices = made[: len(state)], made[len(state) :]
        for column, item in zip(collected, slices, strict=True):
            column.append(item)
        if goes.array is None:
            raise call.error(f"whether round {number + 1} runs is computed at run time")
        if not bool(goes.array.reshape(())):
            break
    return [*state, *(_stacked(call, column) for column in collected)]


def _stacked(call: Call, column: list[Operand]) -> Value | Operand:
    """Scan outputs of all rounds along a new first axis."""
    if not column:
        raise call.error("a scan output of no rounds has an unknown shape")
    arrays = [item.array for item in column]
    known = [array for array in arrays if array is not None]
    if len(known) == len(column):
        return Operand.known(np.stack(known), column[0].element)
    rows = []
    for item in column:
        value = call.builder.value(item, call.name)
        rows.append(call.reshape(value, (1, *value.shaped.shape)))
    return rows[0] if len(rows) == 1 else call.step(core.Concat(tuple(rows), axis=0))


# -- Scan -------------------------------------------------------------------------
def _directed(
    call: Call, values: Sequence[Value], directions: Sequence[int], axes: Sequence[int]
) -> list[Value]:
    """Sequences with their scan axis in front, reversed where the direction is 1."""
    found = []
    for value, backwards, given in zip(values, directions, axes, strict=True):
        rank = value.shaped.rank
        axis = call.normalise(given, rank)
        value = call.transpose(value, (axis, *(i for i in range(rank) if i != axis)))
        found.append(call.step(core.Flip(value, axes=(0,))) if backwards else value)
    return found


def _back(call: Call, values: Sequence[Value], directions: Sequence[int], axes: Sequence[int]) -> list[Value]:
    """Stacked slices with their axis where the node wants it, reversed where the direction is 1."""
    found = []
    for value, backwards, given in zip(values, directions, axes, strict=True):
        value = call.step(core.Flip(value, axes=(0,))) if backwards else value
        rank = value.shaped.rank
        axis = call.normalise(given, rank)
        order = list(range(1, rank))
        order.insert(axis, 0)
        found.append(call.transpose(value, order))
    return found


def _scan_region(call: Call, body: Any, state: Sequence[Type], slices: Sequence[Type]) -> Region:
    """The body as a region of core.scan: slices before state on both sides."""
    builder = call.builder
    region = builder.region([*slices, *state], call.name)
    with builder.inside(region):
        given = [Operand.of(value) for value in region.params]
        made = call.enter(body, [*given[len(slices) :], *given[: len(slices)]])
        values = [builder.value(operand, call.name) for operand in made]
        _check_state(call, state, values[: len(state)], "state variable")
        region.set_results([*values[len(state) :], *values[: len(state)]])
    return region


def _rows(values: Sequence[Value]) -> list[Type]:
    """Types of the slices along the first axis."""
    return [value.shaped.with_shape(value.shaped.shape[1:]) for value in values]


@lowers("Scan", since=9)
def scan(call: Call) -> list[Value | Operand | None]:
    """Inputs: state, sequences; outputs: last state, stacked slices."""
    count = call.integer("num_scan_inputs", 1)
    split = len(call.inputs) - count
    if split < 0:
        raise call.error(f"num_scan_inputs is {count}", why=f"the node has {len(call.inputs)} inputs")
    values = [call.value(i) for i in range(len(call.inputs))]
    directions = call.integers("scan_input_directions") or (0,) * count
    axes = call.integers("scan_input_axes") or (0,) * count
    state, sequences = values[:split], _directed(call, values[split:], directions, axes)
    region = _scan_region(call, call.attributes["body"], [v.type for v in state], _rows(sequences))
    op = call.builder.add(core.Scan((*sequences, *state), carries=split, body=region), call.name)
    outputs = len(op.results) - split
    directions = call.integers("scan_output_directions") or (0,) * outputs
    axes = call.integers("scan_output_axes") or (0,) * outputs
    return [*op.results[outputs:], *_back(call, op.results[:outputs], directions, axes)]


@lowers("Scan", since=8, until=8)
def batched_scan(call: Call) -> list[Value | Operand | None]:
    """The form of opset 8: axis 0 is a batch, axis 1 is scanned; a scan over the batch of scans."""
    if call.has(0):
        raise call.unsupported("Scan of opset 8 with sequence lengths")
    count = call.integer("num_scan_inputs", 1)
    values = [call.value(i) for i in range(1, len(call.inputs))]
    split = len(values) - count
    directions = call.integers("directions") or (0,) * count
    builder, axes = call.builder, (0,) * count
    outer = builder.region(_rows(values), f"{call.name}.batch")
    with builder.inside(outer):
        state, sequences = outer.params[:split], _directed(call, outer.params[split:], directions, axes)
        region = _scan_region(call, call.attributes["body"], [v.type for v in state], _rows(sequences))
        op = builder.add(core.Scan((*sequences, *state), carries=split, body=region), call.name)
        outputs = len(op.results) - split
        outer.set_results([*op.results[outputs:], *op.results[:outputs]])
    return [*builder.add(core.Scan(tuple(values), carries=0, body=outer), call.name).results]
