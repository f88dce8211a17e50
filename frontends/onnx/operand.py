"""ONNX values while a model is lowered: IR values, known numbers, or both.

Shape arithmetic is carried out on *known numbers*: a numpy array, or an array of
Python objects whose elements are ints and symbolic dims.  Such a value becomes
IR code only where an op reads it at run time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from plait.ir import Dim, DType, IntLike, ShapedType, TensorType, Value
from plait.ir.region import Region
from plait.ir.types import Shape


def object_array(elements: Sequence[IntLike]) -> np.ndarray:
    """A vector of ints and dims."""
    array = np.empty(len(elements), dtype=object)
    array[:] = list(elements)
    return array


@dataclass(eq=False)
class Operand:
    """One ONNX value.

    Attributes:
        name: the name of the ONNX value.
        element: its element type.
        numbers: its elements where they are known; of numpy dtype `object` where
            some are symbolic dims, else of the dtype of `element`.
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
        if numbers.dtype == object and not any(isinstance(n, Dim) for n in numbers.flat):
            numbers = numbers.astype(element.numpy)
        elif numbers.dtype != object:
            numbers = numbers.astype(element.numpy, copy=False)
        return Operand(name, element, numbers)

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

    def dims(self) -> tuple[IntLike, ...] | None:
        """The elements as ints and dims, flattened; None where they are unknown or no integers."""
        if self.numbers is None or not (self.element.is_integer or self.symbolic):
            return None
        return tuple(self.numbers.astype(object).reshape(-1).tolist())
