"""Loops whose number of rounds is known from shapes: core.scan."""

from __future__ import annotations

from dataclasses import dataclass, field

from plait.frontends.nodes import decide
from plait.frontends.nodes.operand import object_array
from plait.frontends.tensorflow.call import Call
from plait.frontends.tensorflow.operand import Handle, Item, Operand, Slot, TensorList
from plait.frontends.tensorflow.outline import Outline
from plait.frontends.tensorflow.regions import captured, parameter, probe, traced
from plait.ir import IntLike, TensorType, Value
from plait.ir import types as t
from plait.ir.ops import core


@dataclass
class Plan:
    """How each argument of a counted loop takes part, by its number.

    Attributes:
        rounds: how often the body runs.
        counters: what grows by one each round, with its first value.
        sequences: lists that are read at a counter, and the first item that they are read at.
        stacks: lists that are written at a counter that starts at 0.
        latest: lists whose written item has a fixed index: the item of the last round.
        carried: tensors that a round hands to the next.
        fixed: what no round changes.
    """

    rounds: IntLike
    counters: dict[int, IntLike] = field(default_factory=dict)
    sequences: dict[int, tuple[TensorList, IntLike]] = field(default_factory=dict)
    stacks: dict[int, TensorList] = field(default_factory=dict)
    latest: dict[int, TensorList] = field(default_factory=dict)
    carried: list[int] = field(default_factory=list)
    fixed: set[int] = field(default_factory=set)


def counted_loop(call: Call) -> list[Item] | None:
    """The loop as a core.scan; None where it is another kind of loop."""
    condition, function = str(call.attributes["cond"]), str(call.attributes["body"])
    body = Outline.of(call, function)
    counters = _counters(call, body)
    rounds = _rounds(call, Outline.of(call, condition), counters)
    if rounds is None:
        return None
    plan = Plan(rounds, counters)
    if not all(_placed(call, body, plan, index) for index in range(len(call.inputs))):
        return None
    return _scan(call, function, plan)


def _counters(call: Call, body: Outline) -> dict[int, IntLike]:
    found: dict[int, IntLike] = {}
    for index, item in enumerate(call.inputs):
        if isinstance(item, Operand) and item.rank == 0 and body.counts(index):
            dims = item.dims()
            if dims is not None:
                found[index] = dims[0]
    return found


def _rounds(call: Call, condition: Outline, counters: dict[int, IntLike]) -> IntLike | None:
    """How often the condition holds, where it is a conjunction of `counter < bound` with known bounds."""
    total: IntLike | None = None
    for node in condition.conjuncts(condition.results[0]):
        if node is None or node.op != "Less":
            return None
        counter, bound = condition.argument(node.input[0]), _bound(call, condition, node.input[1])
        if counter not in counters or bound is None:
            return None
        left = decide.larger(bound - counters[counter], 0, call.ranges)
        total = left if total is None else decide.smaller(total, left, call.ranges)
    return total


def _bound(call: Call, condition: Outline, edge: str) -> IntLike | None:
    number = condition.number(edge)
    if number is not None:
        return number
    index = condition.argument(edge)
    item = call.inputs[index] if index is not None else None
    dims = item.dims() if isinstance(item, Operand) else None
    return dims[0] if dims is not None and len(dims) == 1 else None


def _placed(call: Call, body: Outline, plan: Plan, index: int) -> bool:
    """Find the part that argument `index` takes; False where a scan has none for it."""
    item = call.inputs[index]
    if index in plan.counters:
        return True
    if isinstance(item, TensorList):
        return _placed_list(body, plan, index, item)
    if body.unchanged(index):
        plan.fixed.add(index)
        return True
    if isinstance(item, (Handle, Slot)):
        return False
    plan.carried.append(index)
    return True


def _placed_list(body: Outline, plan: Plan, index: int, item: TensorList) -> bool:
    readers = list(body.readers(index))

    def start(edge: str) -> IntLike | None:
        counter = body.argument(edge)
        return None if counter is None else plan.counters.get(counter)

    if body.unchanged(index):
        firsts = {
            start(node.input[1]) if node.op == "TensorListGetItem" and place == 0 else None
            for node, place in readers
        }
        first = next(iter(firsts)) if len(firsts) == 1 else None
        if item.stacked is not None and first is not None:
            plan.sequences[index] = (item, first)
        else:
            plan.fixed.add(index)
        return True
    writer = body.producer(body.results[index])
    if len(readers) != 1 or writer is None or writer.op != "TensorListSetItem" or readers[0][0] is not writer:
        return False
    if start(writer.input[1]) == 0 and item.length == plan.rounds:
        plan.stacks[index] = item
        return True
    if body.number(writer.input[1]) == 0 and item.length == 1:
        plan.latest[index] = item
        return True
    return False


def _scan(call: Call, function: str, plan: Plan) -> list[Item]:
    inputs = call.inputs
    starts: dict[int, Value] = {
        index: call.builder.value(call.operand(index), call.name) for index in plan.carried
    }
    if plan.latest:
        found = probe(call, function, [_in_probe(plan, index, item) for index, item in enumerate(inputs)])
        for index in plan.latest:
            slot = found[index]
            assert isinstance(slot, Slot)
            assert slot.current is not None
            kind = slot.current.type
            zero = False if kind.element == t.boolean else 0.0 if kind.element.is_float else 0
            starts[index] = call.full(zero, kind.element, kind.shape)
    sequences: dict[int, Value] = {}
    for index, (held, first) in plan.sequences.items():
        assert held.stacked is not None
        whole = call.builder.value(held.stacked, call.name)
        if held.length != plan.rounds or first != 0:
            part = core.Slice(whole, axes=(0,), starts=(first,), stops=(first + plan.rounds,))
            whole = call.step(part)
        sequences[index] = whole
    for index, first in plan.counters.items():
        sequences[index] = _counted(call, first, plan.rounds, call.element(index))
    slices = {index: _slice(call, value) for index, value in sequences.items()}
    states = {index: parameter(call, value, f"{call.name}.state") for index, value in starts.items()}
    arguments: list[Item] = []
    for index, item in enumerate(inputs):
        name = getattr(item, "name", call.name)
        if index in plan.sequences:
            arguments.append(Slot(name, Operand.of(slices[index])))
        elif index in plan.counters:
            arguments.append(Operand.of(slices[index]))
        elif index in plan.carried:
            arguments.append(Operand.of(states[index]))
        elif index in plan.stacks or index in plan.latest:
            arguments.append(Slot(name))
        else:
            arguments.append(captured(call, item))
    body = traced(call, function, arguments, [*slices.values(), *states.values()])

    def after(index: int) -> Value:
        item = body.items[index]
        current = item.current if isinstance(item, Slot) else item
        assert isinstance(current, Operand)
        return call.builder.value(current, call.name)

    with call.builder.inside(body.region):
        results = [after(index) for index in (*plan.stacks, *states)]
    body.region.set_results(results)
    call.builder.sweep(body.region)
    kept = [index for index in sequences if slices[index].users or index in plan.sequences]
    for index in sequences:
        if index not in kept:
            body.region.params.remove(slices[index])
    op = call.builder.add(
        core.Scan(
            (*(sequences[index] for index in kept), *starts.values()),
            carries=len(starts),
            length=None if kept else plan.rounds,
            body=body.region,
        ),
        call.name,
    )
    made = dict(zip((*plan.stacks, *states), op.results, strict=True))
    return [_result(call, item, index, plan, made) for index, item in enumerate(inputs)]


def _in_probe(plan: Plan, index: int, item: Item) -> Item:
    """An argument for finding out types only: a list that the body reads may stay whole."""
    return Slot(getattr(item, "name", "")) if index in plan.stacks or index in plan.latest else item


def _counted(call: Call, first: IntLike, rounds: IntLike, element: t.DType) -> Value:
    """first, first + 1, ... for each round."""
    out = TensorType(element, (rounds,))
    if isinstance(first, int):
        return call.step(core.Iota(start=first, out=out))
    start = call.cast(call.step(core.DimValue(dim=first)), element)
    return call.step(core.Add(call.step(core.Iota(out=out)), start))


def _slice(call: Call, sequence: Value) -> Value:
    """The parameter for one slice of a sequence."""
    kind = sequence.shaped
    name = call.builder.graph.fresh_name(f"{call.name}.item")
    return Value(name, kind.with_shape(kind.shape[1:]))


def _result(call: Call, item: Item, index: int, plan: Plan, made: dict[int, Value]) -> Item:
    if index in plan.counters:
        assert isinstance(item, Operand)
        last = plan.counters[index] + plan.rounds
        return Operand.known(object_array([last]).reshape(()), item.element)
    if index not in made:
        return item
    value = Operand.of(made[index])
    if index in plan.stacks:
        held = plan.stacks[index]
        return TensorList(held.name, held.element, held.length, value.shape[1:], value)
    if index in plan.latest:
        held = plan.latest[index]
        whole = call.reshape(made[index], (1, *value.shape))
        return TensorList(held.name, held.element, 1, value.shape, Operand.of(whole))
    return value
