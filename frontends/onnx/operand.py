"""ONNX values while a model is lowered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from plait.frontends.nodes.operand import NodeOperand, plain_numbers
from plait.ir import DType, ShapedType, TensorType, Value
from plait.ir.region import Region
from plait.ir.types import Shape


@dataclass(eq=False)
class Operand(NodeOperand):
    """One ONNX value.

    Attributes:
        name, element, numbers: as for every `NodeOperand`.
        value: the IR value, once there is one.
        home: the region that holds `value` where known numbers became one inside it.
    """

    name: str
    element: DType
    numbers: np.ndarray | None = None
    value: Value | None = None
    home: Region | None = None

    @staticmethod
    def of(value: Value) -> Operand:
        """The operand of an IR value."""
        return Operand(value.name, value.shaped.dtype, None, value)

    @staticmethod
    def known(numbers: np.ndarray, element: DType, name: str = "") -> Operand:
        """An operand with known numbers; an object array without dims becomes a plain one."""
        return Operand(name, element, plain_numbers(numbers, element))

    @property
    def type(self) -> ShapedType:
        """The tensor type."""
        if self.value is not None:
            return self.value.shaped
        assert self.numbers is not None
        return TensorType(self.element, tuple(self.numbers.shape))

    @property
    def shape(self) -> Shape:
        return self.type.shape
