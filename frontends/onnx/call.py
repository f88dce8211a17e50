"""One node as its lowering rule sees it: operands, attributes, and helpers that emit IR."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from plait.frontends.onnx import decide
from plait.frontends.onnx.builder import Builder
from plait.frontends.onnx.elements import element_of
from plait.frontends.onnx.operand import Operand
from plait.ir import DType, IntLike, LoweringError, Op, TensorType, Value
from plait.ir.ops import core
from plait.ir.types import Shape

if TYPE_CHECKING:
    import onnx


class Call:
    """A node under lowering.

    Attributes:
        op_type, domain, version: the operator and its operator set version.
        inputs: its operands; None where an optional one is left out.
        attributes: its attributes as Python values (strings decoded).
        outputs: the names of its outputs; an empty name is an output nobody wants.
        name: the name that its results take.
        enter: lowers a subgraph in this place: its inputs stand for the operands given,
            and its outputs are returned.
        label, file: how messages call the node, and the model file.
    """

    def __init__(
        self,
        node: onnx.NodeProto,
        version: int,
        inputs: Sequence[Operand | None],
        attributes: dict[str, Any],
        builder: Builder,
        names: tuple[str, str, str],
        enter: Callable[[onnx.GraphProto, Sequence[Operand]], list[Operand]],
    ) -> None:
        self.op_type, self.domain, self.version = str(node.op_type), str(node.domain), version
        self.inputs = list(inputs)
        self.attributes = attributes
        self.outputs = [str(output) for output in node.output]
        self.builder = builder
        self.name, self.label, self.file = names
        self.enter = enter

    # -- operands -----------------------------------------------------------------
    def has(self, index: int) -> bool:
        """Whether input `index` is given."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def operand(self, index: int) -> Operand:
        """Input `index`.  Raises LoweringError where it is left out."""
        operand = self.inputs[index] if index < len(self.inputs) else None
        if operand is None:
            raise self.error(f"input {index} is missing", why="the operator requires it")
        return operand

    def value(self, index: int) -> Value:
        """The IR value of input `index`."""
        return self.builder.value(self.operand(index), self.name)

    def optional(self, index: int) -> Value | None:
        """The IR value of input `index`, None where it is left out."""
        return self.value(index) if self.has(index) else None

    def shape(self, index: int) -> Shape:
        """The shape of input `index`."""
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
            f"{word} (input {index}, '{operand.name}' : {operand.type}) is computed at run time",
            why="the IR needs it at compile time, as numbers or as arithmetic on dims",
            remedy="make it a constant or an expression of shapes in the source model, "
            "for instance with onnxsim or by exporting with fixed shapes",
        )

    # -- attributes -----------------------------------------------------------------
    def integer(self, name: str, default: int) -> int:
        return int(self.attributes.get(name, default))

    def number_attribute(self, name: str, default: float) -> float:
        """A float attribute.  ONNX stores f32; the shortest decimal that gives it back is returned."""
        return float(str(np.float32(self.attributes.get(name, default))))

    def text(self, name: str, default: str) -> str:
        return str(self.attributes.get(name, default))

    def integers(self, name: str) -> tuple[int, ...] | None:
        """A list of whole numbers; None where the attribute is absent."""
        found = self.attributes.get(name)
        return None if found is None else tuple(int(n) for n in found)

    def axis(self, default: int, rank: int, name: str = "axis") -> int:
        """An axis attribute counted from the front."""
        return self.normalise(self.integer(name, default), rank)

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

    def constant(self, array: np.ndarray, word: str) -> Value:
        """A constant that the lowering made."""
        return self.builder.constant(array, self.builder.unique(f"{self.name}.{word}"))

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

    def known(self, numbers: np.ndarray, element: DType) -> Operand:
        """An output whose numbers are known."""
        return Operand.known(numbers, element, self.outputs[0])

    def element_of(self, code: int) -> DType:
        """The IR element type of an ONNX one."""
        return element_of(code, f"{self.file}: node '{self.label}'")

    @property
    def ranges(self) -> decide.Ranges:
        """Range of each dim symbol."""
        return self.builder.graph.bounds()

    # -- errors -------------------------------------------------------------------------
    def wants(self, index: int) -> bool:
        """Whether somebody named output `index`."""
        return index < len(self.outputs) and bool(self.outputs[index])

    def error(self, what: str, *, why: str | None = None, remedy: str | None = None) -> LoweringError:
        """A LoweringError about this node, for `raise call.error(...)`."""
        where = f"{self.file}: node '{self.label}' ({self.op_type})"
        return LoweringError(what, where=where, why=why, remedy=remedy)

    def unsupported(self, what: str, remedy: str | None = None) -> LoweringError:
        """A LoweringError that says this form of the operator has no lowering."""
        domain = f', domain="{self.domain}"' if self.domain else ""
        return self.error(
            f"{what} has no lowering",
            why="the IR has no op for this form of the operator",
            remedy=remedy or f'register a rule with @plait.frontends.onnx.lowers("{self.op_type}"{domain})',
        )
