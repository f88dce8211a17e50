"""Calls, branches and loops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from plait.frontends.tensorflow.call import Call
from plait.frontends.tensorflow.operand import Handle, Item, Operand, TensorList
from plait.frontends.tensorflow.operators.lists import list_type, stacked
from plait.frontends.tensorflow.operators.loops import counted_loop
from plait.frontends.tensorflow.outline import Outline
from plait.frontends.tensorflow.regions import (
    Body,
    captured,
    parameter,
    probe,
    same_numbers,
    traced,
)
from plait.frontends.tensorflow.registry import lowers
from plait.ir import Region, Value
from plait.ir import types as t
from plait.ir.ops import core


@lowers("PartitionedCall", "StatefulPartitionedCall")
def inlined(call: Call) -> list[Item]:
    return call.lowering.enter(str(call.attributes["f"]), call.inputs, call)


# -- branches ---------------------------------------------------------------------------
@lowers("If", "StatelessIf")
def branch(call: Call) -> list[Item]:
    """core.cond; where the condition is known, the branch that it selects."""
    then, otherwise = str(call.attributes["then_branch"]), str(call.attributes["else_branch"])
    condition = call.operand(0)
    if condition.array is not None:
        return call.lowering.enter(then if _truth(condition.array) else otherwise, call.inputs[1:], call)
    return _cond(call, _predicate(call, condition), [then, otherwise])


def _truth(array: np.ndarray) -> bool:
    """TensorFlow's truth: a scalar that is not 0, or a tensor with elements."""
    return bool(array.reshape(())) if array.ndim == 0 else array.size > 0


def _predicate(call: Call, condition: Operand) -> Value:
    value = call.builder.value(condition, call.name)
    if condition.element == t.boolean:
        return call.reshape(value, ())
    return call.step(core.Ne(value, call.scalar_like(0, value)))


@lowers("Case", "StatelessCase")
def case(call: Call) -> list[Item]:
    """The branch with the number of input 0, or the last one where that is out of range."""
    branches = [str(name) for name in call.attributes["branches"]]
    index = call.operand(0)
    if index.array is not None:
        chosen = int(index.array.reshape(()))
        last = len(branches) - 1
        return call.lowering.enter(branches[chosen if 0 <= chosen <= last else last], call.inputs[1:], call)
    return _cond(call, call.value(0), branches)


def _cond(call: Call, selector: Value, functions: Sequence[str], number: int = 0) -> list[Item]:
    """core.cond over functions: the first one where `selector` is true, or equals `number`."""
    boolean = selector.shaped.dtype == t.boolean
    test = selector if boolean else call.step(core.Eq(selector, call.scalar_like(number, selector)))
    first = traced(call, functions[0], [captured(call, item) for item in call.inputs[1:]])
    if len(functions) == 2:
        second = traced(call, functions[1], [captured(call, item) for item in call.inputs[1:]])
    else:
        second = Body(Region(), [])
        with call.builder.inside(second.region):
            second.items = _cond(call, selector, functions[1:], number + 1)
    return _joined(call, test, first, second)


def _joined(call: Call, test: Value, first: Body, second: Body) -> list[Item]:
    """The op that holds both bodies, and what its results are."""
    made: list[Item | None] = []
    yields: tuple[list[Value], list[Value]] = ([], [])
    forms: list[tuple[int, str]] = []
    for index, (left, right) in enumerate(zip(first.items, second.items, strict=True)):
        if same_numbers(left, right):
            made.append(captured(call, left))
            continue
        made.append(None)
        form = "list" if isinstance(left, TensorList) else "last"
        if isinstance(left, Operand) and isinstance(right, Operand) and left.only_first and right.only_first:
            form = "first"
        for body, item, results in ((first, left, yields[0]), (second, right, yields[1])):
            with call.builder.inside(body.region):
                results.append(_yielded(call, item, form))
        forms.append((index, form))
    first.region.set_results(yields[0])
    second.region.set_results(yields[1])
    op = call.builder.add(core.Cond(test, (), then=first.region, otherwise=second.region), call.name)
    for (index, form), value in zip(forms, op.results, strict=True):
        made[index] = _received(first.items[index], value, form)
    return [item for item in made if item is not None]


def _yielded(call: Call, item: Item, form: str) -> Value:
    if isinstance(item, TensorList):
        return call.builder.value(stacked(call, item), call.name)
    if not isinstance(item, Operand):
        raise call.error("a branch returns a resource", remedy="return the value of the variable")
    return call.builder.first(item, call.name) if form == "first" else call.builder.value(item, call.name)


def _received(item: Item, value: Value, form: str) -> Item:
    made = Operand.of_first(value) if form == "first" else Operand.of(value)
    if isinstance(item, TensorList):
        return TensorList(item.name, item.element, item.length, made.shape[1:], made)
    return made


# -- loops ------------------------------------------------------------------------------
@lowers("While", "StatelessWhile")
def loop(call: Call) -> list[Item]:
    """core.scan where the number of rounds is known from shapes, else core.while."""
    return counted_loop(call) or _while(call)


def _while(call: Call) -> list[Item]:
    condition, body = str(call.attributes["cond"]), str(call.attributes["body"])
    fixed = invariants(call, body)
    state = {index: item for index, item in enumerate(call.inputs) if index not in fixed}
    for index, item in state.items():
        if isinstance(item, TensorList) and list_type(item) is None:
            found = probe(call, body, call.inputs)[index]
            if isinstance(found, TensorList) and item.item is None:
                item.item = found.item
    initial = [_yielded(call, item, "last") for item in state.values()]

    def arguments(params: Sequence[Value]) -> list[Item]:
        given = dict(zip(state, params, strict=True))
        return [
            _received(item, given[index], "last") if index in given else captured(call, item)
            for index, item in enumerate(call.inputs)
        ]

    tests = [parameter(call, value, f"{call.name}.state") for value in initial]
    tested = traced(call, condition, arguments(tests), tests)
    with call.builder.inside(tested.region):
        test = tested.items[0]
        assert isinstance(test, Operand)
        tested.region.set_results([_predicate(call, test)])
    params = [parameter(call, value, f"{call.name}.state") for value in initial]
    done = traced(call, body, arguments(params), params)
    with call.builder.inside(done.region):
        done.region.set_results([_yielded(call, done.items[index], "last") for index in state])
    op = call.builder.add(core.While(tuple(initial), condition=tested.region, body=done.region), call.name)
    results = dict(zip(state, op.results, strict=True))
    return [
        _received(item, results[index], "last") if index in results else item
        for index, item in enumerate(call.inputs)
    ]


def invariants(call: Call, body: str) -> set[int]:
    """The arguments that a round hands on unchanged; resources always are among them."""
    outline = Outline.of(call, body)
    found = {index for index in range(len(call.inputs)) if outline.unchanged(index)}
    for index, item in enumerate(call.inputs):
        if isinstance(item, Handle) and index not in found:
            raise call.error("a loop changes a resource", why="variables are constants of the graph")
    return found
