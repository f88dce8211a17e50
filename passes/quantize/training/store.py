"""The constants of a graph as parameters and buffers of an `nn.Module`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from fnmatch import fnmatchcase

import numpy as np
import torch
from torch import nn

from plait.ir import Constant, Graph, InputError, Op, TensorType, Value
from plait.ir.errors import did_you_mean
from plait.ir.ops import core, linalg
from plait.ir.ops import nn as layers
from plait.ir.reference.tensors import from_numpy, to_numpy

#: Operand fields that hold what a layer learns.
_LEARNED = frozenset({"w", "b", "scale", "bias", "table"})
#: Ops that may read a learned constant in any of their operands: biases, gains, position tables.
_JOINED = (core.Add, core.Mul, core.Sub, core.Concat, linalg.Matmul)
#: Ops through which a constant reaches such a reader.
_VIEWS = (core.Reshape, core.Transpose, core.Broadcast, core.Cast, core.Slice)
#: Elements from here on mean "masked", infinity included.
_HUGE = 1e30


class ConstantStore(nn.Module):
    """Floating-point constants by name: trainable ones as parameters, the others as buffers.

    Args:
        graph: where the constants come from; their arrays are copied.
        trainable: names or globs of those to train; by default weights, biases and tables,
            which is what `learned_by_default` says.

    Raises InputError for a constant without data, and for a glob that matches nothing.
    """

    def __init__(self, graph: Graph, trainable: Collection[str] | None = None) -> None:
        super().__init__()
        self._keys: dict[str, str] = {}
        floating = {
            name: constant
            for name, constant in graph.constants.items()
            if isinstance(constant.type, TensorType) and constant.type.dtype.is_float
        }
        chosen = _chosen(floating, trainable)
        for name, constant in floating.items():
            key = self._free_key(name)
            tensor = from_numpy(constant.data).clone()
            if name in chosen:
                self.register_parameter(key, nn.Parameter(tensor))
            else:
                self.register_buffer(key, tensor)
            self._keys[name] = key

    def _free_key(self, name: str) -> str:
        key = name.replace(".", "/")  # torch keeps dots for submodules
        while hasattr(self, key):
            key += "_"
        return key

    @property
    def names(self) -> tuple[str, ...]:
        """The constants that the store holds."""
        return tuple(self._keys)

    def __contains__(self, name: object) -> bool:
        return name in self._keys

    def __getitem__(self, name: str) -> torch.Tensor:
        """The parameter or buffer of a constant.  Raises InputError with the nearest name."""
        key = self._keys.get(name.lstrip("@"))
        if key is None:
            raise InputError(
                f"there is no floating-point constant @{name}{did_you_mean(name, self._keys)}",
                remedy="print the graph to see its constants",
            )
        found = self._parameters.get(key)
        return found if found is not None else getattr(self, key)

    def items(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Names and tensors."""
        for name in self._keys:
            yield name, self[name]

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters of the trainable ones."""
        for name, key in self._keys.items():
            parameter = self._parameters.get(key)
            if parameter is not None:
                yield name, parameter


def _chosen(floating: Mapping[str, Constant], trainable: Collection[str] | None) -> set[str]:
    if trainable is None:
        return {name for name, constant in floating.items() if learned_by_default(constant)}
    if isinstance(trainable, str):
        trainable = (trainable,)
    chosen: set[str] = set()
    for pattern in trainable:
        found = {name for name in floating if fnmatchcase(name, pattern.lstrip("@"))}
        if not found:
            raise InputError(
                f"no floating-point constant is called {pattern}{did_you_mean(pattern, floating)}",
                where="trainable",
                why=f"the graph has {', '.join(list(floating)[:8])}{', ..' if len(floating) > 8 else ''}",
                remedy="give names or globs of constants",
            )
        chosen |= found
    return chosen


def learned_by_default(constant: Constant) -> bool:
    """Whether a constant is what a layer learns: weights, biases, gains and tables, not statistics or masks.

    Single numbers, such as the scale of attention, and constants with huge elements stay as they are.
    """
    if constant.shaped.rank == 0 or not _is_read_as_learned(constant):
        return False
    return bool(np.all(np.abs(constant.data.astype(np.float32)) < _HUGE))


def _is_read_as_learned(value: Value) -> bool:
    for user in value.users:
        if not isinstance(user, Op):
            continue
        if isinstance(user, _JOINED) or any(getattr(user, f) is value for f in _LEARNED & user.schema.names):
            return True
        if isinstance(user, _VIEWS) and _is_read_as_learned(user.result):
            return True
    return False


def with_constants(graph: Graph, arrays: Mapping[str, torch.Tensor]) -> Graph:
    """A copy of a graph with other values of constants; names that it does not have are passed over."""
    copy = graph.clone()
    for name, tensor in arrays.items():
        old = copy.constants.get(name)
        if old is None:
            continue
        array = np.array(to_numpy(tensor, old.shaped), copy=True)
        new = copy.add_constant(copy.free_name(name), array, old.type)
        copy.replace_uses(old, new)
        copy.remove_constant(old)
        copy.rename(new, name)
    return copy


def separate_vectors(graph: Graph) -> None:
    """Give each reader a copy of its own of vectors that are alike by accident.

    Passes merge equal constants: the gains of fresh batch norms are all ones, biases and means all
    zeros.  Trained, they part.  Vectors with one number throughout are separated; other constants
    that several ops read, such as tied weights, stay one.
    """
    for constant in list(graph.constants.values()):
        kind = constant.type
        if not isinstance(kind, TensorType) or kind.rank != 1 or not kind.dtype.is_float:
            continue
        if constant.use_count < 2 or not (constant.data == constant.data.reshape(-1)[:1]).all():
            continue
        taken = False

        def own(value: Value, constant: Constant = constant) -> Value:
            nonlocal taken
            if value is not constant:
                return value
            if not taken:
                taken = True
                return value
            return graph.add_constant(graph.free_name(constant.name), constant.data, constant.type)

        for user in constant.users:
            if isinstance(user, Op):
                user.set_operands(own)


def statistics_of(graph: Graph) -> list[layers.BatchNorm]:
    """The batch norms whose statistics are constants, which training takes from the batch instead."""
    return [
        op
        for op in graph.walk()
        if isinstance(op, layers.BatchNorm)
        and isinstance(op.mean, Constant)
        and isinstance(op.variance, Constant)
    ]
