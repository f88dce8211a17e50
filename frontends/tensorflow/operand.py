"""TensorFlow values while a model is lowered: IR values in one or two layouts, known numbers, or handles.

Shape arithmetic is carried out on *known numbers*: a numpy array, or an array of
Python objects whose elements are ints and symbolic dims.  Such a value becomes IR
code only where an op reads it at run time.

A tensor may be held as the source writes it (`value`), with its last axis moved
behind the first (`first`: NCHW for a tensor that the source calls NHWC), or both.
Rules ask for the form they need; the other one is made once, on demand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from plait.frontends.tensorflow.elements import channels_last
from plait.ir import Dim, DType, IntLike, TensorType, Value
from plait.ir.types import Shape

if TYPE_CHECKING:
    from plait.frontends.tensorflow.call import Call


def object_array(elements: Sequence[IntLike]) -> np.ndarray:
    """A vector of ints and dims."""
    array = np.empty(len(elements), dtype=object)
    array[:] = list(elements)
    return array


@dataclass(eq=False)
class Operand:
    """One TensorFlow value.

    Attributes:
        name: a name for it; that of the variable for constants.
        element: its element type.
        shape: its shape as the source sees it.
        numbers: its elements where they are known; of numpy dtype `object` where some
            are symbolic dims, else of the dtype of `element`.
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
        if numbers.dtype == object and not any(isinstance(n, Dim) for n in numbers.flat):
            numbers = numbers.astype(element.numpy)
        elif numbers.dtype != object:
            numbers = numbers.astype(element.numpy, copy=False)
        return Operand(name, element, tuple(numbers.shape), numbers)

    def fork(self) -> Operand:
        """The same known numbers, for use inside of a region, where values from outside stay outside."""
        return Operand(self.name, self.element, self.shape, self.numbers, constants=self.constants)

    @property
    def type(self) -> TensorType:
        return TensorType(self.element, self.shape)

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def symbolic(self) -> bool:
        """Whether some element is a symbolic dim."""
        return self.numbers is not None and self.numbers.dtype == object

    @property
    def array(self) -> np.ndarray | None:
        """The numbers where all of them are known at compile time."""
        return None if self.numbers is None or self.symbolic else self.numbers

    @property
    def only_first(self) -> bool:
        """Whether it is held with channels first and in no other way."""
        return self.first is not None and self.value is None

    def dims(self) -> tuple[IntLike, ...] | None:
        """The elements as ints and dims, flattened; None where they are unknown or no integers."""
        if self.numbers is None or not (self.element.is_integer or self.symbolic):
            return None
        return tuple(self.numbers.astype(object).reshape(-1).tolist())


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


#: What an edge of the graph carries.
Item = Operand | Handle | TensorList | Slot | Phases
