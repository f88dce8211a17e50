"""Function bodies as regions of control-flow ops: what goes in, what is captured, what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from plait.frontends.tensorflow.builder import Builder
from plait.frontends.tensorflow.operand import Handle, Item, Operand, TensorList
from plait.ir import Graph, Region, Value

if TYPE_CHECKING:
    from plait.frontends.tensorflow.call import Call


@dataclass
class Body:
    """A region with what its function returned.

    Attributes:
        region: the region; its results are not set yet.
        items: what the function returned.
    """

    region: Region
    items: list[Item]


def captured(call: Call, item: Item) -> Item:
    """An item for use inside of a region: values are read from outside, known numbers made anew."""
    if isinstance(item, Operand):
        if item.numbers is not None:
            return item.fork()
        if item.only_first:
            return Operand(item.name, item.element, item.shape, first=item.first)
        return Operand(item.name, item.element, item.shape, value=call.builder.value(item, call.name))
    if isinstance(item, TensorList) and item.stacked is not None:
        inner = captured(call, item.stacked)
        assert isinstance(inner, Operand)
        return TensorList(item.name, item.element, item.length, item.item, inner)
    return item


def traced(call: Call, function: str, items: Sequence[Item], params: Sequence[Value] = ()) -> Body:
    """Lower a function into a new region with these parameters."""
    region = Region(params)
    with call.builder.inside(region):
        return Body(region, call.lowering.enter(function, items, call))


def parameter(call: Call, value: Value, hint: str) -> Value:
    """A region parameter of the type of a value."""
    return Value(call.builder.graph.fresh_name(hint), value.type)


def probe(call: Call, function: str, items: Sequence[Item]) -> list[Item]:
    """What a function returns for arguments like these, found out in a graph that is thrown away."""
    scratch = Graph("probe")
    scratch.dims = dict(call.builder.graph.dims)
    outer = call.lowering.builder
    builder = Builder(scratch)
    builder.loc = outer.loc

    def stand_in(item: Item) -> Item:
        if isinstance(item, Operand) and item.numbers is None:
            return Operand.of(scratch.add_input(scratch.free_name("x"), item.type))
        if isinstance(item, Operand):
            return Operand(item.name, item.element, item.shape, item.numbers)
        if isinstance(item, TensorList) and item.stacked is not None:
            inner = scratch.add_input(scratch.free_name("x"), item.stacked.type)
            return TensorList(item.name, item.element, item.length, item.item, Operand.of(inner))
        return item

    call.lowering.builder = builder
    try:
        return call.lowering.enter(function, [stand_in(item) for item in items], call)
    finally:
        call.lowering.builder = outer


def same_numbers(left: Item, right: Item) -> bool:
    """Whether two items are known numbers, and the same ones."""
    if not isinstance(left, Operand) or not isinstance(right, Operand):
        return left is right or (isinstance(left, Handle) and left == right)
    if left.numbers is None or right.numbers is None or left.type != right.type:
        return False
    return bool(np.array_equal(left.numbers, right.numbers))
