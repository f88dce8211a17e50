"""Node attributes as Python values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from plait.frontends.tensorflow.elements import element_of
from plait.frontends.tensorflow.operand import Operand


class Element(int):
    """A `DataType` code that an attribute holds."""


def attribute_value(attribute: Any, where: str) -> Any:
    """An `AttrValue` as a Python value.

    Strings are decoded, element types are `Element` codes, shapes are tuples with
    None for open dims (None where the rank is open), functions are their names,
    tensors are operands.
    """
    kind = attribute.WhichOneof("value")
    if kind == "list":
        for field, entries in attribute.list.ListFields():
            return [_single(field.name, entry, where) for entry in entries]
        return []
    return None if kind is None else _single(kind, getattr(attribute, kind), where)


def _single(kind: str, entry: Any, where: str) -> Any:
    if kind == "s":
        return bytes(entry).decode("utf-8", "replace")
    if kind == "type":
        return Element(entry)
    if kind == "shape":
        return shape_of(entry)
    if kind == "func":
        return str(entry.name)
    if kind == "tensor":
        return tensor_of(entry, where)
    return entry


def shape_of(shape: Any) -> tuple[int | None, ...] | None:
    """A `TensorShapeProto`; None where the rank is open."""
    if shape.unknown_rank:
        return None
    return tuple(None if dim.size < 0 else int(dim.size) for dim in shape.dim)


def tensor_of(tensor: Any, where: str) -> Operand | None:
    """A `TensorProto` as an operand; None for strings and other contents that are no numbers."""
    import tensorflow as tf

    if not tf.dtypes.as_dtype(tensor.dtype).is_numpy_compatible or tensor.dtype == tf.string.as_datatype_enum:
        return None
    element = element_of(tensor.dtype, where)
    return Operand.known(np.asarray(tf.make_ndarray(tensor)), element)


def output_count(argument: Any, attributes: Mapping[str, Any]) -> int:
    """How many tensors an output argument of an `OpDef` stands for, by the attributes of a node."""
    if argument.number_attr:
        return int(attributes[argument.number_attr])
    return len(attributes[argument.type_list_attr]) if argument.type_list_attr else 1
