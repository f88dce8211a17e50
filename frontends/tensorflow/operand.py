"""TensorFlow values while a model is lowered: IR values in one or two layouts, known numbers, or handles.

A tensor may be held as the source writes it (`value`), with its last axis moved
behind the first (`first`: NCHW for a tensor that the source calls NHWC), or both.
Rules ask for the form they need; the other one is made once, on demand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from plait.frontends.nodes.operand import NodeOperand, plain_numbers
from plait.frontends.tensorflow.elements import channels_last
from plait.ir import DType, IntLike, TensorType, Value
from plait.ir.types import Shape

if TYPE_CHECKING:
    from plait.frontends.tensorflow.call import Call


@dataclass(eq=False)
class Operand(NodeOperand):
    """One TensorFlow value.

    Attributes:
        name, element, numbers: as for every `NodeOperand`; constants have the name of the variable.
        shape: its shape as the source sees it.
        value: the IR value in the layout of the source, once there is one.
        first: the IR value with the last axis moved behind the first, once there is one.
        rows: the tensor [..., C] of which this one, [R, C], is the list of rows.
        constants: constants made from `numbers`, by what was done to them.
    """

    name: str
    element: DType
    shape: Shape
    numbers: np.ndarray | None = None
    value: Value | None = None
    first: Value | None = None
    rows: Operand | None = None
    constants: dict[Any, Value] = field(default_factory=dict)

    @staticmethod
    def of(value: Value) -> Operand:
        """The operand of an IR value in the layout of the source."""
        return Operand(value.name, value.shaped.dtype, value.shaped.shape, value=value)

    @staticmethod
    def of_first(value: Value) -> Operand:
        """The operand of an IR value that has the last axis of the source behind the first."""
        shape = value.shaped.shape
        logical = tuple(shape[axis] for axis in channels_last(len(shape)))
        return Operand(value.name, value.shaped.dtype, logical, first=value)

    @staticmethod
    def known(numbers: np.ndarray, element: DType, name: str = "") -> Operand:
        """An operand with known numbers; an object array without dims becomes a plain one."""
        return Operand(name, element, tuple(numbers.shape), plain_numbers(numbers, element))

    def fork(self) -> Operand:
        """The same known numbers, for use inside of a region, where values from outside stay outside."""
        return Operand(self.name, self.element, self.shape, self.numbers, constants=self.constants)

    @property
    def type(self) -> TensorType:
        return TensorType(self.element, self.shape)

    @property
    def only_first(self) -> bool:
        """Whether it is held with channels first and in no other way."""
        return self.first is not None and self.value is None


@dataclass(eq=False)
class Handle:
    """A variable or another resource; `ReadVariableOp` turns it into an operand.

    Attributes:
        name: its name.
        contents: the numbers that it holds; None for resources that are no variables.
    """

    name: str
    contents: Operand | None = None


@dataclass(eq=False)
class TensorList:
    """A list of equal tensors, held as one tensor [length, ...].

    Attributes:
        name: a name for it.
        element: the element type of its items.
        length: how many items it has.
        item: the shape of an item; None until it is known.
        stacked: the items, once some were written; None for a fresh list, which holds zeros.
    """

    name: str
    element: DType
    length: IntLike
    item: Shape | None = None
    stacked: Operand | None = None


@dataclass(eq=False)
class Slot:
    """A list inside of a loop that visits its items in turn: the item of this round.

    Attributes:
        name: the name of the list.
        current: the item; None before the round writes it.
    """

    name: str
    current: Operand | None = None


@dataclass(eq=False)
class Phases:
    """What SpaceToBatchND makes of a tensor, and a convolution of that: a dilated one, written out.

    BatchToSpaceND turns it into the dilated convolution; other ops get the tensor.

    Attributes:
        name: a name for it.
        source: the tensor.
        blocks: every how many elements one phase takes, by spatial axis.
        pads: what is padded in front of and behind each spatial axis.
        whole: lowers it as it is written.
        dilated: lowers the convolution with `blocks` as its dilation, on a padding in
            front of and behind each spatial axis; None where there is none yet.
    """

    name: str
    source: Operand
    blocks: tuple[int, ...]
    pads: tuple[tuple[IntLike, IntLike], ...]
    whole: Callable[[], Operand]
    dilated: Callable[[Sequence[tuple[int, int]]], Operand] | None = None

    def convolved(self, call: Call, rule: Callable[[Call], Any]) -> Phases:
        """The phases after a convolution, which `rule` lowers."""

        def dilated(pads: Sequence[tuple[int, int]]) -> Operand:
            attributes = {
                **call.attributes,
                "dilations": [1, *self.blocks, 1],
                "padding": "EXPLICIT",
                "explicit_paddings": [0, 0, *(n for pair in pads for n in pair), 0, 0],
            }
            made: Operand = rule(call.with_inputs([self.source, *call.inputs[1:]], attributes))
            return made

        def whole() -> Operand:
            made: Operand = rule(call.with_inputs([self.whole(), *call.inputs[1:]]))
            return made

        return Phases(call.name, self.source, self.blocks, self.pads, whole, dilated)

    def with_axis(self, call: Call, axis: int, rule: Callable[[Call], Operand]) -> Phases:
        """The phases with one more spatial axis, of size 1, put in as `axis` by `rule`; it has one phase."""

        def apply(x: Operand) -> Operand:
            return rule(call.with_inputs([x, *call.inputs[1:]]))

        blocks = (*self.blocks[: axis - 1], 1, *self.blocks[axis - 1 :])
        pads = (*self.pads[: axis - 1], (0, 0), *self.pads[axis - 1 :])
        return Phases(call.name, apply(self.source), blocks, pads, lambda: apply(self.whole()))

    def without_axis(self, call: Call, axis: int, rule: Callable[[Call], Operand]) -> Phases:
        """The phases of a convolution without a spatial axis that has one phase; `rule` takes it away."""
        before = self.dilated
        assert before is not None

        def dilated(pads: Sequence[tuple[int, int]]) -> Operand:
            return rule(call.with_inputs([before((*pads[: axis - 1], (0, 0), *pads[axis - 1 :]))]))

        def whole() -> Operand:
            return rule(call.with_inputs([self.whole()]))

        blocks = (*self.blocks[: axis - 1], *self.blocks[axis:])
        pads = (*self.pads[: axis - 1], *self.pads[axis:])
        return Phases(call.name, self.source, blocks, pads, whole, dilated)


#: What an edge of the graph carries.
Item = Operand | Handle | TensorList | Slot | Phases
