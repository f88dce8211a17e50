"""One node as its lowering rule sees it: operands, attributes, and helpers that emit IR."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic

import numpy as np

from plait.frontends.nodes import decide
from plait.frontends.nodes.builder import NodeBuilder, O
from plait.ir import DType, IntLike, LoweringError, Op, TensorType, Value
from plait.ir.ops import core
from plait.ir.types import Shape


class NodeCall(ABC, Generic[O]):
    """A node under lowering; each frontend adds what only its format has.

    Attributes:
        op_type: the operator.
        inputs: what its inputs carry.
        attributes: its attributes as Python values.
        name: the name that its results take.
        label: how messages call the node.
        builder: what it adds ops to.
    """

    inputs: Sequence[object]
    builder: NodeBuilder[O]

    def __init__(self, op_type: str, attributes: Mapping[str, Any], name: str, label: str) -> None:
        self.op_type, self.attributes = op_type, attributes
        self.name, self.label = name, label

    # -- operands -----------------------------------------------------------------
    @abstractmethod
    def operand(self, index: int) -> O:
        """Input `index`, a tensor.  Raises LoweringError where it is none or left out."""

    def value(self, index: int) -> Value:
        """The IR value of input `index`, in the layout of the source."""
        return self.builder.value(self.operand(index), self.name)

    def shape(self, index: int) -> Shape:
        """The shape of input `index`, in the layout of the source."""
        return self.operand(index).type.shape

    def rank(self, index: int) -> int:
        return len(self.shape(index))

    def element(self, index: int) -> DType:
        return self.operand(index).element

    def array(self, index: int, word: str) -> np.ndarray:
        """The numbers of input `index`, which must be known at compile time; `word` names it."""
        array = self.operand(index).array
        if array is None:
            raise self._at_run_time(index, word)
        return array

    def dims(self, index: int, word: str) -> tuple[IntLike, ...]:
        """The elements of input `index` as ints and dims; `word` names it in the error."""
        found = self.operand(index).dims()
        if found is None:
            raise self._at_run_time(index, word)
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

    # -- attributes -----------------------------------------------------------------
    def integer(self, name: str, default: int = 0) -> int:
        return int(self.attributes.get(name, default))

    def text(self, name: str, default: str) -> str:
        return str(self.attributes.get(name, default))

    def normalise(self, axis: int, rank: int) -> int:
        """`axis` counted from the front.  Raises LoweringError when out of range."""
        if not -rank <= axis < max(rank, 1):
            raise self.error(f"axis {axis} is out of range for rank {rank}")
        return axis + rank if axis < 0 else axis

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

    def cast(self, x: Value, element: DType) -> Value:
        """`x` in another element type; itself where it has it."""
        if x.shaped.dtype == element:
            return x
        return self.step(core.Cast(x, out=TensorType(element, x.shaped.shape)))

    def reshape(self, x: Value, shape: Sequence[IntLike]) -> Value:
        """`x` under another shape; itself where it has it."""
        if x.shaped.shape == tuple(shape):
            return x
        return self.step(core.Reshape(x, out=x.shaped.with_shape(tuple(shape))))

    def broadcast(self, x: Value, shape: Sequence[IntLike]) -> Value:
        """`x` stretched to a shape; itself where it has it."""
        if x.shaped.shape == tuple(shape):
            return x
        return self.step(core.Broadcast(x, out=x.shaped.with_shape(tuple(shape))))

    def transpose(self, x: Value, permutation: Sequence[int]) -> Value:
        """`x` with axes in another order; itself where that is the same order."""
        if list(permutation) == list(range(len(permutation))):
            return x
        return self.step(core.Transpose(x, permutation=tuple(permutation)))

    @property
    def ranges(self) -> decide.Ranges:
        """Range of each dim symbol."""
        return self.builder.graph.bounds()

    # -- errors -------------------------------------------------------------------------
    @property
    @abstractmethod
    def where(self) -> str:
        """The place of the node in messages: the model, and the node in it."""

    @abstractmethod
    def _at_run_time(self, index: int, word: str) -> LoweringError:
        """The error that input `index` is not known at compile time; `word` names it."""

    def error(self, what: str, *, why: str | None = None, remedy: str | None = None) -> LoweringError:
        """A LoweringError about this node, for `raise call.error(...)`."""
        return LoweringError(what, where=self.where, why=why, remedy=remedy)
