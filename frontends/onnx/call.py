"""One ONNX node as its lowering rule sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from plait.frontends.nodes.call import NodeCall
from plait.frontends.onnx.builder import Builder
from plait.frontends.onnx.elements import element_of
from plait.frontends.onnx.operand import Operand
from plait.frontends.onnx.report import spelt
from plait.frontends.report import UnsupportedForm
from plait.ir import DType, LoweringError, Value

if TYPE_CHECKING:
    import onnx


class Call(NodeCall[Operand]):
    """A node under lowering.

    Attributes:
        op_type, attributes, name, label, builder: as for every `NodeCall`; strings are decoded.
        domain, version: the domain of the operator, and its operator set version.
        inputs: its operands; None where an optional one is left out.
        outputs: the names of its outputs; an empty name is an output nobody wants.
        enter: lowers a subgraph in this place: its inputs stand for the operands given,
            and its outputs are returned.
        file: the model file.
    """

    inputs: list[Operand | None]
    builder: Builder

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
        name, label, self.file = names
        super().__init__(str(node.op_type), attributes, name, label)
        self.domain, self.version = str(node.domain), version
        self.inputs = list(inputs)
        self.outputs = [str(output) for output in node.output]
        self.builder = builder
        self.enter = enter

    # -- operands -----------------------------------------------------------------
    def has(self, index: int) -> bool:
        """Whether input `index` is given."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def operand(self, index: int) -> Operand:
        operand = self.inputs[index] if index < len(self.inputs) else None
        if operand is None:
            raise self.error(f"input {index} is missing", why="the operator requires it")
        return operand

    def optional(self, index: int) -> Value | None:
        """The IR value of input `index`, None where it is left out."""
        return self.value(index) if self.has(index) else None

    def _at_run_time(self, index: int, word: str) -> LoweringError:
        operand = self.operand(index)
        return self.error(
            f"{word} (input {index}, '{operand.name}' : {operand.type}) is computed at run time",
            why="the IR needs it at compile time, as numbers or as arithmetic on dims",
            remedy="make it a constant or an expression of shapes in the source model, "
            "for instance with onnxsim or by exporting with fixed shapes",
        )

    # -- attributes -----------------------------------------------------------------
    def number_attribute(self, name: str, default: float) -> float:
        """A float attribute.  ONNX stores f32; the shortest decimal that gives it back is returned."""
        return float(str(np.float32(self.attributes.get(name, default))))

    def integers(self, name: str) -> tuple[int, ...] | None:
        """A list of whole numbers; None where the attribute is absent."""
        found = self.attributes.get(name)
        return None if found is None else tuple(int(n) for n in found)

    def axis(self, default: int, rank: int, name: str = "axis") -> int:
        """An axis attribute counted from the front."""
        return self.normalise(self.integer(name, default), rank)

    # -- emission ---------------------------------------------------------------------
    def constant(self, array: np.ndarray, word: str) -> Value:
        """A constant that the lowering made."""
        return self.builder.constant(array, self.builder.unique(f"{self.name}.{word}"))

    def known(self, numbers: np.ndarray, element: DType) -> Operand:
        """An output whose numbers are known."""
        return Operand.known(numbers, element, self.outputs[0])

    def element_of(self, code: int) -> DType:
        """The IR element type of an ONNX one."""
        return element_of(code, f"{self.file}: node '{self.label}'")

    # -- errors -------------------------------------------------------------------------
    def wants(self, index: int) -> bool:
        """Whether somebody named output `index`."""
        return index < len(self.outputs) and bool(self.outputs[index])

    @property
    def where(self) -> str:
        return f"{self.file}: node '{self.label}' ({self.op_type})"

    def unsupported(self, what: str, remedy: str | None = None) -> UnsupportedForm:
        """The error that this form of the operator has no lowering; the walk goes on before it is raised."""
        operator = spelt(self.domain, self.op_type)
        return UnsupportedForm(
            f"{what} has no lowering",
            operator=operator,
            place=f"node '{self.label}'",
            where=self.where,
            why="the IR has no op for this form of the operator",
            remedy=remedy or f'register a rule with @plait.frontends.register("{operator}")',
        )
