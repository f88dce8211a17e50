"""One TensorFlow node as its lowering rule sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from plait.frontends.nodes.call import NodeCall
from plait.frontends.report import UnsupportedForm
from plait.frontends.tensorflow.builder import Builder
from plait.frontends.tensorflow.elements import channels_first, element_of
from plait.frontends.tensorflow.operand import Handle, Item, Operand, Phases, TensorList
from plait.ir import DType, LoweringError, Value

if TYPE_CHECKING:
    from plait.frontends.tensorflow.lowering import Lowering


class Call(NodeCall[Operand]):
    """A node under lowering.

    Attributes:
        op_type, attributes, name, label, builder: as for every `NodeCall`.
        inputs: what its data inputs carry, lists of inputs spread out.
        lowering: the walk that the node is part of, for ops that call functions.
    """

    inputs: list[Item]
    builder: Builder

    def __init__(
        self,
        op_type: str,
        inputs: Sequence[Item],
        attributes: Mapping[str, Any],
        names: tuple[str, str],
        lowering: Lowering,
    ) -> None:
        super().__init__(op_type, attributes, *names)
        self.inputs = list(inputs)
        self.lowering = lowering
        self.builder = lowering.builder

    def with_inputs(self, inputs: Sequence[Item], attributes: Mapping[str, Any] | None = None) -> Call:
        """The same node with other inputs, and other attributes where given."""
        given = self.attributes if attributes is None else attributes
        return Call(self.op_type, inputs, given, (self.name, self.label), self.lowering)

    # -- operands -----------------------------------------------------------------
    def item(self, index: int) -> Item:
        """What input `index` carries; negative ones count from the end."""
        if not -len(self.inputs) <= index < len(self.inputs):
            raise self.error(f"input {index} is missing", why="the op requires it")
        return self.inputs[index]

    def operand(self, index: int) -> Operand:
        item = self.item(index)
        if isinstance(item, Operand):
            return item
        if isinstance(item, Phases):
            return item.whole()
        kind = "a tensor list" if isinstance(item, TensorList) else f"{item.name}"
        raise self.error(
            f"input {index} is {kind}",
            why="a tensor is wanted",
            remedy="resources and lists reach only the ops that read them",
        )

    def tensor_list(self, index: int) -> TensorList:
        """Input `index`, a list of tensors."""
        item = self.item(index)
        if not isinstance(item, TensorList):
            raise self.error(f"input {index} is no tensor list")
        return item

    def handle(self, index: int) -> Handle:
        """Input `index`, a variable or another resource."""
        item = self.item(index)
        if not isinstance(item, Handle):
            raise self.error(f"input {index} is no resource")
        return item

    def first(self, index: int) -> Value:
        """The IR value of input `index` with the last axis moved behind the first."""
        return self.builder.first(self.operand(index), self.name)

    def _at_run_time(self, index: int, word: str) -> LoweringError:
        operand = self.operand(index)
        return self.error(
            f"{word} (input {index}, {operand.type}) is computed at run time",
            why="the IR needs it at compile time, as numbers or as arithmetic on dims",
            remedy="make it a constant or an expression of shapes in the source model",
        )

    # -- attributes -----------------------------------------------------------------
    def real(self, name: str, default: float) -> float:
        """A float attribute.  TensorFlow stores f32; the shortest decimal that gives it back is returned."""
        return float(str(np.float32(self.attributes.get(name, default))))

    def flag(self, name: str) -> bool:
        return bool(self.attributes.get(name, False))

    def integers(self, name: str) -> tuple[int, ...]:
        """A list of whole numbers; empty where the attribute is absent."""
        return tuple(int(n) for n in self.attributes.get(name) or ())

    def element_attribute(self, name: str) -> DType:
        """An element type attribute."""
        return element_of(int(self.attributes[name]), self.where)

    def axes(self, index: int, rank: int) -> tuple[int, ...]:
        """The axes that input `index` holds, counted from the front."""
        return tuple(self.normalise(axis, rank) for axis in self.ints(index, "the axes"))

    # -- layouts ----------------------------------------------------------------------
    def aligned(self, *indices: int) -> tuple[list[Value], Callable[[Value], Operand]]:
        """Values of operands that broadcast against each other, all in one layout.

        Channels are first where an operand of the full rank is held in that way only,
        which keeps what follows a convolution in its layout.

        Returns:
            The values, and what makes the operand of a result of their common rank.
        """
        operands = [self.operand(index) for index in indices]
        rank = max(operand.rank for operand in operands)
        if any(operand.only_first and operand.rank == rank for operand in operands):
            return [self._broadcast_first(operand, rank) for operand in operands], Operand.of_first
        return [self.builder.value(operand, self.name) for operand in operands], Operand.of

    def _broadcast_first(self, operand: Operand, rank: int) -> Value:
        """`operand` for broadcasting against tensors of `rank` with channels first."""
        if operand.rank == rank:
            return self.builder.first(operand, self.name)
        if operand.rank == 0:
            return self.builder.value(operand, self.name)
        shape = (1,) * (rank - operand.rank) + operand.shape
        order = channels_first(rank)
        if operand.array is not None and operand.value is None:
            turned = operand.array.reshape([int(n) for n in shape]).transpose(order)  # type: ignore[arg-type]
            trimmed = turned.reshape(turned.shape[1:]) if turned.shape[0] == 1 else turned
            return self.builder.derived(operand, ("broadcast", rank), trimmed)
        wide = self.builder.reshape(self.builder.value(operand, self.name), shape, self.name)
        return self.builder.transpose(wide, order, self.name)

    def held(self, index: int) -> tuple[Value, Callable[[int], int], Callable[[Value], Operand]]:
        """Input `index` in the layout it is held in.

        Returns:
            The value; what turns an axis of the source into one of the value; and what
            makes the operand of a result of the same rank.
        """
        operand = self.operand(index)
        if not operand.only_first:
            return self.value(index), lambda axis: axis, Operand.of
        order = channels_first(operand.rank)
        return self.first(index), order.index, Operand.of_first

    # -- emission ---------------------------------------------------------------------
    def constant(self, array: np.ndarray, word: str) -> Value:
        """A constant that the lowering made."""
        return self.builder.constant(array, f"{self.name}.{word}")

    def transpose(self, x: Value, permutation: Sequence[int]) -> Value:
        """`x` with axes in another order; itself where that is the same order."""
        return self.builder.transpose(x, permutation, f"{self.name}.transpose")

    # -- errors -------------------------------------------------------------------------
    @property
    def where(self) -> str:
        return f"{self.lowering.source.label}: node '{self.label}' ({self.op_type})"

    def unsupported(self, what: str, remedy: str | None = None) -> UnsupportedForm:
        """The error that this form of the op has no lowering; the walk goes on before it is raised."""
        return UnsupportedForm(
            f"{what} has no lowering",
            operator=self.op_type,
            place=f"'{self.label}'",
            where=self.where,
            why="the IR has no op for this form of the op",
            remedy=remedy
            or f'register a rule with @plait.frontends.register("tf::{self.op_type}", replace=True)',
        )
