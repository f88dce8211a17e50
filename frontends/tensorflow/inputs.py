"""Graph inputs: their types, and dims that are named, introduced or fixed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from plait.frontends.nodes.inputs import check_names, unknown_rank
from plait.ir import DType, Graph, LoweringError, TensorType
from plait.ir import dims as d
from plait.ir.types import dtype_of

#: `{"image": {0: "B"}}` or `{"image": {0: ("B", 1, 64)}}`.
Dynamic = Mapping[str, Mapping[int, Any]]
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True)
class Name:
    """A symbolic dim: its name and, where given, its range."""

    text: str
    low: int = 1
    high: int | None = None


@dataclass(frozen=True)
class Port:
    """An input.

    Attributes:
        name: the name of the argument.
        element: its element type.
        shape: its dims; None for an open dim, and instead of all of them for an open rank.
        node: the node that stands for it, once the model is traced.
    """

    name: str
    element: DType
    shape: tuple[int | Name | None, ...] | None
    node: str = ""

    @staticmethod
    def of_array(name: str, array: np.ndarray) -> Port:
        """The port of an example."""
        return Port(name, dtype_of(array.dtype), tuple(array.shape))


def resolve(
    ports: Sequence[Port], arrays: Mapping[str, np.ndarray], dynamic: Dynamic, label: str
) -> list[Port]:
    """The ports with a number or a name for every dim.

    `dynamic` names dims; example arrays fix the dims that are still open; the rest
    is named: `B` for axis 0, `<input>_d<axis>` for others.
    """
    check_names(dynamic, [port.name for port in ports], "dynamic", label)
    return [_resolved(port, arrays.get(port.name), dynamic.get(port.name, {}), label) for port in ports]


def _resolved(port: Port, array: np.ndarray | None, wanted: Mapping[int, Any], label: str) -> Port:
    where = f"{label}: input '{port.name}'"
    declared = port.shape if port.shape is not None or array is None else (None,) * array.ndim
    if declared is None:
        raise unknown_rank(port.name, where)
    if array is not None:
        _check_array(array, port.element, declared, where)
    named = _axes(wanted, len(declared), where)
    shape: list[int | Name | None] = []
    for axis, dim in enumerate(declared):
        if axis in named:
            shape.append(named[axis])
        elif dim is not None:
            shape.append(dim)
        elif array is not None:
            shape.append(int(array.shape[axis]))
        else:
            base = re.sub(r"\W", "_", port.name)
            shape.append(Name("B" if axis == 0 else f"{base if base[0].isalpha() else 'x' + base}_d{axis}"))
    return replace(port, shape=tuple(shape))


def _check_array(array: np.ndarray, element: DType, shape: tuple[Any, ...], where: str) -> None:
    fits = array.ndim == len(shape) and all(
        not isinstance(dim, int) or dim == size for dim, size in zip(shape, array.shape, strict=True)
    )
    if not fits or array.dtype != element.numpy:
        declared = ", ".join("?" if dim is None else str(dim) for dim in shape)
        raise LoweringError(
            f"the example array is {array.dtype}{list(array.shape)}",
            where=where,
            why=f"the model declares {element}[{declared}]",
            remedy="pass an array of that element type and shape, or name differing axes in dynamic=",
        )


def _axes(wanted: Mapping[int, Any], rank: int, where: str) -> dict[int, Name]:
    """The axes that `dynamic` names, counted from the front."""
    found = {}
    for axis, given in wanted.items():
        if not isinstance(axis, int) or not -rank <= axis < rank:
            raise LoweringError(
                f"dynamic names axis {axis}",
                where=where,
                why=f"the input has rank {rank}",
                remedy=f"use axes {-rank} to {rank - 1}",
            )
        parts = given if isinstance(given, (tuple, list)) else (given,)
        if not isinstance(parts[0], str) or not _IDENTIFIER.fullmatch(parts[0]) or len(parts) > 3:
            raise LoweringError(
                f"dynamic calls axis {axis} {given!r}",
                where=where,
                why="a dim is named 'B' or ('B', 1, 64): a name, and the range it may have",
                remedy="choose a name such as 'B'",
            )
        found[axis % rank] = Name(*parts)
    return found


def specifications(ports: Sequence[Port]) -> list[Any]:
    """A `tf.TensorSpec` for each resolved port."""
    import tensorflow as tf

    return [
        tf.TensorSpec(
            [dim if isinstance(dim, int) else None for dim in port.shape or ()],
            tf.dtypes.as_dtype(port.element.numpy),
            name=re.sub(r"[^A-Za-z0-9_.\\/>-]", "_", port.name),
        )
        for port in ports
    ]


def lower_input(graph: Graph, port: Port) -> TensorType:
    """The type of a resolved input; its dim symbols are declared in `graph`."""
    shape: list[d.IntLike] = []
    for dim in port.shape or ():
        if isinstance(dim, Name):
            if dim.text not in graph.dims or (dim.low, dim.high) != (1, None):
                graph.declare_dim(dim.text, dim.low, dim.high)
            shape.append(d.Dim.symbol(dim.text))
        else:
            assert dim is not None  # the port is resolved
            shape.append(dim)
    return TensorType(port.element, tuple(shape))
