"""Graph inputs: their types, and dims that are named, renamed, introduced or fixed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from plait.frontends.nodes.inputs import check_names, unknown_rank
from plait.frontends.onnx.elements import element_of
from plait.frontends.onnx.load import Source
from plait.ir import DType, Graph, IntLike, LoweringError, TensorType
from plait.ir import dims as d

Dynamic = Mapping[str, Mapping[int, str]]
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True)
class Port:
    """An input as the model declares it: each dim is a number, a dim_param or None."""

    name: str
    element: DType
    shape: tuple[int | str | None, ...]


def lower_inputs(
    graph: Graph, source: Source, arrays: Mapping[str, np.ndarray], dynamic: Dynamic
) -> dict[str, TensorType]:
    """The type of each input; its dim symbols are declared in `graph`.

    Raises:
        LoweringError: `arrays` or `dynamic` names what the model does not have, or contradicts it.
    """
    given = {tensor.name for tensor in source.model.graph.initializer}
    infos = [info for info in source.model.graph.input if info.name not in given]
    names = [str(info.name) for info in infos]
    check_names(arrays, names, "inputs", source.file)
    check_names(dynamic, names, "dynamic", source.file)
    ports = [_port(info, arrays.get(info.name), source.file) for info in infos]
    renamed = _renamings(ports, dynamic, source.file)
    fixed = _fixed(ports, arrays, dynamic, renamed, source.file)
    dims = _Dims(graph, ports, renamed, fixed)
    types = {}
    for port in ports:
        axes = _axes(port, dynamic.get(port.name, {}), source.file)
        array = arrays.get(port.name)
        shape = tuple(
            dims.named(axes[axis])
            if axis in axes
            else dims.of(dim, None if array is None else array.shape[axis], f"{port.name}_{axis}")
            for axis, dim in enumerate(port.shape)
        )
        types[port.name] = TensorType(port.element, shape)
    return types


def _port(info: onnx.ValueInfoProto, array: np.ndarray | None, file: str) -> Port:
    where = f"{file}: input '{info.name}'"
    if not info.type.HasField("tensor_type"):
        raise LoweringError(
            f"the input is a {info.type.WhichOneof('value') or 'value without a type'}",
            where=where,
            why="inputs are dense tensors; sequences, maps, optionals and sparse tensors are not supported",
            remedy="export the model with tensors only",
        )
    tensor = info.type.tensor_type
    element = element_of(tensor.elem_type, where)
    if not tensor.HasField("shape"):
        if array is None:
            raise unknown_rank(info.name, where)
        shape: tuple[int | str | None, ...] = (None,) * np.ndim(array)
    else:
        shape = tuple(
            int(dim.dim_value) if dim.HasField("dim_value") else (str(dim.dim_param) or None)
            for dim in tensor.shape.dim
        )
    if array is not None:
        _check_array(np.asarray(array), element, shape, where)
    return Port(str(info.name), element, shape)


def _check_array(array: np.ndarray, element: DType, shape: tuple[int | str | None, ...], where: str) -> None:
    if array.ndim != len(shape) or array.dtype != element.numpy:
        raise LoweringError(
            f"the example array is {array.dtype}{list(array.shape)}",
            where=where,
            why=f"the model declares {element} of rank {len(shape)}",
            remedy="pass an array of that element type and rank",
        )


def _axes(port: Port, wanted: Mapping[int, str], file: str) -> dict[int, str]:
    """The axes of an input that `dynamic` names, counted from the front."""
    found = {}
    rank = len(port.shape)
    for axis, name in wanted.items():
        if not isinstance(axis, int) or not -rank <= axis < rank:
            raise LoweringError(
                f"dynamic names axis {axis} of input '{port.name}'",
                where=file,
                why=f"the input has rank {rank}",
                remedy=f"use axes {-rank} to {rank - 1}",
            )
        if not isinstance(name, str) or not _IDENTIFIER.fullmatch(name):
            raise LoweringError(
                f"dynamic calls axis {axis} of input '{port.name}' {name!r}",
                where=file,
                why="a dim name is a letter or underscore followed by letters, digits or underscores",
                remedy="choose a name such as 'B'",
            )
        found[axis % rank] = name
    return found


def _renamings(ports: list[Port], dynamic: Dynamic, file: str) -> dict[str, str]:
    """New name of each dim_param on an axis that `dynamic` names."""
    renamed: dict[str, str] = {}
    for port in ports:
        for axis, name in _axes(port, dynamic.get(port.name, {}), file).items():
            dim = port.shape[axis]
            if not isinstance(dim, str):
                continue
            if renamed.setdefault(dim, name) != name:
                raise LoweringError(
                    f"dynamic calls dim '{dim}' of the model both '{renamed[dim]}' and '{name}'",
                    where=file,
                    why="the model says these axes have one size",
                    remedy="give them one name",
                )
    return renamed


def _fixed(
    ports: list[Port],
    arrays: Mapping[str, np.ndarray],
    dynamic: Dynamic,
    renamed: Mapping[str, str],
    file: str,
) -> dict[str, int]:
    """Value of each dim_param that an example array fixes."""
    fixed: dict[str, tuple[int, str]] = {}
    for port in ports:
        if port.name not in arrays:
            continue
        axes = _axes(port, dynamic.get(port.name, {}), file)
        for axis, (dim, size) in enumerate(zip(port.shape, arrays[port.name].shape, strict=True)):
            if axis in axes or dim is None or dim in renamed:
                continue
            known, by = dim, "the model"
            if isinstance(dim, str):
                known, by = fixed.setdefault(dim, (size, f"the array for '{port.name}'"))
            if known != size:
                raise LoweringError(
                    f"axis {axis} of the example array for '{port.name}' is {size}",
                    where=file,
                    why=f"dim '{dim}' is {known} by {by}",
                    remedy="pass arrays whose shapes fit, or name the axis in dynamic",
                )
    return {name: size for name, (size, _) in fixed.items()}


class _Dims:
    """IR dims of the dims of the model, declared as they are met."""

    def __init__(
        self, graph: Graph, ports: list[Port], renamed: Mapping[str, str], fixed: Mapping[str, int]
    ) -> None:
        self._graph, self._fixed = graph, fixed
        self._known: dict[str, IntLike] = {}
        self._parameters = {dim for port in ports for dim in port.shape if isinstance(dim, str)}
        self._used = set(renamed.values())
        self._renamed = renamed

    def named(self, name: str) -> IntLike:
        """The symbol of exactly this name."""
        self._used.add(name)
        if name not in self._graph.dims:
            self._graph.declare_dim(name)
        return d.Dim.symbol(name)

    def of(self, dim: int | str | None, example: int | None, hint: str) -> IntLike:
        """The dim of an axis that the model declares as `dim` and an example array as `example`."""
        if isinstance(dim, int):
            return dim
        if dim is None:
            return example if example is not None else self.named(self._fresh(hint))
        if dim not in self._known:
            self._known[dim] = self._parameter(dim)
        return self._known[dim]

    def _parameter(self, name: str) -> IntLike:
        if name in self._fixed:
            return self._fixed[name]
        if name in self._renamed:
            return self.named(self._renamed[name])
        expression = self._expression(name)
        return self.named(self._fresh(name)) if expression is None else expression

    def _expression(self, text: str) -> IntLike | None:
        """`text` as arithmetic on other dims of the model, such as `2*N`; None where it is none."""
        if _IDENTIFIER.fullmatch(text):
            return None
        try:
            parsed = d.parse_dim(text)
        except ValueError:
            return None
        symbols = d.symbols_of(parsed)
        if not symbols or not symbols <= self._parameters:
            return None
        return d.substitute(parsed, {name: self.of(name, None, name) for name in symbols})

    def _fresh(self, hint: str) -> str:
        base = re.sub(r"\W", "_", hint)
        if not _IDENTIFIER.fullmatch(base):
            base = f"dim_{base}"
        name, count = base, 0
        while name in self._used:
            count += 1
            name = f"{base}_{count}"
        self._used.add(name)
        return name
