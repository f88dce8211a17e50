"""Tensors while a model is lowered: known numbers, IR values, or both.

Shape arithmetic is carried out on *known numbers*: a numpy array, or an array of
Python objects whose elements are ints and symbolic dims.  Such a tensor becomes IR
code only where an op reads it at run time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from plait.ir import Dim, DType, IntLike, ShapedType


def object_array(elements: Sequence[IntLike]) -> np.ndarray:
    """A vector of ints and dims."""
    array = np.empty(len(elements), dtype=object)
    array[:] = list(elements)
    return array


def plain_numbers(numbers: np.ndarray, element: DType) -> np.ndarray:
    """The numbers in the dtype of `element`; an array with dims among its elements is left as it is."""
    if numbers.dtype != object:
        return numbers.astype(element.numpy, copy=False)
    return numbers if any(isinstance(n, Dim) for n in numbers.flat) else numbers.astype(element.numpy)


class NodeOperand(ABC):
    """A tensor that nodes read or give; each frontend adds the IR values that it keeps of one.

    Attributes:
        name: the name of the tensor.
        element: its element type.
        numbers: its elements where they are known; of numpy dtype `object` where
            some are symbolic dims, else of the dtype of `element`.
    """

    name: str
    element: DType
    numbers: np.ndarray | None

    @property
    @abstractmethod
    def type(self) -> ShapedType:
        """The tensor type as the source model sees it."""

    @property
    def rank(self) -> int:
        return len(self.type.shape)

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
