"""One node as its lowering rule sees it: operands, attributes, and helpers that emit IR."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from plait.frontends.onnx import decide
from plait.frontends.tensorflow.builder import Builder
from plait.frontends.tensorflow.elements import channels_first, element_of
from plait.frontends.tensorflow.operand import Handle, Item, Operand, Phases, TensorList
from plait.ir import DType, IntLike, LoweringError, Op, TensorType, Value
from plait.ir.ops import core
from plait.ir.types import Shape

if TYPE_CHECKING:
    from plait.frontends.tensorflow.lowering import Lowering


class Call:
    """A node under lowering.

    Attributes:
        op_type: the TensorFlow op.
        inputs: what its data inputs carry, lists of inputs spread out.
        attributes: its attributes as Python values.
        name: the name that its results take.
        label: how messages call the node.
        lowering: the walk that the node is part of, for ops that call functions.
    """

    def __init__(
        self,
        op_type: str,
        inputs: Sequence[Item],
        attributes: Mapping[str, Any],
        names: tuple[str, str],
        lowering: Lowering,
    ) -> None:
        self.op_type, self.inputs, self.attributes = op_type, list(inputs), attributes
        self.name, self.label = names
        self.lowering = lowering
        self.builder: Builder = lowering.builder

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
        """Input `index`, a tensor."""
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

    def value(self, index: int) -> Value:
        """The IR value of input `index` in the layout of the source."""
        return self.builder.value(self.operand(index), self.name)

    def first(self, index: int) -> Value:
        """The IR value of input `index` with the last axis moved behind the first."""
        return self.builder.first(self.operand(index), self.name)

    def shape(self, index: int) -> Shape:
        """The shape of input `index` in the layout of the source."""
        return self.operand(index).shape

    def rank(self, index: int) -> int:
        return len(self.shape(index))

    def element(self, index: int) -> DType:
        return self.operand(index).element

    def array(self, index: int, word: str) -> np.ndarray:
        """The numbers of input `index`, which must be known at compile time; `word` names it."""
        array = self.operand(index).array
        if array is None:
            raise self._runtime(index, word)
        return array

    def dims(self, index: int, word: str) -> tuple[IntLike, ...]:
        """The elements of input `index` as ints and dims; `word` names it in the error."""
        found = self.operand(index).dims()
        if found is None:
            raise self._runtime(index, word)
        return found

    def ints(self, index: int, word: str) -> tuple[int, ...]:
        """The elements of input `index`, which must be known whole numbers."""
        return tuple(int(n) for n in self.array(index, word).reshape(-1))

    def number(self, index: int, word: str) -> float | int | bool:
        """The single element of input `index`, which must be known."""
        array = self.array(index, word)
        if array.size != 1:
            raise self.error(f"{word} has {array.size} elements", why="one is wanted")
        number: float | int | bool = array.reshape(()).item()
        return number

    def _runtime(self, index: int, word: str) -> LoweringError:
        operand = self.operand(index)
        return self.error(
            f"{word} (input {index}, {operand.type}) is computed at run time",
            why="the IR needs it at compile time, as numbers or as arithmetic on dims",
            remedy="make it a constant or an expression of shapes in the source model",
        )

    # -- attributes -----------------------------------------------------------------
    def integer(self, name: str, default: int = 0) -> int:
        return int(self.attributes.get(name, default))

    def real(self, name: str, default: float) -> float:
        """A float attribute.  TensorFlow stores f32; the shortest decimal that gives it back is returned."""
        return float(str(np.float32(self.attributes.get(name, default))))

    def flag(self, name: str) -> bool:
        return bool(self.attributes.get(name, False))

    def text(self, name: str, default: str) -> str:
        return str(self.attributes.get(name, default))

    def integers(self, name: str) -> tuple[int, ...]:
        """A list of whole numbers; empty where the attribute is absent."""
        return tuple(int(n) for n in self.attributes.get(name) or ())

    def element_attribute(self, name: str) -> DType:
        """An element type attribute."""
        return element_of(int(self.attributes[name]), self.where)

    def normalise(self, axis: int, rank: int) -> int:
        """`axis` counted from the front.  Raises LoweringError when out of range."""
        if not -rank <= axis < max(rank, 1):
            raise self.error(f"axis {axis} is out of range for rank {rank}")
        return axis + rank if axis < 0 else axis

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
    def emit(self, op: Op) -> Value:
        """Add the op that computes the output; it takes the node's name."""
        return self.builder.emit(op, self.name)

    def step(self, op: Op) -> Value:
        """Add an op on the way to the output; it is named after the node and the op."""
        return self.builder.emit(op, f"{self.name}.{op.opname.rpartition('.')[2]}")

    def full(self, number: float | int | bool, element: DType, shape: Shape = ()) -> Value:
        """A tensor that holds one number."""
        return self.step(core.Full(value=number, out=TensorType(element, shape)))

    def scalar_like(self, number: float, x: Value) -> Value:
        """A scalar of the element type of `x`."""
        element = x.shaped.dtype
        return self.full(float(number) if element.is_float else int(number), element)

    def constant(self, array: np.ndarray, word: str) -> Value:
        """A constant that the lowering made."""
        return self.builder.constant(array, f"{self.name}.{word}")

    def cast(self, x: Value, element: DType) -> Value:
        """`x` in another element type; itself where it has it."""
        if x.shaped.dtype == element:
            return x
        return self.step(core.Cast(x, out=TensorType(element, x.shaped.shape)))

    def reshape(self, x: Value, shape: Sequence[IntLike]) -> Value:
        """`x` under another shape; itself where it has it."""
        return self.builder.reshape(x, shape, f"{self.name}.reshape")

    def broadcast(self, x: Value, shape: Sequence[IntLike]) -> Value:
        """`x` stretched to a shape; itself where it has it."""
        if x.shaped.shape == tuple(shape):
            return x
        return self.step(core.Broadcast(x, out=x.shaped.with_shape(tuple(shape))))

    def transpose(self, x: Value, permutation: Sequence[int]) -> Value:
        """`x` with axes in another order; itself where that is the same order."""
        return self.builder.transpose(x, permutation, f"{self.name}.transpose")

    @property
    def ranges(self) -> decide.Ranges:
        """Range of each dim symbol."""
        return self.builder.graph.bounds()

    # -- errors -------------------------------------------------------------------------
    @property
    def where(self) -> str:
        return f"{self.lowering.source.label}: node '{self.label}' ({self.op_type})"

    def error(self, what: str, *, why: str | None = None, remedy: str | None = None) -> LoweringError:
        """A LoweringError about this node, for `raise call.error(...)`."""
        return LoweringError(what, where=self.where, why=why, remedy=remedy)

    def unsupported(self, what: str, remedy: str | None = None) -> LoweringError:
        """A LoweringError that says this form of the op has no lowering."""
        return self.error(
            f"{what} has no lowering",
            why="the IR has no op for this form of the op",
            remedy=remedy or f'register a rule with @plait.frontends.tensorflow.lowers("{self.op_type}")',
        )
